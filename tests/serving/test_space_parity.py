"""The page's API says what `pipeline()` says of 500 papers: every label, and scores within 1e-4."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from factories import FP32_TOLERANCE, PAPERS, RealModel
from local_servers import SpaceProcess

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-transformer"


def papers_of(file: Path) -> list[tuple[str, str]]:
    """(title, abstract) of the first papers of a CSV."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = [row for row, _ in zip(csv.DictReader(opened), range(PAPERS), strict=False)]
    return [(" ".join(row["title"].split()), row["summary"].strip()) for row in rows]


def hold_against(
    model: Path, papers: list[tuple[str, str]], expected: list[dict[str, float]], output: Path
) -> None:
    """Compares every label and every score with those of `pipeline()`, {label: score} by descending score."""
    assert len(papers) == len(expected) == PAPERS
    command = ["-m", "arxiv_cls.cli", "space", str(model), "--port", "{port}", "--engine", "onnx"]
    process = SpaceProcess(command, output)
    try:
        process.wait_until_open()
        for (title, abstract), scores in zip(papers, expected, strict=True):
            event, data = process.call("predict", title, abstract)
            assert event == "complete", title
            assert data[0]["label"] == next(iter(scores)), title
            assert data[0]["scores"] == pytest.approx(scores, abs=FP32_TOLERANCE), title
    finally:
        process.stop()


def test_an_exported_release(tmp_path: Path, sample_csv: Path) -> None:
    """The transformer of an old release, exported here, on 500 papers of the sample."""
    from transformers import AutoModelForSequenceClassification, pipeline

    from arxiv_cls.export.onnx_graph import write_onnx

    model = shutil.copytree(RELEASE, tmp_path / "tiny-transformer")
    (model / "onnx").mkdir()
    write_onnx(AutoModelForSequenceClassification.from_pretrained(model), model / "onnx" / "model.onnx")
    papers = papers_of(sample_csv)
    classify = pipeline("text-classification", model=str(model), truncation=True, top_k=None, device="cpu")
    answers = classify([f"{title}\n\n{abstract}" for title, abstract in papers], batch_size=16)
    expected = [{one["label"]: one["score"] for one in said} for said in answers]
    hold_against(model, papers, expected, tmp_path / "output.txt")


def test_the_real_model(tmp_path: Path, real_model: RealModel) -> None:
    """A trained MiniLM with its export, on 500 real papers of the test split."""
    hold_against(real_model.directory, real_model.papers, real_model.expected, tmp_path / "output.txt")
