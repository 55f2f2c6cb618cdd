"""The page's model, loaded and as a process that all tests of a session share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import write_onnx_model
from local_servers import SpaceProcess

from arxiv_cls.space.predictions import SpaceModel, load_space_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model for which the word `vision` means cs.CV."""
    return write_onnx_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def space(tiny_model: Path) -> SpaceModel:
    """That model, loaded for the page."""
    return load_space_model(str(tiny_model))


@pytest.fixture(scope="session")
def page(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpaceProcess]:
    """`arxiv-cls space` with that model."""
    command = ["-m", "arxiv_cls.cli", "space", str(tiny_model), "--port", "{port}"]
    process = SpaceProcess(command, tmp_path_factory.mktemp("space") / "output.txt")
    try:
        yield process.wait_until_open()
    finally:
        process.stop()
