"""What serving brings into memory: no training, no trackers, and with the ONNX engine no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from factories import write_cascade_rule, write_onnx_model
from local_servers import Server, free_port

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"
TRAINING = {"torch", "transformers", "wandb", "dvc", "datasets", "evaluate"}
HEAVY = TRAINING | {"sklearn", "pandas", "pyarrow", "evidently"}
# `arxiv-cls serve`, which tells at its end what it has imported.
SERVE_AND_TELL = """
import atexit, json, sys
atexit.register(lambda: print("modules", json.dumps(sorted(sys.modules)), flush=True))
from arxiv_cls.cli import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def serve_one(directory: Path, output: Path, *options: object) -> tuple[dict, set[str]]:
    """A real server's answer to one text, and its modules."""
    port = free_port()
    command = [sys.executable, "-c", SERVE_AND_TELL, directory, "--port", port, "--threads", 2, *options]
    with output.open("w") as file:
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    server = Server(process, f"http://127.0.0.1:{port}", output)
    try:
        server.wait_until_ready()
        status, reply, _ = server.call("/predict", {"text": "neural network training for images"})
        assert status == 200
    finally:
        stopped = server.stop()
    assert stopped == 0, output.read_text()
    (imported,) = [line for line in output.read_text().splitlines() if line.startswith("modules ")]
    return reply, set(json.loads(imported.removeprefix("modules ")))


@pytest.mark.parametrize("engine", ["onnx", "int8"])
def test_onnx(exported, tmp_path, engine):
    """Neither torch nor transformers, nor anything that only training needs."""
    reply, modules = serve_one(exported, tmp_path / "output.txt", "--engine", engine)
    assert reply["answered_by"] == engine
    assert not HEAVY & modules
    assert not [name for name in modules if name.startswith("arxiv_cls.training")]


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "answered_by"), [(None, "tfidf"), (0.0, "tfidf"), (1.1, "onnx")])
def test_baseline(tmp_path, threshold, answered_by):
    """Alone, or before the transformer: both answer, without what training and monitoring need."""
    model, options = BASELINE, []
    if threshold is not None:
        model, options = write_onnx_model(tmp_path / "tiny"), ["--cascade", BASELINE]
        write_cascade_rule(model, BASELINE, threshold)
    reply, modules = serve_one(model, tmp_path / "output.txt", *options)
    assert reply["answered_by"] == answered_by
    # scikit-learn imports pandas wherever it is installed.
    assert not (TRAINING | {"evidently"}) & modules
