"""The checks of the gate that need only the model directory; each is one function that gives a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from arxiv_cls.release.evidence import Evidence
from arxiv_cls.release.manifest import (
    CARD,
    METRICS,
    ONNX_PARITY,
    PREDICTION_SETS,
    PREDICTIONS,
    SCOPE,
    files_in,
    foreign_files,
    missing_files,
    release_files,
)
from arxiv_cls.release.secret_scan import is_pickle, scan_files
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.model_data import file_sha256
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
    """

    check: str
    passed: bool
    found: str
    wanted: str
    reason: str

    def __str__(self) -> str:
        return f"{self.check}: {self.reason} (found {self.found}, wanted {self.wanted})"


def listed(items: Sequence[object]) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:SHOWN_AT_MOST])
    return f"{shown} and {len(items) - SHOWN_AT_MOST} more" if len(items) > SHOWN_AT_MOST else shown


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
    )


def check_pickles(evidence: Evidence) -> CheckResult:
    """No Python pickle under any name: loading one runs its author's code."""
    found = [path for path in files_in(evidence.model_dir) if is_pickle(evidence.model_dir / path)]
    reason = f"a pickle runs code when it is loaded: {listed(found)}" if found else "no pickles"
    return CheckResult("pickles", not found, str(len(found)), "0", reason)


def check_secrets(evidence: Evidence) -> CheckResult:
    """No token, key or password in any text file that would be pushed."""
    found = scan_files(evidence.model_dir, release_files(evidence.model_dir, evidence.kind))
    reason = f"looks like a secret: {listed(found)}" if found else "no secrets"
    return CheckResult("secrets", not found, str(len(found)), "0", reason)


def check_weights_evaluated(evidence: Evidence) -> CheckResult:
    """The evaluation is there and it, and the rules stored with it, belong to the weights on disk."""
    on_disk = evidence.weights_sha256()
    for path in (PREDICTION_SETS, SCOPE):
        stored = (evidence.optional_json(path) or {}).get("weights_sha256", on_disk)
        if stored != on_disk:
            reason = f"{path} was made with other weights: run `arxiv-cls evaluate` again"
            return CheckResult("weights", False, stored[:12], on_disk[:12], reason)
    evaluated = (evidence.evaluation or {}).get("weights_sha256")
    reason = (
        "evaluated with these weights"
        if evaluated == on_disk
        else f"{METRICS} was measured with other weights"
        if evaluated
        else f"not evaluated: no weights_sha256 in {METRICS}"
    )
    return CheckResult("weights", evaluated == on_disk, str(evaluated)[:12], on_disk[:12], reason)


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
        "data", passed, f"{str(found[0])[:12]} {found[1]}", f"{str(wanted[0])[:12]} {wanted[1]}", reason
    )


def check_predictions(evidence: Evidence) -> CheckResult:
    """The recorded metrics are those of the recorded predictions."""
    path = evidence.model_dir / PREDICTIONS
    recorded = (evidence.evaluation or {}).get("metrics", {}).get("macro_f1")
    if recorded is None or not path.is_file():
        return CheckResult(
            "predictions", False, "nothing", "both files", f"{METRICS} or {PREDICTIONS} is missing"
        )
    predictions = read_predictions(path)
    macro_f1 = compute_metrics(predictions.labels, predictions.probabilities, predictions.label_names)[
        "macro_f1"
    ]
    passed = math.isclose(macro_f1, recorded, abs_tol=1e-9)
    reason = f"macro-F1 in {METRICS} is {'' if passed else 'not '}that of {PREDICTIONS}"
    return CheckResult("predictions", passed, f"{recorded:.6f}", f"{macro_f1:.6f}", reason)


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


def check_onnx(evidence: Evidence) -> CheckResult:
    """Every ONNX export was checked as it is, and agrees with the weights; nothing to check before one."""
    exports = [path for path in files_in(evidence.model_dir) if path.endswith(".onnx")]
    if not exports:
        return CheckResult("onnx", True, "no export", "agreement of every export", "nothing exported")
    parity = evidence.optional_json(ONNX_PARITY) or {}
    if parity.get("weights_sha256") != evidence.weights_sha256():
        found = str(parity.get("weights_sha256"))[:12]
        reason = "the export was not checked against these weights: run `arxiv-cls export` again"
        return CheckResult("onnx", False, found, evidence.weights_sha256()[:12], reason)
    records = parity.get("exports", {})
    for path in exports:
        checked, found = records.get(path, {}).get("sha256"), file_sha256(evidence.model_dir / path)
        if checked != found:
            reason = f"{path} is not the file that was checked: run `arxiv-cls export` again"
            return CheckResult("onnx", False, found[:12], str(checked)[:12], reason)
        if kept := _labels_lost(records[path]):
            return CheckResult("onnx", False, kept[0], kept[1], f"{path} loses too much of the model")
    worst = max((_excess(records.get(path, {})), path) for path in exports)
    record = records.get(worst[1], {})
    found, wanted = str(record.get("max_difference")), f"at most {record.get('tolerance')}"
    reason = f"{worst[1]} {'agrees' if worst[0] <= 0 else 'differs from the weights'}"
    return CheckResult("onnx", worst[0] <= 0, found, wanted, reason)


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
