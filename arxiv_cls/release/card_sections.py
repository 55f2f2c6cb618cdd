"""The parts of a model card about its evaluation: calibration, slices, prediction sets, out-of-scope rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arxiv_cls.release.card_numbers import Shown, count, interval, number
from arxiv_cls.release.evidence import Evidence
from arxiv_cls.release.manifest import PREDICTION_SETS, SCOPE, SCOPE_PLOT

SLICE_HEADERS = {"year": "year of publication", "words": "words of title and abstract"}
ENOUGH_PAPERS = 30
"""A slice with fewer papers says too little to be called the weakest or the strongest."""
ARCHIVES_SHOWN = 4


@dataclass(frozen=True)
class Temperature:
    """Calibration on the validation split, before and after the temperature."""

    value: Shown
    before: Shown
    after: Shown


@dataclass(frozen=True)
class PredictionSetRow:
    """One level of coverage."""

    level: Shown
    threshold: Shown
    coverage: Shown
    size: Shown


@dataclass(frozen=True)
class PredictionSets:
    """Sets of labels that hold the right one with a given probability."""

    rows: list[PredictionSetRow]


@dataclass(frozen=True)
class ArchiveCaught:
    """How many papers of one archive the out-of-scope rule catches."""

    archive: str
    papers: Shown
    caught: Shown


@dataclass(frozen=True)
class Scope:
    """How papers outside the categories are told apart, which of them badly, and whether there is a plot."""

    rule: str
    papers: Shown
    auroc: Shown
    interval: Shown
    threshold: Shown
    kept: Shown
    caught: Shown
    plot: bool
    worst_archives: list[ArchiveCaught]


@dataclass(frozen=True)
class SliceRow:
    """One slice of the test papers."""

    name: str
    papers: Shown
    accuracy: Shown
    interval: Shown
    macro_f1: Shown


@dataclass(frozen=True)
class SliceFinding:
    """The slices of one kind where accuracy is lowest and highest, and whether their intervals are apart."""

    header: str
    worst: Shown
    worst_accuracy: Shown
    best: Shown
    best_accuracy: Shown
    apart: bool


@dataclass(frozen=True)
class SliceTable:
    """All slices of one kind."""

    header: str
    rows: list[SliceRow]


def temperature(run: Mapping[str, Any]) -> Temperature | None:
    """The calibration recorded in `run.json`; None when there was none."""
    record = run.get("calibration")
    if not record or record.get("temperature") is None:
        return None
    return Temperature(
        value=number("run.calibration.temperature", record["temperature"]),
        before=number(
            "run.calibration.expected_calibration_error_before",
            record.get("expected_calibration_error_before"),
        ),
        after=number(
            "run.calibration.expected_calibration_error_after",
            record.get("expected_calibration_error_after"),
        ),
    )


def slice_tables(evaluation: Mapping[str, Any]) -> list[SliceTable]:
    """A table for each kind of slice that the evaluation holds."""
    tables = []
    for kind, slices in (evaluation.get("slices") or {}).items():
        rows = [
            SliceRow(
                name=name,
                papers=count(f"slices.{kind}.{name}.n", part["n"]),
                accuracy=number(f"slices.{kind}.{name}.accuracy", part["accuracy"]),
                interval=interval(f"slices.{kind}.{name}.accuracy_interval", part["accuracy_interval"]),
                macro_f1=number(f"slices.{kind}.{name}.macro_f1", part["macro_f1"]),
            )
            for name, part in slices.items()
            if part["n"] > 0
        ]
        if rows:
            tables.append(SliceTable(SLICE_HEADERS.get(kind, kind), rows))
    return tables


def slice_findings(evaluation: Mapping[str, Any]) -> list[SliceFinding]:
    """For each kind of slice: where accuracy is highest and lowest, and whether it matters.

    Whether two slices differ is read from their intervals: apart, or overlapping. Kinds with fewer than two
    slices of `ENOUGH_PAPERS` have nothing to compare.
    """
    found = []
    for kind, slices in (evaluation.get("slices") or {}).items():
        large = {name: part for name, part in slices.items() if part["n"] >= ENOUGH_PAPERS}
        if len(large) < 2:
            continue
        worst = min(large, key=lambda name: large[name]["accuracy"])
        best = max(large, key=lambda name: large[name]["accuracy"])
        found.append(
            SliceFinding(
                header=SLICE_HEADERS.get(kind, kind),
                worst=Shown(f"slices.{kind}: lowest accuracy", worst),
                worst_accuracy=number(f"slices.{kind}.{worst}.accuracy", large[worst]["accuracy"]),
                best=Shown(f"slices.{kind}: highest accuracy", best),
                best_accuracy=number(f"slices.{kind}.{best}.accuracy", large[best]["accuracy"]),
                apart=large[worst]["accuracy_interval"][1] < large[best]["accuracy_interval"][0],
            )
        )
    return found


def prediction_sets(evidence: Evidence) -> PredictionSets | None:
    """The prediction sets of `eval/prediction_sets.json`; None when there are none."""
    record = evidence.optional_json(PREDICTION_SETS)
    if record is None:
        return None
    rows = []
    for level, part in record["levels"].items():
        name = f"prediction_sets.levels.{level}"
        rows.append(
            PredictionSetRow(
                level=Shown(name, f"{float(level):.0%}"),
                threshold=number(f"{name}.threshold", part["threshold"]),
                coverage=number(f"{name}.coverage", part["coverage"]),
                size=number(f"{name}.mean_size", part["mean_size"], 2),
            )
        )
    return PredictionSets(rows)


def scope(evidence: Evidence) -> Scope | None:
    """The out-of-scope rule of `eval/scope.json`; None when there is none."""
    record = evidence.optional_json(SCOPE)
    if record is None:
        return None
    kept, caught = (
        Shown(f"scope.{name}", f"{record[name]:.1%}") for name in ("in_scope_kept", "out_of_scope_caught")
    )
    return Scope(
        rule=record["rule"],
        papers=count("scope.out_of_scope_papers", record["out_of_scope_papers"]),
        auroc=number("scope.auroc", record["auroc"]),
        interval=interval("scope.auroc_interval", record["auroc_interval"]),
        threshold=number("scope.threshold", record["threshold"]),
        kept=kept,
        caught=caught,
        plot=(evidence.model_dir / SCOPE_PLOT).is_file(),
        worst_archives=_worst_archives(record),
    )


def _worst_archives(record: Mapping[str, Any]) -> list[ArchiveCaught]:
    """The archives of which the rule catches less than of all papers, the worst first.

    Archives with fewer than `ENOUGH_PAPERS` papers are left out, as are records of earlier versions, which do
    not tell archives apart.
    """
    below = [
        (part["caught"], archive, part["n"])
        for archive, part in (record.get("caught_by_archive") or {}).items()
        if part["n"] >= ENOUGH_PAPERS and part["caught"] < record["out_of_scope_caught"]
    ]
    return [
        ArchiveCaught(
            archive,
            papers=count(f"scope.caught_by_archive.{archive}.n", papers),
            caught=Shown(f"scope.caught_by_archive.{archive}.caught", f"{caught:.1%}"),
        )
        for caught, archive, papers in sorted(below)[:ARCHIVES_SHOWN]
    ]
