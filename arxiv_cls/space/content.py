"""What the page shows: example texts, facts about the model, sentences and HTML (escaped)."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Literal

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import SERVED_COVERAGE, Prediction
from arxiv_cls.record.model_files import read_model_file

# Written for the page, none is a real paper: one for each category of `top5`, and one that belongs to none.
with (files(__package__) / "examples.csv").open(encoding="utf-8", newline="") as _file:
    EXAMPLES = [(row["name"], row["title"], row["abstract"]) for row in csv.DictReader(_file)]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN_METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "top_2_accuracy": "Top-2 accuracy"}
_MULTI_LABEL_METRICS = {
    "macro_f1": "Macro-F1", "micro_f1": "Micro-F1", "lrap": "Label ranking average precision",
}  # fmt: skip


@dataclass(frozen=True)
class ModelFacts:
    """A model as its records describe it; results are those of the test split, as fractions."""

    name: str  # Hub id, or the name of the directory
    version: str  # release tag, commit, or the first digits of the weights' sha256; empty when nothing tells
    card: str | None  # address of the model card; None for a local directory
    test_papers: int | None
    metrics: dict[str, tuple[float, float, float]]  # name to value, lower end, upper end
    f1: dict[str, float]  # of each category
    set_coverage: float | None  # share of test papers whose 90% set held the right category
    multi_label: bool = False


def read_facts(model: str, directory: Path, *, multi_label: bool = False) -> ModelFacts:
    """The facts of a model.

    Args:
        model: as it was named: a directory or a Hub id, also `user/name@revision`.
        directory: where its files are.
        multi_label: whether it is a multi-label model.

    Raises:
        UserError: a damaged record.
    """
    record = read_model_file(directory, "eval/metrics.json") or {}
    test = record if record.get("split") == "test" else {}
    values, intervals = test.get("metrics", {}), test.get("intervals", {})
    metrics = {
        shown: (values[key], *intervals[key])
        for key, shown in (_MULTI_LABEL_METRICS if multi_label else _SHOWN_METRICS).items()
        if values.get(key) is not None and key in intervals
    }
    per_class = values.get("per_class", {})
    sets = read_model_file(directory, "eval/prediction_sets.json") or {"levels": {}}
    name, _, revision = model.partition("@")
    if Path(model).expanduser().is_dir():
        name, card = directory.resolve().name, None
        weights = record.get("weights_sha256") or ""
        version = f"weights {weights[:12]}" if weights else ""
    else:
        # The Hub's cache keeps a snapshot in a folder named after its commit.
        version = revision or (directory.name if _COMMIT.fullmatch(directory.name) else "")
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        card = f"{endpoint}/{name}" + (f"/tree/{version}" if version else "")
    return ModelFacts(
        name=name,
        # The page is too narrow for a whole commit id; the link has it.
        version=version[:12] if _COMMIT.fullmatch(version) else version,
        card=card,
        test_papers=test.get("papers"),
        metrics=metrics,
        f1={label: scores["f1"] for label, scores in per_class.items() if scores.get("f1") is not None},
        set_coverage=sets["levels"].get(SERVED_COVERAGE, {}).get("coverage"),
        multi_label=multi_label,
    )


# Log-odds that give the full colour at least: smaller ones stay pale.
FULL = 0.3
# Shades below this share of the full colour are left out.
FAINTEST = 0.12


def shades(words: Sequence[tuple[str, float]]) -> list[tuple[str, float | None]]:
    """What `gr.HighlightedText` shows of `attribute`'s words: (text, shade from -1 against to 1 for).

    The heaviest word has the full colour, unless all are light. White space has none (None), and neighbours
    without colour are one piece. Joined, the pieces are the text.
    """
    heaviest = max([FULL, *(abs(weight) for _, weight in words)])
    pieces: list[tuple[str, float | None]] = []
    for word, weight in words:
        shade = weight / heaviest
        core = word.rstrip() if abs(shade) >= FAINTEST else ""
        for text, value in ((core, shade), (word[len(core) :], None)):
            if value is None and pieces and pieces[-1][1] is None:
                pieces[-1] = (pieces[-1][0] + text, None)
            elif text:
                pieces.append((text, value))
    return pieces


def full_name(code: str) -> str:
    """`Machine Learning (cs.LG)`; the code alone when the taxonomy does not know it."""
    name = CATEGORY_NAMES.get(code)
    return f"{name} ({code})" if name else code


def _listed(words: Sequence[str], joined: str = "or") -> str:
    *before, last = words
    return f"{', '.join(before)} {joined} {last}" if before else last


def heading(title: str, facts: ModelFacts) -> str:
    """The head of the page, as HTML: what it does, and which model with what accuracy."""
    known = ", ".join(part for part in (facts.name, facts.version) if part)
    if "Accuracy" in facts.metrics and facts.test_papers:
        known += f": {facts.metrics['Accuracy'][0]:.1%} right on {facts.test_papers:,} test papers"
    elif "Macro-F1" in facts.metrics and facts.test_papers:
        known += f": macro-F1 {facts.metrics['Macro-F1'][0]:.1%} on {facts.test_papers:,} test papers"
    card = f" ({_link(facts.card, 'model card')})" if facts.card else ""
    category = "categories" if facts.multi_label else "category"
    return (
        f"<h1>{escape(title)}</h1><p>Names the {category} of a paper from its title and abstract, and shows "
        f"which words decided.</p><p>Model: {escape(known)}{card}</p>"
    )


def notice(kind: Literal["plain", "warning", "error"], *sentences: str) -> str:
    """A box with sentences, as HTML; "" without one. They are escaped: some are a visitor's or a file's."""
    # A file that is no text brings control characters and halves of surrogate pairs, which JSON cannot carry.
    lines = [
        "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
        for sentence in sentences
        for line in sentence.splitlines()
    ]
    role = ' role="alert"' if kind == "error" else ""
    content = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div class="notice {kind}"{role}>{content}</div>' if lines else ""


def error_notice(error: UserError) -> str:
    """What went wrong, and what to do next, as HTML."""
    return notice("error", error.message, error.hint or "")


def verdict(
    prediction: Prediction,
    labels: Sequence[str],
    max_length: int | None,
    whole: bool,
    multi_label: bool = False,
) -> str:
    """The boxes under an answer, as HTML.

    Args:
        prediction: the model's.
        labels: all that it knows.
        max_length: tokens that it reads; None without a limit.
        whole: whether title and abstract are there.
        multi_label: whether its set is that of the labels at or above their thresholds.
    """
    if prediction.no_known_words:
        return notice(
            "warning",
            "There is nothing to judge by: the model knows none of the words of this text.",
            "It learned from English titles and abstracts.",
        )
    outside = certain = ""
    if prediction.in_scope is False:
        outside = (
            "Out of scope: this does not read like a paper in any category that this model knows "
            f"({_listed(labels)}). What follows is the least unlikely of them, not a finding."
        )
    elif multi_label and prediction.prediction_set is not None:
        names = [full_name(code) for code in prediction.prediction_set]
        certain = f"Categories: {_listed(names, 'and')}." if names else "No label is above its threshold."
    elif prediction.prediction_set is not None:
        count = len(prediction.prediction_set)
        names = _listed([full_name(code) for code in prediction.prediction_set])
        certain = (
            f"One category is enough for 90% certainty: {names}."
            if count == 1
            else f"With 90% certainty it is one of {count}: {names}."
        )
    sentences = []
    if not whole:
        sentences.append(
            "The model learned from titles with abstracts: with only one of them it is less sure."
        )
    if prediction.truncated:
        sentences.append(
            f"The text is longer than the model reads ({max_length} tokens): its end was left out."
        )
    return notice("warning", outside) + notice("plain", certain, *sentences)


def batch_sentence(scored: int, failed: int) -> str:
    """What became of the rows of a CSV."""
    rows = f"{scored:,} {'row has' if scored == 1 else 'rows have'} a category."
    if failed:
        rows += f" {failed:,} {'row has' if failed == 1 else 'rows have'} none: the column “error” says why."
    return rows


def about(facts: ModelFacts, labels: Sequence[str], engine: str, max_length: int | None) -> str:
    """The tab on the model, as HTML: what it is, its test results, its limits."""
    name, card = escape(facts.name), "Its card is README.md in the model directory."
    if facts.card:
        name = _link(facts.card, facts.name)
        card = f"The {_link(facts.card, 'model card')} tells how it was trained and measured."
    version = f", {escape(facts.version)}" if facts.version else ""
    results = "<p>This model was not evaluated: it has no results on a test split.</p>"
    if facts.metrics:
        results = table(
            ("Metric", "Value", "95% interval"),
            [
                (name, f"{value:.1%}", f"{100 * low:.1f} to {high:.1%}")
                for name, (value, low, high) in facts.metrics.items()
            ],
        )
        if facts.test_papers:
            results = f"<p>{facts.test_papers:,} test papers, none of them used in training.</p>{results}"
    if facts.f1:
        per_class = [(full_name(label), f"{value:.1%}") for label, value in facts.f1.items()]
        results += table(("Category", "F1"), per_class)
    chooses = "gives each paper any number of" if facts.multi_label else "chooses among"
    return (
        f"<h3>Model</h3><p><strong>{name}</strong>{version}, computed by {escape(engine)}. {card} It "
        f"{chooses} {len(labels)} categories:</p>{_items([full_name(label) for label in labels])}"
        f"<h3>Test results</h3>{results}<h3>Limits</h3>{_items(_limits(facts, labels, max_length))}"
    )


def _link(address: str, text: str) -> str:
    return f"<a href='{escape(address)}'>{escape(text)}</a>"


def _items(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as an HTML table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _limits(facts: ModelFacts, labels: Sequence[str], max_length: int | None) -> list[str]:
    several = "a paper has several on arXiv, the model names the primary one."
    if facts.multi_label:
        several = "each has a score and a threshold of its own, so that a paper may get several or none."
    sentences = [
        f"It knows {len(labels)} categories and no others; {several}",
        "It learned from English titles and abstracts. Authors choose categories by habit as well as by "
        "content, and the model has learned their habits.",
    ]
    if facts.f1:
        worst, score = min(facts.f1.items(), key=lambda item: item[1])
        sentences.append(f"It is weakest on {full_name(worst)}: F1 {score:.1%} on the test papers.")
    if facts.set_coverage is not None:
        sentences.append(
            "“90% certainty” is an average over papers: on the test papers the set held the right category "
            f"{facts.set_coverage:.1%} of the time, in some categories more often than in others."
        )
    if max_length is not None:
        sentences.append(
            f"It reads the first {max_length} tokens (words and parts of words); the rest is left out."
        )
    sentences.append(
        "The highlighted words are those whose absence would change the score. They show what the model "
        "used, which need not be what makes a paper belong to its category."
    )
    return sentences
