"""What the page says, as sentences, and as HTML in which everything that was not written here is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import Prediction
from arxiv_cls.serving.space.facts import ModelFacts

KINDS = ("plain", "warning", "error")


def full_name(code: str) -> str:
    """`Machine Learning (cs.LG)`; the code alone when the taxonomy does not know it."""
    name = CATEGORY_NAMES.get(code)
    return f"{name} ({code})" if name else code


def listed(words: Sequence[str], last: str) -> str:
    """`a, b or c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def heading(title: str, facts: ModelFacts) -> str:
    """The head of the page, as HTML: what it does, and which model with what accuracy."""
    known = ", ".join(part for part in (facts.name, facts.version) if part)
    if "Accuracy" in facts.metrics and facts.test_papers:
        known += f": {100 * facts.metrics['Accuracy'][0]:.1f}% right on {facts.test_papers:,} test papers"
    card = f" (<a href='{escape(facts.card)}'>model card</a>)" if facts.card else ""
    return (
        f"<h1>{escape(title)}</h1><p>Names the category of a paper from its title and abstract, and shows "
        f"which words decided.</p><p>Model: {escape(known)}{card}</p>"
    )


def notice(kind: str, *sentences: str) -> str:
    """A box with a message, as HTML; "" without a sentence.

    Args:
        kind: "plain", "warning" or "error".
        sentences: plain text, escaped here: what a visitor or a file said may be among it.
    """
    assert kind in KINDS
    lines = [f"<p>{escape(_printable(line))}</p>" for told in sentences for line in told.splitlines()]
    role = ' role="alert"' if kind == "error" else ""
    return f'<div class="notice {kind}"{role}>{"".join(lines)}</div>' if lines else ""


def error_notice(error: UserError) -> str:
    """What went wrong, and what to do next, as HTML."""
    return notice("error", error.message, error.hint or "")


def _printable(text: str) -> str:
    # A file that is no text brings control characters and halves of surrogate pairs, which JSON cannot carry.
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def set_sentence(prediction: Prediction) -> str:
    """The prediction set in words; "" when the model has none."""
    if prediction.prediction_set is None:
        return ""
    names = [full_name(code) for code in prediction.prediction_set]
    if len(names) == 1:
        return f"One category is enough for 90% certainty: {names[0]}."
    return f"With 90% certainty it is one of {len(names)}: {listed(names, 'or')}."


def scope_sentence(prediction: Prediction, labels: Sequence[str]) -> str:
    """The word about a paper that belongs to none of the categories; "" for one that may."""
    if prediction.in_scope is not False:
        return ""
    return (
        f"Out of scope: this does not read like a paper in any category that this model knows "
        f"({listed(list(labels), 'or')}). What follows is the least unlikely of them, not a finding."
    )


def verdict(prediction: Prediction, labels: Sequence[str], max_length: int | None, whole: bool) -> str:
    """The boxes under an answer, as HTML.

    Args:
        prediction: the model's.
        labels: all that it knows.
        max_length: tokens that it reads; None without a limit.
        whole: both title and abstract were there (or one pasted text with both).
    """
    told = []
    if not whole:
        told.append("The model learned from titles with abstracts: with only one of them it is less sure.")
    if prediction.truncated:
        told.append(f"The text is longer than the model reads ({max_length} tokens): its end was left out.")
    outside = scope_sentence(prediction, labels)
    certain = "" if outside else set_sentence(prediction)
    return notice("warning", outside) + notice("plain", certain, *told)


def batch_sentence(scored: int, failed: int) -> str:
    """What became of the rows of a CSV."""
    rows = f"{scored:,} {'row has' if scored == 1 else 'rows have'} a category."
    if not failed:
        return rows
    without = f"{failed:,} {'row has' if failed == 1 else 'rows have'} none"
    return f"{rows} {without}: the column “error” says why."


def about(facts: ModelFacts, labels: Sequence[str], engine: str, max_length: int | None) -> str:
    """The tab on the model, as HTML: what it is, its test results, its limits."""
    named = f"<a href='{escape(facts.card)}'>{escape(facts.name)}</a>" if facts.card else escape(facts.name)
    version = f", {escape(facts.version)}" if facts.version else ""
    known = _items([full_name(label) for label in labels])
    return (
        f"<h3>Model</h3><p><strong>{named}</strong>{version}, computed by {escape(engine)}. "
        f"{_card(facts)} It chooses among {len(labels)} categories:</p><ul>{known}</ul>"
        f"<h3>Test results</h3>{_results(facts)}"
        f"<h3>Limits</h3><ul>{_items(limits(facts, labels, max_length))}</ul>"
    )


def _items(lines: Sequence[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as an HTML table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return f"<table><tr>{head}</tr>{''.join(_row(*row) for row in rows)}</table>"


def _card(facts: ModelFacts) -> str:
    if facts.card is None:
        return "Its card is README.md in the model directory."
    return f"The <a href='{escape(facts.card)}'>model card</a> tells how it was trained and measured."


def _results(facts: ModelFacts) -> str:
    if not facts.metrics:
        return "<p>This model was not evaluated: it has no results on a test split.</p>"
    rows = [
        (name, f"{100 * value:.1f}%", f"{100 * low:.1f} to {100 * high:.1f}%")
        for name, (value, low, high) in facts.metrics.items()
    ]
    per_class = [(full_name(label), f"{100 * value:.1f}%") for label, value in facts.f1.items()]
    classes = table(("Category", "F1"), per_class) if per_class else ""
    papers = f"{facts.test_papers:,} test papers, none of them used in training." if facts.test_papers else ""
    return f"<p>{papers}</p>{table(('Metric', 'Value', '95% interval'), rows)}{classes}"


def limits(facts: ModelFacts, labels: Sequence[str], max_length: int | None) -> list[str]:
    """What not to expect of the model, a sentence each."""
    told = [
        f"It knows {len(labels)} categories and no others; a paper has several on arXiv, the model names the "
        "primary one.",
        "It learned from English titles and abstracts. Authors choose categories by habit as well as by "
        "content, and the model has learned their habits.",
    ]
    if facts.f1:
        worst = min(facts.f1, key=lambda label: facts.f1[label])
        told.append(
            f"It is weakest on {full_name(worst)}: F1 {100 * facts.f1[worst]:.1f}% on the test papers."
        )
    if facts.set_coverage is not None:
        told.append(
            "“90% certainty” is an average over papers: on the test papers the set held the right category "
            f"{100 * facts.set_coverage:.1f}% of the time, in some categories more often than in others."
        )
    if max_length is not None:
        told.append(
            f"It reads the first {max_length} tokens (words and parts of words); the rest is left out."
        )
    told.append(
        "The highlighted words are those whose absence would change the score. They show what the model "
        "used, which need not be what makes a paper belong to its category."
    )
    return told
