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


def without_one_category(folder: Path) -> None:
    """Takes a category away from a baseline: its papers all get another label from then on."""
    model = TfidfModel.load(folder)
    model.linear.combination_bias[1] -= 50
    model.save(folder)


def evaluated(
    folder: Path, sample_csv: Path, *, papers: int | None, worse: bool = False, seed: int | None = None
) -> Path:
    """A copy of the fixture release as a candidate, evaluated on the test papers that `max_samples` gives.

    Args:
        folder: where to put it.
        sample_csv: the sample.
        papers: `data.max_samples`; a fourth of it is tested. None for all.
        worse: with weights that never name one of the categories.
        seed: `data.seed`, where it is not the fixture's.
    """
    shutil.copytree(BASELINE, folder)
    if worse:
        without_one_category(folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["data"] |= {"max_samples": papers, "csv": str(sample_csv)}
    if seed is not None:
        recipe["data"]["seed"] = seed
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = json.loads((folder / "run.json").read_text())
    run["git"]["dirty"] = False
    run["weights_sha256"] = file_sha256(folder / "model.skops")
    options = {"config": "top5"} | data_options(folder)
    run["data"] = data_record(build_corpus(**options), options)
    (folder / "run.json").write_text(json.dumps(run))
    evaluate_model(folder, rules=False)
    return folder


def split_ids(folder: Path, split: str, csv: Path) -> set[str]:
    """Papers of a model's split."""
    return set(build_corpus(**(data_options(folder) | {"csv": str(csv)})).splits[split]["arxiv_id"])


def macro_f1(folder: Path) -> float:
    """As recorded."""
    return json.loads((folder / "eval/metrics.json").read_text())["metrics"]["macro_f1"]


@pytest.fixture
def old(tmp_path: Path, sample_csv: Path) -> Path:
    """What a release without one category would have recorded on the candidates' test papers."""
    return evaluated(tmp_path / "old", sample_csv, papers=400, worse=True)


class TestRescoredRelease:
    """The release was tested on 50 papers, the candidates on 100."""

    def test_better_model_passes(self, hub: LocalHub, old: Path, sample_csv: Path, tmp_path: Path) -> None:
        """The worse release is downloaded and scored on the candidate's papers: its true figure is named."""
        released = evaluated(
            tmp_path / BASELINE.parent.name / "tiny-tfidf", sample_csv, papers=200, worse=True
        )
        publish(hub, released)
        better = evaluated(tmp_path / "better", sample_csv, papers=400)
        outcome = push_model(better, REPO)
        assert (outcome.release.version, outcome.release.state) == ("v0.2.0", "released")
        assert outcome.gate is not None
        (quality,) = [result for result in outcome.gate.results if result.check == "quality"]
        assert "not significantly worse than v0.1.0's on the same 100 papers" in quality.reason
        assert (quality.found, quality.wanted) == (f"{macro_f1(better):.4f}", f"{macro_f1(old):.4f}")
        assert macro_f1(released) != pytest.approx(macro_f1(old), abs=1e-4)

    def test_worse_model_is_stopped_and_its_override_stands_on_the_card(
        self, hub: LocalHub, old: Path, sample_csv: Path, tmp_path: Path
    ) -> None:
        """Nothing is sent; with the override the card names both figures, measured on the same papers."""
        publish(hub, BASELINE)
        before = hub.repository(REPO).state()
        with pytest.raises(UserError, match=r"quality: macro_f1 is significantly worse than v0\.1\.0") as no:
            push_model(old, REPO)
        assert "--override quality" in str(no.value)
        assert hub.repository(REPO).state() == before
        refused = [check for check in ("quality", "calibration") if f"{check}: " in str(no.value)]
        outcome = push_model(old, REPO, overrides=refused)
        assert outcome.release.version == "v0.2.0"
        card = hub.repository(REPO).files("v0.2.0")["README.md"].decode()
        same_papers = macro_f1(evaluated(tmp_path / "same", sample_csv, papers=400))
        line = next(line for line in card.splitlines() if line.startswith("> - quality: "))
        assert f"(found {macro_f1(old):.4f}, wanted {same_papers:.4f})" in line
        assert "on the same 100 papers" in line


class TestPapersThatTheReleaseWasTrainedOn:
    """The candidate was split with another seed: some of its test papers taught the release."""

    def test_they_are_left_out(self, sample_csv: Path, tmp_path: Path) -> None:
        """Those of the release's training split, looked up in the file; the sentence counts them."""
        candidate = evaluated(tmp_path / "other seed", sample_csv, papers=None, seed=7)
        tested, taught = split_ids(candidate, "test", sample_csv), split_ids(BASELINE, "train", sample_csv)
        known = len(tested & taught)
        assert 0 < known < len(tested)
        report = run_gate(candidate, current=BASELINE, current_version="v0.1.0", csv=sample_csv)
        (quality,) = [result for result in report.results if result.check == "quality"]
        wanted = f"on the same {len(tested) - known} papers (less {known} that v0.1.0 was trained on)"
        assert wanted in quality.reason
