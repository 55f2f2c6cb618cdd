"""The checks of the gate that need only the files of a model directory, and the verdict that each gives."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from arxiv_cls.export.handler import HANDLER, REQUIREMENTS, REQUIREMENTS_TEXT, handler_source
from arxiv_cls.recipe import own_name, portable_path
from arxiv_cls.record import manifest
from arxiv_cls.record.directory import ModelDirectory, is_pickle, secrets_in_files, unreadable
from arxiv_cls.record.files import changed_files, file_sha256
from arxiv_cls.record.run_record import commit_exists, run_git
from arxiv_cls.release.card import leaves
from arxiv_cls.scoring import multi_label
from arxiv_cls.scoring.intervals import Resampler
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.scored_papers import Predictions, read_predictions

LISTED_AT_MOST = 5
# `schema_version` of the evaluation from which on every record carries its checksum.
CHECKSUMS_SINCE = 2
# What is measured or fitted for one set of weights: file, where it names them, what makes it anew.
MADE_FOR_WEIGHTS = (
    (manifest.PREDICTION_SETS, "weights_sha256", "evaluate"),
    (manifest.SCOPE, "weights_sha256", "evaluate"),
    (manifest.CASCADE, "transformer_sha256", "cascade"),
    (manifest.TERMS, "weights_sha256", "visualize"),
    (manifest.MAP_RECORD, "weights_sha256", "visualize"),
    (manifest.ROBUSTNESS, "weights_sha256", "monitor robustness"),
)


@dataclass(frozen=True)
class CheckResult:
    """One check's verdict.

    Attributes:
        check: its name, which `--override` takes.
        passed: whether the model may pass.
        found: what the model has.
        wanted: what it is compared with.
        reason: one sentence for the person who releases.
        overridable: False where no release can be made, because the card would lack a number.
        checked: False where the check could not be made here; `verify` lists it as such.
    """

    check: str
    passed: bool
    found: str
    wanted: str
    reason: str
    overridable: bool = True
    checked: bool = True

    def __str__(self) -> str:
        return f"{self.check}: {self.reason} (found {self.found}, wanted {self.wanted})"


def listed(items: Sequence[object]) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:LISTED_AT_MOST])
    return f"{shown} and {len(items) - LISTED_AT_MOST} more" if len(items) > LISTED_AT_MOST else shown


@dataclass(frozen=True)
class NumberCheck:
    """One number of the records, and what measuring again gives; None where it gives none."""

    field: str
    recorded: float
    rescored: float | None
    reproduced: bool


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of a record by its path."""
    return {
        path: float(value)
        for name, part in record.items()
        for path, value in leaves(part, name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def compare_numbers(
    recorded: Mapping[str, float], measured: Mapping[str, float], tolerance: float
) -> list[NumberCheck]:
    """Every recorded number and the one measured now; `tolerance` is the largest difference that passes."""
    return [
        NumberCheck(
            path, value, measured.get(path), path in measured and abs(measured[path] - value) <= tolerance
        )
        for path, value in recorded.items()
    ]


def _faults(check: str, kinds: Mapping[str, Sequence[object]], otherwise: str, **more: bool) -> CheckResult:
    """A verdict by the faults that were found, by kind; `otherwise` is the reason where there are none."""
    reason = "; ".join(f"{kind}: {listed(items)}" for kind, items in kinds.items() if items)
    return CheckResult(
        check, not reason, str(sum(map(len, kinds.values()))), "0", reason or otherwise, **more
    )


def check_files(model: ModelDirectory) -> CheckResult:
    """Only files of the manifest, and all that it requires."""
    # The card is rendered by the release itself.
    missing = [path for path in manifest.missing_files(model.model_dir, model.kind) if path != manifest.CARD]
    kinds = {"outside the manifest": manifest.foreign_files(model.model_dir, model.kind), "missing": missing}
    return _faults(
        "files", kinds, "exactly the files of the manifest", overridable=manifest.METRICS not in missing
    )


def check_checksums(model: ModelDirectory) -> CheckResult:
    """Every file is as the step recorded it that wrote it, or measured the model with it."""
    paths = [
        path for path in manifest.release_files(model.model_dir, model.kind) if path not in manifest.RENDERED
    ]
    changed, unrecorded = (
        [f"{path} (run `arxiv-cls {manifest.RECORD_COMMANDS[manifest.RECORD_OF[path]]}`)" for path in found]
        for found in changed_files(model.model_dir, paths)
    )
    kinds = {"not as recorded, to be restored or made again": changed, "no checksum on record": unrecorded}
    # Releases before checksums have none; in a later one they may not be missing.
    evaluation = model.evaluation or {}
    dated = "files" not in evaluation and evaluation.get("schema_version", 1) < CHECKSUMS_SINCE
    checked = bool(changed) or not unrecorded or not dated
    why = "every file is as recorded"
    return _faults("checksums", kinds, why, overridable=manifest.METRICS in paths, checked=checked)


def check_pickles(model: ModelDirectory) -> CheckResult:
    """No Python pickle under any name: loading one runs its author's code. What cannot be read may be one."""
    files = {path: model.model_dir / path for path in manifest.files_in(model.model_dir)}
    damaged = [f"{path} ({why})" for path, file in files.items() if (why := unreadable(file)) is not None]
    found = [path for path, file in files.items() if is_pickle(file)]
    kinds = {
        "a pickle runs code when it is loaded, and an archive may hold one": found,
        "cannot be read, so it could be one": damaged,
    }
    return _faults("pickles", kinds, "no pickles")


def check_secrets(model: ModelDirectory) -> CheckResult:
    """No token, key or password in any text file that would be pushed."""
    return secrets_result(
        secrets_in_files(model.model_dir, manifest.release_files(model.model_dir, model.kind))
    )


def secrets_result(found: Sequence[object]) -> CheckResult:
    """The verdict on the secrets that were found."""
    return _faults("secrets", {"looks like a secret": found}, "no secrets")


def check_weights_evaluated(model: ModelDirectory) -> CheckResult:
    """Run record, evaluation and the rules stored with it all belong to the weights on disk."""
    on_disk, evaluation = model.weights_sha256(), model.evaluation or {}
    reason = f"{manifest.RUN_RECORD} is of the training of other weights: train again, or restore the file"
    made = [(model.run.get("weights_sha256"), reason)]
    for path, key, command in MADE_FOR_WEIGHTS:
        if record := model.optional_json(path):
            reason = f"{path} was made with other weights: run `arxiv-cls {command}` again"
            made.append((record.get(key), reason))
    reason = f"{manifest.METRICS} was measured with other weights"
    if not (evaluated := evaluation.get("weights_sha256")):
        reason = f"not evaluated: no weights_sha256 in {manifest.METRICS}"
    made.append((evaluated, reason))
    right = (on_disk, "evaluated with these weights")
    found, reason = next((each for each in made if each[0] != on_disk), right)
    found = str(found)[:12]
    return CheckResult("weights", found == on_disk[:12], found, on_disk[:12], reason, bool(evaluation))


def check_data_evaluated(model: ModelDirectory) -> CheckResult:
    """The evaluation is of the test split of the data that the model was trained on."""
    evaluation, sha256 = model.evaluation or {}, model.run["data"]["sha256"]
    measured = evaluation.get("data_sha256"), evaluation.get("split")
    reason = f"{manifest.METRICS} belongs to another split or other data" if evaluation else "not evaluated"
    if passed := measured == (sha256, "test"):
        reason = "evaluated on the test split of its own data"
    found = f"{str(measured[0])[:12]} {measured[1]}"
    return CheckResult("data", passed, found, f"{sha256[:12]} test", reason, overridable=bool(evaluation))


def metrics_of_predictions(predictions: Predictions) -> dict[str, Any]:
    """What `metrics` of `eval/metrics.json` holds for these predictions."""
    names, scores = predictions.label_names, predictions.probabilities
    if predictions.listed is None or predictions.thresholds is None:
        return compute_metrics(predictions.labels, scores, names)
    return multi_label.compute_metrics(predictions.listed, scores, predictions.thresholds, names)


def resampler_of(predictions: Predictions) -> Resampler:
    """Draws the metrics of these predictions."""
    names, scores = predictions.label_names, predictions.probabilities
    if predictions.listed is None or predictions.thresholds is None:
        return Resampler(predictions.labels, scores, names)
    return multi_label.MultiLabelResampler(predictions.listed, scores, predictions.thresholds, names)


def check_predictions(model: ModelDirectory) -> CheckResult:
    """The recorded metrics are those of the recorded predictions: each of them, and the number of papers."""
    path, evaluation = model.model_dir / manifest.PREDICTIONS, model.evaluation
    if evaluation is None or not path.is_file():
        reason = f"{manifest.METRICS} or {manifest.PREDICTIONS} is missing"
        return CheckResult("predictions", False, "nothing", "both files", reason, evaluation is not None)
    predictions = read_predictions(path)
    metrics = metrics_of_predictions(predictions)
    recorded = numbers({"papers": evaluation["papers"], "metrics": evaluation["metrics"]})
    measured = numbers({"papers": len(predictions), "metrics": metrics})
    checks = compare_numbers(measured, recorded, 1e-9)
    wrong = [check for check in checks if not check.reproduced]
    shown = wrong[0] if wrong else next(check for check in checks if check.field == "metrics.macro_f1")
    reason = f"all {len(checks)} figures of {manifest.METRICS} are those of {manifest.PREDICTIONS}"
    if wrong:
        names = listed([check.field for check in wrong])
        reason = f"not the figures of {manifest.PREDICTIONS} in {manifest.METRICS}: {names}"
    # A card that lacks a figure is not written.
    complete = measured.keys() <= recorded.keys()
    found = f"{shown.field} {'none' if shown.rescored is None else format(shown.rescored, '.6f')}"
    return CheckResult("predictions", not wrong, found, f"{shown.recorded:.6f}", reason, complete)


def check_commit(model: ModelDirectory) -> CheckResult:
    """The code that trained it is a commit."""
    commit = model.run.get("git", {}).get("commit")
    exists = commit_exists(str(commit)) if commit else False
    reason = "trained from a commit of this repository"
    if not commit:
        reason = "trained outside a git repository, or before its first commit"
    elif exists is None:
        reason = "its history is not here to look the commit up in: run from a full clone of the project"
    elif not exists:
        reason = "no such commit in this repository: `git fetch`, or train again if the record was changed"
    return CheckResult("commit", bool(exists), str(commit), "a commit", reason, checked=exists is not None)


def check_clean_tree(model: ModelDirectory) -> CheckResult:
    """The code that trained it is that commit, unchanged."""
    dirty = model.run.get("git", {}).get("dirty")
    reason = "tracked files as committed" if dirty is False else "tracked files had uncommitted changes"
    return CheckResult("clean-tree", dirty is False, f"dirty={dirty}", "dirty=False", reason)


def check_recipe(model: ModelDirectory) -> CheckResult:
    """The recorded recipe is the file of its name in that commit, but for the keys that were overridden."""
    commit, name = model.run.get("git", {}).get("commit"), f"{model.run['recipe']}.yaml"
    overridden = model.run.get("overrides")
    listing = commit and run_git("ls-tree", "-r", "--name-only", "--full-tree", str(commit), "recipes/")
    # A sweep may have the name of the recipe that it starts from.
    paths = [
        path for path in (listing or "").splitlines() if path.endswith(f"/{name}") and "/sweeps/" not in path
    ]
    if overridden is None or len(paths) != 1:
        reason = f"whether the recipe follows from {name} of its commit: "
        reason += (
            f"there are {len(paths)} such files" if len(paths) != 1 else "its overrides are not on record"
        )
        return CheckResult("recipe", True, name, "a recipe of the commit", reason, checked=False)
    original = yaml.safe_load(run_git("show", f"{commit}:{paths[0]}") or "") or {}

    def changed(group: str) -> set[str]:
        return {own_name(group, word.removeprefix(f"{group}.")) for word in overridden}

    wrong = [
        f"{group}.{key}"
        for group, section in original.items()
        # The release group may be set anew after the training.
        if group != "release"
        for key, value in (section or {}).items()
        if own_name(group, key) not in changed(group)
        and not _same_value((model.recipe.get(group) or {}).get(own_name(group, key)), value)
    ]
    reason = f"the recipe is {paths[0]} of its commit with the overrides on record"
    if wrong:
        reason = f"other values than in {paths[0]} of its commit, and not overridden: {listed(wrong)}"
    return CheckResult("recipe", not wrong, f"{len(wrong)} other values", "0", reason)


def _same_value(recorded: Any, original: Any) -> bool:
    if recorded == original or portable_path(str(original)) == str(recorded):
        return True
    try:
        return float(recorded) == float(original)
    except (TypeError, ValueError):
        return False


def check_onnx(model: ModelDirectory, *, handler: bool = True) -> CheckResult:
    """Every ONNX export was checked as it is, and agrees with the weights; nothing to check before one.

    With `handler` the endpoint's files beside it are those that `arxiv-cls export` writes now.
    """

    def failed(found: str, wanted: str, reason: str, overridable: bool = True) -> CheckResult:
        return CheckResult("onnx", False, found, wanted, reason, overridable)

    again = "run `arxiv-cls export` again"
    paths = [path for path in manifest.files_in(model.model_dir) if path.endswith(".onnx")]
    if not paths:
        return CheckResult("onnx", True, "no export", "agreement of every export", "nothing exported")
    weights, records = model.weights_sha256(), model.exports
    recorded = (model.optional_json(manifest.ONNX_PARITY) or {}).get("weights_sha256")
    for path in paths:
        measured = [records.get(path, {}).get(name) for name in ("max_difference", "tolerance")]
        if path in records and (None in measured or not math.isfinite(measured[0])):
            reason = f"how far {path} lies from the weights was not measured: {again}"
            return failed(str(measured[0]), "a finite difference", reason, False)
    if recorded != weights:
        reason = f"the export was not checked against these weights: {again}"
        return failed(str(recorded)[:12], weights[:12], reason)
    files = [(path, records.get(path, {}).get("sha256"), "file that was checked") for path in paths]
    if handler:
        for name, text in ((HANDLER, handler_source()), (REQUIREMENTS, REQUIREMENTS_TEXT)):
            files.append((name, hashlib.sha256(text.encode()).hexdigest(), "one that belongs to the export"))
    for path, wanted, which in files:
        file = model.model_dir / path
        found = file_sha256(file) if file.is_file() else "no file"
        if found != wanted:
            return failed(found[:12], str(wanted)[:12], f"{path} is not the {which}: {again}")
    for path in paths:
        record, reason = records[path], f"{path} loses too much of the model"
        # Limits that a record does not name hold.
        equal, least = record.get("equal_labels"), record.get("least_equal_labels", 0.0)
        fall, largest = record.get("accuracy_fall"), record.get("largest_accuracy_fall", math.inf)
        if least > 0 and (equal is None or equal < least):
            return failed(f"{equal} of the labels", f"at least {least}", reason)
        if fall is not None and fall > largest:
            return failed(f"{fall:.4f} of accuracy lost", f"at most {largest}", reason)
    path = max(paths, key=lambda path: records[path]["max_difference"] - records[path]["tolerance"])
    found, limit = records[path]["max_difference"], records[path]["tolerance"]
    reason = f"{path} {'agrees' if found <= limit else 'differs from the weights'}"
    return CheckResult("onnx", found <= limit, str(found), f"at most {limit}", reason)


LOCAL_CHECKS: dict[str, Callable[[ModelDirectory], CheckResult]] = {
    "files": check_files,
    "checksums": check_checksums,
    "pickles": check_pickles,
    "secrets": check_secrets,
    "weights": check_weights_evaluated,
    "data": check_data_evaluated,
    "predictions": check_predictions,
    "commit": check_commit,
    "clean-tree": check_clean_tree,
    "recipe": check_recipe,
    "onnx": check_onnx,
}
