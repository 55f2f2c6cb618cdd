"""What waits in the queue of the endpoint: a request as a job, its answer, its refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arxiv_cls.models.predictor import EncodedText, Prediction, Predictor


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
