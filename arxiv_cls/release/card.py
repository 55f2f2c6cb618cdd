"""The model card: the words of `templates/model_card.md.j2`, the numbers of the records, the front matter.

A card names the template that wrote it by its digest: `verify` compares its text only with the same one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.record import manifest
from arxiv_cls.record.directory import ModelDirectory, read_model_directory
from arxiv_cls.record.files import write_atomically
from arxiv_cls.release.hub import check_repo_id
from arxiv_cls.scoring import multi_label
from arxiv_cls.scoring.evaluation import metrics_of
from arxiv_cls.scoring.metrics import LISTED_METRICS, METRICS
from arxiv_cls.scoring.scored_papers import EXAMPLE_PAPERS, ensure_examples

TEMPLATES = Path(__file__).parent / "templates"
MODEL_CARD = "model_card.md.j2"
TASK = "text-classification"
DATASET_NAME = "arXiv papers"
# What goes into the results index: our metric to the Hub's metric id.
INDEX_METRICS = {
    "accuracy": "accuracy", "macro_f1": "f1", "weighted_f1": "f1", "top_2_accuracy": "accuracy",
    "log_loss": "log_loss", "brier_score": "brier_score",
    "expected_calibration_error": "expected_calibration_error",
}  # fmt: skip
MULTI_LABEL_INDEX_METRICS = {
    "macro_f1": "f1", "micro_f1": "f1", "lrap": "label_ranking_average_precision",
    "subset_accuracy": "accuracy", "macro_average_precision": "average_precision", "log_loss": "log_loss",
}  # fmt: skip
WIDGET_LABELS = 3
TERMS_SHOWN = 8
ARCHIVES_SHOWN = 4
ENOUGH_PAPERS = 30
"""A slice with fewer papers says too little to be called the weakest or the strongest."""
SLICE_HEADERS = {"year": "year of publication", "words": "words of title and abstract"}
SYNTHETIC_FILE = "arxiv_sample.csv"
"""The project's own generated papers; a card must not pass its numbers off as numbers on arXiv."""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _size(number_of_bytes: int) -> str:
    if number_of_bytes >= 1e9:
        return f"{number_of_bytes / 1e9:.1f} GB"
    return f"{number_of_bytes / 1e6:.0f} MB"


FILTERS: dict[str, Callable[..., str]] = {
    "number": lambda value, digits=3: f"{value:.{digits}f}",
    "small": lambda value: f"{value:.2g}",
    "count": lambda value: f"{value:,}",
    "percent": lambda value, digits=1: f"{value:.{digits}%}",
    "interval": lambda ends: f"{ends[0]:.3f} to {ends[1]:.3f}",
    "duration": _duration,
    "size": _size,
}


@cache
def template(name: str) -> Template:
    """A template of `templates/`; a variable that is not given is an error when it is rendered."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= FILTERS
    environment.globals |= {"LISTED_METRICS": LISTED_METRICS}
    return environment.get_template(name)


def template_digest() -> str:
    """The first digits of the sha256 of the model card's template: a card names the one that wrote it."""
    metrics = (*METRICS.values(), *multi_label.METRICS.values())
    words = "".join(f"{metric.title}{metric.help}" for metric in metrics)
    words += "".join("".join(pair) for pair in LISTED_METRICS.values())
    return hashlib.sha256((TEMPLATES / MODEL_CARD).read_bytes() + words.encode()).hexdigest()[:8]


def is_synthetic(csv: str | Path) -> bool:
    """Whether a data file is the project's generated sample."""
    return PurePosixPath(csv).name == SYNTHETIC_FILE


def eval_results(model: ModelDirectory) -> list[EvalResult]:
    """The results index of the front matter: each metric of the task's index, rounded to six decimals.

    Raises:
        UserError: when the model was not evaluated, or a metric has no value.
    """
    evaluation, data = model.require_evaluation(), model.run["data"]
    table = metrics_of(evaluation)
    index = INDEX_METRICS if table is METRICS else MULTI_LABEL_INDEX_METRICS
    metrics = {metric: evaluation["metrics"][metric] for metric in index}
    _check_complete("metrics", metrics)
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=(model.recipe.get("release") or {}).get("dataset") or "arxiv-papers",
            dataset_name=DATASET_NAME,
            dataset_config=data["config"],
            dataset_split=evaluation["split"],
            dataset_args={"md5": data["md5"], "split_by": data["split"], "seed": data["seed"]},
            metric_type=index[metric],
            metric_name=table[metric].title,
            metric_value=round(value, 6),
        )
        for metric, value in metrics.items()
    ]


def _front_matter(
    model: ModelDirectory, release: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], model_name: str
) -> ModelCardData:
    transformer = model.kind == manifest.TRANSFORMER
    several = metrics_of(model.require_evaluation()) is not METRICS
    own_tags = ["arxiv", "scientific-papers"] + ([] if transformer else ["tfidf", "skops"])
    own_tags += ["multi-label"] if several else []
    return ModelCardData(
        language=release.get("language", "en"),
        license=release.get("license", "apache-2.0"),
        # `pipeline(model=...)` without a task reads the library from here; only a real one may stand there.
        library_name="transformers" if transformer else "arxiv_cls",
        pipeline_tag=TASK,
        base_model=release.get("base_model") if transformer else None,
        datasets=[release["dataset"]] if release.get("dataset") else None,
        metrics=["f1"] if several else ["accuracy", "f1"],
        tags=list(dict.fromkeys([*own_tags, *(release.get("tags") or [])])),
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
        eval_results=eval_results(model),
    )


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Everything in nested mappings and sequences that is neither, with its path, as `metrics.macro_f1`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def _check_complete(path: str, value: Any) -> None:
    """Refuses a number that is not there or not finite: no card is written without it."""
    for name, leaf in leaves(value, path):
        if leaf is None or (isinstance(leaf, float) and not math.isfinite(leaf)):
            raise UserError(
                f"the card needs {name}, and the record holds {leaf}",
                hint="`arxiv-cls evaluate MODEL` measures again, `arxiv-cls export MODEL` what onnx/ holds",
            )


def _slices(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The slices that hold papers, by the header of their table."""
    tables = {
        SLICE_HEADERS.get(kind, kind): {name: part for name, part in slices.items() if part["n"] > 0}
        for kind, slices in evaluation.get("slices", {}).items()
    }
    return {header: rows for header, rows in tables.items() if rows}


def _slice_findings(tables: Mapping[str, Mapping[str, Any]], accuracy: str) -> list[dict[str, Any]]:
    """Where a kind of accuracy is highest and lowest, of the tables with two large slices to compare."""
    found = []
    for header, rows in tables.items():
        large = {name: part for name, part in rows.items() if part["n"] >= ENOUGH_PAPERS}
        if len(large) >= 2:
            worst, best = (extreme(large, key=lambda name: large[name][accuracy]) for extreme in (min, max))
            finding = {"header": header, "worst": worst, "best": best}
            finding |= {f"{name}_accuracy": large[finding[name]][accuracy] for name in ("worst", "best")}
            interval = f"{accuracy}_interval"
            apart = large[worst][interval][1] < large[best][interval][0]
            found.append(finding | {"apart": apart})
    return found


def _worst_archives(scope: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """The archives with enough papers of which the rule catches less than of all, the worst first."""
    below = [
        (archive, part["n"], part["caught"])
        for archive, part in (scope.get("caught_by_archive") or {}).items()
        if part["n"] >= ENOUGH_PAPERS and part["caught"] < scope["out_of_scope_caught"]
    ]
    return sorted(below, key=lambda row: (row[2], row[0]))[:ARCHIVES_SHOWN]


def _exports(model: ModelDirectory) -> list[dict[str, Any]]:
    """The ONNX files that `onnx/parity.json` tells of and that are there."""
    measured = {"reference": "torch", "papers": None, "equal_labels": None, "accuracy_fall": None}
    found = [
        measured
        | record
        | {"path": path, "what": manifest.describe(path), "bytes": (model.model_dir / path).stat().st_size}
        for path, record in model.exports.items()
        if (model.model_dir / path).is_file()
    ]
    for export in found:
        for name in ("max_difference", "tolerance"):
            _check_complete(f"{export['path']}.{name}", export.get(name))
    return found


def _terms(model: ModelDirectory) -> dict[str, str]:
    """The first terms of each category in `eval/terms.json`; empty when it is missing or of other weights."""
    record = model.optional_json(manifest.TERMS)
    if record is None or record.get("weights_sha256") != model.weights_sha256():
        return {}
    return {
        label: ", ".join(json.dumps(term, ensure_ascii=False) for term in list(weights)[:TERMS_SHOWN])
        for label, weights in record["terms"].items()
    }


def render_model_card(
    model: str | Path | ModelDirectory,
    *,
    repo_id: str | None = None,
    version: str | None = None,
    overrides: Sequence[str] = (),
    examples: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The card as Markdown with its front matter; the same records give the same text.

    `overrides` are the gate's failed checks that were overridden, a sentence each; `examples` are texts with
    their scores, measured where they are neither given nor on record.

    Raises:
        UserError: the model was not evaluated, or a record lacks what the card must show.
    """
    model = model if isinstance(model, ModelDirectory) else read_model_directory(model)
    evaluation, run, folder = model.require_evaluation(), model.run, model.model_dir
    examples = ensure_examples(model) if examples is None else examples
    release, data = model.recipe.get("release") or {}, run["data"]
    # Before it has a name on the Hub a model goes by its recipe's: the directory may still be a staging one.
    recipe_name = PurePosixPath(run["recipe"]).stem
    author, title = repo_id.split("/") if repo_id else ("arxiv_cls", recipe_name)
    url = f"https://huggingface.co/{repo_id}" if repo_id else None
    calibrated = run.get("calibration") or {}
    several = metrics_of(evaluation) is not METRICS
    accuracy = "subset_accuracy" if several else "accuracy"
    scope, slices, exports = model.optional_json(manifest.SCOPE), _slices(evaluation), _exports(model)
    max_length = (model.optional_json("tokenizer_config.json") or {}).get("model_max_length")
    # Numbers without which there is no card: their names are those of the records.
    measured = ("papers", "metrics", "intervals", "calibration", "at_half", "labels_per_paper")
    per_class = {label: dict(evaluation["metrics"]["per_class"].get(label) or {}) for label in model.labels}
    for scores in per_class.values():
        # Only a label without a test paper has none.
        if scores.get("support") == 0:
            scores.pop("average_precision", None)
    checked = {name: evaluation[name] for name in measured if name in evaluation} | {
        "metrics": evaluation["metrics"] | {"per_class": per_class},
        "temperature": calibrated if several or calibrated.get("temperature") is not None else {},
        "prediction_sets": (model.optional_json(manifest.PREDICTION_SETS) or {}).get("levels", {}),
        "metrics.per_class": {label: scores or None for label, scores in per_class.items()},
        "slices": slices,
        "listed": evaluation.get("listed") or {},
        "scope": {name: part for name, part in (scope or {}).items() if isinstance(part, float)},
        "run.duration_seconds": run["duration_seconds"],
        "run.data.rows": data["rows"],
        "tokenizer_config.model_max_length": max_length if model.kind == manifest.TRANSFORMER else 0,
    }
    for name, value in checked.items():
        _check_complete(name, value)
    return template(MODEL_CARD).render(
        checked,
        metadata=_front_matter(model, release, examples, title).to_yaml(),
        title=title,
        kind=model.kind,
        model_type=model.config.get("model_type", ""),
        model_id=repo_id or f"outputs/{recipe_name}",
        version=version,
        template_digest=template_digest(),
        overrides=overrides,
        example=EXAMPLE_PAPERS[1],
        max_length=max_length,
        categories={label: CATEGORY_NAMES.get(label, label) for label in model.labels},
        multi_label=several,
        metric_table=metrics_of(evaluation),
        accuracy=accuracy,
        split=evaluation["split"],
        resamples=evaluation["resamples"],
        scope=scope,
        scope_plot=(folder / manifest.SCOPE_PLOT).is_file(),
        worst_archives=_worst_archives(scope or {}),
        robustness=model.optional_json(manifest.ROBUSTNESS),
        slice_findings=_slice_findings(slices, accuracy),
        smallest_slice=ENOUGH_PAPERS,
        exports=exports,
        engine="int8" if any(export["path"] == manifest.ONNX_INT8 for export in exports) else "onnx",
        handler=(folder / manifest.HANDLER).is_file(),
        map_plot=(folder / manifest.MAP_PLOT).is_file(),
        terms=_terms(model),
        terms_plot=(folder / manifest.TERMS_PLOT).is_file(),
        data=data,
        # A path would tell about the machine.
        data_file=PurePosixPath(data["csv"]).name,
        synthetic=is_synthetic(data["csv"]),
        run=run,
        recipe=yaml.safe_dump(model.recipe, sort_keys=False, allow_unicode=True).rstrip(),
        release=release,
        url=f"{url}/tree/{version}" if url and version else url,
        author=author,
        citation_key=f"arxiv_cls_{title}".replace("-", "_").replace(".", "_"),
    )


def write_model_card(model_dir: str | Path, *, repo_id: str | None = None) -> Path:
    """Writes `README.md` into a model directory; arguments and errors as of `render_model_card`."""
    if repo_id is not None:
        check_repo_id(repo_id)
    path = Path(model_dir) / manifest.CARD
    write_atomically(path, render_model_card(model_dir, repo_id=repo_id))
    return path
