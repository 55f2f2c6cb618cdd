"""The endpoint on its default engine says what `pipeline()` says: every label, and scores within 1e-4."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from factories import FP32_TOLERANCE, PAPERS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-transformer"
AT_A_TIME = 50


def texts_of(file: Path) -> list[str]:
    """Title, blank line and abstract of the first papers of a CSV."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = [row for row, _ in zip(csv.DictReader(opened), range(PAPERS), strict=False)]
    return [f"{row['title'].strip()}\n\n{row['summary'].strip()}" for row in rows]


def compare(server, texts: list[str], expected: list[dict[str, float]]) -> None:
    """Compares every label and every score with those of `pipeline()`, {label: score} by descending score."""
    assert len(texts) == len(expected) == PAPERS
    for start in range(0, PAPERS, AT_A_TIME):
        batch = slice(start, start + AT_A_TIME)
        status, reply, _ = server.call("/predict", {"instances": texts[batch]}, timeout=300)
        assert status == 200
        for scores, ours in zip(expected[batch], reply["predictions"], strict=True):
            assert ours["code"] == next(iter(scores))
            assert ours["class_probabilities"] == pytest.approx(scores, abs=FP32_TOLERANCE)


def test_an_exported_release(start_server, tmp_path, sample_csv):
    """The transformer of an old release, exported here, on 500 papers of the sample."""
    from transformers import AutoModelForSequenceClassification, pipeline

    from arxiv_cls.export.onnx_graph import write_onnx

    model = shutil.copytree(RELEASE, tmp_path / "tiny-transformer")
    (model / "onnx").mkdir()
    write_onnx(AutoModelForSequenceClassification.from_pretrained(model), model / "onnx" / "model.onnx")
    server = start_server(model, "--threads", 1)
    texts = texts_of(sample_csv)
    classify = pipeline("text-classification", model=str(model), truncation=True, top_k=None, device="cpu")
    expected = [{one["label"]: one["score"] for one in said} for said in classify(texts)]
    compare(server, texts, expected)
    assert server.stop() == 0


def test_the_real_model(start_server, real_model):
    """A trained MiniLM with its export, on 500 real papers of the test split."""
    server = start_server(real_model.directory, "--max-wait", 60)
    compare(server, real_model.texts, real_model.expected)
    assert server.stop() == 0
