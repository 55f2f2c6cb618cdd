"""The gate stops what must not be released, and says why with two values and the option that overrides."""

from __future__ import annotations

import json
import pickle
import tarfile
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
from arxiv_cls.release import push_model
from arxiv_cls.release.push_model import CHECK_NAMES, GateReport

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hf_" + "Abcdefghij" * 3
METRICS = "eval/metrics.json"


def run_gate(folder: Path, **named: object) -> GateReport:
    """The gate on files that count as written so: what a test changed is not found by its checksum alone."""
    return push_model.run_gate(record_again(folder), **named)


def failed(report: GateReport) -> list[str]:
    """Names of the checks that refuse."""
    return [result.check for result in report.refused]


def json_with(path: str, **changes: Any) -> Callable[[Path], object]:
    """Changes a record."""
    return lambda folder: change_json(folder / path, **changes)


def pack(path: Path, mode: str) -> None:
    """A tar archive under another name."""
    with tarfile.open(path, mode) as archive:
        archive.add(path.parent / "config.json", "config.json")


def retrain(folder: Path) -> None:
    """Other weights than any record describes."""
    (folder / "model.safetensors").write_bytes(b"retrained")


def of_other_weights(name: str) -> Callable[[Path], object]:
    """A record that was made with earlier weights, and whatever else it needs."""
    scope = dict.fromkeys(("auroc", "in_scope_kept", "out_of_scope_caught"), 0.9) | {"rule": "words"}
    scope |= {"threshold": 0.5, "auroc_interval": [0.8, 0.95], "out_of_scope_papers": 100}
    cascade = {"engine": "int8", "baseline_sha256": "1" * 64, "threshold": 0.9, "max_tokens": 64}
    cascade |= {"set_threshold": 0.2, "transformer_sha256": "0" * 64}
    content = {"prediction_sets": {"levels": {}}, "scope": scope, "cascade": cascade, "terms": {"terms": {}}}
    record = {"schema_version": 1, "weights_sha256": "0" * 64} | content[name]
    return lambda folder: write_json(folder / f"eval/{name}.json", record)


