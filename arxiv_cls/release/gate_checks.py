"""The verdict of one check of the gate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arxiv_cls.export.handler_file import HANDLER, REQUIREMENTS, REQUIREMENTS_TEXT, handler_source
from arxiv_cls.record.checksums import file_sha256
from arxiv_cls.record.manifest import (
    CARD,
    CASCADE,
    METRICS,
    ONNX_PARITY,
    PREDICTION_SETS,
    PREDICTIONS,
    RUN_RECORD,
    SCOPE,
    TERMS,
    files_in,
    foreign_files,
    missing_files,
    release_files,
)
from arxiv_cls.record.model_directory import Evidence
from arxiv_cls.record.pickles import is_pickle, unreadable
from arxiv_cls.release.secret_scan import scan_files
from arxiv_cls.scoring.metrics import SCALAR_METRICS, compute_metrics
from arxiv_cls.scoring.scored_papers import read_predictions

SHOWN_AT_MOST = 5


@dataclass(frozen=True)
class CheckResult:
    """One check's verdict.

    Attributes:
        check: its name, which `--override` takes.
        passed: whether the model may pass.
        found: what the model has.
        wanted: what it is held against.
        reason: one sentence for the person who releases.
        overridable: False where a release could not be made whatever the person decides, because the card
            would lack a number.
    """

    check: str
    passed: bool
    found: str
    wanted: str
    reason: str
    overridable: bool = True

    def __str__(self) -> str:
        return f"{self.check}: {self.reason} (found {self.found}, wanted {self.wanted})"


def listed(items: Sequence[object]) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:SHOWN_AT_MOST])
    return f"{shown} and {len(items) - SHOWN_AT_MOST} more" if len(items) > SHOWN_AT_MOST else shown


def check_onnx(evidence: Evidence) -> CheckResult:
    """Every ONNX export was checked as it is, and agrees with the weights; nothing to check before one."""
    exports = [path for path in files_in(evidence.model_dir) if path.endswith(".onnx")]
    if not exports:
        return CheckResult("onnx", True, "no export", "agreement of every export", "nothing exported")
    parity = evidence.optional_json(ONNX_PARITY) or {}
    records = evidence.exports
    for path in exports:
        if path in records and _excess(records[path]) == math.inf:
            reason = f"how far {path} lies from the weights was not measured: run `arxiv-cls export` again"
            found = str(records[path].get("max_difference"))
            return CheckResult("onnx", False, found, "a finite difference", reason, overridable=False)
    if parity.get("weights_sha256") != evidence.weights_sha256():
        found = str(parity.get("weights_sha256"))[:12]
        reason = "the export was not checked against these weights: run `arxiv-cls export` again"
        return CheckResult("onnx", False, found, evidence.weights_sha256()[:12], reason)
    for path in exports:
        checked, found = records.get(path, {}).get("sha256"), file_sha256(evidence.model_dir / path)
        if checked != found:
            reason = f"{path} is not the file that was checked: run `arxiv-cls export` again"
            return CheckResult("onnx", False, found[:12], str(checked)[:12], reason)
        if kept := _labels_lost(records[path]):
            return CheckResult("onnx", False, kept[0], kept[1], f"{path} loses too much of the model")
    excess, path = max((_excess(records[path]), path) for path in exports)
    found, wanted = str(records[path].get("max_difference")), f"at most {records[path].get('tolerance')}"
    if excess > 0:
        return CheckResult("onnx", False, found, wanted, f"{path} differs from the weights")
    if stale := _stale_handler(evidence.model_dir):
        return stale
    return CheckResult("onnx", True, found, wanted, f"{path} agrees")


def _stale_handler(model_dir: Path) -> CheckResult | None:
    """A refusal where what Inference Endpoints would run is not what `arxiv-cls export` writes now."""
    for name, content in ((HANDLER, handler_source()), (REQUIREMENTS, REQUIREMENTS_TEXT)):
        path = model_dir / name
        found = path.read_bytes() if path.is_file() else None
        if found == content.encode():
            continue
        shown = "no file" if found is None else hashlib.sha256(found).hexdigest()[:12]
        wanted = hashlib.sha256(content.encode()).hexdigest()[:12]
        reason = f"{name} is not the one that belongs to the export: run `arxiv-cls export` again"
        return CheckResult("onnx", False, shown, wanted, reason)
    return None


def _labels_lost(record: dict[str, Any]) -> tuple[str, str] | None:
    """What an export keeps and what it had to keep, where that is less; limits that it does not name hold."""
    equal, least = record.get("equal_labels"), record.get("least_equal_labels", 0.0)
    fall, largest = record.get("accuracy_fall"), record.get("largest_accuracy_fall", math.inf)
    if least > 0 and (equal is None or equal < least):
        return f"{equal} of the labels", f"at least {least}"
    if fall is not None and fall > largest:
        return f"{fall:.4f} of accuracy lost", f"at most {largest}"
    return None


def _excess(record: dict[str, Any]) -> float:
    difference, tolerance = record.get("max_difference"), record.get("tolerance")
    if difference is None or tolerance is None or not math.isfinite(difference):
        return math.inf
    return difference - tolerance


# What is measured or fitted for one set of weights: file, where it names them, what makes it anew.
MADE_FOR_WEIGHTS = (
    (PREDICTION_SETS, "weights_sha256", "evaluate"),
    (SCOPE, "weights_sha256", "evaluate"),
    (CASCADE, "transformer_sha256", "cascade"),
    (TERMS, "weights_sha256", "visualize"),
)


def check_files(evidence: Evidence) -> CheckResult:
    """Only files of the manifest, and all that it requires."""
    foreign = foreign_files(evidence.model_dir, evidence.kind)
    # The card is rendered by the release itself.
    missing = [path for path in missing_files(evidence.model_dir, evidence.kind) if path != CARD]
    problems = [f"outside the manifest: {listed(foreign)}"] if foreign else []
    problems += [f"missing: {listed(missing)}"] if missing else []
    return CheckResult(
        "files",
        not problems,
        f"{len(foreign)} foreign and {len(missing)} missing",
        "0 and 0",
        "; ".join(problems) or "exactly the files of the manifest",
        overridable=METRICS not in missing,
    )


def check_pickles(evidence: Evidence) -> CheckResult:
    """No Python pickle under any name: loading one runs its author's code. What cannot be read may be one."""
    paths = files_in(evidence.model_dir)
    damaged = [
        f"{path} ({why})" for path in paths if (why := unreadable(evidence.model_dir / path)) is not None
    ]
    found = [path for path in paths if is_pickle(evidence.model_dir / path)]
    problems = [f"a pickle runs code when it is loaded: {listed(found)}"] if found else []
    problems += [f"cannot be read, so it could be one: {listed(damaged)}"] if damaged else []
    shown = f"{len(found)} and {len(damaged)} unreadable" if damaged else str(len(found))
    return CheckResult("pickles", not problems, shown, "0", "; ".join(problems) or "no pickles")


