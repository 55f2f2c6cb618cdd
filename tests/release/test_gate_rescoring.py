"""The gate scores the release on the Hub again when its own predictions are of other papers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from local_hub import LocalHub
from test_released import BASELINE, publish

from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.models.tfidf import TfidfModel
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.run_record import data_record
from arxiv_cls.release.push_model import push_model, run_gate
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.scoring.scored_papers import data_options

REPO = "user/tiny-tfidf"


def evaluated(
    folder: Path, sample_csv: Path, *, papers: int | None, worse: bool = False, seed: int = 42
) -> Path:
    """A copy of the fixture release as a candidate, evaluated on the test papers that its recipe gives.

    Args:
        folder: where to put it.
        sample_csv: the sample.
        papers: `data.max_samples`; a fourth of it is tested. None for all.
        worse: with weights that never name one of the categories.
        seed: `data.seed`; 42 is the fixture's.
    """
    shutil.copytree(BASELINE, folder)
    if worse:
        model = TfidfModel.load(folder)
        model.linear.combination_bias[1] -= 50
        model.save(folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["data"] |= {"max_samples": papers, "csv": str(sample_csv), "seed": seed}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = json.loads((folder / "run.json").read_text())
    run["git"]["dirty"] = False
    run["weights_sha256"] = file_sha256(folder / "model.skops")
    options = {"config": "top5"} | data_options(folder)
    run["data"] = data_record(build_corpus(**options), options)
    (folder / "run.json").write_text(json.dumps(run))
    evaluate_model(folder, rules=False)
    return folder


def macro_f1(folder: Path) -> float:
    """As recorded."""
    return json.loads((folder / "eval/metrics.json").read_text())["metrics"]["macro_f1"]


@pytest.fixture
def old(tmp_path: Path, sample_csv: Path) -> Path:
    """What a release without one category would have recorded on the candidates' test papers."""
    return evaluated(tmp_path / "old", sample_csv, papers=400, worse=True)


def test_better_model_passes(hub: LocalHub, old: Path, sample_csv: Path, tmp_path: Path) -> None:
    """The release, tested on 50 papers, is scored on the candidate's 100: its true figure is named."""
    released = evaluated(tmp_path / "v0.1.0" / "tiny-tfidf", sample_csv, papers=200, worse=True)
    publish(hub, released)
    better = evaluated(tmp_path / "better", sample_csv, papers=400)
    outcome = push_model(better, REPO)
    assert (outcome.release.version, outcome.release.state) == ("v0.2.0", "released")
    (quality,) = [result for result in outcome.gate.results if result.check == "quality"]
    assert "not significantly worse than v0.1.0's on the same 100 papers" in quality.reason
    assert (quality.found, quality.wanted) == (f"{macro_f1(better):.4f}", f"{macro_f1(old):.4f}")
    assert macro_f1(released) != pytest.approx(macro_f1(old), abs=1e-4)


def test_worse_model_is_stopped_and_its_override_stands_on_the_card(
    hub: LocalHub, old: Path, sample_csv: Path, tmp_path: Path
) -> None:
    """Nothing is sent; with the override the card names both figures, measured on the same papers."""
    publish(hub, BASELINE)
    before = hub.repository(REPO).state()
    with pytest.raises(UserError, match=r"quality: macro_f1 is significantly worse than v0\.1\.0") as no:
        push_model(old, REPO)
    assert hub.repository(REPO).state() == before
    refused = [check for check in ("quality", "calibration") if f"--override {check}" in str(no.value)]
    assert push_model(old, REPO, overrides=refused).release.version == "v0.2.0"
    card = hub.repository(REPO).files("v0.2.0")["README.md"].decode()
    same_papers = macro_f1(evaluated(tmp_path / "same", sample_csv, papers=400))
    line = next(line for line in card.splitlines() if line.startswith("> - quality: "))
    assert f"(found {macro_f1(old):.4f}, wanted {same_papers:.4f})" in line
    assert "on the same 100 papers" in line


def test_papers_that_the_release_was_trained_on(sample_csv: Path, tmp_path: Path) -> None:
    """Split with another seed, some test papers of the candidate are among them: left out and counted."""
    candidate = evaluated(tmp_path / "other seed", sample_csv, papers=None, seed=7)
    tested, seen = (
        set(build_corpus(**(data_options(folder) | {"csv": str(sample_csv)})).splits[split]["arxiv_id"])
        for folder, split in ((candidate, "test"), (BASELINE, "train"))
    )
    known = len(tested & seen)
    assert 0 < known < len(tested)
    report = run_gate(candidate, current=BASELINE, current_version="v0.1.0", csv=sample_csv)
    (quality,) = [result for result in report.results if result.check == "quality"]
    wanted = f"on the same {len(tested) - known} papers (less {known} that v0.1.0 was trained on)"
    assert wanted in quality.reason
