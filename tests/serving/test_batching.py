"""The queue: batches by tokens, bounded places, bounded waits, no request that spoils or loses another."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from counting_predictor import CountingPredictor, hold, run

from arxiv_cls.errors import UserError
from arxiv_cls.serving.batching import Batcher
from arxiv_cls.serving.http_errors import Refused


class TestBatches:
    """What waits is computed together, up to the token budget, and comes back in order."""

    def test_waiting_requests_share_batches_within_the_budget(self):
        """Requests of 3 words under a budget of 8: two to a batch, in the order of their coming."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            others = [asyncio.ensure_future(batcher.answer([f"a b {n}"], predictor)) for n in range(5)]
            await asyncio.sleep(0)
            predictor.go_on.set()
            answers = await asyncio.gather(first, *others)
            assert [answer.predictions for answer in answers[1:]] == [[f"A B {n}"] for n in range(5)]
            assert predictor.batches[1:] == [["a b 0", "a b 1"], ["a b 2", "a b 3"], ["a b 4"]]

        run(test)

    def test_a_long_request_is_spread_over_batches(self):
        """Five texts of 3 words come back whole and in order though no batch holds them all."""

        async def test(batcher, predictor):
            texts = [f"a b {n}" for n in range(5)]
            answer = await batcher.answer(texts, predictor)
            assert answer.predictions == [text.upper() for text in texts]
            assert [len(batch) for batch in predictor.batches] == [2, 2, 1]

        run(test)

    def test_a_text_above_the_budget_is_computed_alone(self):
        """A budget never starves a text."""

        async def test(batcher, predictor):
            answer = await batcher.answer(["w " * 20 + "end", "short"], predictor)
            assert len(answer.predictions) == 2
            assert [len(batch) for batch in predictor.batches] == [1, 1]

        run(test)

    def test_requests_keep_their_model(self):
        """Requests for an old and a new model that wait side by side go to their own, in separate batches."""

        async def test(batcher, old):
            new = CountingPredictor()
            first = await hold(batcher, old)
            waiting = [asyncio.ensure_future(batcher.answer(["x"], one)) for one in (old, new, old)]
            await asyncio.sleep(0)
            old.go_on.set()
            await asyncio.gather(first, *waiting)
            assert old.batches[1:] == [["x"], ["x"]]
            assert new.batches == [["x"]]

        run(test)

    def test_batches_are_reported(self):
        """Texts and tokens of each batch reach the metrics."""
        seen = []

        async def test(batcher, predictor):
            await batcher.answer(["a b", "c"], predictor)
            assert [(texts, tokens) for texts, tokens, _ in seen] == [(2, 3)]

        run(test, on_batch=lambda *numbers: seen.append(numbers))


class TestPlaces:
    """The queue is bounded, and a place is free again however a request ends."""

    def test_full(self):
        """One text more than there are places is refused with a time to come again."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            second = asyncio.ensure_future(batcher.answer(["a", "b"], predictor))
            await asyncio.sleep(0)
            assert batcher.depth == 3
            with pytest.raises(Refused, match="queue is full") as refused:
                await batcher.answer(["c"], predictor)
            assert int(refused.value.headers["Retry-After"]) >= 1
            predictor.go_on.set()
            await asyncio.gather(first, second)
            assert batcher.depth == 0

        run(test, max_queue=3)

    def test_a_cancelled_request_frees_its_places(self):
        """At once, before its turn comes; and it is never computed."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            gone = asyncio.ensure_future(batcher.answer(["gone", "gone"], predictor))
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert batcher.depth == 1
            stays = asyncio.ensure_future(batcher.answer(["stays", "too"], predictor))
            await asyncio.sleep(0)
            predictor.go_on.set()
            await asyncio.gather(first, stays)
            assert predictor.batches == [["held"], ["stays", "too"]]

        run(test, max_queue=3)

    def test_a_wait_that_is_too_long_is_refused(self):
        """A request that has waited longer than `max_wait` when its turn comes is not computed."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            late = asyncio.ensure_future(batcher.answer(["late"], predictor))
            await asyncio.sleep(0.2)
            predictor.go_on.set()
            await first
            with pytest.raises(Refused, match="queue is full"):
                await late
            assert predictor.batches == [["held"]]
            assert batcher.depth == 0

        run(test, max_wait=0.1)

    def test_a_wait_that_would_be_too_long_is_refused_at_once(self):
        """At 2 texts a second, a queue of 4 is 2 seconds: too long for a bound of 1."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            batcher._note_speed(2, seconds=1.0)
            waiting = asyncio.ensure_future(batcher.answer(["a", "b", "c"], predictor))
            await asyncio.sleep(0)
            with pytest.raises(Refused, match="queue is full") as refused:
                await batcher.answer(["d"], predictor)
            assert refused.value.headers["Retry-After"] == "2"
            waiting.cancel()
            predictor.go_on.set()
            await first

        run(test, max_wait=1.0)


