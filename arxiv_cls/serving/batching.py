"""The queue: one thread computes what waits, in batches by tokens; places and waits are bounded."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from arxiv_cls.models.prediction import EncodedText, Prediction, Predictor
from arxiv_cls.serving.http_requests import Refused, ending
from arxiv_cls.serving.service import in_thread
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

# Texts that are encoded in one call: enough to fill a batch behind a baseline that answers most of them.
ENCODED_TOGETHER = 64
# Weight of the newest batch in the moving average of the speed.
SPEED_MEMORY = 0.2


@dataclass(eq=False)
class Job:
    """A request in the queue, and its answer when `predictions` is whole; times are of the monotonic clock.

    Attributes:
        cancelled: nobody waits for it, or it has failed.
        started: when the first of its texts came into a batch.
        encoding: seconds that one of its texts took to be encoded; None before that.
    """

    texts: list[str]
    predictor: Predictor
    future: asyncio.Future[Job]
    accepted: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    started: float | None = None
    encoding: float | None = None
    encoded: list[EncodedText] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)

    @property
    def waited(self) -> float:
        """Seconds in the queue, before the computation of its first text."""
        return (self.started or self.accepted) - self.accepted


class Batcher:
    """The queue and its thread, under the limits of the settings; one text may exceed `max_batch_tokens`.

    Args:
        on_batch: called in the thread with (texts, tokens, seconds) of each batch.

    Attributes:
        depth: texts that wait or are computed now.
    """

    def __init__(self, settings: ServingSettings, on_batch: Callable[[int, int, float], Any]) -> None:
        self.depth = 0
        self._settings = settings
        self._on_batch = on_batch
        self._jobs: deque[Job] = deque()
        self._accepted: set[Job] = set()
        self._changed = threading.Condition()
        # Decayed sums: many cheap texts and few expensive ones count by their cost, not batch by batch.
        self._recent_texts = self._recent_seconds = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is there to compute."""
        return self._thread.is_alive()

    async def answer(self, texts: Sequence[str], predictor: Predictor) -> Job:
        """Queues a request of texts, none blank, and waits; cancelling the call frees its places.

        A request keeps its predictor when the model is switched meanwhile.

        Raises:
            Refused: 429 when too many texts wait, or would wait longer than `max_wait`; 503 at the end.
            UserError: the predictor refuses a text.
        """
        job = Job(list(texts), predictor, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._closing:
                raise ending()
            full = self.depth + len(job.texts) > self._settings.max_queue
            if full or self._expected_wait() > self._settings.max_wait:
                raise self._queue_full()
            self.depth += len(job.texts)
            self._jobs.append(job)
            self._accepted.add(job)
            self._changed.notify()
        try:
            return await job.future
        finally:
            # An answered job, a cancelled one and a refused one all come by here, exactly once.
            with self._changed:
                self._accepted.discard(job)
                self.depth -= len(job.texts)
                if not job.future.done() or job.future.cancelled():
                    job.cancelled = True

    def _expected_wait(self) -> float:
        """Seconds that the texts in the queue will take, by a moving average of what one costs."""
        return self.depth * self._recent_seconds / self._recent_texts if self._recent_texts else 0.0

    def _queue_full(self) -> Refused:
        headers = {"Retry-After": str(max(1, math.ceil(self._expected_wait())))}
        return Refused(429, "the queue is full", headers, reason="queue_full")

    def refuse_accepted(self) -> None:
        """Refuses every request that still waits or is computed, and takes no more."""
        self._begin_close()
        for job in list(self._accepted):
            self._resolve(job, ending())

    async def close(self, timeout: float) -> bool:
        """Takes no more requests; whether those that were accepted were answered within `timeout` seconds."""
        self._begin_close()
        if self.alive:
            # Not in asyncio's threads, which may all wait for a bucket that takes labels.
            await in_thread(partial(self._thread.join, timeout), "batcher-end")[1]
        return not self.alive

    def _begin_close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
            batch = self._collect()
            if batch:
                self._compute(batch)

    def _collect(self) -> list[tuple[Job, int]]:
        """Takes texts from the front of the queue until the token budget is used: (job, position)."""
        batch: list[tuple[Job, int]] = []
        tokens = 0
        # Only this thread takes jobs away.
        while self._jobs:
            job = self._jobs[0]
            if batch and job.predictor is not batch[0][0].predictor:
                break
            if not self._is_wanted(job):
                self._jobs.popleft()
                continue
            if job.encoding is None:
                if len(batch) >= ENCODED_TOGETHER:
                    # Texts that cost nothing fill no budget: they must not wait for ever newer ones.
                    break
                self._encode(self._encoded_together(job))
                continue
            # A job that was too long for the batch before goes on where that one ended.
            for position in range(len(job.predictions), len(job.encoded)):
                weight = 1 if job.encoded[position].answered else job.encoded[position].tokens
                if batch and tokens + weight > self._settings.max_batch_tokens:
                    return batch
                job.started = job.started or time.monotonic()
                batch.append((job, position))
                tokens += weight
            self._jobs.popleft()
        return batch

    def _is_wanted(self, job: Job) -> bool:
        """Whether the job whose turn it is needs computing; refuses one that has waited for too long."""
        # While the server ends, no accepted request is given up: the end itself bounds the wait.
        waited = time.monotonic() - job.accepted
        if (
            job.started is None
            and not job.cancelled
            and waited > self._settings.max_wait
            and not self._closing
        ):
            self._resolve(job, self._queue_full())
        return not job.cancelled

    def _encoded_together(self, first: Job) -> list[Job]:
        """The job whose turn it is, and those right behind it for the same predictor."""
        with self._changed:
            waiting = list(self._jobs)
        jobs, texts = [first], len(first.texts)
        for job in waiting[1:]:
            if job.predictor is not first.predictor or texts >= ENCODED_TOGETHER:
                break
            if not job.cancelled and job.encoding is None:
                jobs.append(job)
                texts += len(job.texts)
        return jobs

    def _encode(self, jobs: list[Job]) -> None:
        """Encodes jobs in one call of their predictor."""
        before = time.monotonic()
        try:
            encoded = iter(jobs[0].predictor.encode([text for job in jobs for text in job.texts]))
        except Exception as error:
            self._fail_one(jobs, error, lambda job: self._encode([job]))
            return
        seconds = (time.monotonic() - before) / sum(len(job.texts) for job in jobs)
        for job in jobs:
            job.encoded, job.encoding = [next(encoded) for _ in job.texts], seconds

    def _compute(self, batch: list[tuple[Job, int]]) -> None:
        jobs = list(dict.fromkeys(job for job, _ in batch))
        before = time.monotonic()
        try:
            predictions = jobs[0].predictor.predict_encoded([job.encoded[at] for job, at in batch])
        except Exception as error:
            self._fail_one(jobs, error, lambda job: self._compute([item for item in batch if item[0] is job]))
            return
        seconds = time.monotonic() - before
        for (job, _), prediction in zip(batch, predictions, strict=True):
            job.predictions.append(prediction)
        self._note_speed(len(batch), seconds + sum(job.encoding or 0.0 for job, _ in batch))
        self._on_batch(len(batch), sum(job.encoded[at].tokens for job, at in batch), seconds)
        for job in jobs:
            if len(job.predictions) == len(job.texts):
                self._resolve(job)

    def _note_speed(self, texts: int, seconds: float) -> None:
        self._recent_texts += texts - SPEED_MEMORY * self._recent_texts
        self._recent_seconds += seconds - SPEED_MEMORY * self._recent_seconds

    def _fail_one(self, jobs: list[Job], error: Exception, retry: Callable[[Job], None]) -> None:
        """A failed call is repeated for each of its requests, so that only the one at fault fails."""
        if len(jobs) == 1:
            self._resolve(jobs[0], error)
            return
        for job in jobs:
            retry(job)

    def _resolve(self, job: Job, error: Exception | None = None) -> None:
        job.cancelled = job.cancelled or error is not None

        def if_awaited() -> None:
            if job.future.done():
                return
            if error is None:
                job.future.set_result(job)
            else:
                job.future.set_exception(error)

        try:
            job.future.get_loop().call_soon_threadsafe(if_awaited)
        except RuntimeError:
            logger.debug("an answer came after the end of the loop")
