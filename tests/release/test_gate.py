"""The gate stops what must not be released, and says why with two values and the option that overrides."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from factories import TFIDF, change_json, make_model_dir, record_again, scored_papers, write_json

from arxiv_cls.errors import UserError
from arxiv_cls.record.run_record import git_state
from arxiv_cls.release import push_model as gate
from arxiv_cls.release.push_model import CHECK_NAMES, GateReport

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hf_" + "Abcdefghij" * 3
SCOPE = {
    "schema_version": 1, "threshold": 0.5, "rule": "words", "auroc": 0.9, "auroc_interval": [0.8, 0.95],
    "in_scope_kept": 0.9, "out_of_scope_caught": 0.8, "out_of_scope_papers": 100,
}  # fmt: skip
CASCADE = {
    "schema_version": 1, "engine": "int8", "baseline_sha256": "1" * 64, "threshold": 0.9, "max_tokens": 64,
    "set_threshold": 0.2,
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that passes."""
    return make_model_dir(tmp_path / "model")


def run_gate(folder: Path, **named: object) -> GateReport:
    """The gate on files that count as written so: what a test changed is not found by its checksum alone."""
    return gate.run_gate(record_again(folder), **named)


def failed(report: GateReport) -> list[str]:
    """Names of the checks that refuse."""
    return [result.check for result in report.refused]


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text())


# What breaks a directory, the checks that refuse it, and what the refusal says.
BROKEN: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "foreign file": (lambda folder: (folder / "notes.md").write_text("x"), ["files"], "notes.md"),
    "missing file": (
        lambda folder: (folder / "training_curve.png").unlink(),
        ["files"],
        "training_curve.png",
    ),
    "pickle under the weights' name": (
        lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps([1.0])),
        ["pickles", "weights"],
        "a pickle runs code when it is loaded: model.safetensors",
    ),
    "link to nowhere": (
        lambda folder: (folder / "eval/terms.json").symlink_to(folder / "none"),
        ["checksums", "pickles"],
        "eval/terms.json (No such file",
    ),
    "secret": (
        lambda folder: (folder / "recipe.yaml").write_text(f"note: {SECRET}\n"),
        ["secrets"],
        "recipe.yaml, line 1: Hugging Face token",
    ),
    "other data": (
        lambda folder: change_json(folder / "eval/metrics.json", data_sha256="e" * 64),
        ["data"],
        "belongs to another split or other data",
    ),
    "other split": (
        lambda folder: change_json(folder / "eval/metrics.json", split="validation"),
        ["data"],
        "belongs to another split or other data",
    ),
    "no commit": (
        lambda folder: change_json(folder / "run.json", git={"commit": None, "dirty": False}),
        ["commit"],
        "before its first commit",
    ),
    "unknown commit": (
        lambda folder: change_json(folder / "run.json", git={"commit": "c" * 40, "dirty": False}),
        ["commit"],
        "no such commit",
    ),
    "uncommitted changes": (
        lambda folder: change_json(folder / "run.json", git=git_state() | {"dirty": True}),
        ["clean-tree"],
        "uncommitted changes",
    ),
    "unknown changes": (
        lambda folder: change_json(folder / "run.json", git=git_state() | {"dirty": None}),
        ["clean-tree"],
        "dirty=None",
    ),
}


