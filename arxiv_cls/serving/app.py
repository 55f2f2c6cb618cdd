"""The application: one model, its queue, counters and logs, and the routes around them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from arxiv_cls import __version__
from arxiv_cls.models.prediction import EncodedText
from arxiv_cls.serving.batching import Answer, Batcher
from arxiv_cls.serving.http_errors import ClientGone, Refused, ending, install_error_handlers
from arxiv_cls.serving.model_slot import ModelSlot, ServedModel, load_model
from arxiv_cls.serving.observability import Metrics, RequestLines
from arxiv_cls.serving.request_body import BodyLimits, too_many_texts
from arxiv_cls.serving.request_log import RequestLog, ScoredText
from arxiv_cls.serving.routes import add_routes
from arxiv_cls.serving.schemas import AnyRequest
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

DESCRIPTION = """Names the arXiv category of a paper from its title and abstract.

`POST /predict` answers in the schema that the keys of the request name; `POST /` has Hugging Face's
inference schema. Every error has the shape `{"error", "error_type"}`."""


class Endpoint:
    """One server's state, reached from a route as `request.app.state.endpoint`.

    Attributes:
        ending: the server takes no more requests.
        failure: why the first model could not be loaded; None while all is well.
        seconds_to_stop: that are left for the end.

    Args:
        settings: of the endpoint.
        load: makes a `ServedModel` from a directory or a Hub id; a test passes its own.

    Raises:
        UserError: the request log cannot be written.
    """

    def __init__(
        self, settings: ServingSettings, load: Callable[[str, ServingSettings], ServedModel] = load_model
    ) -> None:
        self.settings = settings
        self.slot = ModelSlot(lambda model: load(model, settings))
        self.metrics = Metrics(queue_depth=lambda: self.batcher.depth)
        self.batcher = Batcher(
            max_batch_tokens=settings.max_batch_tokens,
            max_queue=settings.max_queue,
            max_wait=settings.max_wait,
            on_batch=self.metrics.note_batch,
        )
        self.request_log = RequestLog(settings, self.metrics.log_records) if settings.request_log else None
        self.ending = False
        self.seconds_to_stop = settings.shutdown_timeout
        self.failure: Exception | None = None
        self._first_load: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the threads, and the loading of the first model in the background."""
        self.batcher.start()
        if self.request_log:
            self.request_log.start()
        self._first_load = asyncio.create_task(self._load_first())

    async def _load_first(self) -> None:
        try:
            await self.switch(self.settings.model)
        except Exception as error:
            logger.error("the model cannot be loaded", extra={"reason": str(error)})
            self.failure = error

    async def switch(self, model: str) -> ServedModel | None:
        """Loads a model in the place of the present one; see `ModelSlot.switch`."""
        try:
            loaded = await self.slot.switch(model)
        except Exception:
            self.metrics.model_loads.labels("failed").inc()
            raise
        if loaded:
            self.metrics.note_model(loaded)
        return loaded

    async def stop(self) -> None:
        """Answers what was accepted and closes the request log."""
        self.ending = True
        if not await self.batcher.close(self.seconds_to_stop):
            logger.warning("accepted requests were not answered within the shutdown timeout")
        if self._first_load:
            self._first_load.cancel()
        if self.request_log:
            await asyncio.to_thread(self.request_log.close, self.seconds_to_stop)

    def ready_model(self) -> ServedModel:
        """The model that answers.

        Raises:
            Refused: 503 while there is none, or while the server ends.
        """
        if self.ending:
            raise ending()
        if self.slot.current is None:
            raise Refused(503, "the model is not loaded yet", {"Retry-After": "1"}, reason="not_loaded")
        return self.slot.current

    async def answer(self, request: Request, body: AnyRequest) -> Any:
        """Scores the texts of a request and makes its reply.

        Args:
            request: watched, so that a client which hangs up frees its places.
            body: of the request.

        Raises:
            Refused: a limit, a full queue, no model.
            UserError: a text that the model refuses.
            ClientGone: nobody waits for the answer.
        """
        model, texts, settings = self.ready_model(), body.texts(), self.settings
        if len(texts) > settings.texts_per_request:
            raise Refused(422, too_many_texts(len(texts), settings.texts_per_request))
        longest, allowed = max(map(len, texts)), settings.max_characters
        if longest > allowed:
            raise Refused(422, f"a text has {longest} characters; at most {allowed} are allowed")
        line = request.scope["state"]["log"]
        line |= {"schema": body.log_name, "texts": len(texts)}
        if settings.log_texts:
            line["content"] = texts
        accepted = time.monotonic()
        check = _refuse_truncation if body.refuses_truncation() else None
        answer = await _unless_gone(request, self.batcher.answer(texts, model.predictor, check))
        seconds, now = time.monotonic() - accepted, datetime.now(UTC)
        self.metrics.wait_seconds.observe(answer.waited)
        line["tokens"] = sum(encoded.tokens for encoded in answer.encoded)
        line |= {"waited_milliseconds": round(answer.waited * 1000, 1), "model_version": model.version}
        request_id = request.scope["state"]["request_id"]
        for encoded, prediction in zip(answer.encoded, answer.predictions, strict=True):
            self.metrics.note_prediction(prediction)
            if self.request_log:
                self.request_log.add(
                    ScoredText(now, request_id, body.log_name, model, encoded, prediction, answer, seconds)
                )
        return body.reply(answer.predictions, model)


def _refuse_truncation(encoded: Sequence[EncodedText]) -> None:
    for position, text in enumerate(encoded):
        if text.truncated:
            raise Refused(
                422, f"text {position + 1} is longer than the model reads, and truncation was refused"
            )


async def _unless_gone(request: Request, answering: Any) -> Answer:
    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue

    answer, gone = asyncio.ensure_future(answering), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGone
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()


class HeadAsGet:
    """ASGI middleware: HEAD is answered as GET; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


def create_app(
    settings: ServingSettings, load: Callable[[str, ServingSettings], ServedModel] = load_model
) -> FastAPI:
    """Makes the application; its model is loaded in the background when it starts.

    Args:
        settings: of the endpoint.
        load: makes a model from a directory or a Hub id; a test passes its own.

    Raises:
        UserError: the request log cannot be written.
    """
    endpoint = Endpoint(settings, load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        endpoint.start()
        yield
        await endpoint.stop()

    app = FastAPI(
        title="arxiv_cls",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # The stock pages load their scripts from a content delivery network.
        docs_url=None,
        redoc_url=None,
    )
    app.state.endpoint = endpoint
    add_routes(app, settings)
    install_error_handlers(app)
    # The last one that is added sees a request first.
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimits, max_body=settings.max_body, timeout=settings.body_timeout)
    endpoint.metrics.instrument(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "Authorization", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    probes = {"/health", "/health/live", "/metrics", settings.health_route}
    app.add_middleware(RequestLines, quiet=frozenset(probes))
    return app
