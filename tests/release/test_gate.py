"""The gate stops what must not be released, and says why with two values and the option that overrides."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from factories import TFIDF, change_json, make_model_dir, record_again, scored_papers, write_json

from arxiv_cls.errors import UserError
from arxiv_cls.record.run_record import git_state
from arxiv_cls.release import gate
from arxiv_cls.release.gate import CHECK_NAMES, GateReport

ROOT = Path(__file__).resolve().parents[2]

SCOPE = {
    "schema_version": 1,
    "threshold": 0.5,
    "rule": "words",
    "auroc": 0.9,
    "auroc_interval": [0.8, 0.95],
    "in_scope_kept": 0.9,
    "out_of_scope_caught": 0.8,
    "out_of_scope_papers": 100,
}
CASCADE = {
    "schema_version": 1,
    "engine": "int8",
    "baseline_sha256": "1" * 64,
    "threshold": 0.9,
    "max_tokens": 64,
    "set_threshold": 0.2,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that passes."""
    return make_model_dir(tmp_path / "model")


def run_gate(folder: Path, **named: object) -> GateReport:
    """The gate on files that count as written so: what a test changed is not told by its checksum alone."""
    return gate.run_gate(record_again(folder), **named)


def failed(report: GateReport) -> list[str]:
    """Names of the checks that refuse."""
    return [result.check for result in report.refused]