# What breaks a directory, the checks that refuse it, and what the refusal says.
BROKEN: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "foreign file": (lambda folder: (folder / "notes.md").write_text("x"), ["files"], "notes.md"),
    "missing file": (lambda folder: (folder / "training_curve.png").unlink(), ["files"], "training_curve"),
    "pickle under the weights' name": (
        lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps([1.0])),
        ["pickles", "weights"], "and an archive may hold one: model.safetensors",
    ),
    "tar": (lambda folder: pack(folder / "vocab.txt", "w"), ["pickles"], "may hold one: vocab.txt"),
    "packed tar": (lambda folder: pack(folder / "vocab.txt", "w:gz"), ["pickles"], "may hold one: vocab.txt"),
    "link to nowhere": (
        lambda folder: (folder / "eval/terms.json").symlink_to(folder / "none"), ["checksums", "pickles"],
        "eval/terms.json (No such file",
    ),
    "secret": (
        lambda folder: (folder / "recipe.yaml").write_text(f"note: {SECRET}\n"), ["secrets"],
        "recipe.yaml, line 1: Hugging Face token",
    ),
    "other data": (json_with(METRICS, data_sha256="e" * 64), ["data"], "another split or other data"),
    "other split": (json_with(METRICS, split="validation"), ["data"], "another split or other data"),
    "other weights": (retrain, ["weights"], "run.json is of the training of other weights"),
    "other sets": (of_other_weights("prediction_sets"), ["weights"], "run `arxiv-cls evaluate` again"),
    "other scope": (of_other_weights("scope"), ["weights"], "eval/scope.json was made with other weights"),
    "other cascade": (of_other_weights("cascade"), ["weights"], "run `arxiv-cls cascade` again"),
    "other terms": (of_other_weights("terms"), ["weights"], "run `arxiv-cls visualize` again"),
    "no commit": (json_with("run.json", git={"dirty": False}), ["commit"], "before its first commit"),
    "unknown commit": (
        json_with("run.json", git={"commit": "c" * 40, "dirty": False}), ["commit"], "no such commit",
    ),
    "uncommitted changes": (
        lambda folder: change_json(folder / "run.json", git=git_state() | {"dirty": True}), ["clean-tree"],
        "uncommitted changes",
    ),
    "unknown changes": (
        lambda folder: change_json(folder / "run.json", git=git_state() | {"dirty": None}), ["clean-tree"],
        "dirty=None",
    ),
}  # fmt: skip


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

    def test_no_evaluation(self, model: Path) -> None:
        """No card can be written, so no override is offered or taken; one that works still is."""
        (model / METRICS).unlink()
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

    @pytest.mark.parametrize(
        "field",
        [
            ("metrics", "macro_f1"),
            ("metrics", "per_class", "cs.CV", "recall"),
            ("metrics", "per_class", "stat.ML", "support"),
            ("papers",),
        ],
    )
    def test_metrics_edited_by_hand(self, model: Path, field: tuple[str, ...]) -> None:
        """Every recorded figure must be that of the recorded predictions; both values are shown."""
        evaluation = part = json.loads((model / METRICS).read_text())
        *above, last = field
        for key in above:
            part = part[key]
        part[last] += 1
        write_json(model / METRICS, evaluation)
        (refused,) = run_gate(model).refused
        named = ".".join(field)
        values = f"(found {named} {part[last]:.6f}, wanted {part[last] - 1:.6f})"
        assert str(refused).startswith("predictions: ")
        assert str(refused).endswith(f": {named} {values}")

    def test_metrics_taken_out_by_hand(self, model: Path) -> None:
        """A figure or a category that is gone is named as well, and cannot be overridden."""
        evaluation = json.loads((model / METRICS).read_text())
        del evaluation["metrics"]["per_class"]["cs.CV"]
        evaluation["metrics"]["brier_score"] = None
        write_json(model / METRICS, evaluation)
        (refused,) = run_gate(model, overrides=["predictions"]).refused
        assert refused.check == "predictions"
        assert "metrics.brier_score, metrics.per_class.cs.CV." in refused.reason

    @pytest.mark.parametrize(
        ("name", "rate", "overrides", "refused", "checked"),
        [
            ("demo", None, ["output_dir"], [], True),
            ("demo", 9.0e-4, ["output_dir"], ["recipe"], True),
            # There is a sweep of this name, too.
            ("minilm", 9.0e-4, ["output_dir"], ["recipe"], True),
            ("demo", 9.0e-4, ["trainer.output_dir", "trainer.learning_rate"], [], True),
            ("demo", 9.0e-4, None, [], False),
        ],
    )
    def test_recipe_of_the_commit(
        self, model: Path, name: str, rate: float | None, overrides: list[str] | None, refused: list[str],
        checked: bool,
    ) -> None:  # fmt: skip
        """The recorded recipe is that of the commit but for its overrides, where these are on record."""
        recipe = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text())
        recipe["trainer"] |= {"output_dir": "outputs/elsewhere"} | ({"learning_rate": rate} if rate else {})
        (model / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        change_json(model / "run.json", recipe=name, overrides=overrides)
        report = run_gate(model)
        assert failed(report) == refused
        (result,) = [result for result in report.results if result.check == "recipe"]
        assert result.checked == checked
        assert not refused or "not overridden: trainer.learning_rate" in result.reason

    def test_needless_override(self, model: Path) -> None:
        """It does not stand on the card."""
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
            records = [json.loads((folder / METRICS).read_text()) for folder in (other, model)]
            found, wanted = (f"{record['metrics']['macro_f1']:.4f}" for record in records)
            assert "significantly worse than v0.1.0's" in str(report.refused[0])
            assert str(report.refused[0]).endswith(f"(found {found}, wanted {wanted})")

    def test_worse_calibrated_model_is_stopped(self, model: Path, tmp_path: Path) -> None:
        """Same answers, scores pushed to the extremes: only the calibration is worse."""
        good = scored_papers()
        sharp = good.probabilities**4
        scored = replace(good, probabilities=sharp / sharp.sum(axis=1, keepdims=True))
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

    @pytest.mark.parametrize(
        "broken", ["run.json", "config.json", "id2label", "other labels", "other papers"]
    )
    def test_release_that_cannot_be_compared(self, model: Path, tmp_path: Path, broken: str) -> None:
        """Somebody else's tag, other categories, other papers without data to score again: may be overridden.

        No path of the cache is told.
        """
        papers = scored_papers()
        if broken == "other papers":
            ids = np.asarray([f"{arxiv_id}9" for arxiv_id in papers.arxiv_ids], dtype=object)
            papers = replace(papers, arxiv_ids=ids)
        candidate = make_model_dir(tmp_path / "candidate", weights=b"candidate", scored=papers)
        reason = "v0.1.0 is no release of this project that can be read: "
        if broken == "id2label":
            write_json(model / "config.json", {"model_type": "bert"})
        elif broken == "other labels":
            change_json(candidate / "config.json", id2label={"0": "cs.AI", "1": "cs.CV", "2": "stat.ML"})
            reason = "its categories cs.AI, cs.CV, stat.ML are not those of v0.1.0"
        elif broken == "other papers":
            reason = "v0.1.0 was tested on other papers (0 of the 400 here): "
        else:
            (model / broken).unlink()
        overrides = ["quality", "calibration"]
        against = {"current": model, "current_version": "v0.1.0", "csv": tmp_path / "none.csv"}
        report = run_gate(candidate, **against, overrides=overrides)
        assert [result.check for result in report.overridden] == overrides
        assert reason in str(report.overridden[0])
        assert str(model) not in str(report.overridden[0])
        assert (broken == "other papers") == ("--csv FILE (with make CSV=FILE)" in str(report.overridden[0]))
        report.raise_if_refused()
