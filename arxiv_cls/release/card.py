"""The templates of the cards: one for each layout that was ever released, and how a card names its own.

A release is verified with the template that wrote its card. So the template of a released layout is never
edited: new words or sections get the next number, and a card of the last one goes to
`tests/fixtures/cards`. Words live in the templates, values in `ModelCard`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.record.files import write_atomically
from arxiv_cls.record.manifest import CARD, MAP_PLOT
from arxiv_cls.record.model_directory import ModelDirectory, read_model_directory
from arxiv_cls.release.card_data import (
    ENOUGH_PAPERS,
    Exports,
    PredictionSets,
    Row,
    Scope,
    Shown,
    SliceFinding,
    SliceTable,
    Temperature,
    TermsRow,
    card_metadata,
    count,
    data_rows,
    exports,
    interval,
    is_synthetic,
    number,
    prediction_sets,
    scope,
    slice_findings,
    slice_tables,
    temperature,
    terms,
    training_rows,
)
from arxiv_cls.scoring.example_papers import EXAMPLE_PAPERS, ExamplePaper, ensure_examples
from arxiv_cls.scoring.metrics import SCALAR_METRICS

TEMPLATES = Path(__file__).parent / "templates"
LAYOUT = 2
"""The layout of new cards."""
LAYOUT_LINE = re.compile(r"^<!-- Card layout (\d+), written by arxiv_cls", re.MULTILINE)
FIELD_START, FIELD_NAMED, FIELD_END = "\x01", "\x02", "\x03"


def layout_of(card: str) -> int:
    """The layout that a card names; cards of the first one name none.

    Raises:
        UserError: when it is of a later version of the project.
    """
    named = LAYOUT_LINE.search(card)
    layout = int(named[1]) if named else 1
    if not 1 <= layout <= LAYOUT:
        raise UserError(
            f"the card has layout {layout}, and this version knows layouts up to {LAYOUT}",
            hint="verify it with the version of arxiv_cls that run.json names, or upgrade",
        )
    return layout


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


def model_card_template(layout: int = LAYOUT, mark: bool = False) -> Template:
    """The template of a layout; see `template` for the marks."""
    return template(f"model_card.v{layout}.md.j2", mark)


def _marked(value: object) -> object:
    if isinstance(value, Shown):
        return f"{FIELD_START}{value.field}{FIELD_NAMED}{value}{FIELD_END}"
    return value


@dataclass(frozen=True)
class MetricRow:
    """A metric with its interval; `key` is its name in `eval/metrics.json`."""

    key: str
    value: Shown
    interval: Shown


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
    """Everything that the templates show: values, whose words are in the templates.

    Fields are only ever added, since the templates of earlier layouts read them too.
    """

    metadata: str
    title: str
    kind: str
    model_type: str
    base_model: str | None
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
    calibration_p_value: Shown
    temperature: Temperature | None
    prediction_sets: PredictionSets | None
    scope: Scope | None
    slices: list[SliceTable]
    slice_findings: list[SliceFinding]
    smallest_slice: int
    exports: Exports | None
    map_plot: bool
    terms: list[TermsRow]
    data: list[Row]
    split_by: str
    synthetic: bool
    training: list[Row]
    curve: bool
    recipe: str
    license: str
    citation_key: str
    author: str
    year: str = field(default="")


def _max_length(model: ModelDirectory) -> Shown | None:
    settings = model.optional_json("tokenizer_config.json")
    if settings is None:
        return None
    return count("tokenizer_config.model_max_length", settings.get("model_max_length"))


def _per_class(model: ModelDirectory, evaluation: dict[str, Any]) -> list[ClassRow]:
    rows = []
    for label in model.labels:
        scores = evaluation["metrics"]["per_class"].get(label)
        if scores is None:
            raise UserError(
                f"the model's category {label} is not in eval/metrics.json",
                hint=f"run `arxiv-cls evaluate {model.model_dir}` again",
            )
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
    model: ModelDirectory,
    examples: list[dict[str, Any]],
    *,
    repo_id: str | None = None,
    version: str | None = None,
    overrides: Sequence[str] = (),
) -> ModelCard:
    """Fills the card from the records of a model directory.

    Args:
        model: the records.
        examples: example texts with their scores, as `ensure_examples` gives them.
        repo_id: `user/name` once it is known; the directory's name until then.
        version: the release's tag, once it is known.
        overrides: the gate's failed checks that were overridden, a sentence each.

    Raises:
        UserError: when a record lacks what the card must show.
    """
    evaluation = model.require_evaluation()
    metrics, intervals = evaluation["metrics"], evaluation["intervals"]
    release = model.recipe.get("release") or {}
    # Before it has a name on the Hub a model goes by its recipe's: the directory may still be a staging one.
    recipe_name = PurePosixPath(model.run["recipe"]).stem
    title = repo_id.split("/")[1] if repo_id else recipe_name
    by_chance = evaluation["calibration"]
    return ModelCard(
        metadata=card_metadata(model, examples, title),
        title=title,
        kind=model.kind,
        model_type=model.config.get("model_type", ""),
        base_model=release.get("base_model"),
        model_id=repo_id or f"outputs/{recipe_name}",
        version=version,
        overrides=overrides,
        example=EXAMPLE_PAPERS[1],
        max_length=_max_length(model),
        split=evaluation["split"],
        test_papers=count("papers", evaluation["papers"]),
        resamples=count("resamples", evaluation["resamples"]),
        label_count=count("labels", len(model.labels)),
        metrics=[
            MetricRow(
                key,
                number(f"metrics.{key}", metrics[key]),
                interval(f"intervals.{key}", intervals[key]),
            )
            for key in SCALAR_METRICS
        ],
        per_class=_per_class(model, evaluation),
        calibration_floor=number("calibration.chance_mean", by_chance["chance_mean"]),
        calibration_ceiling=number("calibration.chance_upper", by_chance["chance_upper"]),
        calibration_p_value=number("calibration.p_value", by_chance["p_value"]),
        temperature=temperature(model.run),
        prediction_sets=prediction_sets(model),
        scope=scope(model),
        slices=slice_tables(evaluation),
        slice_findings=slice_findings(evaluation),
        smallest_slice=ENOUGH_PAPERS,
        exports=exports(model),
        map_plot=(model.model_dir / MAP_PLOT).is_file(),
        terms=terms(model),
        data=data_rows(model.run["data"]),
        split_by=model.run["data"]["split"],
        synthetic=is_synthetic(model.run["data"]),
        training=training_rows(model.run),
        # A linear baseline has no rounds whose losses a curve could show.
        curve=model.run.get("training", {}).get("rounds") != 0,
        recipe=yaml.safe_dump(model.recipe, sort_keys=False, allow_unicode=True).rstrip(),
        license=release.get("license", "apache-2.0"),
        citation_key=f"arxiv_cls_{title}".replace("-", "_").replace(".", "_"),
        author=repo_id.split("/")[0] if repo_id else "arxiv_cls",
        year=model.run["started"][:4],
    )


def render(card: ModelCard, *, layout: int = LAYOUT, mark: bool = False) -> str:
    """The card as Markdown with its front matter.

    Args:
        card: the filled card.
        layout: an earlier one renders the card as that version of the project did.
        mark: as `card_templates.template`.
    """
    context = {item.name: getattr(card, item.name) for item in fields(card)}
    return model_card_template(layout, mark).render(context)


def render_model_card(
    model: str | Path | ModelDirectory,
    *,
    repo_id: str | None = None,
    version: str | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """The text of the card of a model directory or its records; arguments as of `build_model_card`."""
    model = model if isinstance(model, ModelDirectory) else read_model_directory(model)
    model.require_evaluation()
    examples = ensure_examples(model)
    return render(build_model_card(model, examples, repo_id=repo_id, version=version, overrides=overrides))


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
    write_atomically(path, render_model_card(model_dir, repo_id=repo_id))
    return path
