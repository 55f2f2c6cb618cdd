"""Numbers as a card shows them; each knows the field of the record that it comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import (
    HANDLER,
    ONNX_INT8,
    PREDICTION_SETS,
    SCOPE,
    SCOPE_PLOT,
    TERMS,
    TRANSFORMER,
    describe,
)
from arxiv_cls.record.model_directory import ModelDirectory


class Shown(str):
    """A text on a card together with the name of its field, such as `metrics.macro_f1`.

    A plain `str` for the template; `card_check` uses the name to say which number was changed.
    """

    field: str

    def __new__(cls, field: str, text: str) -> Shown:
        shown = super().__new__(cls, text)
        shown.field = field
        return shown


def number(field: str, value: float | int | None, digits: int = 3) -> Shown:
    """A number with a fixed count of decimals.

    Raises:
        UserError: when the record has no finite number there: a card with a hole in it is not written.
    """
    if value is None or not math.isfinite(value):
        raise UserError(
            f"the card needs {field}, and the record holds {value}",
            hint="run `arxiv-cls evaluate` on the model again",
        )
    return Shown(field, f"{value:.{digits}f}")


def count(field: str, value: int | None) -> Shown:
    """A whole number with thousands separators.

    Raises:
        UserError: when the record has none.
    """
    if value is None:
        raise UserError(f"the card needs {field}, and the record has none")
    return Shown(field, f"{value:,}")


def interval(field: str, ends: Sequence[float], digits: int = 3) -> Shown:
    """An interval as `0.770 to 0.798`.

    Raises:
        UserError: when an end is not a finite number.
    """
    low, high = (number(field, end, digits) for end in ends)
    return Shown(field, f"{low} to {high}")


def duration(field: str, seconds: float | None) -> Shown:
    """A duration in the unit that a person would use.

    Raises:
        UserError: when the record has none.
    """
    number(field, seconds)
    assert seconds is not None
    if seconds < 10:
        return Shown(field, f"{seconds:.1f} seconds")
    if seconds < 120:
        return Shown(field, f"{seconds:.0f} seconds")
    if seconds < 7200:
        return Shown(field, f"{seconds / 60:.0f} minutes")
    return Shown(field, f"{seconds / 3600:.1f} hours")


def gigabytes(field: str, size: int | None) -> Shown:
    """A size in GB (10^9 bytes), or MB below one.

    Raises:
        UserError: when the record has none.
    """
    number(field, size)
    assert size is not None
    return Shown(field, f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB")


TASK = "text-classification"
# Hub's metric id, our field, the name to show. The ids are those of the Hub's metrics where it has one.
INDEX_METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("f1", "macro_f1", "Macro F1"),
    ("f1", "weighted_f1", "Weighted F1"),
    ("accuracy", "top_2_accuracy", "Top-2 accuracy"),
    ("log_loss", "log_loss", "Log-loss"),
    ("brier_score", "brier_score", "Brier score"),
    ("expected_calibration_error", "expected_calibration_error", "Expected calibration error"),
)
DATASET_NAME = "arXiv papers"
WIDGET_LABELS = 3


def _eval_results(model: ModelDirectory, dataset: str | None) -> list[EvalResult]:
    evaluation, data = model.require_evaluation(), model.run["data"]
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset or "arxiv-papers",
            dataset_name=DATASET_NAME,
            dataset_config=data["config"],
            dataset_split=evaluation["split"],
            dataset_args={"md5": data["md5"], "split_by": data["split"], "seed": data["seed"]},
            metric_type=metric_type,
            metric_name=name,
            metric_value=float(number(f"metrics.{field}", evaluation["metrics"][field], 6)),
        )
        for metric_type, field, name in INDEX_METRICS
    ]


def card_metadata(model: ModelDirectory, examples: list[dict[str, Any]], model_name: str) -> str:
    """The front matter as YAML, without the dashes around it.

    Args:
        model: the model's records.
        examples: example texts with their scores, for the widget.
        model_name: the name in the results index.
    """
    release = model.recipe.get("release") or {}
    transformer = model.kind == TRANSFORMER
    dataset = release.get("dataset")
    own_tags = ["arxiv", "scientific-papers"] + ([] if transformer else ["tfidf", "skops"])
    data = ModelCardData(
        language=release.get("language", "en"),
        license=release.get("license", "apache-2.0"),
        # `pipeline(model=...)` without a task reads the library from here; only a real one may stand there.
        library_name="transformers" if transformer else "arxiv_cls",
        pipeline_tag=TASK,
        base_model=release.get("base_model") if transformer else None,
        datasets=[dataset] if dataset else None,
        metrics=["accuracy", "f1"],
        tags=own_tags + [tag for tag in release.get("tags") or [] if tag not in own_tags],
        widget=[
            {
                "example_title": example["title"],
                "text": example["text"],
                "output": [
                    {"label": label, "score": round(score, 4)}
                    for label, score in list(example["scores"].items())[:WIDGET_LABELS]
                ],
            }
            for example in examples
        ],
        model_name=model_name,
        eval_results=_eval_results(model, dataset),
    )
    return yaml.safe_dump(
        {key: value for key, value in data.to_dict().items() if value is not None},
        sort_keys=False,
        allow_unicode=True,
        width=10_000,
    ).rstrip()


SYNTHETIC_FILE = "arxiv_sample.csv"
"""The project's own generated papers; a card must not pass its numbers off as numbers on arXiv."""


