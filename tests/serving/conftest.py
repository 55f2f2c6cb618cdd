"""Tiny models, and a real server process that all tests of a session share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from factories import write_onnx_model
from local_servers import Server, start_process


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the models `tiny` and `turned`, whose answers are one label further."""
    directory = tmp_path_factory.mktemp("models")
    write_onnx_model(directory / "tiny")
    write_onnx_model(directory / "turned", turned=1)
    return directory


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts `arxiv-cls serve` as a process, and waits for its model unless `ready=False`.

    Processes that still run are ended with the session.
    """
    running: list[Server] = []

    def start(
        model: Path | str, *options: object, env: dict[str, str] | None = None, ready: bool = True
    ) -> Server:
        output = tmp_path_factory.mktemp("server") / "output.txt"
        running.append(start_process(model, *options, output=output, env=env))
        if ready:
            running[-1].wait_until_ready()
        return running[-1]

    yield start
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(60)


@pytest.fixture(scope="session")
def request_log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared server writes its request log."""
    return tmp_path_factory.mktemp("request-log")


@pytest.fixture(scope="session")
def feedback_log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared server writes labels, and looks for a report."""
    return tmp_path_factory.mktemp("feedback-log")


@pytest.fixture(scope="session")
def server(
    start_server: Callable[..., Server], models_dir: Path, request_log_dir: Path, feedback_log_dir: Path
) -> Server:
    """The server that tests share: model `tiny`, with a request log, labels and a place for a report."""
    logs = ("--request-log", request_log_dir, "--feedback-log", feedback_log_dir)
    return start_server(models_dir / "tiny", *logs, "--monitoring", feedback_log_dir, "--threads", 1)