class TestLocalChecks:
    """Each check by a directory that breaks just that rule."""

    def test_a_whole_directory_passes_every_check(self, model: Path) -> None:
        """All checks run, and none is forgotten in the list of names."""
        report = run_gate(model)
        assert tuple(result.check for result in report.results) == CHECK_NAMES
        assert failed(report) == []
        report.raise_if_refused()

    def test_foreign_file(self, model: Path) -> None:
        """The file is named."""
        (model / "notes.md").write_text("x")
        report = run_gate(model)
        assert failed(report) == ["files"]
        assert "notes.md" in str(report.refused[0])

    def test_missing_file(self, model: Path) -> None:
        """The file is named."""
        (model / "training_curve.png").unlink()
        assert "training_curve.png" in str(run_gate(model).refused[0])

    def test_pickle(self, model: Path) -> None:
        """Weights that are a pickle are refused although their name is on the list."""
        weights = pickle.dumps([1.0])
        (model / "model.safetensors").write_bytes(weights)
        assert "pickles" in failed(run_gate(model))

    def test_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        """A weights file that was cut short is a refusal with its name, not a crash."""
        folder = make_model_dir(tmp_path / "cut", TFIDF, weights=b"PK\x03\x04 and no more")
        report = run_gate(folder)
        assert failed(report) == ["pickles"]
        assert "model.skops (a broken zip: " in report.refused[0].reason
        assert (report.refused[0].found, report.refused[0].wanted) == ("0 and 1 unreadable", "0")

    def test_link_to_nowhere(self, model: Path) -> None:
        """Likewise."""
        (model / "eval/terms.json").symlink_to(model / "none")
        assert "eval/terms.json (No such file" in str(run_gate(model).refused)

    def test_secret(self, model: Path) -> None:
        """The line is named, the secret is not shown."""
        secret = "hf_" + "Abcdefghij" * 3
        with (model / "recipe.yaml").open("a") as recipe:
            recipe.write(f"note: {secret}\n")
        with pytest.raises(UserError) as refusal:
            run_gate(model).raise_if_refused()
        assert "recipe.yaml, line" in str(refusal.value)
        assert secret not in str(refusal.value)
        assert "--override secrets" in str(refusal.value)
        assert "OVERRIDE=secrets" in str(refusal.value)

    def test_no_evaluation(self, model: Path) -> None:
        """Weights, data and predictions are unproven; no override is offered or taken, as no card can be."""
        (model / "eval/metrics.json").unlink()
        unproven = ["files", "checksums", "weights", "data", "predictions"]
        assert failed(run_gate(model)) == unproven
        report = run_gate(model, overrides=unproven)
        assert (failed(report), report.overridden) == (unproven, [])
        with pytest.raises(UserError, match="not evaluated") as refusal:
            report.raise_if_refused()
        assert "--override" not in str(refusal.value)
        assert "no override helps files, checksums, weights, data, predictions" in str(refusal.value)

    def test_no_evaluation_beside_what_can_be_overridden(self, model: Path) -> None:
        """Only the override that works is offered."""
        (model / "eval/metrics.json").unlink()
        change_json(model / "run.json", git={"commit": None, "dirty": False})
        with pytest.raises(UserError) as refusal:
            run_gate(model).raise_if_refused()
        assert str(refusal.value).count("--override") == 1
        assert "--override commit (with make OVERRIDE=commit)" in str(refusal.value)

    def test_weights_changed_after_evaluation(self, model: Path) -> None:
        """Both hashes are shown."""
        (model / "model.safetensors").write_bytes(b"retrained")
        report = run_gate(model)
        assert failed(report) == ["weights"]
        assert report.refused[0].found != report.refused[0].wanted

    def test_weights_that_the_run_record_does_not_describe(self, model: Path) -> None:
        """Evaluated as they are, but not what commit, data and duration on the card speak of."""
        (model / "model.safetensors").write_bytes(b"retrained")
        digest = hashlib.sha256(b"retrained").hexdigest()
        change_json(model / "eval/metrics.json", weights_sha256=digest)
        report = run_gate(model)
        assert failed(report) == ["weights"]
        trained = json.loads((model / "run.json").read_text())["weights_sha256"]
        assert (report.refused[0].found, report.refused[0].wanted) == (trained[:12], digest[:12])
        assert "run.json describes the training of other weights" in report.refused[0].reason

    @pytest.mark.parametrize(
        ("path", "key", "verb", "content"),
        [
            ("eval/prediction_sets.json", "weights_sha256", "evaluate", {"schema_version": 1, "levels": {}}),
            ("eval/scope.json", "weights_sha256", "evaluate", SCOPE),
            ("eval/cascade.json", "transformer_sha256", "cascade", CASCADE),
            ("eval/terms.json", "weights_sha256", "visualize", {"terms": {}}),
        ],
    )
    def test_what_was_made_with_other_weights(
        self, model: Path, path: str, key: str, verb: str, content: dict[str, Any]
    ) -> None:
        """A stored threshold of earlier weights would be released as if it were this model's."""
        write_json(model / path, content | {key: "0" * 64})
        report = run_gate(model)
        assert failed(report) == ["weights"]
        assert f"{path} was made with other weights: run `arxiv-cls {verb}`" in str(report.refused[0])
        weights = json.loads((model / "run.json").read_text())["weights_sha256"]
        write_json(model / path, content | {key: weights})
        assert failed(run_gate(model)) == []

    @pytest.mark.parametrize("changes", [{"data_sha256": "e" * 64}, {"split": "validation"}])
    def test_evaluated_on_other_data_or_split(self, model: Path, changes: dict[str, str]) -> None:
        """Only the test split of the model's own data counts."""
        change_json(model / "eval/metrics.json", **changes)
        assert failed(run_gate(model)) == ["data"]

    @pytest.mark.parametrize(
        ("field", "named"),
        [
            (("metrics", "macro_f1"), "macro_f1"),
            (("metrics", "log_loss"), "log_loss"),
            (("metrics", "expected_calibration_error"), "expected_calibration_error"),
            (("metrics", "per_class", "cs.CV", "recall"), "recall of cs.CV"),
            (("metrics", "per_class", "stat.ML", "support"), "support of stat.ML"),
            (("papers",), "papers"),
        ],
    )
    def test_metrics_edited_by_hand(self, model: Path, field: tuple[str, ...], named: str) -> None:
        """Every recorded figure must be that of the recorded predictions; both values are shown."""
        evaluation = json.loads((model / "eval/metrics.json").read_text())
        part = evaluation
        for key in field[:-1]:
            part = part[key]
        before = part[field[-1]]
        part[field[-1]] += 1
        write_json(model / "eval/metrics.json", evaluation)
        report = run_gate(model)
        assert failed(report) == ["predictions"]
        shown = (f"{before:.6f}", f"{before + 1:.6f}") if isinstance(before, float) else (before, before + 1)
        assert str(report.refused[0]).endswith(f": {named} (found {named} {shown[1]}, wanted {shown[0]})")

    def test_metrics_taken_out_by_hand(self, model: Path) -> None:
        """A figure or a category that is gone is named as well."""
        evaluation = json.loads((model / "eval/metrics.json").read_text())
        del evaluation["metrics"]["per_class"]["cs.CV"]
        evaluation["metrics"]["brier_score"] = None
        write_json(model / "eval/metrics.json", evaluation)
        (refused,) = run_gate(model).refused
        assert refused.check == "predictions"
        assert "brier_score, precision of cs.CV" in refused.reason
        assert failed(run_gate(model, overrides=["predictions"])) == ["predictions"]

    @pytest.mark.parametrize(
        ("git", "check"),
        [
            ({"commit": None, "dirty": False}, "commit"),
            ({"commit": "c" * 40, "dirty": False}, "commit"),
            ({"dirty": True}, "clean-tree"),
            ({"dirty": None}, "clean-tree"),
        ],
    )
    def test_code_of_no_commit(self, model: Path, git: dict[str, object], check: str) -> None:
        """The state when it was trained counts, not the state now."""
        change_json(model / "run.json", git=git_state() | git)
        assert failed(run_gate(model)) == [check]

    @pytest.mark.parametrize(
        ("rate", "overrides", "refused", "checked"),
        [
            (2.0e-4, ["output_dir"], [], True),
            (9.0e-4, ["output_dir"], ["recipe"], True),
            (9.0e-4, ["trainer.output_dir", "trainer.learning_rate"], [], True),
            (9.0e-4, None, [], False),
        ],
    )
    def test_recipe_of_the_commit(
        self, model: Path, rate: float, overrides: list[str] | None, refused: list[str], checked: bool
    ) -> None:
        """The recorded recipe is that of the commit but for its overrides, where these are on record."""
        recipe = yaml.safe_load((ROOT / "recipes/demo.yaml").read_text())
        recipe["trainer"] |= {"learning_rate": rate, "output_dir": "outputs/elsewhere"}
        (model / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        change_json(model / "run.json", recipe="demo", overrides=overrides)
        report = run_gate(model)
        assert failed(report) == refused
        (result,) = [result for result in report.results if result.check == "recipe"]
        assert result.checked == checked
        assert not refused or "not overridden: trainer.learning_rate" in result.reason

    def test_unknown_override(self, model: Path) -> None:
        """A misspelt name overrides nothing and is refused."""
        with pytest.raises(UserError, match="there is no check qualty") as refusal:
            run_gate(model, overrides=["qualty"])
        assert "quality" in str(refusal.value)

    def test_override_is_reported_only_when_needed(self, model: Path) -> None:
        """A needless override does not stand on the card."""
        change_json(model / "run.json", git={"commit": None, "dirty": False})
        report = run_gate(model, overrides=["commit", "quality"])
        report.raise_if_refused()
        assert [result.check for result in report.overridden] == ["commit"]
        assert "OVERRIDDEN" in report.summary()


class TestAgainstTheRelease:
    """Macro-F1 and calibration, paired on the same papers."""

    def test_worse_model_is_stopped(self, model: Path, tmp_path: Path) -> None:
        """Both macro-F1 values and the interval of the difference are named."""
        worse = make_model_dir(tmp_path / "worse", accuracy=0.6, weights=b"worse", seed=1)
        report = run_gate(worse, current=model, current_version="v0.1.0")
        assert failed(report) == ["quality"]
        text = str(report.refused[0])
        for folder in (model, worse):
            macro_f1 = json.loads((folder / "eval/metrics.json").read_text())["metrics"]["macro_f1"]
            assert f"{macro_f1:.4f}" in text
        assert "v0.1.0" in text
        with pytest.raises(UserError, match="--override quality"):
            report.raise_if_refused()

    def test_better_model_passes(self, model: Path, tmp_path: Path) -> None:
        """The same two models the other way round."""
        better = make_model_dir(tmp_path / "better", accuracy=0.9, weights=b"better", seed=1)
        assert failed(run_gate(better, current=model, current_version="v0.1.0")) == []

    def test_slightly_different_model_passes(self, model: Path, tmp_path: Path) -> None:
        """A difference within chance is not "significantly worse"."""
        near = make_model_dir(tmp_path / "near", accuracy=0.79, weights=b"near", seed=3)
        assert failed(run_gate(near, current=model, current_version="v0.1.0")) == []

    def test_worse_calibrated_model_is_stopped(self, model: Path, tmp_path: Path) -> None:
        """Same answers, scores pushed to the extremes: only the calibration is worse."""
        good = scored_papers()
        sharp = good.probabilities**4
        sharp /= sharp.sum(axis=1, keepdims=True)
        scored = replace(good, probabilities=sharp)
        sure = make_model_dir(tmp_path / "sure", weights=b"sure", scored=scored)
        assert failed(run_gate(sure, current=model, current_version="v0.1.0")) == ["calibration"]

    def test_rows_in_another_order_are_paired_by_id(self, model: Path, tmp_path: Path) -> None:
        """The very same predictions, shuffled, differ by nothing."""
        good = scored_papers()
        order = np.random.default_rng(1).permutation(len(good))
        names = ("arxiv_ids", "labels", "probabilities", "published", "words")
        shuffled = replace(good, **{name: getattr(good, name)[order] for name in names})
        same = make_model_dir(tmp_path / "same", weights=b"same", scored=shuffled)
        report = run_gate(same, current=model, current_version="v0.1.0")
        assert failed(report) == []
        assert "difference +0.0000, 95% interval +0.0000 to +0.0000" in report.summary()

    def test_other_categories(self, model: Path, tmp_path: Path) -> None:
        """A release with other labels is a surprise to its users: an override is asked for."""
        other = make_model_dir(tmp_path / "other", weights=b"other")
        id2label = {"0": "cs.AI", "1": "cs.CV", "2": "stat.ML"}
        change_json(other / "config.json", id2label=id2label)
        report = run_gate(other, current=model, current_version="v0.1.0")
        assert failed(report) == ["quality", "calibration"]
        assert "its categories are not those of v0.1.0" in str(report.refused[0])

    def test_other_papers_without_the_data(self, model: Path, tmp_path: Path) -> None:
        """Predictions of other papers do not pair, and there is nothing to score again with: a refusal with
        both counts that says how, and that the person can override."""
        papers = scored_papers()
        ids = np.asarray([f"{arxiv_id}9" for arxiv_id in papers.arxiv_ids], dtype=object)
        moved = replace(papers, arxiv_ids=ids)
        other = make_model_dir(tmp_path / "other", weights=b"other", scored=moved)
        against = {"current": model, "current_version": "v0.1.0", "csv": tmp_path / "none.csv"}
        report = run_gate(other, **against)
        assert failed(report) == ["quality", "calibration"]
        text = str(report.refused[0])
        assert text.startswith("quality: v0.1.0 was tested on other papers, and ")
        assert "--csv FILE (with make CSV=FILE)" in text
        assert "(found 400 test papers, 0 of them shared, wanted 400 papers of v0.1.0)" in text
        run_gate(other, **against, overrides=["quality", "calibration"]).raise_if_refused()

    @pytest.mark.parametrize("broken", ["run.json", "config.json", "id2label"])
    def test_current_version_is_no_release_of_ours(self, model: Path, tmp_path: Path, broken: str) -> None:
        """A tag somebody else made: told without a path of the cache, and the person may go on."""
        candidate = make_model_dir(tmp_path / "candidate", weights=b"candidate")
        if broken == "id2label":
            write_json(model / "config.json", {"model_type": "bert"})
        else:
            (model / broken).unlink()
        report = run_gate(candidate, current=model, current_version="v0.1.0")
        assert failed(report) == ["quality", "calibration"]
        assert "v0.1.0 is no release of this project that can be read: " in str(report.refused[0])
        assert str(model) not in str(report.refused[0])
        overrides = ["quality", "calibration"]
        run_gate(candidate, current=model, current_version="v0.1.0", overrides=overrides).raise_if_refused()
