"""How much accuracy a model loses on changed texts, and whether the drift check would notice.

A change takes a text (title, blank line, abstract, as the model was trained on), a severity from 0 to 1 and a
random generator. The severity is the share of words (or sentences) that change; of changes that a text has or
has not, the share of texts that have it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from arxiv_cls import __version__
from arxiv_cls.corpus.taxonomy import archive_of
from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.drift import ALARM, WINDOW, DriftTest, verdict_of
from arxiv_cls.monitoring.windows import severity_of
from arxiv_cls.record.files import update_file, write_json
from arxiv_cls.record.manifest import METRICS, ROBUSTNESS, ROBUSTNESS_PLOT
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.scoring import plots
from arxiv_cls.scoring.intervals import paired_bootstrap
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.reference import Reference, Rows, refuse_multi_label, rows_of
from arxiv_cls.scoring.scored_papers import load_model_and_corpus, score_papers, texts_of

SCHEMA_VERSION = 1
NEAR_ARCHIVES = ("cs", "stat", "eess")
NEAR_PAPERS = 500
MEASURED = ("accuracy", "macro_f1")
# Runs of two windows that tell how often the drift check alarms.
RUNS = 40
FEWEST_PAPERS = 2 * WINDOW

Change = Callable[[str, float, random.Random], str]
SENTENCE_END = re.compile(r"(?<=[.!?])\s")
LATEX = (
    r"$\mathcal{L}(\theta)=\sum_{i=1}^{n}\ell(x_i)$", r"\emph{see} \cite{smith2015}",
    r"\textbf{state of the art}", r"$O(n \log n)$",
)  # fmt: skip
HTML = ("<p>", "</p>", "<br/>", "<i>et al.</i>", "&nbsp;", "&lt;", '<a href="#ref1">[1]</a>')
# Phrases of fields that the label sets of computer science leave out.
DOMAIN_PHRASES = (
    "in patients with type 2 diabetes", "the magnetic field of the galaxy", "of the stock market index",
    "gene expression in tumour cells", "the boundary of the manifold", "at room temperature",
    "a randomised controlled trial", "the Hubble constant",
)  # fmt: skip


def _parts(text: str) -> tuple[str, str]:
    """The title with the blank line, and the abstract; a text without a blank line is an abstract."""
    title, blank, abstract = text.partition("\n\n")
    return (title + blank, abstract) if blank else ("", title)


def of_words(change: Callable[[str, random.Random], str]) -> Change:
    """Changes words; the white space stays, and a text of which nothing is left stays as it is."""

    def changed(text: str, severity: float, draw: random.Random) -> str:
        parts = re.split(r"(\s+)", text)
        after = (change(one, draw) if one.strip() and draw.random() < severity else one for one in parts)
        return "".join(after).strip() or text

    return changed


def of_sentences(change: Callable[[str, random.Random], str]) -> Change:
    """Changes sentences of the abstract."""

    def changed(text: str, severity: float, draw: random.Random) -> str:
        title, abstract = _parts(text)
        sentences = SENTENCE_END.split(abstract)
        return title + " ".join(change(one, draw) if draw.random() < severity else one for one in sentences)

    return changed


def of_texts(change: Callable[[str], str]) -> Change:
    """Changes whole texts; one of which nothing is left stays as it is."""

    def changed(text: str, severity: float, draw: random.Random) -> str:
        after = change(text) if draw.random() < severity else text
        return after if after.strip() else text

    return changed


def _letters_swapped(word: str, draw: random.Random) -> str:
    if len(word) < 3:
        return word
    at = draw.randrange(len(word) - 1)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _first_sentence(text: str) -> str:
    title, abstract = _parts(text)
    return title + SENTENCE_END.split(abstract.strip(), maxsplit=1)[0]


def _abstract_truncated(text: str, severity: float, draw: random.Random) -> str:
    title, abstract = _parts(text)
    words = abstract.split()
    return title + " ".join(words[: max(1, round(len(words) * (1 - severity)))])


def near_scope(others: Sequence[str]) -> Change:
    """A change: sentences are those of papers of neighbouring fields."""
    sentences = [one for text in others for one in SENTENCE_END.split(_parts(text)[1]) if one.strip()]
    return of_sentences(lambda one, draw: draw.choice(sentences))


CHANGES: dict[str, Change] = {
    "words dropped": of_words(lambda word, draw: ""),
    "words masked": of_words(lambda word, draw: "[MASK]"),
    "domain phrases": of_sentences(lambda one, draw: f"{one} {draw.choice(DOMAIN_PHRASES)}"),
    "abstract truncated": _abstract_truncated,
    "one sentence": of_texts(_first_sentence),
    "title missing": of_texts(lambda text: _parts(text)[1]),
    "LaTeX": of_sentences(lambda one, draw: f"{one} {draw.choice(LATEX)}"),
    "HTML": of_sentences(lambda one, draw: f"{draw.choice(HTML)}{one}{draw.choice(HTML)}"),
    "typos": of_words(_letters_swapped),
    "upper case": of_texts(str.upper),
}


def changed(texts: Sequence[str], change: Change, severity: float, seed: int) -> list[str]:
    """The texts after a change; each has a generator of its own, so that their order does not matter."""
    return [change(text, severity, random.Random(f"{seed}:{text}")) for text in texts]


def measure_robustness(
    model: str | Path,
    *,
    severities: Sequence[float],
    seed: int = 42,
    papers: int | None = None,
    data: str | Path | None = None,
    engine: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Scores the test split after each change and compares with the split as it is.

    Args:
        model: directory or Hub id.
        severities: of each change, above 0 and at most 1.
        seed: of the changes.
        papers: at most so many test papers, in the order of the split; None for all.
        data: the file that the splits come from; None for the path that the recipe names.
        engine: what computes a transformer.
        out: folder for robustness.json and robustness.png; by default `released_folder`.

    Returns:
        What robustness.json holds. `changes` has an entry per change and severity: accuracy, macro-F1, their
        change as [difference, low, high], risk, and the share of `alarm_rate` as `noticed`.

    Raises:
        UserError: a severity that is none, or model or data cannot be had.
    """
    if not severities or not all(0 < severity <= 1 for severity in severities):
        given = ",".join(f"{severity:g}" for severity in severities)
        raise UserError(f"--severity {given}: shares above 0 and at most 1, such as 0.1,0.3,0.5")
    loaded = load_model_and_corpus(model, data, engine)
    refuse_multi_label(loaded.directory)
    predictor, corpus = loaded.predictor, loaded.corpus
    test = corpus.splits["test"]
    test = test.select(range(min(papers or len(test), len(test))))
    scored = score_papers(predictor, test, corpus.labels)
    texts, labels, names = list(test["text"]), scored.labels, list(predictor.labels)
    rows = rows_of(predictor.encode(texts), scored.probabilities, predictor.scope_rule)
    changes = dict(CHANGES)
    if others := _near_texts(corpus, names):
        changes["near-scope sentences"] = near_scope(others)
    found = []
    cases = [(name, severity) for name in changes for severity in severities]
    for name, severity in tqdm(cases, desc="robustness", unit="change", disable=None):
        after_texts = changed(texts, changes[name], severity, seed)
        after = np.asarray(predictor.predict_proba(after_texts))
        metrics = compute_metrics(labels, after, names)
        differences = paired_bootstrap(labels, scored.probabilities, after, names)
        after_rows = rows_of(predictor.encode(after_texts), after, predictor.scope_rule)
        found.append(
            {
                "change": name,
                "severity": severity,
                **{metric: metrics[metric] for metric in MEASURED},
                **{f"{metric}_change": list(differences[metric][:3]) for metric in MEASURED},
                "risk": severity_of(-differences["accuracy"].difference),
                "noticed": alarm_rate(rows, after_rows, labels, names, seed),
            }
        )
    metrics = compute_metrics(labels, scored.probabilities, names)
    record = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": __version__,
        "model": str(model),
        "engine": predictor.engine,
        "weights_sha256": loaded.weights_sha256,
        "data_sha256": corpus.data.sha256,
        "papers": len(texts),
        "seed": seed,
        "window": WINDOW,
        **{metric: metrics[metric] for metric in MEASURED},
        "changes": found,
    }
    if folder := out or released_folder(model, predictor.engine):
        write_json(record, folder / Path(ROBUSTNESS).name)
        _plot(record, folder / Path(ROBUSTNESS_PLOT).name)
    if folder and not out and "files" in (read_model_file(loaded.directory, METRICS) or {}):
        update_file(loaded.directory, ROBUSTNESS)
        update_file(loaded.directory, ROBUSTNESS_PLOT)
    return record


def released_folder(model: str | Path, engine: str) -> Path | None:
    """`monitoring/` of a local directory; None for an export's engine, which is not what is released."""
    return Path(model) / "monitoring" if Path(model).is_dir() and engine in ("torch", "tfidf") else None


def _near_texts(corpus: Any, names: list[str]) -> list[str]:
    """Texts of papers that the label set leaves out, of neighbouring archives."""
    table = corpus.outside_papers()
    archives = [archive_of(code) for code in table["category"].to_pylist()]
    near = [row for row, name in enumerate(archives) if name in NEAR_ARCHIVES and name not in names]
    return texts_of(table.take(near[:NEAR_PAPERS])) if near else []


def alarm_rate(before: Rows, after: Rows, labels: np.ndarray, names: list[str], seed: int) -> float | None:
    """In how many of `RUNS` runs two windows of changed texts end in an alarm; None for too few papers.

    The papers of the windows are not in the reference, as production's are not.
    """
    if len(after) <= FEWEST_PAPERS:
        return None
    generator = np.random.default_rng(seed)
    alarms = 0
    for _ in range(RUNS):
        order = generator.permutation(len(after))
        rest = order[FEWEST_PAPERS:]
        test = DriftTest(Reference(names, before.take(rest), labels[rest], {}, ""))
        first, second = (test(after.take(order[start : start + WINDOW])).p for start in (0, WINDOW))
        alarms += ALARM in (verdict_of(first, None), verdict_of(second, first))
    return alarms / RUNS


