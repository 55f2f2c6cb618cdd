"""The page's API says what `pipeline()` says of 500 papers: every label, and scores within 1e-4."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from space_page import SpaceProcess

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-transformer"
REAL = ROOT / "outputs" / "minilm"
PAPERS = 500


def papers_of(file: Path) -> list[tuple[str, str]]:
    """(title, abstract) of the first papers of a CSV."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = [row for row, _ in zip(csv.DictReader(opened), range(PAPERS), strict=False)]
    return [(" ".join(row["title"].split()), row["summary"].strip()) for row in rows]


def hold_against_pipeline(model: Path, papers: list[tuple[str, str]], output: Path) -> None:
    """Compares every label and every score."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(model), truncation=True, top_k=None, device="cpu")
    expected = classify([f"{title}\n\n{abstract}" for title, abstract in papers], batch_size=16)
    assert len(expected) == PAPERS
    command = ["-m", "arxiv_cls.cli", "space", str(model), "--port", "{port}", "--engine", "onnx"]
    process = SpaceProcess(command, output)
    try:
        process.wait_until_open()
        for (title, abstract), said in zip(papers, expected, strict=True):
            event, data = process.call("predict", title, abstract)
            assert event == "complete", title
            assert data[0]["label"] == said[0]["label"], title
            scores = {one["label"]: one["score"] for one in said}
            assert data[0]["scores"] == pytest.approx(scores, abs=1e-4), title
    finally:
        process.stop()


def test_an_exported_release(tmp_path: Path, sample_csv: Path) -> None:
    """The transformer of an old release, exported here, on 500 papers of the sample."""
    from transformers import AutoModelForSequenceClassification

    from arxiv_cls.release.onnx_graph import write_onnx

    model = shutil.copytree(RELEASE, tmp_path / "tiny-transformer")
    (model / "onnx").mkdir()
    write_onnx(AutoModelForSequenceClassification.from_pretrained(model), model / "onnx" / "model.onnx")
    hold_against_pipeline(model, papers_of(sample_csv), tmp_path / "output.txt")


def test_the_real_model(tmp_path: Path, real_csv: Path) -> None:
    """`outputs/minilm`, where it was trained and exported, on 500 real papers."""
    if not (REAL / "onnx" / "model.onnx").is_file():
        pytest.skip(
            "outputs/minilm is not there with its export: train recipes/minilm.yaml, arxiv-cls export"
        )
    hold_against_pipeline(REAL, papers_of(real_csv), tmp_path / "output.txt")