@dataclass(frozen=True)
class Row:
    """A name and what stands beside it."""

    name: str
    value: Shown


def is_synthetic(data: Mapping[str, Any]) -> bool:
    """Whether the model was trained on the project's generated sample."""
    return PurePosixPath(str(data["csv"])).name == SYNTHETIC_FILE


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


def prediction_sets(model: ModelDirectory) -> PredictionSets | None:
    """The prediction sets of `eval/prediction_sets.json`; None when there are none."""
    record = model.optional_json(PREDICTION_SETS)
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


def scope(model: ModelDirectory) -> Scope | None:
    """The out-of-scope rule of `eval/scope.json`; None when there is none."""
    record = model.optional_json(SCOPE)
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
        plot=(model.model_dir / SCOPE_PLOT).is_file(),
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


def exports(model: ModelDirectory) -> Exports | None:
    """The exports that `onnx/parity.json` tells of and that are there; None when there are none.

    Raises:
        UserError: when a record lacks a number that the card must show.
    """
    recorded = model.exports
    rows = [
        _export_row(model, path, record)
        for path, record in recorded.items()
        if (model.model_dir / path).is_file()
    ]
    if not rows:
        return None
    engine = "int8" if any(row.path == ONNX_INT8 for row in rows) else "onnx"
    return Exports(rows, engine, (model.model_dir / HANDLER).is_file())


def _export_row(model: ModelDirectory, path: str, record: dict[str, Any]) -> ExportRow:
    name = f"onnx.exports.{path}"
    papers, equal, fall = (record.get(key) for key in ("papers", "equal_labels", "accuracy_fall"))
    return ExportRow(
        path=path,
        what=describe(path),
        size=gigabytes(f"{name}.bytes", (model.model_dir / path).stat().st_size),
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


def terms(model: ModelDirectory) -> list[TermsRow]:
    """The first terms of each category in `eval/terms.json`; empty when it is missing or of other weights."""
    record = model.optional_json(TERMS)
    if record is None or record.get("weights_sha256") != model.weights_sha256():
        return []
    rows = []
    for label, weights in record["terms"].items():
        shown = ", ".join(json.dumps(term, ensure_ascii=False) for term in list(weights)[:TERMS_SHOWN])
        rows.append(TermsRow(label, Shown(f"terms.{label}", shown)))
    return rows