def check_secrets(evidence: Evidence) -> CheckResult:
    """No token, key or password in any text file that would be pushed."""
    found = scan_files(evidence.model_dir, release_files(evidence.model_dir, evidence.kind))
    reason = f"looks like a secret: {listed(found)}" if found else "no secrets"
    return CheckResult("secrets", not found, str(len(found)), "0", reason)


def check_weights_evaluated(evidence: Evidence) -> CheckResult:
    """Run record, evaluation and the rules stored with it all belong to the weights on disk."""
    on_disk = evidence.weights_sha256()
    trained = evidence.run.get("weights_sha256")
    if trained != on_disk:
        reason = f"{RUN_RECORD} describes the training of other weights: train again, or restore the file"
        return CheckResult("weights", False, str(trained)[:12], on_disk[:12], reason)
    for path, key, verb in MADE_FOR_WEIGHTS:
        record = evidence.optional_json(path)
        if record is not None and record.get(key) != on_disk:
            reason = f"{path} was made with other weights: run `arxiv-cls {verb}` again"
            return CheckResult("weights", False, str(record.get(key))[:12], on_disk[:12], reason)
    evaluated = (evidence.evaluation or {}).get("weights_sha256")
    reason = (
        "evaluated with these weights"
        if evaluated == on_disk
        else f"{METRICS} was measured with other weights"
        if evaluated
        else f"not evaluated: no weights_sha256 in {METRICS}"
    )
    found = str(evaluated)[:12]
    return CheckResult(
        "weights", evaluated == on_disk, found, on_disk[:12], reason, evidence.evaluation is not None
    )


