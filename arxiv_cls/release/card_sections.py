"""The parts of a model card that are tables or sentences of their own, made from the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from arxiv_cls.release.card_numbers import Shown, count, duration, gigabytes, interval, number
from arxiv_cls.release.evidence import Evidence
from arxiv_cls.release.manifest import PREDICTION_SETS, SCOPE, SCOPE_PLOT

SLICE_HEADERS = {"year": "year of publication", "words": "words of title and abstract"}
SYNTHETIC_FILE = "arxiv_sample.csv"
"""The project's own generated papers; a card must not pass its numbers off as numbers on arXiv."""
ENOUGH_PAPERS = 30
"""A slice with fewer papers says too little to be called the weakest or the strongest."""


@dataclass(frozen=True)
class Row:
    """A name and what stands beside it."""

    name: str
    value: Shown


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

    text: str
    rows: list[PredictionSetRow]


@dataclass(frozen=True)
class Scope:
    """How papers outside the categories are told apart, and whether there is a plot of it."""

    text: Shown
    plot: bool


@dataclass(frozen=True)
class SliceRow:
    """One slice of the test papers."""

    name: str
    papers: Shown
    accuracy: Shown
    interval: Shown
    macro_f1: Shown


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
            "run.calibration.expected_calibration_error_before", record["expected_calibration_error_before"]
        ),
        after=number(
            "run.calibration.expected_calibration_error_after", record["expected_calibration_error_after"]
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


def slice_findings(evaluation: Mapping[str, Any]) -> list[Shown]:
    """One sentence for each kind of slice: where accuracy is highest and lowest, and whether it matters.

    Whether two slices differ is read from their intervals: apart, or overlapping.
    """
    sentences = []
    for kind, slices in (evaluation.get("slices") or {}).items():
        large = {name: part for name, part in slices.items() if part["n"] >= ENOUGH_PAPERS}
        if len(large) < 2:
            continue
        worst = min(large, key=lambda name: large[name]["accuracy"])
        best = max(large, key=lambda name: large[name]["accuracy"])
        apart = large[worst]["accuracy_interval"][1] < large[best]["accuracy_interval"][0]
        header = SLICE_HEADERS.get(kind, kind)
        sentences.append(
            Shown(
                f"slices.{kind}",
                f"By {header}, accuracy is lowest for {worst} ({large[worst]['accuracy']:.3f}) and highest "
                f"for {best} ({large[best]['accuracy']:.3f}), among slices of at least {ENOUGH_PAPERS} "
                "papers; " + ("their intervals lie apart." if apart else "their intervals overlap."),
            )
        )
    if not sentences:
        sentences.append(
            Shown("slices", f"No slice by year or length holds {ENOUGH_PAPERS} papers: none can be compared.")
        )
    return sentences


def is_synthetic(data: Mapping[str, Any]) -> bool:
    """Whether the model was trained on the project's generated sample."""
    return PurePosixPath(str(data["csv"])).name == SYNTHETIC_FILE


def split_text(data: Mapping[str, Any]) -> str:
    """How the papers were divided."""
    if data["split"] == "time":
        return (
            "The splits are by date: training papers are older than validation, validation older than test."
        )
    return (
        "The splits are by paper, 70 / 15 / 15, from a hash of the arXiv id: every version of a paper is in "
        "one split, and training copies of duplicated texts are dropped."
    )


def data_rows(data: Mapping[str, Any]) -> list[Row]:
    """The table of the data version."""
    # Only the file's name: a path would tell about the machine, not about the data.
    file = PurePosixPath(str(data["csv"])).name
    rows = count("run.data.rows", data["rows"])
    return [
        Row("file", Shown("run.data.rows", f"`{file}`, {rows} rows")),
        Row("md5", Shown("run.data.md5", f"`{data['md5']}`")),
        Row("sha256", Shown("run.data.sha256", f"`{data['sha256']}`")),
        Row("label set", Shown("run.data.config", f"`{data['config']}`")),
        Row("split", Shown("run.data.split", f"by {data['split']}, seed {data['seed']}")),
        *_limits(data),
        *(
            Row(f"{name} papers", count(f"run.data.splits.{name}", size))
            for name, size in data["splits"].items()
        ),
    ]


def _limits(data: Mapping[str, Any]) -> list[Row]:
    """What was set beyond the label set and the kind of split."""
    rows = []
    if data.get("time_boundaries"):
        first, second = data["time_boundaries"]
        text = f"validation from {first}, test from {second}"
        rows.append(Row("dates", Shown("run.data.time_boundaries", text)))
    if data.get("max_samples"):
        text = f"at most {data['max_samples']:,} training papers, in the order of the hash"
        rows.append(Row("cut", Shown("run.data.max_samples", text)))
    return rows


def training_rows(run: Mapping[str, Any]) -> list[Row]:
    """The table of the training run."""
    git, versions = run.get("git") or {}, run.get("versions") or {}
    commit = f"`{git['commit']}`" if git.get("commit") else "none: trained outside a commit"
    if git.get("commit") and git.get("dirty"):
        commit += ", with uncommitted changes"
    device = run["device"]
    processes = "1 process" if device["processes"] == 1 else f"{device['processes']} processes"
    machine = f"{device['name']} ({device['type']}, {device['precision']})"
    hardware = f"{machine}, {processes} of {device['threads']} CPU threads"
    rows = [
        Row("recipe", Shown("run.recipe", f"`{run['recipe']}`, seed {run['seed']}")),
        Row("commit", Shown("run.git", commit)),
        Row("hardware", Shown("run.device", hardware)),
        Row("duration", duration("run.duration_seconds", run["duration_seconds"])),
    ]
    if run.get("papers_per_second") is not None:
        speed = number("run.papers_per_second", run["papers_per_second"], 1)
        rows.append(Row("speed", Shown(speed.field, f"{speed} papers per second")))
    if run.get("peak_memory_bytes") is not None:
        rows.append(
            Row(
                f"peak memory of the {device['peak_memory_of']}",
                gigabytes("run.peak_memory_bytes", run["peak_memory_bytes"]),
            )
        )
    if versions:
        libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
        rows.append(Row("libraries", Shown("run.versions", libraries)))
    return rows


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
    text = (
        "Take the first label, and every other whose score is at least the threshold: the set then holds the "
        "right label with the probability in the first column. The thresholds come from the validation split "
        "(split conformal prediction), coverage and size from the test split."
    )
    return PredictionSets(text, rows)


def scope(evidence: Evidence) -> Scope | None:
    """The out-of-scope rule of `eval/scope.json`; None when there is none."""
    record = evidence.optional_json(SCOPE)
    if record is None:
        return None
    auroc = number("scope.auroc", record["auroc"])
    ends = interval("scope.auroc_interval", record["auroc_interval"])
    threshold = number("scope.threshold", record["threshold"])
    kept, caught = (
        Shown(f"scope.{name}", f"{record[name]:.1%}") for name in ("in_scope_kept", "out_of_scope_caught")
    )
    outside = count("scope.out_of_scope_papers", record["out_of_scope_papers"])
    text = (
        f"`eval/scope.json` holds a rule that tells papers of these categories from others: "
        f"{record['rule']}. On the test split against {outside} papers of other categories its AUROC "
        f"is {auroc} (95% interval {ends}). With its threshold, {threshold}, it keeps {kept} of the papers "
        f"that belong and catches {caught} of those that do not. The classifier itself does not apply it."
    )
    return Scope(Shown("scope", text), (evidence.model_dir / SCOPE_PLOT).is_file())
