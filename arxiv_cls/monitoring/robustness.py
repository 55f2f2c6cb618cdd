"""How much accuracy a model loses on changed texts, and whether the drift check would notice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from arxiv_cls import __version__
from arxiv_cls.corpus.taxonomy import archive_of
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ScopeRule
from arxiv_cls.models.text_features import TEXT_FEATURES, text_features
from arxiv_cls.monitoring.drift import ALARM, WINDOW, DriftTest, verdict_of
from arxiv_cls.monitoring.perturbations import PERTURBATIONS, near_scope, perturbed
from arxiv_cls.monitoring.windows import severity_of
from arxiv_cls.record.files import update_file, write_json
from arxiv_cls.record.manifest import METRICS, ROBUSTNESS, ROBUSTNESS_PLOT
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.scoring.intervals import paired_bootstrap
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.plots import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from arxiv_cls.scoring.reference import Reference, Rows, tokens_per_word
from arxiv_cls.scoring.scored_papers import load_model_and_corpus, score_papers, texts_of

SCHEMA_VERSION = 1
SEVERITIES = (0.1, 0.3, 0.5)
NEAR_ARCHIVES = ("cs", "stat", "eess")
NEAR_PAPERS = 500
# Runs of two windows that tell how often the drift check alarms.
RUNS = 40
FEWEST_PAPERS = 2 * WINDOW


def rows_of(predictor: Any, texts: list[str], scores: np.ndarray, scope: ScopeRule | None) -> Rows:
    """What the request log would hold of texts that were scored."""
    features = [text_features(text) for text in texts]
    counts = np.array([[row[name] for name in TEXT_FEATURES] for row in features], dtype=np.float64)
    tokens = np.array([np.nan if item.truncated else item.tokens for item in predictor.encode(texts)])
    per_word = tokens_per_word(tokens, counts[:, TEXT_FEATURES.index("words")])
    in_scope = np.full(len(texts), np.nan)
    if scope is not None:
        in_scope = (scope.scores(texts) >= scope.threshold).astype(np.float64)
    return Rows(scores, np.column_stack([counts, per_word]), in_scope)


def measure_robustness(
    model: str | Path,
    *,
    severities: tuple[float, ...] = SEVERITIES,
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
        out: folder for robustness.json and robustness.png; by default `monitoring/` of a local directory.

    Returns:
        What robustness.json holds: `changes`, one per change and severity: {change, severity, accuracy,
        macro_f1, accuracy_change and macro_f1_change as [difference, low, high], risk (low, moderate, high),
        noticed (share of runs of two windows of 300 in which the drift check alarms)}.

    Raises:
        UserError: a severity that is none, too few papers, or model or data cannot be had.
    """
    wrong = [severity for severity in severities if not 0 < severity <= 1]
    if wrong or not severities:
        raise UserError(f"--severity {wrong or ''}: shares above 0 and at most 1, such as 0.1,0.3,0.5")
    loaded = load_model_and_corpus(model, data, engine)
    predictor, corpus = loaded.predictor, loaded.corpus
    test = corpus.splits["test"]
    test = test.select(range(min(papers or len(test), len(test))))
    scored = score_papers(predictor, test, corpus.labels)
    texts, labels, names = list(test["text"]), scored.labels, list(predictor.labels)
    scope = predictor.scope_rule
    before = rows_of(predictor, texts, scored.probabilities, scope)
    changes = dict(PERTURBATIONS)
    if others := _near_texts(corpus, names):
        changes["near-scope sentences"] = near_scope(others)
    found = []
    for name, change in changes.items():
        for severity in severities:
            after_texts = perturbed(texts, change, severity, seed)
            after = np.asarray(predictor.predict_proba(after_texts))
            metrics = compute_metrics(labels, after, names)
            differences = paired_bootstrap(labels, scored.probabilities, after, names)
            rows = rows_of(predictor, after_texts, after, scope)
            found.append(
                {
                    "change": name,
                    "severity": severity,
                    "accuracy": metrics["accuracy"],
                    "macro_f1": metrics["macro_f1"],
                    **{
                        f"{metric}_change": list(differences[metric][:3])
                        for metric in ("accuracy", "macro_f1")
                    },
                    "risk": severity_of(-differences["accuracy"].difference),
                    "noticed": alarm_rate(before, rows, labels, names, seed),
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
        "accuracy": metrics["accuracy"],
        "macro_f1": metrics["macro_f1"],
        "changes": found,
    }
    _write(record, Path(model), out)
    return record


def _write(record: dict[str, Any], model: Path, out: Path | None) -> None:
    if out is None and model.is_dir() and record["engine"] in ("torch", "tfidf"):
        write_json(record, model / ROBUSTNESS)
        plot_robustness(record, model / ROBUSTNESS_PLOT)
        if "files" in (read_model_file(model, METRICS) or {}):
            update_file(model, ROBUSTNESS)
            update_file(model, ROBUSTNESS_PLOT)
    elif out is not None:
        write_json(record, out / Path(ROBUSTNESS).name)
        plot_robustness(record, out / Path(ROBUSTNESS_PLOT).name)


def _near_texts(corpus: Any, names: list[str]) -> list[str]:
    """Texts of papers that the label set leaves out, of neighbouring archives."""
    table = corpus.outside_papers()
    near = [
        row for row, code in enumerate(table["category"].to_pylist())
        if archive_of(code) in NEAR_ARCHIVES and archive_of(code) not in names
    ][:NEAR_PAPERS]  # fmt: skip
    return texts_of(table.take(near)) if near else []


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


def plot_robustness(record: dict[str, Any], path: Path) -> None:
    """Accuracy by severity, a line per change."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colours = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
    for at, name in enumerate(dict.fromkeys(entry["change"] for entry in record["changes"])):
        entries = [entry for entry in record["changes"] if entry["change"] == name]
        axes.plot(
            [0, *(entry["severity"] for entry in entries)],
            [record["accuracy"], *(entry["accuracy"] for entry in entries)],
            color=colours[at % 6], linestyle="-" if at < 6 else "--", marker="o", markersize=3, label=name,
        )  # fmt: skip
    axes.set_xlabel("severity")
    axes.set_ylabel("accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
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
