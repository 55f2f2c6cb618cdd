"""Slices of an evaluation: where does the model do worse than on the whole?"""

from __future__ import annotations

import itertools
import logging
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.record.checksums import METRICS, file_sha256, write_step_record
from arxiv_cls.record.writing import write_json
from arxiv_cls.scoring.calibration import ECE_BINS, chance_calibration_errors
from arxiv_cls.scoring.intervals import RESAMPLES, bootstrap_intervals
from arxiv_cls.scoring.metrics import SCALAR_METRICS, compute_metrics, confusion_matrix, f1_from_counts
from arxiv_cls.scoring.plots import (
    plot_accuracy_by_year,
    plot_confusion_matrix,
    plot_reliability,
    wilson_interval,
)
from arxiv_cls.scoring.scored_papers import (
    ScoredPapers,
    SeenPapers,
    data_record,
    load_model_and_corpus,
    score_papers,
    seen_papers,
    word_counts,
    write_predictions,
)

# Below this many papers an accuracy says little (its 95% interval is over 0.3 wide): years are pooled.
SMALLEST_SLICE = 30
WORD_EDGES = (100, 150, 200, 250)


def slice_metrics(scored: ScoredPapers, chosen: np.ndarray) -> dict[str, Any]:
    """Size, accuracy with its Wilson interval, and macro-F1 of some of the papers.

    Args:
        scored: the papers.
        chosen: (n,) mask with at least one paper.
    """
    labels, predicted = scored.labels[chosen], scored.predicted[chosen]
    matrix = confusion_matrix(labels, predicted, len(scored.label_names))
    hits = np.diagonal(matrix)
    low, high = wilson_interval(hits.sum(), matrix.sum())
    macro_f1 = f1_from_counts(hits, matrix.sum(axis=1), matrix.sum(axis=0))["macro_f1"]
    return {
        "n": len(labels),
        "accuracy": float(hits.sum() / len(labels)),
        "accuracy_interval": [float(low), float(high)],
        "macro_f1": float(macro_f1),
    }


def pooled_years(years: np.ndarray, smallest: int = SMALLEST_SLICE) -> list[tuple[int, int]]:
    """Runs of years, first and last, of at least `smallest` papers each where there are so many.

    Earliest first; a rest that is too small joins the run before it.
    """
    found, counts = np.unique(years, return_counts=True)
    runs: list[tuple[int, int]] = []
    first, papers = None, 0
    for year, count in zip(found.tolist(), counts.tolist(), strict=True):
        first = year if first is None else first
        papers += count
        if papers >= smallest:
            runs.append((first, year))
            first, papers = None, 0
    if first is not None:
        last = int(found[-1])
        runs = [*runs[:-1], (runs[-1][0], last)] if runs else [(first, last)]
    return runs


def slices_by_year(scored: ScoredPapers) -> dict[str, dict[str, Any]]:
    """`slice_metrics` of each run of years, earliest first; keys such as `1993-2001` and `2015`.

    Papers without a date are in none.
    """
    return {
        str(first) if first == last else f"{first}-{last}": slice_metrics(
            scored, (scored.years >= first) & (scored.years <= last)
        )
        for first, last in pooled_years(scored.years[scored.years > 0])
    }


def slices_by_words(scored: ScoredPapers) -> dict[str, dict[str, Any]]:
    """`slice_metrics` by the number of words of title and abstract; lengths without papers are left out."""
    place = np.searchsorted(WORD_EDGES, scored.words, side="right")
    names = [
        f"under {WORD_EDGES[0]}",
        *(f"{low} to {high - 1}" for low, high in itertools.pairwise(WORD_EDGES)),
        f"{WORD_EDGES[-1]} and more",
    ]
    return {
        name: slice_metrics(scored, place == number)
        for number, name in enumerate(names)
        if (place == number).any()
    }


SCHEMA_VERSION = 1
SPLITS = ("train", "validation", "test")
BOOTSTRAP_SEED = 0
_CHANCE_SIMULATIONS = 1000


