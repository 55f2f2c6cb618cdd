"""The real baseline on the real data: its release reproduces, its scores are calibrated."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from factories import ROOT
from local_hub import LocalHub
from local_servers import start_process

from arxiv_cls.release.push_model import push_model
from arxiv_cls.release.verify import verify_release

REPO = "user/arxiv-tfidf"
RELEASE = ROOT / "tests/fixtures/releases/v0.1.0/tiny-transformer"

pytestmark = pytest.mark.slow


def test_every_number_reproduces(hub: LocalHub, real_baseline: Path, real_csv: Path) -> None:
    """`arxiv-cls verify` of a release made from 136,238 rows: every number, and the card is theirs."""
    # A tree with uncommitted changes does not stop this test.
    push_model(real_baseline, REPO, overrides=["commit", "clean-tree"])
    report = verify_release(f"{REPO}@v0.1.0", csv=real_csv, tolerance=1e-9)
    assert report.reproduced, report.summary()
    assert report.papers == 3324
    fields = {check.field for check in report.checks}
    assert len(fields) > 170
    assert fields >= {
        "metrics.macro_f1", "intervals.macro_f1[0]", "calibration.chance_upper", "scope.auroc",
        "slices.year.2018.accuracy", "prediction_sets.levels.0.9.coverage",
    }  # fmt: skip


class TestCalibration:
    """`scripts/prove_calibration.py`: no label changed, the error at most 0.03 and not above chance."""

    def test_baseline(
        self, real_baseline: Path, real_csv: Path, run_python: Callable[..., subprocess.CompletedProcess]
    ) -> None:
        """Through our predictor, on all 3,324 test papers."""
        done = run_python("scripts/prove_calibration.py", real_baseline, "--data", real_csv)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        assert "3,324 test papers, 0 labels changed by the temperature" in done.stdout

    def test_transformer(
        self, sample_csv: Path, run_python: Callable[..., subprocess.CompletedProcess]
    ) -> None:
        """Plain `pipeline()` gives the calibrated scores that the evaluation measured, no label changed."""
        # A tiny release: the limits on the error are for a whole model (docs/releasing.md).
        done = run_python("scripts/prove_calibration.py", RELEASE, "--data", sample_csv)
        recorded = json.loads((RELEASE / "eval" / "metrics.json").read_text())
        error = recorded["metrics"]["expected_calibration_error"]
        wanted = rf"{recorded['papers']} test papers, 0 labels changed .* calibration error ([\d.]+),"
        said = re.search(wanted, done.stdout)
        assert said is not None, done.stdout + done.stderr[-3000:]
        assert float(said[1]) == pytest.approx(error, abs=1e-3)


def test_served_over_http(real_baseline: Path, tmp_path: Path) -> None:
    """A paper gets its category, a paper on frogs is told to be none of the model's."""
    server = start_process(real_baseline, output=tmp_path / "output.txt")
    try:
        server.wait_until_ready()
        texts = (
            "Parsing with pretrained encoders. We fine-tune a language model for dependency parsing.",
            "Calls of tree frogs. We recorded frogs in the rain forest and found a new species of frog.",
        )
        parsing, frogs = (server.call("/predict", {"text": text})[1] for text in texts)
        assert (parsing["code"], parsing["in_scope"]) == ("cs.CL", True)
        assert parsing["prediction_set"] == ["cs.CL"]
        assert frogs["in_scope"] is False
        assert server.call("/info")[1]["kind"] == "tfidf"
    finally:
        assert server.stop() == 0
