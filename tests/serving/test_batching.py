"""The queue: batches by tokens, bounded places and waits, no request that spoils or loses another."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText
from arxiv_cls.serving import batching
from arxiv_cls.serving.batching import Batcher
from arxiv_cls.serving.http_requests import Refused
from arxiv_cls.serving.settings import ServingSettings

pytestmark = pytest.mark.anyio


class CountingPredictor:
    """Answers a text with its upper case; a text's weight is its number of words; can be held up.

    A text that starts with `sure` counts as answered when it is encoded, as behind a cascade's baseline.
    """

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.encoded: list[list[str]] = []
        self.encoding_seconds = 0.0
        self.go_on, self.computing = threading.Event(), threading.Event()
        self.go_on.set()

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


@pytest.fixture
def anyio_backend():
    """What the server runs on."""
    return "asyncio"


@pytest.fixture
def limits():
    """Settings that a test changes."""
    return {}


@pytest.fixture
def predictor():
    """Counts what it is asked."""
    return CountingPredictor()


@pytest.fixture
async def batcher(limits, predictor):
    """A queue with a budget of 8 tokens; its thread ends with the test."""
    limits = {"max_batch_tokens": 8, "max_queue": 16, "max_wait": 30.0} | limits
    made = Batcher(ServingSettings(model="m", **limits), lambda texts, tokens, seconds: None)
    made.start()
    yield made
    predictor.go_on.set()
    assert await made.close(30)


async def waiting(batcher, predictor, *requests):
    """The futures of requests that wait behind one that is held in the thread; that one is the first."""
    predictor.go_on.clear()
    asked = [asyncio.ensure_future(batcher.answer(["held"], predictor))]
    await asyncio.to_thread(predictor.computing.wait, 30)
    asked += [asyncio.ensure_future(batcher.answer(texts, predictor)) for texts in requests]
    await asyncio.sleep(0)
    return asked


async def answered(predictor, asked):
    """What came out of each request after the held one, errors too."""
    predictor.go_on.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    return [getattr(outcome, "predictions", outcome) for outcome in outcomes[1:]]


class TestBatches:
    """What waits is computed together, up to the token budget of 8, and comes back in order."""

    @pytest.mark.parametrize(
        ("requests", "batches"),
        [
            ([["a b 0"], ["a b 1"], ["a b 2"]], [["a b 0", "a b 1"], ["a b 2"]]),
            ([["a b 0", "a b 1", "a b 2"]], [["a b 0", "a b 1"], ["a b 2"]]),
            ([["w w w w w w w w w w", "short"]], [["w w w w w w w w w w"], ["short"]]),
            ([["sure with a lot of words"]] * 6, [["sure with a lot of words"] * 6]),
        ],
        ids=["requests share", "a request is spread", "above the budget", "answered texts are free"],
    )
    async def test_budget(self, batcher, predictor, requests, batches):
        """A long request is spread over batches, and no text starves."""
        outcomes = await answered(predictor, await waiting(batcher, predictor, *requests))
        assert outcomes == [[text.upper() for text in texts] for texts in requests]
        assert predictor.batches[1:] == batches

    async def test_requests_keep_their_model(self, batcher, predictor):
        """Requests for an old and a new model that wait side by side go to their own, in separate batches."""
        old = predictor
        new = CountingPredictor()
        asked = await waiting(batcher, old)
        asked += [asyncio.ensure_future(batcher.answer(["x"], one)) for one in (old, new, old)]
        await asyncio.sleep(0)
        await answered(old, asked)
        assert (old.batches[1:], new.batches) == ([["x"], ["x"]], [["x"]])


class TestEncoding:
    """One call of the predictor for several requests, and each keeps to itself what goes wrong in it."""

    async def test_in_one_call(self, batcher, predictor, monkeypatch):
        """Up to a number of texts, whatever the budget of a batch is."""
        monkeypatch.setattr(batching, "ENCODED_TOGETHER", 4)
        requests = [[f"a b {n}", f"c {n}"] for n in range(3)]
        outcomes = await answered(predictor, await waiting(batcher, predictor, *requests))
        assert outcomes == [[f"A B {n}", f"C {n}"] for n in range(3)]
        assert predictor.encoded[1:] == [["a b 0", "c 0", "a b 1", "c 1"], ["a b 2", "c 2"]]

    async def test_texts_that_cost_nothing_do_not_wait_for_newer_ones(self, batcher, predictor, monkeypatch):
        """A batch that holds as many texts as are encoded together is computed before more are encoded."""
        monkeypatch.setattr(batching, "ENCODED_TOGETHER", 2)
        await answered(predictor, await waiting(batcher, predictor, *[["sure"]] * 5))
        assert [len(batch) for batch in predictor.batches[1:]] == [2, 2, 1]

    @pytest.mark.parametrize("how", ["cancelled", "waits too long"])
    async def test_an_encoded_request_is_not_computed(self, batcher, predictor, how):
        """Encoded beside an earlier one, it may still go away, and may not be computed after `max_wait`."""
        texts = ["a b c d e f g h", "late"]
        asked = await waiting(batcher, predictor, *([text] for text in texts))
        predictor.computing.clear()
        # Lets the held text be computed, and holds up the next batch.
        held, predictor.go_on = predictor.go_on, threading.Event()
        held.set()
        await asyncio.to_thread(predictor.computing.wait, 30)
        assert predictor.encoded[1:] == [texts]
        if how == "cancelled":
            asked[2].cancel()
            await asyncio.wait(asked[2:])
        else:
            batcher._settings = batcher._settings.model_copy(update={"max_wait": 0.0})
        _, late = await answered(predictor, asked)
        assert isinstance(late, asyncio.CancelledError if how == "cancelled" else Refused)
        assert predictor.batches[1:] == [texts[:1]]
        assert batcher.depth == 0

    @pytest.mark.parametrize("batches", [[(64, 0.0), (1, 6.5)], [(1, 6.5), (64, 0.0)]])
    def test_speed(self, batches):
        """64 texts for nothing and 1 for 6.5 seconds are 0.1 seconds a text, in any order."""
        batcher = Batcher(ServingSettings(model="m"), lambda texts, tokens, seconds: None)
        for texts, seconds in batches * 20:
            batcher._note_speed(texts, seconds)
        batcher.depth = 1
        assert batcher._expected_wait() == pytest.approx(0.1, rel=0.3)

    async def test_encoding_is_part_of_the_speed(self, batcher, predictor):
        """The baseline of a cascade works when a text is encoded."""
        predictor.encoding_seconds = 0.2
        await batcher.answer(["sure", "sure"], predictor)
        batcher.depth = 1
        assert batcher._expected_wait() >= 0.1
        batcher.depth = 0


class TestPlaces:
    """The queue is bounded, and a place is free again however a request ends."""

    @pytest.mark.parametrize("limits", [{"max_queue": 3}])
    async def test_a_cancelled_request_frees_its_places(self, batcher, predictor):
        """At once, before its turn comes; and it is never computed."""
        asked = await waiting(batcher, predictor, ["gone", "gone"])
        asked[1].cancel()
        await asyncio.wait(asked[1:])
        assert batcher.depth == 1
        asked.append(asyncio.ensure_future(batcher.answer(["stays", "too"], predictor)))
        await asyncio.sleep(0)
        await answered(predictor, asked)
        assert predictor.batches == [["held"], ["stays", "too"]]

    @pytest.mark.parametrize("limits", [{"max_wait": 0.1}])
    async def test_a_wait_that_is_too_long_is_refused(self, batcher, predictor):
        """A request that has waited longer than `max_wait` when its turn comes is not computed."""
        asked = await waiting(batcher, predictor, ["late"])
        await asyncio.sleep(0.2)
        (refused,) = await answered(predictor, asked)
        assert refused.reason == "queue_full"
        assert predictor.batches == [["held"]]
        assert batcher.depth == 0

    @pytest.mark.parametrize("limits", [{"max_wait": 1.0}])
    async def test_a_wait_that_would_be_too_long_is_refused_at_once(self, batcher, predictor):
        """At 2 texts a second, a queue of 4 is 2 seconds: too long for a bound of 1."""
        asked = await waiting(batcher, predictor)
        batcher._note_speed(2, seconds=1.0)
        asked.append(asyncio.ensure_future(batcher.answer(["a", "b", "c"], predictor)))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="queue is full") as refused:
            await batcher.answer(["d"], predictor)
        assert refused.value.headers["Retry-After"] == "2"
        asked[1].cancel()
        await answered(predictor, asked)


@pytest.mark.parametrize(("text", "error"), [("refuse", UserError), ("fail", RuntimeError)])
async def test_a_failure_stays_in_its_request(batcher, predictor, text, error):
    """A text that the model refuses, or breaks on, fails its own request only; the thread goes on."""
    asked = await waiting(batcher, predictor, ["before"], [text], ["after"])
    before, failed, after = await answered(predictor, asked)
    assert (before, after) == (["BEFORE"], ["AFTER"])
    assert isinstance(failed, error)
    assert (await batcher.answer(["again"], predictor)).predictions == ["AGAIN"]
    assert batcher.depth == 0


class TestClose:
    """The end answers what was accepted and takes nothing new."""

    @pytest.mark.parametrize("limits", [{"max_wait": 0.1}])
    async def test_accepted_requests_are_answered(self, batcher, predictor):
        """Requests that wait when the end begins are computed, also past `max_wait`; a new one is refused."""
        asked = await waiting(batcher, predictor, ["w0"], ["w1"])
        await asyncio.sleep(0.2)
        closing = asyncio.ensure_future(batcher.close(30))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="ending"):
            await batcher.answer(["new"], predictor)
        assert await answered(predictor, asked) == [["W0"], ["W1"]]
        assert await closing
        assert not batcher.alive

    async def test_what_is_accepted_can_be_refused(self, batcher, predictor):
        """When the time to end is over: what waits and what is computed is refused, at once and for good."""
        asked = await waiting(batcher, predictor, ["w0"], ["w1"])
        batcher.refuse_accepted()
        refused = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
        assert [error.reason for error in refused] == ["ending"] * 3
        assert batcher.depth == 0
        predictor.go_on.set()
        assert await batcher.close(30)
        assert predictor.batches == [["held"]]
