"""What waits in the queue of the endpoint: a request as a job, its answer, its refusals."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText, Prediction, Predictor


class QueueFull(Exception):
    """No place in the queue, or a wait that would be too long.

    Args:
        retry_after: whole seconds after which a place is likely, at least 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full, try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """The batcher takes no more requests, because the server ends."""


@dataclass(frozen=True)
class Answer:
    """What came out for one request.

    Attributes:
        predictions: one per text, in the order of the request.
        encoded: the texts as the model read them.
        waited: seconds between acceptance and the start of the computation.
        computed: seconds of the batches that held its texts.
    """

    predictions: list[Prediction]
    encoded: list[EncodedText]
    waited: float
    computed: float


@dataclass(eq=False)
class Job:
    """A request in the queue.

    Attributes:
        texts: none blank.
        predictor: what shall answer.
        future: gets the answer, in `loop`.
        loop: of the request.
        check: sees the encoded texts before they are computed.
        accepted: when it came, on the monotonic clock.
        places: of the queue that it holds.
        cancelled: nobody waits for it, or it has failed.
        started: when the first of its texts came into a batch.
        computed: seconds of the batches that held its texts so far.
        encoding: seconds that one of its texts took to be encoded; None before that.
        encoded: the texts as the model reads them, once they are encoded.
        predictions: of its first texts.
    """

    texts: list[str]
    predictor: Predictor
    future: asyncio.Future[Answer]
    loop: asyncio.AbstractEventLoop
    check: Callable[[Sequence[EncodedText]], None] | None
    accepted: float
    places: int
    cancelled: bool = False
    started: float | None = None
    computed: float = 0.0
    encoding: float | None = None
    encoded: list[EncodedText] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)


# Texts that are encoded in one call: enough to fill a batch behind a baseline that answers most of them, few
# enough that their encoding delays no answer by more than some hundredths of a second.
ENCODED_TOGETHER = 64


def encoded_together(first: Job, waiting: Iterable[Job]) -> list[Job]:
    """The jobs to encode now: the one whose turn it is, and those right behind it for the same predictor.

    Args:
        first: not yet encoded.
        waiting: all jobs in the order of their coming, `first` among them.
    """
    jobs, texts = [first], len(first.texts)
    for job in waiting:
        if job.predictor is not first.predictor or texts >= ENCODED_TOGETHER:
            break
        if job is not first and not job.cancelled and job.encoding is None:
            jobs.append(job)
            texts += len(job.texts)
    return jobs


def encode_jobs(jobs: list[Job], fail: Callable[[Job, Exception], None]) -> None:
    """Encodes jobs in one call of their predictor, and lets each check its own texts.

    Args:
        jobs: at least one, of one predictor.
        fail: is told of a job whose texts the predictor or its own check refuses; the others are not touched.
    """
    texts = [text for job in jobs for text in job.texts]
    before = time.monotonic()
    try:
        encoded = jobs[0].predictor.encode(texts)
    except Exception as error:
        if len(jobs) == 1:
            fail(jobs[0], error)
            return
        # One request must not spoil those that happened to wait beside it.
        for job in jobs:
            encode_jobs([job], fail)
        return
    took = (time.monotonic() - before) / max(1, len(texts))
    start = 0
    for job in jobs:
        job.encoded, job.encoding = encoded[start : start + len(job.texts)], took
        start += len(job.texts)
        try:
            if job.check:
                job.check(job.encoded)
        except Exception as error:
            fail(job, error)


logger = logging.getLogger(__name__)

# Weight of the newest batch in the moving average of the speed.
SPEED_MEMORY = 0.2


