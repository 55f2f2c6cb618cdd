"""Requests that wait are encoded together, and what that costs is part of the speed."""

from __future__ import annotations

import asyncio

import pytest
from counting_predictor import hold, let_go, run

from arxiv_cls.serving import batching
from arxiv_cls.serving.batching import Batcher
from arxiv_cls.serving.http_errors import Refused


class TestTogether:
    """One call of the predictor for several requests, and each keeps to itself what goes wrong in it."""

    def test_waiting_requests_are_encoded_in_one_call(self, monkeypatch):
        """Up to a number of texts, whatever the budget of a batch is; each gets its own."""
        monkeypatch.setattr(batching, "ENCODED_TOGETHER", 4)

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            others = [
                asyncio.ensure_future(batcher.answer([f"a b {n}", f"c {n}"], predictor)) for n in range(3)
            ]
            await asyncio.sleep(0)
            predictor.go_on.set()
            answers = await asyncio.gather(first, *others)
            assert [answer.predictions for answer in answers[1:]] == [
                [f"A B {n}", f"C {n}"] for n in range(3)
            ]
            assert predictor.encoded[1:] == [["a b 0", "c 0", "a b 1", "c 1"], ["a b 2", "c 2"]]

        run(test)

    def test_texts_that_are_answered_take_no_budget(self):
        """Six texts of 6 words that the baseline has answered share a batch whose budget is 8 words."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            text = "sure with a lot of words"
            others = [asyncio.ensure_future(batcher.answer([text], predictor)) for _ in range(6)]
            await asyncio.sleep(0)
            predictor.go_on.set()
            await asyncio.gather(first, *others)
            assert predictor.batches[1:] == [[text] * 6]

        run(test)

    def test_texts_that_cost_nothing_do_not_wait_for_newer_ones(self, monkeypatch):
        """A batch that holds as many texts as are encoded together is computed before more are encoded."""
        monkeypatch.setattr(batching, "ENCODED_TOGETHER", 2)

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            others = [asyncio.ensure_future(batcher.answer(["sure"], predictor)) for _ in range(5)]
            await asyncio.sleep(0)
            predictor.go_on.set()
            await asyncio.gather(first, *others)
            assert [len(batch) for batch in predictor.batches[1:]] == [2, 2, 1]

        run(test)

    def test_the_check_of_one_request_is_its_own(self):
        """Encoded together, each request is checked by itself."""

        def check(encoded):
            raise ValueError(len(encoded))

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            checked = asyncio.ensure_future(batcher.answer(["one", "two"], predictor, check))
            other = asyncio.ensure_future(batcher.answer(["other"], predictor))
            await asyncio.sleep(0)
            predictor.go_on.set()
            await asyncio.gather(first, other)
            with pytest.raises(ValueError, match="2"):
                await checked
            assert predictor.encoded[1:] == [["one", "two", "other"]]
            assert predictor.batches[1:] == [["other"]]

        run(test)

    def test_an_encoded_request_that_waits_too_long_is_refused(self):
        """Encoded beside an earlier one, it still may not be computed after `max_wait`."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            predictor.computing.clear()
            texts = ["a b c d e f g h", "late one"]
            waiting = [asyncio.ensure_future(batcher.answer([text], predictor)) for text in texts]
            await asyncio.sleep(0)
            let_go(predictor)
            await first
            await asyncio.to_thread(predictor.computing.wait, 30)
            assert predictor.encoded[1:] == [texts]
            batcher.max_wait = 0.0
            predictor.go_on.set()
            await waiting[0]
            with pytest.raises(Refused, match="queue is full"):
                await waiting[1]
            assert predictor.batches[1:] == [texts[:1]]
            assert batcher.depth == 0

        run(test)

    def test_a_request_that_goes_away_after_its_encoding(self):
        """It is not computed, and frees its places."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            predictor.computing.clear()
            texts = ["a b c d e f g h", "gone"]
            waiting = [asyncio.ensure_future(batcher.answer([text], predictor)) for text in texts]
            await asyncio.sleep(0)
            let_go(predictor)
            await first
            await asyncio.to_thread(predictor.computing.wait, 30)
            waiting[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[1]
            predictor.go_on.set()
            await waiting[0]
            assert predictor.encoded[1:] == [texts]
            assert predictor.batches[1:] == [texts[:1]]
            assert batcher.depth == 0

        run(test)


class TestSpeed:
    """What a text costs, from which the wait of the next one is told."""

    def test_many_cheap_texts_and_a_dear_one(self):
        """64 texts for nothing and 1 for 6.5 seconds are 0.1 seconds a text, in any order."""
        for batches in ([(64, 0.0), (1, 6.5)], [(1, 6.5), (64, 0.0)]):
            batcher = Batcher(max_batch_tokens=1, max_queue=1, max_wait=1.0)
            for texts, seconds in batches * 20:
                batcher._note_speed(texts, seconds)
            assert batcher.seconds_per_text == pytest.approx(0.1, rel=0.3)

    def test_encoding_counts(self):
        """The baseline of a cascade works when a text is encoded: it is part of the cost."""

        async def test(batcher, predictor):
            predictor.encoding_seconds = 0.2
            await batcher.answer(["sure", "sure"], predictor)
            assert batcher.seconds_per_text >= 0.1

        run(test)
