"""What the routes share: the settings, the model, the queue, the counters, the request log."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from fastapi import Request

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText
from arxiv_cls.serving.batching import Answer, Batcher, Closed, QueueFull
from arxiv_cls.serving.http_errors import Refused
from arxiv_cls.serving.model_slot import ModelSlot, ServedModel, load_model
from arxiv_cls.serving.observability import Metrics
from arxiv_cls.serving.request_log import RequestLog, log_record, open_log_files
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client hung up before its answer was there."""


class Endpoint:
    """One server's state, reached from a route as `request.app.state.endpoint`.

    Attributes:
        ending: the server takes no more requests.
        failure: why the first model could not be loaded; None while all is well.

    Args:
        settings: of the endpoint.
        load: makes a `ServedModel` from a directory or a Hub id; a test passes its own.

    Raises:
        UserError: the request log cannot be written.
    """

    def __init__(
        self,
        settings: ServingSettings,
        load: Callable[[str, ServingSettings], ServedModel] = load_model,
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
        self.request_log = self._request_log()
        self.ending = False
        self.failure: Exception | None = None
        self._first_load: asyncio.Task[None] | None = None

    def _request_log(self) -> RequestLog | None:
        if not self.settings.request_log:
            return None
        outcomes = self.metrics.log_records.labels
        return RequestLog(
            open_log_files(
                self.settings.request_log,
                rotate_bytes=int(self.settings.request_log_rotate_mb * 1e6),
                rotate_seconds=self.settings.request_log_rotate_minutes * 60,
                keep=self.settings.request_log_keep,
            ),
            on_dropped=lambda reason, records: outcomes(reason).inc(records),
            on_written=lambda records: outcomes("written").inc(records),
        )

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
        if not await self.batcher.close(self.settings.shutdown_timeout):
            logger.warning("accepted requests were not answered within the shutdown timeout")
        if self._first_load:
            self._first_load.cancel()
        if self.request_log:
            await asyncio.to_thread(self.request_log.close, self.settings.shutdown_timeout)

    def ready_model(self) -> ServedModel:
        """The model that answers.

        Raises:
            Refused: 503 while there is none, or while the server ends.
        """
        if self.ending:
            self.metrics.refused.labels("ending").inc()
            raise Refused(503, "the server is ending", {"Connection": "close", "Retry-After": "1"})
        model = self.slot.current
        if model is None:
            self.metrics.refused.labels("not_loaded").inc()
            raise Refused(503, "the model is not loaded yet", {"Retry-After": "1"})
        return model

    async def answer(
        self,
        request: Request,
        schema: str,
        texts: Sequence[str],
        check: Callable[[Sequence[EncodedText]], None] | None = None,
    ) -> tuple[ServedModel, Answer]:
        """Scores the texts of a request.

        Args:
            request: watched, so that a client which hangs up frees its places.
            schema: the name of the schema, for the logs.
            texts: none blank.
            check: sees the encoded texts before they are computed.

        Raises:
            Refused: a limit, a full queue, no model, a text that the model refuses.
            ClientGone: nobody waits for the answer.
        """
        model = self.ready_model()
        self._check_limits(texts)
        about = request.scope["state"]["log"]
        about |= {"schema": schema, "texts": len(texts)}
        if self.settings.log_texts:
            about["content"] = list(texts)
        accepted = time.monotonic()
        try:
            answer = await _unless_gone(request, self.batcher.answer(texts, model.predictor, check))
        except QueueFull as full:
            self.metrics.refused.labels("queue_full").inc()
            raise Refused(429, "the queue is full", {"Retry-After": str(full.retry_after)}) from None
        except Closed:
            self.metrics.refused.labels("ending").inc()
            raise Refused(503, "the server is ending", {"Connection": "close", "Retry-After": "1"}) from None
        except UserError as error:
            raise Refused(422, error.message) from None
        except ClientGone:
            self.metrics.refused.labels("disconnected").inc()
            raise
        self._note(request, schema, model, answer, time.monotonic() - accepted)
        return model, answer

    def _check_limits(self, texts: Sequence[str]) -> None:
        settings = self.settings
        if len(texts) > settings.texts_per_request:
            raise Refused(
                422, f"{len(texts)} texts in one request; at most {settings.texts_per_request} are allowed"
            )
        longest = max(map(len, texts))
        if longest > settings.max_characters:
            raise Refused(
                422, f"a text has {longest} characters; at most {settings.max_characters} are allowed"
            )

    def _note(
        self, request: Request, schema: str, model: ServedModel, answer: Answer, seconds: float
    ) -> None:
        self.metrics.wait_seconds.observe(answer.waited)
        request.scope["state"]["log"] |= {
            "tokens": sum(encoded.tokens for encoded in answer.encoded),
            "waited_milliseconds": round(answer.waited * 1000, 1),
            "model_version": model.version,
        }
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for encoded, prediction in zip(answer.encoded, answer.predictions, strict=True):
            self.metrics.note_prediction(prediction)
            if self.request_log:
                self.request_log.add(
                    partial(
                        log_record,
                        time_utc=now,
                        request_id=request.scope["state"]["request_id"],
                        schema=schema,
                        model=model.name,
                        model_version=model.version,
                        text=encoded.text,
                        tokens=encoded.tokens,
                        prediction=prediction,
                        milliseconds=seconds * 1000,
                        waited_milliseconds=answer.waited * 1000,
                        texts=len(answer.predictions),
                        with_text=self.settings.request_log_texts,
                    ),
                    size=sys.getsizeof(encoded.text),
                )


async def _unless_gone(request: Request, answering) -> Answer:
    answer = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGone
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