def evaluation_of(
    scored: ScoredPapers, seed: int = BOOTSTRAP_SEED, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The part of `metrics.json` that follows from the scores alone.

    Args:
        scored: the papers.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    metrics = compute_metrics(scored.labels, scored.probabilities, scored.label_names)
    by_chance = chance_calibration_errors(scored.probabilities, simulations=_CHANCE_SIMULATIONS)
    as_large = int((by_chance >= metrics["expected_calibration_error"]).sum())
    intervals = bootstrap_intervals(scored.labels, scored.probabilities, scored.label_names, seed, resamples)
    return {
        "papers": len(scored),
        "resamples": resamples,
        "confidence": 0.95,
        "seed": seed,
        "metrics": metrics,
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "calibration": {
            "bins": ECE_BINS,
            "chance_mean": float(by_chance.mean()),
            "chance_upper": float(np.quantile(by_chance, 0.95)),
            "p_value": (as_large + 1) / (len(by_chance) + 1),
        },
        "slices": {"year": slices_by_year(scored), "words": slices_by_words(scored)},
    }


def library_versions() -> dict[str, str]:
    """What computed the figures; libraries that this process did not load are left out."""
    libraries = {
        "numpy": "numpy", "sklearn": "scikit-learn", "xgboost": "xgboost",
        "torch": "torch", "transformers": "transformers", "onnxruntime": "onnxruntime",
    }  # fmt: skip
    loaded = {
        name: str(getattr(sys.modules[name], "__version__", "")) for name in libraries if name in sys.modules
    }
    return {
        "arxiv_cls": __version__,
        "python": platform.python_version(),
        "scipy": version("scipy"),
        **loaded,
    }


def write_plots(scored: ScoredPapers, slices: dict[str, Any], folder: Path) -> list[Path]:
    """Confusion matrix, reliability diagram and accuracy by year where dates are known; their paths."""
    matrix = confusion_matrix(scored.labels, scored.predicted, len(scored.label_names))
    paths = [folder / "confusion_matrix.png", folder / "reliability.png"]
    plot_confusion_matrix(matrix, scored.label_names, paths[0])
    plot_reliability(scored.probabilities, scored.labels, paths[1])
    if slices["year"]:
        paths.append(folder / "accuracy_by_year.png")
        plot_accuracy_by_year(slices["year"], paths[2])
    return paths


def log_to_wandb(evaluation: dict[str, Any], plots: list[Path]) -> None:
    """Adds figures and plots to the open W&B run; does nothing, and imports nothing, when there is none."""
    wandb = sys.modules.get("wandb")
    run = getattr(wandb, "run", None)
    if wandb is None or run is None:
        return
    name = evaluation["split"] or "csv"
    for metric in SCALAR_METRICS:
        run.summary[f"{name}/{metric}"] = evaluation["metrics"][metric]
    for label, scores in evaluation["metrics"]["per_class"].items():
        run.summary[f"{name}/f1/{label}"] = scores["f1"]
    if plots:
        run.log({f"{name}/{path.stem}": wandb.Image(str(path)) for path in plots})


def hand_over(
    evaluation: dict[str, Any], scored: ScoredPapers, folder: Path | None, *, record: bool = True
) -> None:
    """Gives an evaluation to the open W&B run, if any, and writes it where there is a folder.

    Predictions and plots are written first and `metrics.json` last: when it is there, the rest is.

    Args:
        evaluation: what `metrics.json` holds.
        scored: the papers.
        folder: None writes nothing.
        record: False leaves `metrics.json` to the caller, who writes more files before it.
    """
    plots = []
    if folder is not None:
        write_predictions(scored, folder / "predictions.parquet")
        plots = write_plots(scored, evaluation["slices"], folder)
        if record:
            write_json(evaluation, folder / "metrics.json")
    log_to_wandb(evaluation, plots)


def computes_the_weights(predictor: Any) -> bool:
    """Whether an engine computes with the weights of the model directory, and not with an export of them."""
    return predictor.engine in ("torch", "tfidf")


def refuse_own_folder(model: str | Path, out: str | Path | None) -> None:
    """Keeps the weights' own evaluation of the test split from being overwritten by another one.

    Raises:
        UserError: when `out` is the `eval/` folder of the model.
    """
    if out is not None and Path(out).resolve() == (Path(model) / "eval").resolve():
        raise UserError(
            f"{out} holds the evaluation of the model's test split", hint="name another folder with --out"
        )


def evaluate_model(
    model: str | Path,
    *,
    split: str = "test",
    csv: str | Path | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    engine: str | None = None,
    rules: bool = True,
    progress: bool = False,
) -> dict[str, Any]:
    """Scores a split of the model's own data, or every paper of a file.

    Args:
        model: directory or Hub id; both kinds of model.
        split: `train`, `validation` or `test`; not used with `csv`.
        csv: a file in the schema of the data; its papers are scored instead of a split.
        data: the file that the model's splits are rebuilt from; None for the path that its recipe names.
        out: folder for metrics.json, predictions.parquet and the plots. By default the test split goes to
            `eval/` of a local model directory; nothing else is written unless a folder is named.
        engine: what computes a transformer, "torch", "onnx" or "int8"; None for torch. `eval/` belongs to the
            weights, so an evaluation by an ONNX engine goes only to the folder that `out` names.
        rules: with the test split and the default folder, also fit prediction sets and the out-of-scope
            threshold on the validation split and write them beside the metrics.
        progress: show bars.

    Returns:
        What `metrics.json` holds: `papers`, `metrics`, `intervals`, `calibration`, `slices`, `data`,
        `weights_sha256`, `data_sha256` and the rest; with `csv` also `csv` (rows not scored, papers that
        were trained on). Fitted rules stand under `rules`, which is not in the file.

    Raises:
        UserError: when model, recipe or data cannot be had or do not fit together.
    """
    if csv is not None:
        return evaluate_csv(model, csv, out=out, engine=engine, progress=progress)
    if split not in SPLITS:
        raise UserError(f"no split {split!r}", hint=f"name one of {', '.join(SPLITS)}")
    if split != "test":
        refuse_own_folder(model, out)
    predictor, _, corpus, options = load_model_and_corpus(model, data, engine)
    if not computes_the_weights(predictor):
        refuse_own_folder(model, out)
    scored = score_papers(predictor, corpus.splits[split], corpus.labels, progress=progress)
    evaluation = {
        "schema_version": SCHEMA_VERSION,
        "kind": predictor.kind,
        "engine": predictor.engine,
        "labels": list(predictor.labels),
        "split": split,
        "data": data_record(corpus.data, options),
        "data_sha256": corpus.data.sha256,
        "weights_sha256": file_sha256(Path(predictor.weights_path)),
        **evaluation_of(scored),
        "versions": library_versions(),
    }
    own_folder = split == "test" and out is None and Path(model).is_dir() and computes_the_weights(predictor)
    folder = Path(model) / "eval" if own_folder else Path(out) if out is not None else None
    if not own_folder or folder is None:
        hand_over(evaluation, scored, folder)
        return evaluation
    from arxiv_cls.scoring.decision_rules import drop_stale_rules, fit_rules

    hand_over(evaluation, scored, folder, record=False)
    drop_stale_rules(folder, evaluation["weights_sha256"])
    fitted = fit_rules(predictor, corpus, scored, folder, progress=progress) if rules else None
    known = {Path(predictor.weights_path).name: evaluation["weights_sha256"]}
    evaluation = write_step_record(evaluation, folder.parent, METRICS, known)
    return evaluation | ({} if fitted is None else {"rules": fitted})


logger = logging.getLogger(__name__)

ROWS_AT_A_TIME = 4096
# A row needs a text to be scored and a category to be right or wrong; id and date are used where given.
REQUIRED = ("title", "abstract", "category")
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows of a file."""

    read: int
    rejected: dict[str, int]  # rows that cannot be used, by reason
    other_labels: dict[str, int]  # rows whose category the model does not have, by category
    scored: int


def true_columns(categories: list[str], label_names: list[str]) -> np.ndarray:
    """The model's column of each category, -1 where it has none.

    A model whose labels are archives (`cs`, `physics`) gets the archive of the category.
    """
    from arxiv_cls.corpus.taxonomy import archive_of

    column_of = {name: column for column, name in enumerate(label_names)}
    known = {
        category: column_of.get(category, column_of.get(archive_of(category), -1))
        for category in set(categories)
    }
    return np.fromiter((known[category] for category in categories), dtype=np.int64, count=len(categories))


def score_csv(
    predictor: Any, csv: str | Path, *, progress: bool = False
) -> tuple[ScoredPapers, RowCounts, Any]:
    """Scores the rows of a file whose category is one of the model's labels.

    Versions of a paper are rows of their own here: the file is scored as it stands. Beside the file's own
    text only one batch of texts is held, so a file of 136,000 rows stays far below 2 GB.

    Args:
        predictor: any `Predictor`.
        csv: a file in the schema of the data, in either export's column names.
        progress: show a bar.

    Returns:
        The scored rows (no date and id "" where the file gives none), the counts, and
        the file's `DataVersion`.

    Raises:
        UserError: when the file cannot be read or no row has a label of the model.
    """
    from tqdm import tqdm

    from arxiv_cls.corpus.papers import read_papers

    papers = read_papers(csv, required=REQUIRED)
    categories = papers.table["category"].to_pylist()
    columns = true_columns(categories, predictor.labels)
    rows = np.flatnonzero(columns >= 0)
    unknown, counts = np.unique(
        np.asarray(categories, dtype=object)[columns < 0].astype(str), return_counts=True
    )
    order = np.lexsort((unknown, -counts))
    found = RowCounts(
        read=papers.rows_read,
        rejected=papers.rejected_by_reason(),
        other_labels={str(unknown[place]): int(counts[place]) for place in order},
        scored=len(rows),
    )
    if len(rows) == 0:
        raise UserError(
            f"{csv}: none of its {papers.rows_read:,} rows has a label of the model",
            hint=f"the model knows {', '.join(predictor.labels[:20])}",
        )
    # Only the rows to score, and only the columns that scoring needs, stay in memory.
    table = papers.table.select(["arxiv_id", "title", "abstract", "published"]).take(rows)
    version = papers.version
    del papers, categories
    probabilities = np.empty((len(rows), len(predictor.labels)))
    words = np.empty(len(rows), dtype=np.int64)
    with tqdm(total=len(rows), desc="scoring", unit=" papers", disable=not progress) as bar:
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            part = table.slice(first, ROWS_AT_A_TIME)
            pairs = zip(part["title"].to_pylist(), part["abstract"].to_pylist(), strict=True)
            texts = [f"{title}\n\n{abstract}" for title, abstract in pairs]
            probabilities[first : first + len(texts)] = predictor.predict_proba(texts)
            words[first : first + len(texts)] = word_counts(texts)
            bar.update(len(texts))
    scored = ScoredPapers(
        label_names=list(predictor.labels),
        arxiv_ids=np.asarray([name or "" for name in table["arxiv_id"].to_pylist()], dtype=object),
        labels=columns[rows],
        probabilities=probabilities,
        published=np.asarray(table["published"].to_pylist(), dtype="datetime64[D]"),
        words=words,
    )
    return scored, found, version


def evaluate_csv(
    model: str | Path,
    csv: str | Path,
    *,
    out: str | Path | None = None,
    engine: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluates a model on a file; see `evaluate_model`.

    Args:
        model: directory or Hub id.
        csv: the file.
        out: folder to write to; None writes nothing. The `eval/` folder of the model keeps its test split.
        engine: what computes a transformer; None for torch.
        progress: show a bar.

    Returns:
        What `evaluate_model` returns, with `split` null and `csv`: {rows_read, rows_scored, rejected,
        other_labels, in_training_split, in_training_split_exact}; the last two are null when the model has
        no recipe, and the number is an upper bound unless the last is true.

    Raises:
        UserError: when model or file cannot be used, or `out` is the model's own `eval/`.
    """
    from arxiv_cls.models.predictor import load_predictor

    refuse_own_folder(model, out)
    predictor = load_predictor(model, engine=engine)
    model_dir = Path(predictor.directory)
    scored, counts, version = score_csv(predictor, csv, progress=progress)
    seen = seen_papers(model_dir, scored.arxiv_ids, scored.published, csv)
    evaluation = {
        "schema_version": SCHEMA_VERSION,
        "kind": predictor.kind,
        "engine": predictor.engine,
        "labels": list(predictor.labels),
        "split": None,
        "data": data_record(version, {"csv": str(csv), "config": None, "split": None, "seed": None}),
        "data_sha256": version.sha256,
        "weights_sha256": file_sha256(Path(predictor.weights_path)),
        **evaluation_of(scored),
        "csv": {
            "rows_read": counts.read,
            "rows_scored": counts.scored,
            "rejected": counts.rejected,
            "other_labels": counts.other_labels,
            "in_training_split": None if seen is None else seen.count,
            "in_training_split_exact": None if seen is None else seen.exact,
        },
        "versions": library_versions(),
    }
    _warn(counts, seen)
    hand_over(evaluation, scored, None if out is None else Path(out))
    return evaluation


def _warn(counts: RowCounts, seen: SeenPapers | None) -> None:
    if seen is None:
        logger.warning("the model has no recipe.yaml: whether it was trained on these papers is not known")
    elif seen.count:
        logger.warning(
            "%s%s of the %s scored papers belong to the model's own training split: the figures %s too good",
            "" if seen.exact else "up to ",
            f"{seen.count:,}",
            f"{counts.scored:,}",
            "are" if seen.exact else "may be",
        )
    if counts.rejected:
        rows = f"{sum(counts.rejected.values()):,}"
        logger.warning("%s rows cannot be used: %s", rows, _counted(counts.rejected))
    if counts.other_labels:
        logger.warning(
            "%s rows have a label that the model does not have (%s): not scored",
            f"{sum(counts.other_labels.values()):,}",
            _counted(counts.other_labels),
        )


def _counted(counts: dict[str, int]) -> str:
    """The first few names with their numbers, and how many more names there are."""
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:NAMED_AT_MOST])
    more = len(counts) - NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown
