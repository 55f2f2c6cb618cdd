"""What the page shows: example texts, facts about the model, sentences and HTML (escaped)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import Prediction
from arxiv_cls.record.model_files import read_model_file

# Written for this page: none is a real paper.
EXAMPLES: tuple[tuple[str, str, str], ...] = (
    (
        "Street scenes",
        "Seeing through drizzle: segmenting street scenes in bad weather",
        "Segmentation networks that work on clear days lose their grip when rain smears the windscreen. We "
        "train an encoder and a decoder on pairs of dry and wet images of the same street, and let the "
        "features of a wet image move towards those of its dry twin. On three benchmarks of road scenes the "
        "mean intersection over union rises by several points in rain and fog and does not fall in "
        "sunshine. The method adds no cost when an image is labelled.",
    ),
    (
        "Low-resource translation",
        "Borrowed words as bridges in low-resource machine translation",
        "Parallel text is scarce for most of the languages of the world, but their vocabularies share "
        "loanwords with larger neighbours. We extract such pairs from monolingual corpora, align them by "
        "sound and use them as anchors for the embeddings of a translation model. For eleven language pairs "
        "with fewer than fifty thousand sentences each, BLEU rises over back-translation alone. An analysis "
        "of the errors shows that named entities and verbs of motion gain most.",
    ),
    (
        "Planning",
        "Plans that explain their detours: constraint reasoning for household robots",
        "A planner that obeys a person's wishes often takes a path that looks foolish. We describe a system "
        "that keeps the preference rules which forced each detour and states the smallest set of them as a "
        "reason. The search runs over a logic program with weighted constraints, and a heuristic from "
        "relaxed plans keeps it tractable. In a study with a simulated kitchen, people predicted the next "
        "action of the agent more often when they had read its reasons.",
    ),
    (
        "Optimisers",
        "Warm restarts from the edge of stability",
        "Gradient descent on deep networks hovers where the sharpness of the loss meets the limit that the "
        "learning rate sets. We turn this remark into a schedule: whenever the largest eigenvalue of the "
        "Hessian settles, the learning rate is raised until the training leaves the basin. Residual networks "
        "and small transformers reach the same training loss in a third fewer steps, and their test error is "
        "no worse. An ablation shows that the batch size decides how often a restart pays.",
    ),
    (
        "Gaussian processes",
        "Posterior contraction of sparse Gaussian processes with learned inducing points",
        "Inducing points make Gaussian process regression affordable, and little is known about what is lost "
        "when they are fitted to the data. We prove that the variational posterior contracts around the true "
        "function at the minimax rate up to a logarithm, provided that the number of points grows with the "
        "effective dimension of the kernel. The proof bounds the divergence by the tail of the spectrum. "
        "Simulations agree with the theory, and confidence bands keep their coverage.",
    ),
    (
        "Not machine learning",
        "Nesting sites of tree frogs along a gradient of night-time light",
        "Artificial light has spread into the wetlands where many tree frogs breed. During four seasons we "
        "counted egg masses at sixty ponds between a town and a nature reserve and measured brightness at "
        "night, water depth and cover. Ponds under bright lamps held fewer egg masses, and females laid them "
        "deeper among the reeds. The effect was strongest in spring, before the leaves had opened.",
    ),
)
"""(name, title, abstract): one for each category of `top5`, and one that belongs to none of them."""

HUB = "https://huggingface.co"
COMMIT = r"[0-9a-f]{40}"
SHOWN_METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "top_2_accuracy": "Top-2 accuracy"}


@dataclass(frozen=True)
class ModelFacts:
    """A model as its records describe it.

    Attributes:
        name: Hub id, or the name of the directory.
        version: release tag, commit, or the first digits of the weights' sha256; empty when nothing tells.
        card: address of the model card; None for a local directory.
        test_papers: size of the test split; None when the model was never evaluated.
        metrics: name to (value, lower end, upper end) of the test split, as fractions.
        f1: category to its F1 on the test split.
        set_coverage: share of test papers whose 90% set held the right category; None without such sets.
    """

    name: str
    version: str
    card: str | None
    test_papers: int | None
    metrics: dict[str, tuple[float, float, float]]
    f1: dict[str, float]
    set_coverage: float | None


def read_facts(model: str, directory: Path, revision: str | None = None) -> ModelFacts:
    """The facts of a model.

    Args:
        model: as it was named: a directory or a Hub id, also `user/name@revision`.
        directory: where its files are.
        revision: of a Hub id, when it was given apart.

    Raises:
        UserError: a record that is damaged.
    """
    measured = read_model_file(directory, "eval/metrics.json") or {}
    sets = read_model_file(directory, "eval/prediction_sets.json") or {}
    name, _, tag = str(model).partition("@")
    local = Path(model).expanduser().is_dir()
    try:
        intervals = measured.get("intervals", {})
        metrics = {
            shown: (float(measured["metrics"][key]), *(float(end) for end in intervals[key]))
            for key, shown in SHOWN_METRICS.items()
            if key in measured.get("metrics", {}) and key in intervals
        }
        per_class = measured.get("metrics", {}).get("per_class", {})
        f1 = {str(label): float(scores["f1"]) for label, scores in per_class.items()}
        coverage = sets["levels"]["0.9"].get("coverage") if sets else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory}: its evaluation is damaged: {error!r}",
            hint=f"run `arxiv-cls evaluate {model}` again",
        ) from None
    weights = str(measured.get("weights_sha256", ""))[:12]
    version = (f"weights {weights}" if weights else "") if local else (tag or revision or _commit(directory))
    # The page is too narrow for a whole commit id; the link has.
    shown = version[:12] if re.fullmatch(COMMIT, version) else version
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    card = None if local else endpoint + f"/{name}" + (f"/tree/{version}" if version else "")
    return ModelFacts(
        name=directory.resolve().name if local else name,
        version=shown,
        card=card,
        test_papers=measured.get("papers") if measured.get("split") == "test" else None,
        metrics=metrics if measured.get("split") == "test" else {},
        f1=f1 if measured.get("split") == "test" else {},
        set_coverage=coverage,
    )


def _commit(directory: Path) -> str:
    # The Hub's cache keeps a snapshot in a folder named after its commit.
    return directory.name if re.fullmatch(COMMIT, directory.name) else ""


FULL = 0.3
"""Log-odds that give the full colour at least: where nothing decides, nothing should shine."""
FAINTEST = 0.12
"""Shades below this share of the full colour are left out."""


def shades(words: Sequence[tuple[str, float]]) -> list[tuple[str, float | None]]:
    """What `gr.HighlightedText` shows: (text, shade from -1 against to 1 for, None for no colour).

    The heaviest word has the full colour, unless all are light. White space between words has none, and
    neighbours without colour are one piece. Joined, the pieces are the text.

    Args:
        words: what `attribute` gives.
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
    lines = [f"<p>{escape(_printable(line))}</p>" for sentence in sentences for line in sentence.splitlines()]
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
    sentences = []
    if not whole:
        sentences.append(
            "The model learned from titles with abstracts: with only one of them it is less sure."
        )
    if prediction.truncated:
        sentences.append(
            f"The text is longer than the model reads ({max_length} tokens): its end was left out."
        )
    outside = scope_sentence(prediction, labels)
    certain = "" if outside else set_sentence(prediction)
    return notice("warning", outside) + notice("plain", certain, *sentences)


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
    sentences = [
        f"It knows {len(labels)} categories and no others; a paper has several on arXiv, the model names the "
        "primary one.",
        "It learned from English titles and abstracts. Authors choose categories by habit as well as by "
        "content, and the model has learned their habits.",
    ]
    if facts.f1:
        worst = min(facts.f1, key=lambda label: facts.f1[label])
        sentences.append(
            f"It is weakest on {full_name(worst)}: F1 {100 * facts.f1[worst]:.1f}% on the test papers."
        )
    if facts.set_coverage is not None:
        sentences.append(
            "“90% certainty” is an average over papers: on the test papers the set held the right category "
            f"{100 * facts.set_coverage:.1f}% of the time, in some categories more often than in others."
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