def _plot(record: dict[str, Any], path: Path) -> None:
    """Accuracy by severity, a line per change."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colours = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.VERMILION, plots.PURPLE, plots.SKY)
    for at, name in enumerate(dict.fromkeys(entry["change"] for entry in record["changes"])):
        entries = [entry for entry in record["changes"] if entry["change"] == name]
        axes.plot(
            [0, *(entry["severity"] for entry in entries)],
            [record["accuracy"], *(entry["accuracy"] for entry in entries)],
            color=colours[at % 6], linestyle="-" if at < 6 else "--", marker="o", markersize=3, label=name,
        )  # fmt: skip
    axes.set(xlabel="severity", ylabel="accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def robustness_table(record: dict[str, Any]) -> str:
    """What was measured, for the terminal."""
    lines = [
        f"{record['papers']:,} test papers: accuracy {record['accuracy']:.3f}, "
        f"macro-F1 {record['macro_f1']:.3f}",
        "  change                severity  accuracy  change (95%)                macro-F1  risk      noticed",
    ]
    for entry in record["changes"]:
        difference, low, high = entry["accuracy_change"]
        noticed = "-" if entry["noticed"] is None else f"{entry['noticed']:.0%}"
        lines.append(
            f"  {entry['change']:<20}  {entry['severity']:>8g}  {entry['accuracy']:>8.3f}  "
            f"{difference:+.3f} ({low:+.3f} to {high:+.3f})  {entry['macro_f1']:>9.3f}  {entry['risk']:<8}  "
            f"{noticed:>7}"
        )
    return "\n".join(lines)