class Batcher:
    """The queue and its thread.

    Args:
        max_batch_tokens: tokens that are computed together; a single text may exceed it.
        max_queue: texts that may wait or be computed at a time.
        max_wait: seconds after which a waiting request is refused instead of computed.
        on_batch: is told (texts, tokens, seconds) of each batch; called in the thread.
    """

    def __init__(
        self,
        *,
        max_batch_tokens: int,
        max_queue: int,
        max_wait: float,
        on_batch: Callable[[int, int, float], Any] = lambda texts, tokens, seconds: None,
    ) -> None:
        self.max_batch_tokens, self.max_queue, self.max_wait = max_batch_tokens, max_queue, max_wait
        self._on_batch = on_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._places = 0
        # Decayed sums: many cheap texts and few dear ones count by what they are, not batch by batch.
        self._recent_texts = self._recent_seconds = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Texts that wait or are computed now."""
        return self._places

    @property
    def alive(self) -> bool:
        """Whether the thread is there to compute."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def seconds_per_text(self) -> float:
        """Moving average of what a text costs, encoding included; 0 before the first batch."""
        return self._recent_seconds / self._recent_texts if self._recent_texts else 0.0

    async def answer(
        self,
        texts: Sequence[str],
        predictor: Predictor,
        check: Callable[[Sequence[EncodedText]], None] | None = None,
    ) -> Answer:
        """Queues a request and waits for its answer; cancelling the call frees its places.

        Args:
            texts: of one request, none blank.
            predictor: what shall answer; a request keeps it when the model is switched meanwhile.
            check: sees the encoded texts before they are computed; what it raises is the answer.

        Raises:
            QueueFull: too many texts wait, or they would wait longer than `max_wait`.
            Closed: the server ends.
            UserError: the predictor refuses a text.
        """
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._closing:
                raise Closed
            self._admit(len(texts))
            job = Job(list(texts), predictor, loop.create_future(), loop, check, time.monotonic(), len(texts))
            self._places += job.places
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await job.future
        finally:
            self._give_back(job)

    def _admit(self, texts: int) -> None:
        expected = self._places * self.seconds_per_text
        if self._places + texts > self.max_queue or expected > self.max_wait:
            raise QueueFull(self._retry_after())

    def _retry_after(self) -> int:
        return max(1, math.ceil(self._places * self.seconds_per_text))

    def _give_back(self, job: Job) -> None:
        # An answered job, a cancelled one and a refused one all come by here, exactly once.
        with self._changed:
            self._places -= job.places
            job.places = 0
            if not job.future.done() or job.future.cancelled():
                job.cancelled = True

    async def close(self, timeout: float) -> bool:
        """Takes no more requests and waits until those that were accepted are answered.

        Args:
            timeout: seconds to wait.

        Returns:
            Whether every accepted request was answered.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        thread = self._thread
        if thread is None:
            return True
        await asyncio.to_thread(thread.join, timeout)
        return not thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if not self._jobs:
                    return
            batch = self._collect()
            if batch:
                self._compute(batch)

    def _collect(self) -> list[tuple[Job, int]]:
        """Takes texts from the front of the queue until the token budget is used: (job, position)."""
        batch: list[tuple[Job, int]] = []
        tokens = 0
        while True:
            with self._changed:
                job = self._jobs[0] if self._jobs else None
            if job is None:
                return batch
            if batch and job.predictor is not batch[0][0].predictor:
                return batch
            if not self._wanted(job):
                self._drop(job)
                continue
            if job.encoding is None:
                if len(batch) >= ENCODED_TOGETHER:
                    # Texts that cost nothing fill no budget: they must not wait for ever newer ones.
                    return batch
                self._encode_waiting(job)
                continue
            # A job that was too long for the batch before goes on where that one ended.
            for position in range(len(job.predictions), len(job.encoded)):
                weight = 1 if job.encoded[position].answered else job.encoded[position].tokens
                if batch and tokens + weight > self.max_batch_tokens:
                    return batch
                job.started = job.started or time.monotonic()
                batch.append((job, position))
                tokens += weight
            # All of it is in the batch: the next one is at the front now.
            self._drop(job)

    def _drop(self, job: Job) -> None:
        with self._changed:
            if self._jobs and self._jobs[0] is job:
                self._jobs.popleft()

    def _wanted(self, job: Job) -> bool:
        """Whether the job whose turn it is needs computing; refuses one that has waited for too long."""
        if job.cancelled or job.started is not None:
            return not job.cancelled
        # While the server ends, no accepted request is given up: the end itself bounds the wait.
        if time.monotonic() - job.accepted > self.max_wait and not self._closing:
            self._fail(job, QueueFull(self._retry_after()))
            return False
        return True

    def _encode_waiting(self, first: Job) -> None:
        with self._changed:
            waiting = list(self._jobs)
        encode_jobs(encoded_together(first, waiting), self._fail)

    def _compute(self, batch: list[tuple[Job, int]]) -> None:
        jobs = list({id(job): job for job, _ in batch}.values())
        before = time.monotonic()
        try:
            predictions = batch[0][0].predictor.predict_encoded([job.encoded[at] for job, at in batch])
        except Exception as error:
            if len(jobs) > 1:
                # One request must not spoil those that happened to share its batch.
                for job in jobs:
                    self._compute([item for item in batch if item[0] is job])
                return
            if not isinstance(error, UserError):
                logger.exception("a batch of %d texts failed", len(batch))
            self._fail(jobs[0], error)
            return
        took = time.monotonic() - before
        for job in jobs:
            job.computed += took
        for (job, _), prediction in zip(batch, predictions, strict=True):
            job.predictions.append(prediction)
        self._note_speed(len(batch), took + sum(job.encoding or 0.0 for job, _ in batch))
        self._on_batch(len(batch), sum(job.encoded[at].tokens for job, at in batch), took)
        for job in jobs:
            if len(job.predictions) == len(job.texts):
                waited = (job.started or job.accepted) - job.accepted
                self._finish(job, Answer(job.predictions, job.encoded, waited, job.computed))

    def _note_speed(self, texts: int, seconds: float) -> None:
        self._recent_texts += texts - SPEED_MEMORY * self._recent_texts
        self._recent_seconds += seconds - SPEED_MEMORY * self._recent_seconds

    def _finish(self, job: Job, answer: Answer) -> None:
        self._tell(job, lambda: job.future.set_result(answer))

    def _fail(self, job: Job, error: Exception) -> None:
        job.cancelled = True
        self._tell(job, lambda: job.future.set_exception(error))

    def _tell(self, job: Job, tell: Callable[[], Any]) -> None:
        def if_awaited() -> None:
            if not job.future.done():
                tell()

        try:
            job.loop.call_soon_threadsafe(if_awaited)
        except RuntimeError:
            # The loop has ended without waiting for us: nobody is there to be told.
            logger.debug("an answer came after the end of the loop")
