"""The check of the gate on what was exported: the ONNX files, and the handler that serves them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from arxiv_cls.record.checksums import file_sha256
from arxiv_cls.release.check_result import CheckResult
from arxiv_cls.release.evidence import Evidence
from arxiv_cls.release.handler_file import HANDLER, REQUIREMENTS, REQUIREMENTS_TEXT, handler_source
from arxiv_cls.release.manifest import ONNX_PARITY, files_in


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
