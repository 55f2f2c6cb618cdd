"""A predictor that notes what it is asked and can be held up, and a batcher around it."""

from __future__ import annotations

import asyncio
import threading
import time

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText
from arxiv_cls.serving.batching import Batcher


class CountingPredictor:
    """Answers a text with its upper case; a text's weight is its number of words; can be held up.

    A text that starts with `sure` counts as answered when it is encoded, as behind a cascade's baseline.
    """

    def __init__(self, encoding_seconds: float = 0.0) -> None:
        self.batches: list[list[str]] = []
        self.encoded: list[list[str]] = []
        self.encoding_seconds = encoding_seconds
        self.go_on = threading.Event()
        self.go_on.set()
        self.computing = threading.Event()

    def encode(self, texts):
        """Refuses the word `refuse`."""
        self.encoded.append(list(texts))
        time.sleep(self.encoding_seconds)
        if "refuse" in texts:
            raise UserError("refused")
        return [
            EncodedText(text, len(text.split()), False, answered=text.startswith("sure")) for text in texts
        ]

    def predict_encoded(self, encoded, top_k=None):
        """Fails on the word `fail`."""
        go_on = self.go_on
        self.batches.append([item.text for item in encoded])
        self.computing.set()
        assert go_on.wait(30)
        if any(item.text == "fail" for item in encoded):
            raise RuntimeError("broken")
        return [item.text.upper() for item in encoded]


def run(test, **options):
    """Runs a test with a batcher and a predictor, and ends the batcher's thread."""

    async def main():
        batcher = Batcher(**{"max_batch_tokens": 8, "max_queue": 16, "max_wait": 30.0} | options)
        batcher.start()
        predictor = CountingPredictor()
        try:
            await asyncio.wait_for(test(batcher, predictor), 60)
        finally:
            predictor.go_on.set()
            assert await batcher.close(30)

    asyncio.run(main())


async def hold(batcher, predictor):
    """Occupies the thread with one text, so that what comes next has to wait."""
    predictor.go_on.clear()
    first = asyncio.ensure_future(batcher.answer(["held"], predictor))
    await asyncio.to_thread(predictor.computing.wait, 30)
    return first


def let_go(predictor):
    """Lets the text that is held be computed, and holds up the next batch."""
    held, predictor.go_on = predictor.go_on, threading.Event()
    held.set()
