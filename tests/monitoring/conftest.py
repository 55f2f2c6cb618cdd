"""A model directory with a reference of synthetic papers, and request logs in the endpoint's own format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from factories import SAMPLE

from arxiv_cls.models.prediction import EncodedText, Prediction
from arxiv_cls.scoring.reference import rows_of, write_reference
from arxiv_cls.serving.request_log import ScoredText, log_line

LABELS = ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]
MIX = (0.15, 0.3, 0.15, 0.25, 0.15)
WEIGHTS = b"weights of the baseline"
VERSION = hashlib.sha256(WEIGHTS).hexdigest()[:12]
START = datetime(2026, 5, 1, tzinfo=UTC)
LETTERS = np.array(list("etaoinshrdlucmfw"))


class Traffic:
    """Synthetic papers: texts, calibrated scores and true labels.

    Args:
        count: how many.
        seed: of everything.
        mix: shares of the true labels.
        words: mean number of words.
        outside: share that is out of scope.
    """

    def __init__(self, count: int, seed: int, *, mix=MIX, words: int = 150, outside: float = 0.04) -> None:
        generator = np.random.default_rng(seed)
        # Five normal distributions: their scores are calibrated for the mix of the reference.
        self.truth = generator.choice(5, count, p=np.array(mix) / sum(mix))
        points = 1.6 * np.eye(5)[self.truth] + generator.normal(size=(count, 5))
        logits = np.log(MIX) + 1.6 * points
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        self.scores = scores / scores.sum(axis=1, keepdims=True)
        lengths = generator.poisson(words, count)
        self.encoded = []
        for length in lengths:
            letters = "".join(LETTERS[generator.integers(0, len(LETTERS), 6 * length)])
            text = " ".join(letters[at : at + 6] for at in range(0, len(letters), 6))
            self.encoded.append(EncodedText(text, int(length * 1.3), truncated=bool(length > words + 30)))
        self.in_scope = generator.random(count) >= outside

    def __len__(self) -> int:
        return len(self.encoded)


def lines_of(
    traffic: Traffic,
    *,
    start: datetime = START,
    version: str = VERSION,
    answered_by: str = "tfidf",
    request: str = "r",
    texts_in_request: int = 1,
) -> list[str]:
    """Lines of the log, a second apart."""
    lines = []
    model = SimpleNamespace(name="tiny", version=version)
    for at, encoded in enumerate(traffic.encoded):
        scores = dict(zip(LABELS, traffic.scores[at].tolist(), strict=True))
        label, inside = max(scores, key=scores.get), bool(traffic.in_scope[at])
        said = Prediction(
            label, scores[label], scores, encoded.truncated, None, inside, float(inside), answered_by
        )
        answer = SimpleNamespace(waited=0.001, predictions=[said] * texts_in_request)
        number, index = divmod(at, texts_in_request)
        row = ScoredText(
            start + timedelta(seconds=at), f"{request}{number}", index, "text", model, encoded, said, answer,
            0.01,
        )  # fmt: skip
        lines.append(json.dumps(log_line(row, with_text=False)) + "\n")
    return lines


@pytest.fixture(scope="session")
def reference_traffic() -> Traffic:
    """The papers of the reference."""
    return Traffic(2000, 1)


@pytest.fixture
def released(tmp_path: Path, reference_traffic: Traffic) -> Path:
    """A baseline's directory with a reference; nothing loads its weights."""
    directory = tmp_path / "model"
    (directory / "monitoring").mkdir(parents=True)
    (directory / "model.skops").write_bytes(WEIGHTS)
    labels = {str(number): label for number, label in enumerate(LABELS)}
    (directory / "config.json").write_text(json.dumps({"model_type": "arxiv_cls-tfidf", "id2label": labels}))
    write_traffic(directory / "monitoring/reference.parquet", reference_traffic, WEIGHTS)
    return directory


def write_traffic(path: Path, traffic: Traffic, weights: bytes, engine: str = "tfidf") -> None:
    """Writes a reference of synthetic papers."""
    scope = SimpleNamespace(threshold=0.5, scores=lambda texts: traffic.in_scope.astype(float))
    rows = rows_of(traffic.encoded, traffic.scores, scope)
    sha256 = {"weights_sha256": hashlib.sha256(weights).hexdigest(), "data_sha256": "d" * 64}
    identity = {"kind": engine, "engine": engine, "split": "test"} | sha256
    write_reference(path, LABELS, rows, traffic.truth, [engine] * len(traffic), identity)


@pytest.fixture
def write_log(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines into a new file of the folder `log`, as the endpoint names its files."""

    def write(lines: Iterable[str], name: str | None = None) -> Path:
        folder = tmp_path / "log"
        folder.mkdir(exist_ok=True)
        number = len(list(folder.iterdir()))
        path = folder / (name or f"requests-20260501T{number:012d}Z-aaaa.jsonl")
        path.write_text("".join(lines), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def trained(run_python, tmp_path_factory):
    """A small baseline of the synthetic sample."""
    folder = tmp_path_factory.mktemp("trained") / "linear"
    done = run_python(
        "arxiv_cls/train_tfidf.py", "recipes/tfidf_linear.yaml", "--output_dir", folder, "--csv", SAMPLE
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder
