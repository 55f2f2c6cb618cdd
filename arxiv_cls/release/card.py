"""The model card: a filled dataclass and a template; every number comes from a file of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.release.card_examples import EXAMPLE_PAPERS, ExamplePaper, ensure_examples
from arxiv_cls.release.card_metadata import card_metadata
from arxiv_cls.release.card_numbers import Shown, count, interval, number
from arxiv_cls.release.card_sections import (
    PredictionSets,
    Row,
    Scope,
    SliceTable,
    Temperature,
    data_rows,
    is_synthetic,
    prediction_sets,
    scope,
    slice_findings,
    slice_tables,
    split_text,
    temperature,
    training_rows,
)
from arxiv_cls.release.evidence import Evidence, read_evidence
from arxiv_cls.release.manifest import CARD, TRANSFORMER

TEMPLATES = Path(__file__).parent / "templates"
METRIC_ROWS = (
    ("accuracy", "Accuracy", "share of papers whose first label is right"),
    ("macro_f1", "Macro F1", "mean of the categories' F1, each category counting the same"),
    ("micro_f1", "Micro F1", "F1 over all papers; with one label a paper it equals accuracy"),
    ("weighted_f1", "Weighted F1", "mean of the categories' F1, weighted by their papers"),
    ("top_2_accuracy", "Top-2 accuracy", "share of papers whose label is among the first two"),
    ("top_3_accuracy", "Top-3 accuracy", "share of papers whose label is among the first three"),
    ("log_loss", "Log-loss", "mean negative log-probability of the right label, in nats; lower is better"),
    ("brier_score", "Brier score", "mean squared error of the scores, 0 to 2; lower is better"),
    (
        "expected_calibration_error",
        "Expected calibration error",
        "mean distance between score and accuracy; lower is better",
    ),
)


@dataclass(frozen=True)
class MetricRow:
    """A metric with its interval and what it means."""

    name: str
    value: Shown
    interval: Shown
    meaning: str


@dataclass(frozen=True)
class ClassRow:
    """One category's results."""

    label: str
    name: str
    precision: Shown
    recall: Shown
    f1: Shown
    interval: Shown
    support: Shown


@dataclass(frozen=True)
class ModelCard:
    """Everything that the template shows. Texts are finished; nothing is computed in the template."""

    metadata: str
    title: str
    summary: str
    kind: str
    model_id: str
    version: str | None
    overrides: Sequence[str]
    example: ExamplePaper
    max_length: Shown | None
    split: str
    test_papers: Shown
    resamples: Shown
    label_count: Shown
    metrics: list[MetricRow]
    per_class: list[ClassRow]
    calibration_floor: Shown
    calibration_ceiling: Shown
    temperature: Temperature | None
    prediction_sets: PredictionSets | None
    scope: Scope | None
    slices: list[SliceTable]
    slice_findings: list[Shown]
    data: list[Row]
    split_text: str
    synthetic: bool
    training: list[Row]
    recipe: str
    license: str
    citation_key: str
    author: str
    year: str = field(default="")


def _summary(evidence: Evidence) -> str:
    labels = len(evidence.labels)
    task = f"It names the arXiv category of a paper from its title and abstract: one of {labels} categories."
    if evidence.kind != TRANSFORMER:
        return f"A TF-IDF classifier of scientific papers, small and fast on a CPU. {task}"
    base = (evidence.recipe.get("release") or {}).get("base_model")
    of_what = f", fine-tuned from [`{base}`](https://huggingface.co/{base})" if base else ""
    return f"A {evidence.config.get('model_type')} classifier of scientific papers{of_what}. {task}"


def _max_length(evidence: Evidence) -> Shown | None:
    settings = evidence.optional_json("tokenizer_config.json")
    if settings is None:
        return None
    return count("tokenizer_config.model_max_length", settings.get("model_max_length"))


def _per_class(evidence: Evidence, evaluation: dict[str, Any]) -> list[ClassRow]:
    rows = []
    for label in evidence.labels:
        scores = evaluation["metrics"]["per_class"][label]
        name = f"metrics.per_class.{label}"
        rows.append(
            ClassRow(
                label=label,
                name=CATEGORY_NAMES.get(label, label),
                precision=number(f"{name}.precision", scores["precision"]),
                recall=number(f"{name}.recall", scores["recall"]),
                f1=number(f"{name}.f1", scores["f1"]),
                interval=interval(f"intervals.f1/{label}", evaluation["intervals"][f"f1/{label}"]),
                support=count(f"{name}.support", scores["support"]),
            )
        )
    return rows


