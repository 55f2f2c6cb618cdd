"""The parts of a model card that only some models have: ONNX exports, and the terms of a baseline."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.release.card_numbers import Shown, count, gigabytes
from arxiv_cls.release.evidence import Evidence
from arxiv_cls.release.manifest import HANDLER, ONNX_INT8, TERMS, describe

TERMS_SHOWN = 8


@dataclass(frozen=True)
class ExportRow:
    """One ONNX file and how well it keeps to what it was made from; None where that was not measured."""

    path: str
    what: str
    size: Shown
    reference: str
    difference: Shown
    tolerance: Shown
    papers: Shown | None
    equal_labels: Shown | None
    accuracy_fall: Shown | None


@dataclass(frozen=True)
class Exports:
    """The ONNX files, the fastest engine among them, and whether the endpoint's handler is there too."""

    rows: list[ExportRow]
    engine: str
    handler: bool


@dataclass(frozen=True)
class TermsRow:
    """The terms that speak most for a category."""

    label: str
    terms: Shown


def exports(evidence: Evidence) -> Exports | None:
    """The exports that `onnx/parity.json` tells of and that are there; None when there are none.

    Raises:
        UserError: when a record lacks a number that the card must show.
    """
    recorded = evidence.exports
    rows = [
        _export_row(evidence, path, record)
        for path, record in recorded.items()
        if (evidence.model_dir / path).is_file()
    ]
    if not rows:
        return None
    engine = "int8" if any(row.path == ONNX_INT8 for row in rows) else "onnx"
    return Exports(rows, engine, (evidence.model_dir / HANDLER).is_file())


def _export_row(evidence: Evidence, path: str, record: dict[str, Any]) -> ExportRow:
    name = f"onnx.exports.{path}"
    papers, equal, fall = (record.get(key) for key in ("papers", "equal_labels", "accuracy_fall"))
    return ExportRow(
        path=path,
        what=describe(path),
        size=gigabytes(f"{name}.bytes", (evidence.model_dir / path).stat().st_size),
        reference=str(record.get("reference", "torch")),
        difference=_small(f"{name}.max_difference", record.get("max_difference")),
        tolerance=_small(f"{name}.tolerance", record.get("tolerance")),
        papers=None if papers is None else count(f"{name}.papers", papers),
        equal_labels=None if equal is None else Shown(f"{name}.equal_labels", f"{equal:.2%}"),
        accuracy_fall=None if fall is None else Shown(f"{name}.accuracy_fall", f"{100 * fall:.2f} points"),
    )


def _small(field: str, value: float | None) -> Shown:
    """A difference, which can be 0.04 or 0.0000004, with two significant digits.

    Raises:
        UserError: when the record has none.
    """
    if value is None or not math.isfinite(value):
        raise UserError(
            f"the card needs {field}, and the record holds {value}",
            hint="run `arxiv-cls export` on the model again",
        )
    return Shown(field, f"{value:.2g}")


def terms(evidence: Evidence) -> list[TermsRow]:
    """The first terms of each category in `eval/terms.json`; empty when it is missing or of other weights."""
    record = evidence.optional_json(TERMS)
    if record is None or record.get("weights_sha256") != evidence.weights_sha256():
        return []
    rows = []
    for label, weights in record["terms"].items():
        shown = ", ".join(json.dumps(term, ensure_ascii=False) for term in list(weights)[:TERMS_SHOWN])
        rows.append(TermsRow(label, Shown(f"terms.{label}", shown)))
    return rows