def check_data_evaluated(evidence: Evidence) -> CheckResult:
    """The evaluation is of the test split of the data that the model was trained on."""
    evaluation, data = evidence.evaluation or {}, evidence.run.get("data", {})
    found = (evaluation.get("data_sha256"), evaluation.get("split"))
    wanted = (data.get("sha256"), "test")
    passed = found == wanted and wanted[0] is not None
    reason = "evaluated on the test split of its own data"
    if not passed:
        reason = (
            f"{METRICS} belongs to another split or other data" if evidence.evaluation else "not evaluated"
        )
    return CheckResult(
        "data",
        passed,
        f"{str(found[0])[:12]} {found[1]}",
        f"{str(wanted[0])[:12]} {wanted[1]}",
        reason,
        evidence.evaluation is not None,
    )


def check_predictions(evidence: Evidence) -> CheckResult:
    """The recorded metrics are those of the recorded predictions: each of them, and the number of papers."""
    path, evaluation = evidence.model_dir / PREDICTIONS, evidence.evaluation
    if evaluation is None or not path.is_file():
        reason = f"{METRICS} or {PREDICTIONS} is missing"
        return CheckResult("predictions", False, "nothing", "both files", reason, evaluation is not None)
    predictions = read_predictions(path)
    metrics = compute_metrics(predictions.labels, predictions.probabilities, predictions.label_names)
    measured = dict(_figures(metrics, len(predictions.labels)))
    recorded = dict(_figures(evaluation.get("metrics") or {}, evaluation.get("papers")))
    wrong = [name for name in measured | recorded if not _same(recorded.get(name), measured.get(name))]
    name = wrong[0] if wrong else "macro_f1"
    found, wanted = _shown(recorded.get(name)), _shown(measured.get(name))
    reason = f"all {len(measured)} figures of {METRICS} are those of {PREDICTIONS}"
    if wrong:
        reason = f"not the figures of {PREDICTIONS} in {METRICS}: {listed(wrong)}"
    # A card with a hole in it is not written.
    complete = all(_is_number(recorded.get(name)) for name in measured)
    return CheckResult("predictions", not wrong, f"{name} {found}", wanted, reason, complete)


def _figures(metrics: Mapping[str, Any], papers: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each figure that follows from the predictions alone."""
    yield from ((name, metrics.get(name)) for name in SCALAR_METRICS)
    yield "papers", papers
    for label, scores in (metrics.get("per_class") or {}).items():
        yield from ((f"{name} of {label}", value) for name, value in scores.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _same(recorded: Any, measured: Any) -> bool:
    numbers = _is_number(recorded) and _is_number(measured)
    return numbers and math.isclose(recorded, measured, abs_tol=1e-9)


def _shown(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def check_commit(evidence: Evidence) -> CheckResult:
    """The code that trained it is a commit."""
    commit = evidence.run.get("git", {}).get("commit")
    reason = (
        "trained from a commit" if commit else "trained outside a git repository, or before its first commit"
    )
    return CheckResult("commit", bool(commit), str(commit), "a commit", reason)


def check_clean_tree(evidence: Evidence) -> CheckResult:
    """The code that trained it is that commit, unchanged."""
    dirty = evidence.run.get("git", {}).get("dirty")
    reason = "tracked files as committed" if dirty is False else "tracked files had uncommitted changes"
    return CheckResult("clean-tree", dirty is False, f"dirty={dirty}", "dirty=False", reason)


LOCAL_CHECKS: tuple[Callable[[Evidence], CheckResult], ...] = (
    check_files,
    check_pickles,
    check_secrets,
    check_weights_evaluated,
    check_data_evaluated,
    check_predictions,
    check_commit,
    check_clean_tree,
    check_onnx,
)