class TestFailures:
    """What goes wrong in one request stays in it."""

    @pytest.mark.parametrize(("text", "error"), [("refuse", UserError), ("fail", RuntimeError)])
    def test_others_in_the_batch_are_answered(self, text, error):
        """A text that the model refuses, or breaks on, fails its own request only; the thread goes on."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            waiting = [
                asyncio.ensure_future(batcher.answer([one], predictor)) for one in ("before", text, "after")
            ]
            await asyncio.sleep(0)
            predictor.go_on.set()
            _, before, failed, after = await asyncio.gather(first, *waiting, return_exceptions=True)
            assert (before.predictions, after.predictions) == (["BEFORE"], ["AFTER"])
            assert isinstance(failed, error)
            assert (await batcher.answer(["again"], predictor)).predictions == ["AGAIN"]
            assert batcher.depth == 0

        run(test)

    def test_a_check_sees_the_encoded_texts(self):
        """What a check raises is the answer, and nothing is computed."""

        def check(encoded):
            raise ValueError(encoded[0].tokens)

        async def test(batcher, predictor):
            with pytest.raises(ValueError, match="2"):
                await batcher.answer(["two words"], predictor, check)
            assert predictor.batches == []

        run(test)


class TestClose:
    """The end answers what was accepted and takes nothing new."""

    def test_accepted_requests_are_answered(self):
        """Requests that wait when the end begins are computed, also past `max_wait`; a new one is refused."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            waiting = [asyncio.ensure_future(batcher.answer([f"w{n}"], predictor)) for n in range(3)]
            await asyncio.sleep(0.2)
            closing = asyncio.ensure_future(batcher.close(30))
            await asyncio.sleep(0)
            with pytest.raises(Refused, match="ending"):
                await batcher.answer(["new"], predictor)
            predictor.go_on.set()
            answers = await asyncio.gather(first, *waiting)
            assert [answer.predictions for answer in answers] == [["HELD"], ["W0"], ["W1"], ["W2"]]
            assert await closing
            assert not batcher.alive

        run(test, max_wait=0.1)

    def test_what_is_accepted_can_be_refused(self):
        """When the time to end is over: what waits and what is computed is told, at once and for good."""

        async def test(batcher, predictor):
            asked = [await hold(batcher, predictor)]
            asked += [asyncio.ensure_future(batcher.answer([f"w{n}"], predictor)) for n in range(3)]
            await asyncio.sleep(0)
            batcher.refuse_accepted()
            told = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
            assert [error.reason for error in told] == ["ending"] * 4
            assert batcher.depth == 0
            predictor.go_on.set()
            assert await batcher.close(30)
            assert predictor.batches == [["held"]]

        run(test)

    def test_a_thread_that_hangs_is_reported(self):
        """`close` says so when what was accepted was not answered in time."""

        async def test(batcher, predictor):
            first = await hold(batcher, predictor)
            assert not await batcher.close(0.05)
            predictor.go_on.set()
            await first

        run(test)

    def test_an_ended_loop_is_no_error(self):
        """An answer for a loop that has ended is dropped, not raised in the thread."""
        batcher = Batcher(max_batch_tokens=1, max_queue=1, max_wait=1.0)
        loop = asyncio.new_event_loop()
        loop.close()
        batcher._resolve(SimpleNamespace(future=loop.create_future()), RuntimeError())