def build_model_card(
    evidence: Evidence,
    examples: list[dict[str, Any]],
    *,
    repo_id: str | None = None,
    version: str | None = None,
    overrides: Sequence[str] = (),
) -> ModelCard:
    """Fills the card from the records of a model directory.

    Args:
        evidence: the records.
        examples: example texts with their scores, as `ensure_examples` gives them.
        repo_id: `user/name` once it is known; the directory's name until then.
        version: the release's tag, once it is known.
        overrides: the gate's failed checks that were overridden, a sentence each.

    Raises:
        UserError: when a record lacks what the card must show.
    """
    evaluation = evidence.require_evaluation()
    metrics, intervals = evaluation["metrics"], evaluation["intervals"]
    release = evidence.recipe.get("release") or {}
    # Before it has a name on the Hub a model goes by its recipe's: the directory may still be a staging one.
    recipe_name = PurePosixPath(evidence.run["recipe"]).stem
    title = repo_id.split("/")[1] if repo_id else recipe_name
    by_chance = evaluation["calibration"]
    return ModelCard(
        metadata=card_metadata(evidence, examples, title),
        title=title,
        summary=_summary(evidence),
        kind=evidence.kind,
        model_id=repo_id or f"outputs/{recipe_name}",
        version=version,
        overrides=overrides,
        example=EXAMPLE_PAPERS[1],
        max_length=_max_length(evidence),
        split=evaluation["split"],
        test_papers=count("papers", evaluation["papers"]),
        resamples=count("resamples", evaluation["resamples"]),
        label_count=count("labels", len(evidence.labels)),
        metrics=[
            MetricRow(
                name,
                number(f"metrics.{key}", metrics[key]),
                interval(f"intervals.{key}", intervals[key]),
                meaning,
            )
            for key, name, meaning in METRIC_ROWS
        ],
        per_class=_per_class(evidence, evaluation),
        calibration_floor=number("calibration.chance_mean", by_chance["chance_mean"]),
        calibration_ceiling=number("calibration.chance_upper", by_chance["chance_upper"]),
        temperature=temperature(evidence.run),
        prediction_sets=prediction_sets(evidence),
        scope=scope(evidence),
        slices=slice_tables(evaluation),
        slice_findings=slice_findings(evaluation),
        data=data_rows(evidence.run["data"]),
        split_text=split_text(evidence.run["data"]),
        synthetic=is_synthetic(evidence.run["data"]),
        training=training_rows(evidence.run),
        recipe=yaml.safe_dump(evidence.recipe, sort_keys=False, allow_unicode=True).rstrip(),
        license=release.get("license", "apache-2.0"),
        citation_key=f"arxiv_cls_{title}".replace("-", "_").replace(".", "_"),
        author=repo_id.split("/")[0] if repo_id else "arxiv_cls",
        year=evidence.run["started"][:4],
    )


@cache
def template(name: str, mark: bool = False) -> Template:
    """A card template.

    Args:
        name: file name in `templates/`.
        mark: put each `Shown` between MARK characters with its field's name, for `card_check`.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=_marked if mark else None,
    )
    return environment.get_template(name)


FIELD_START, FIELD_NAMED, FIELD_END = "\x01", "\x02", "\x03"


def _marked(value: object) -> object:
    if isinstance(value, Shown):
        return f"{FIELD_START}{value.field}{FIELD_NAMED}{value}{FIELD_END}"
    return value


def render(card: ModelCard, *, mark: bool = False) -> str:
    """The card as Markdown with its front matter."""
    context = {item.name: getattr(card, item.name) for item in fields(card)}
    return template("model_card.md.j2", mark).render(context)


def render_model_card(
    model_dir: str | Path,
    *,
    repo_id: str | None = None,
    version: str | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """The text of a model directory's card; see `build_model_card` for the arguments."""
    evidence = read_evidence(model_dir)
    evidence.require_evaluation()
    examples = ensure_examples(evidence)
    return render(build_model_card(evidence, examples, repo_id=repo_id, version=version, overrides=overrides))


def write_model_card(model_dir: str | Path, *, repo_id: str | None = None) -> Path:
    """Writes `README.md` into a model directory from the records there.

    Args:
        model_dir: a trained and evaluated model.
        repo_id: `user/name`, when it is known already.

    Returns:
        The path of the card.

    Raises:
        UserError: when the model was not evaluated, or a record lacks what the card must show.
    """
    path = Path(model_dir) / CARD
    path.write_text(render_model_card(model_dir, repo_id=repo_id), encoding="utf-8")
    return path