class TestLocalChecks:
    """Each check by a directory that breaks just that rule."""

    def test_a_whole_directory_passes_every_check(self, model: Path) -> None:
        """All checks run, in the order of their names."""
        report = run_gate(model)
        assert tuple(result.check for result in report.results) == CHECK_NAMES
        report.raise_if_refused()

    @pytest.mark.parametrize("name", BROKEN)
    def test_broken_directory(self, model: Path, name: str) -> None:
        """Refused with the name of the file or the value, never with a secret; the override is offered."""
        break_it, checks, reason = BROKEN[name]
        break_it(model)
        report = run_gate(model)
        assert failed(report) == checks
        with pytest.raises(UserError) as refusal:
            report.raise_if_refused()
        assert reason in str(refusal.value)
        assert SECRET not in str(refusal.value)
        assert f"--override {checks[0]}" in str(refusal.value)
        assert f"OVERRIDE={','.join(checks)}" in str(refusal.value)

    def test_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        """A weights file that was cut short is a refusal with its name, not a crash."""
        report = run_gate(make_model_dir(tmp_path / "cut", TFIDF, weights=b"PK\x03\x04 and no more"))
        assert failed(report) == ["pickles"]
        assert "model.skops (a broken zip: " in report.refused[0].reason
        assert (report.refused[0].found, report.refused[0].wanted) == ("0 and 1 unreadable", "0")

    def test_no_evaluation(self, model: Path) -> None:
        """No card can be written, so no override is offered or taken; one that works still is."""
        (model / "eval/metrics.json").unlink()
        unproven = ["files", "checksums", "weights", "data", "predictions"]
        report = run_gate(model, overrides=unproven)
        assert (failed(report), report.overridden) == (unproven, [])
        with pytest.raises(UserError, match="not evaluated") as refusal:
            report.raise_if_refused()
        assert "--override" not in str(refusal.value)
        assert f"no override helps {', '.join(unproven)}" in str(refusal.value)
        change_json(model / "run.json", git={"commit": None, "dirty": False})
        with pytest.raises(UserError) as refusal:
            run_gate(model).raise_if_refused()
        assert str(refusal.value).count("--override") == 1
        assert "--override commit (with make OVERRIDE=commit)" in str(refusal.value)

    @pytest.mark.parametrize("evaluated", [False, True])
    def test_weights_that_the_run_record_does_not_describe(self, model: Path, evaluated: bool) -> None:
        """Evaluated as they are or not: commit, data and duration on the card are of other weights."""
        trained = read(model / "run.json")["weights_sha256"]
        (model / "model.safetensors").write_bytes(b"retrained")
        digest = hashlib.sha256(b"retrained").hexdigest()
        if evaluated:
            change_json(model / "eval/metrics.json", weights_sha256=digest)
        (refused,) = run_gate(model).refused
        assert (refused.check, refused.found, refused.wanted) == ("weights", trained[:12], digest[:12])
        assert "run.json describes the training of other weights" in refused.reason

    @pytest.mark.parametrize(
        ("path", "key", "command", "content"),
        [
            ("eval/prediction_sets.json", "weights_sha256", "evaluate", {"schema_version": 1, "levels": {}}),
            ("eval/scope.json", "weights_sha256", "evaluate", SCOPE),
            ("eval/cascade.json", "transformer_sha256", "cascade", CASCADE),
            ("eval/terms.json", "weights_sha256", "visualize", {"terms": {}}),
        ],
    )
    def test_what_was_made_with_other_weights(
        self, model: Path, path: str, key: str, command: str, content: dict[str, Any]
    ) -> None:
        """A stored threshold of earlier weights would be released as if it were this model's."""
        write_json(model / path, content | {key: "0" * 64})
        report = run_gate(model)
        assert failed(report) == ["weights"]
        assert f"{path} was made with other weights: run `arxiv-cls {command}`" in str(report.refused[0])
        write_json(model / path, content | {key: read(model / "run.json")["weights_sha256"]})
        assert failed(run_gate(model)) == []

    @pytest.mark.parametrize(
        ("field", "named"),
        [
            (("metrics", "macro_f1"), "macro_f1"),
            (("metrics", "expected_calibration_error"), "expected_calibration_error"),
            (("metrics", "per_class", "cs.CV", "recall"), "recall of cs.CV"),
            (("metrics", "per_class", "stat.ML", "support"), "support of stat.ML"),
            (("papers",), "papers"),
        ],
    )
    def test_metrics_edited_by_hand(self, model: Path, field: tuple[str, ...], named: str) -> None:
        """Every recorded figure must be that of the recorded predictions; both values are shown."""
        evaluation = part = read(model / "eval/metrics.json")
        for key in field[:-1]:
            part = part[key]
        before = part[field[-1]]
        part[field[-1]] += 1
        write_json(model / "eval/metrics.json", evaluation)
        (refused,) = run_gate(model).refused
        found, wanted = (
            f"{value:.6f}" if isinstance(before, float) else value for value in (before + 1, before)
        )
        assert str(refused).startswith("predictions: ")
        assert str(refused).endswith(f": {named} (found {named} {found}, wanted {wanted})")

    def test_metrics_taken_out_by_hand(self, model: Path) -> None:
        """A figure or a category that is gone is named as well, and cannot be overridden."""
        evaluation = read(model / "eval/metrics.json")
        del evaluation["metrics"]["per_class"]["cs.CV"]
        evaluation["metrics"]["brier_score"] = None
        write_json(model / "eval/metrics.json", evaluation)
        (refused,) = run_gate(model, overrides=["predictions"]).refused
        assert refused.check == "predictions"
        assert "brier_score, precision of cs.CV" in refused.reason

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

    def test_overrides(self, model: Path) -> None:
        """A misspelt name is refused; a needless override does not stand on the card."""
        with pytest.raises(UserError, match=r"there is no check qualty.*\n.*quality"):
            run_gate(model, overrides=["qualty"])
        change_json(model / "run.json", git={"commit": None, "dirty": False})
        report = run_gate(model, overrides=["commit", "quality"])
        report.raise_if_refused()
        assert [result.check for result in report.overridden] == ["commit"]
        assert "OVERRIDDEN" in report.summary()


