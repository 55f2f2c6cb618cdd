"""What the routes share: one model, its queue, its counters and logs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import Request

from arxiv_cls.models.predictor import EncodedText
from arxiv_cls.serving.batching import Batcher, Job
from arxiv_cls.serving.http_errors import ClientGone, Refused, ending
from arxiv_cls.serving.model_slot import ModelSlot, load_model
from arxiv_cls.serving.observability import Metrics
from arxiv_cls.serving.request_body import too_many_texts
from arxiv_cls.serving.request_log import RequestLog, ScoredText
from arxiv_cls.serving.schemas import AnyRequest, ServedModel
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)


class Endpoint:
    """One server's state, reached from a route as `request.app.state.endpoint`."""

    def __init__(
        self, settings: ServingSettings, load: Callable[[str, ServingSettings], ServedModel] = load_model
    ) -> None:
        self.settings = settings
        self.slot = ModelSlot(lambda model: load(model, settings))
        self.metrics = Metrics(queue_depth=lambda: self.batcher.depth)
        limits = {name: getattr(settings, name) for name in ("max_batch_tokens", "max_queue", "max_wait")}
        self.batcher = Batcher(**limits, on_batch=self.metrics.note_batch)
        self.request_log = RequestLog(settings, self.metrics.log_records) if settings.request_log else None
        self.ending = False
        self.seconds_to_stop = settings.shutdown_timeout
        # Why the first model could not be loaded.
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
        """Scores the texts of a request, which is watched for a client that hangs up, and makes its reply.

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
            message = f"text {position + 1} is longer than the model reads, and truncation was refused"
            raise Refused(422, message)


async def _unless_gone(request: Request, answering: Any) -> Job:
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
