"""The endpoint on its default engine says what `pipeline()` says: every label, and scores within 1e-4."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-transformer"
REAL = ROOT / "outputs" / "minilm"
PAPERS, AT_A_TIME = 500, 50


def texts_of(file: Path) -> list[str]:
    """Title, blank line and abstract of the first papers of a CSV."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = [row for row, _ in zip(csv.DictReader(opened), range(PAPERS), strict=False)]
    return [f"{row['title'].strip()}\n\n{row['summary'].strip()}" for row in rows]


def hold_against_pipeline(server, model: Path, texts: list[str]) -> None:
    """Compares every label and every score."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(model), truncation=True, top_k=None, device="cpu")
    assert len(texts) == PAPERS
    for start in range(0, PAPERS, AT_A_TIME):
        batch = texts[start : start + AT_A_TIME]
        status, reply, _ = server.call("/predict", {"instances": batch}, timeout=300)
        assert status == 200
        for said, ours in zip(classify(batch), reply["predictions"], strict=True):
            assert ours["code"] == said[0]["label"]
            scores = {one["label"]: one["score"] for one in said}
            assert ours["class_probabilities"] == pytest.approx(scores, abs=1e-4)


def test_an_exported_release(start_server, tmp_path, sample_csv):
    """The transformer of an old release, exported here, on 500 papers of the sample."""
    from transformers import AutoModelForSequenceClassification

    from arxiv_cls.release.onnx_graph import write_onnx

    model = shutil.copytree(RELEASE, tmp_path / "tiny-transformer")
    (model / "onnx").mkdir()
    write_onnx(AutoModelForSequenceClassification.from_pretrained(model), model / "onnx" / "model.onnx")
    server = start_server(model, "--threads", 1)
    hold_against_pipeline(server, model, texts_of(sample_csv))
    assert server.stop() == 0


def test_the_real_model(start_server, real_csv):
    """`outputs/minilm`, where it was trained and exported, on 500 real papers."""
    if not (REAL / "onnx" / "model.onnx").is_file():
        pytest.skip(
            "outputs/minilm is not there with its export: train recipes/minilm.yaml, arxiv-cls export"
        )
    server = start_server(REAL, "--max-wait", 60)
    hold_against_pipeline(server, REAL, texts_of(real_csv))
    assert server.stop() == 0