class TestAgainstTheRelease:
    """Macro-F1 and calibration, paired on the same papers."""

    @pytest.mark.parametrize(
        ("accuracy", "seed", "refused"),
        [(0.6, 1, ["quality"]), (0.9, 1, []), (0.79, 3, [])],
        ids=["worse", "better", "within chance"],
    )
    def test_other_accuracy(
        self, model: Path, tmp_path: Path, accuracy: float, seed: int, refused: list[str]
    ) -> None:
        """A significantly worse model is stopped with both figures; one within chance is not."""
        other = make_model_dir(tmp_path / "other", accuracy=accuracy, weights=b"other", seed=seed)
        report = run_gate(other, current=model, current_version="v0.1.0")
        assert failed(report) == refused
        if refused:
            figures = [read(folder / "eval/metrics.json")["metrics"]["macro_f1"] for folder in (other, model)]
            assert "significantly worse than v0.1.0's" in str(report.refused[0])
            assert str(report.refused[0]).endswith(f"(found {figures[0]:.4f}, wanted {figures[1]:.4f})")

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

    def test_other_papers_without_the_data(self, model: Path, tmp_path: Path) -> None:
        """Nothing to score again with: a refusal with both counts and the option; it may be overridden."""
        papers = scored_papers()
        ids = np.asarray([f"{arxiv_id}9" for arxiv_id in papers.arxiv_ids], dtype=object)
        other = make_model_dir(tmp_path / "other", weights=b"other", scored=replace(papers, arxiv_ids=ids))
        against = {"current": model, "current_version": "v0.1.0", "csv": tmp_path / "none.csv"}
        report = run_gate(other, **against)
        assert failed(report) == ["quality", "calibration"]
        text = str(report.refused[0])
        assert text.startswith("quality: v0.1.0 was tested on other papers, and ")
        assert "--csv FILE (with make CSV=FILE)" in text
        assert "(found 400 test papers, 0 of them shared, wanted 400 papers of v0.1.0)" in text
        run_gate(other, **against, overrides=["quality", "calibration"]).raise_if_refused()

    @pytest.mark.parametrize("broken", ["run.json", "config.json", "id2label", "other labels"])
    def test_release_that_cannot_be_compared(self, model: Path, tmp_path: Path, broken: str) -> None:
        """Somebody else's tag, or other categories: without a path of the cache, and the person may go on."""
        candidate = make_model_dir(tmp_path / "candidate", weights=b"candidate")
        reason = "v0.1.0 is no release of this project that can be read: "
        if broken == "id2label":
            write_json(model / "config.json", {"model_type": "bert"})
        elif broken == "other labels":
            change_json(candidate / "config.json", id2label={"0": "cs.AI", "1": "cs.CV", "2": "stat.ML"})
            reason = "its categories are not those of v0.1.0"
        else:
            (model / broken).unlink()
        against = {"current": model, "current_version": "v0.1.0"}
        report = run_gate(candidate, **against)
        assert failed(report) == ["quality", "calibration"]
        assert reason in str(report.refused[0])
        assert str(model) not in str(report.refused[0])
        run_gate(candidate, **against, overrides=["quality", "calibration"]).raise_if_refused()
