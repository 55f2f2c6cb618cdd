"""A model that answers at once, and a pool in this process."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest
from factories import write_onnx_model

from arxiv_cls.batch import runs, shards


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model whose answers can be worked out by hand."""
    return write_onnx_model(tmp_path_factory.mktemp("batch") / "model")


class InlinePool:
    """A pool that scores when it is asked."""

    limit, killed = 2, ()

    def __init__(self, settings: shards.Settings, processes: int) -> None:
        self.settings = settings

    def submit(self, shard):
        future: Future = Future()
        try:
            future.set_result(shards.score_shard(shard, self.settings))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future):
        return future.result()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are scored in this process, five rows each."""
    monkeypatch.setattr(runs, "_LocalPool", InlinePool)
    monkeypatch.setattr("arxiv_cls.batch.inputs.LEAST_ROWS", 5)
