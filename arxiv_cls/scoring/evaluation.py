"""Evaluation of a model on a split or a CSV: metrics with intervals, calibration, slices, plots, records."""

from __future__ import annotations

import itertools
import logging
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import set_members
from arxiv_cls.record.files import file_sha256, write_json, write_step_record
from arxiv_cls.record.manifest import METRICS as METRICS_FILE
from arxiv_cls.record.model_files import Record, read_record
from arxiv_cls.scoring import out_of_scope
from arxiv_cls.scoring.calibration import ECE_BINS, chance_calibration_errors, coverage_threshold
from arxiv_cls.scoring.intervals import CONFIDENCE, RESAMPLES, bootstrap_intervals, wilson_interval
from arxiv_cls.scoring.metrics import METRICS, compute_metrics, confusion_matrix, counts_of, macro_f1
from arxiv_cls.scoring.out_of_scope import MOST_TRAINING_PAPERS, outside_papers
from arxiv_cls.scoring.plots import (
    plot_accuracy_by_year,
    plot_confusion_matrix,
    plot_out_of_scope,
    plot_reliability,
)
from arxiv_cls.scoring.scored_papers import (
    LoadedModel,
    Predictions,
    ScoredPapers,
    data_record,
    load_model_and_corpus,
    score_csv,
    score_papers,
    training_papers,
    write_predictions,
)

SCHEMA_VERSION = 2  # 1 had no checksums
BOOTSTRAP_SEED = 0
_CHANCE_SIMULATIONS = 1000
# Below this many papers an accuracy says little (its 95% interval is over 0.3 wide): years are pooled.
SMALLEST_SLICE = 30
WORD_EDGES = (100, 150, 200, 250)
COVERAGES = (0.8, 0.9, 0.95)
NAMED_AT_MOST = 5
# What is fitted on the validation split, each record with the plot that shows it.
FITTED_FILES = (("prediction_sets.json",), ("scope.json", "out_of_scope.png"))

logger = logging.getLogger(__name__)


def slice_metrics(scored: ScoredPapers, chosen: np.ndarray) -> dict[str, Any]:
    """{n, accuracy, accuracy_interval (Wilson, 95%), macro_f1} of the papers of a mask, at least one."""
    labels, predicted = scored.labels[chosen], scored.predicted[chosen]
    counts = counts_of(confusion_matrix(labels, predicted, len(scored.label_names)))
    hits = int(counts[0].sum())
    return {
        "n": len(labels),
        "accuracy": hits / len(labels),
        "accuracy_interval": list(wilson_interval(hits, len(labels))),
        "macro_f1": float(macro_f1(counts)),
    }


def slices_by_year(scored: ScoredPapers) -> dict[str, dict[str, Any]]:
    """`slice_metrics` of each run of years, earliest first; keys such as `1993-2001` and `2015`.

    A run has at least `SMALLEST_SLICE` papers where there are so many; a rest that is too small joins the
    run before it. Papers without a date are in none.
    """
    found, counts = np.unique(scored.years[scored.years > 0], return_counts=True)
    runs: list[list[int]] = []  # years of each run
    papers = SMALLEST_SLICE
    for year, count in zip(found.tolist(), counts.tolist(), strict=True):
        if papers >= SMALLEST_SLICE:
            runs.append([])
            papers = 0
        runs[-1].append(year)
        papers += count
    if papers < SMALLEST_SLICE and len(runs) > 1:
        last = runs.pop()
        runs[-1] += last
    return {
        f"{years[0]}-{years[-1]}" if len(years) > 1 else str(years[0]): slice_metrics(
            scored, (scored.years >= years[0]) & (scored.years <= years[-1])
        )
        for years in runs
    }


def slices_by_words(scored: ScoredPapers) -> dict[str, dict[str, Any]]:
    """`slice_metrics` by the number of words of title and abstract; lengths without papers are left out."""
    place = np.searchsorted(WORD_EDGES, scored.words, side="right")
    between = (f"{low} to {high - 1}" for low, high in itertools.pairwise(WORD_EDGES))
    names = [f"under {WORD_EDGES[0]}", *between, f"{WORD_EDGES[-1]} and more"]
    return {
        name: slice_metrics(scored, place == number)
        for number, name in enumerate(names)
        if (place == number).any()
    }


def evaluation_of(
    scored: ScoredPapers, seed: int = BOOTSTRAP_SEED, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The part of `metrics.json` that follows from the scores alone."""
    metrics = compute_metrics(scored.labels, scored.probabilities, scored.label_names)
    by_chance = chance_calibration_errors(scored.probabilities, simulations=_CHANCE_SIMULATIONS)
    as_large = int((by_chance >= metrics["expected_calibration_error"]).sum())
    intervals = bootstrap_intervals(scored.labels, scored.probabilities, scored.label_names, seed, resamples)
    return {
        "papers": len(scored),
        "resamples": resamples,
        "confidence": CONFIDENCE,
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
    libraries = ("numpy", "sklearn", "xgboost", "torch", "transformers", "onnxruntime")
    return {
        "arxiv_cls": __version__,
        "python": platform.python_version(),
        "scipy": version("scipy"),
        **{name: str(sys.modules[name].__version__) for name in libraries if name in sys.modules},
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
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is None:
        return
    name = evaluation["split"] or "csv"
    for metric in METRICS:
        run.summary[f"{name}/{metric}"] = evaluation["metrics"][metric]
    for label, scores in evaluation["metrics"]["per_class"].items():
        run.summary[f"{name}/f1/{label}"] = scores["f1"]
    if plots:
        run.log({f"{name}/{path.stem}": sys.modules["wandb"].Image(str(path)) for path in plots})


def write_files(
    evaluation: dict[str, Any], scored: ScoredPapers, folder: Path | None, *, record: bool = True
) -> None:
    """Writes an evaluation to a folder, where there is one, and logs it to the open W&B run, if any.

    Predictions and plots are written first and `metrics.json` last: when it is there, the rest is. With
    `record=False` the caller writes it, after more files.
    """
    plots = []
    if folder is not None:
        write_predictions(scored, folder / "predictions.parquet")
        plots = write_plots(scored, evaluation["slices"], folder)
        if record:
            write_json(evaluation, folder / "metrics.json")
    log_to_wandb(evaluation, plots)


def evaluation_record(
    predictor: Any, weights_sha256: str, split: str | None, data: dict[str, Any], scored: ScoredPapers
) -> dict[str, Any]:
    """What `metrics.json` holds of every evaluation; see `evaluate_model`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": predictor.kind,
        "engine": predictor.engine,
        "labels": list(predictor.labels),
        "split": split,
        "data": data,
        "data_sha256": data["sha256"],
        "weights_sha256": weights_sha256,
        **evaluation_of(scored),
        "versions": library_versions(),
    }


def refuse_own_folder(model: str | Path, out: str | Path | None) -> None:
    """Raises a `UserError` when another evaluation would overwrite that of the weights' test split."""
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
        rules: with the test split and the default folder, also fit prediction sets and the out-of-scope rule
            on the validation split and write them beside the metrics.
        progress: show bars.

    Returns:
        What `metrics.json` holds: `papers`, `metrics`, `intervals`, `calibration`, `slices`, `data`,
        `weights_sha256`, `data_sha256` and the rest; with `csv` also `csv` (rows not scored, papers that
        were trained on). What was fitted stands under `rules`, which is not in the file.

    Raises:
        UserError: when model, recipe or data cannot be had or do not fit together.
    """
    if csv is not None:
        return evaluate_csv(model, csv, out=out, engine=engine, progress=progress)
    if split != "test":
        refuse_own_folder(model, out)
    loaded = load_model_and_corpus(model, data, engine)
    # An ONNX engine computes with an export of the weights.
    of_the_weights = loaded.predictor.engine in ("torch", "tfidf")
    if not of_the_weights:
        refuse_own_folder(model, out)
    folder = None if out is None else Path(out)
    if out is None and split == "test" and Path(model).is_dir() and of_the_weights:
        folder = Path(model) / "eval"
    return evaluate_loaded(loaded, split, folder, rules=rules, progress=progress)


def evaluate_loaded(
    loaded: LoadedModel,
    split: str = "test",
    folder: Path | None = None,
    *,
    rules: bool = True,
    progress: bool = False,
) -> dict[str, Any]:
    """Scores a split of the corpus that a model was loaded with; reads neither the CSV nor the weights again.

    Args:
        loaded: the model with its corpus.
        split: `train`, `validation` or `test`.
        folder: where metrics.json, predictions.parquet and the plots go; None writes nothing. With `eval/` of
            `loaded.directory` metrics.json also records the checksums of the model's files.
        rules: with `eval/`, also fit prediction sets and the out-of-scope rule and write them there.
        progress: show bars.

    Returns:
        As `evaluate_model`.

    Raises:
        UserError: model and corpus have other labels, or the split has no papers.
    """
    corpus = loaded.corpus
    scored = score_papers(loaded.predictor, corpus.splits[split], corpus.labels, progress=progress)
    data = data_record(corpus.data, loaded.options)
    evaluation = evaluation_record(loaded.predictor, loaded.weights_sha256, split, data, scored)
    if folder is None or folder.resolve() != (loaded.directory / "eval").resolve():
        write_files(evaluation, scored, folder)
        return evaluation
    write_files(evaluation, scored, folder, record=False)
    _drop_files_of_other_weights(folder, loaded.weights_sha256)
    fitted = {"rules": fit_rules(loaded, scored, folder, progress=progress)} if rules else {}
    known = {Path(loaded.predictor.weights_path).name: loaded.weights_sha256}
    return write_step_record(evaluation, folder.parent, METRICS_FILE, known) | fitted


def _drop_files_of_other_weights(folder: Path, weights_sha256: str) -> None:
    """Takes away what was fitted for other weights, so that no card shows it for these."""
    for names in FITTED_FILES:
        if not (folder / names[0]).is_file():
            continue
        try:
            fitted_for = read_record(folder / names[0], Record).get("weights_sha256")
        except UserError:
            # Whatever a damaged one was fitted for, it is of no use.
            fitted_for = None
        if fitted_for != weights_sha256:
            for name in names:
                (folder / name).unlink(missing_ok=True)


def fit_rules(
    loaded: LoadedModel, tested: ScoredPapers, folder: Path, *, progress: bool = False
) -> dict[str, Any]:
    """Fits on the validation split and writes `prediction_sets.json` and `scope.json` into `eval/`.

    `tested` are the scores of the test split, for the figures on record. Returns {"prediction_sets": ...,
    "scope": ... or None} as written; there is no out-of-scope rule when the label set leaves out too few
    papers of the file, and an older one is taken away.
    """
    corpus, weights = loaded.corpus, {"weights_sha256": loaded.weights_sha256}
    held_out = score_papers(loaded.predictor, corpus.splits["validation"], corpus.labels, progress=progress)
    sets = fit_prediction_sets(held_out, tested) | weights
    write_json(sets, folder / "prediction_sets.json")
    texts = {
        name: list(papers.select(range(min(MOST_TRAINING_PAPERS, len(papers))))["text"])
        for name, papers in corpus.splits.items()
    }
    found = out_of_scope.fit_scope(texts["train"], texts["validation"], texts["test"], outside_papers(corpus))
    if found is None:
        logger.info(
            "no out-of-scope rule: fewer than %s papers inside or outside the labels",
            out_of_scope.FEWEST_PAPERS,
        )
        for name in FITTED_FILES[1]:
            (folder / name).unlink(missing_ok=True)
        return {"prediction_sets": sets, "scope": None}
    scope = found[0] | weights
    write_json(scope, folder / "scope.json")
    plot_out_of_scope(*found[1], scope["threshold"], folder / "out_of_scope.png")
    return {"prediction_sets": sets, "scope": scope}


def measure_prediction_sets(scored: Predictions, threshold: float) -> dict[str, float]:
    """{coverage, mean_size} of the sets that a threshold gives: share of true labels in them, and labels."""
    members = set_members(scored.probabilities, threshold)
    return {
        "coverage": float(members[np.arange(len(scored)), scored.labels].mean()),
        "mean_size": float(members.sum(axis=1).mean()),
    }


def fit_prediction_sets(validation: Predictions, test: Predictions) -> dict[str, Any]:
    """The content of `eval/prediction_sets.json` less the sha256 of the weights.

    Thresholds come from the validation split, coverage and size from the test split: `levels` maps each
    coverage, as text, to {threshold, coverage, mean_size}.
    """
    levels = {}
    for coverage in COVERAGES:
        threshold = coverage_threshold(validation.labels, validation.probabilities, coverage)
        levels[str(coverage)] = {"threshold": threshold, **measure_prediction_sets(test, threshold)}
    return {
        "schema_version": 1,
        "method": "LAC",
        "calibration_split": "validation",
        "calibration_papers": len(validation),
        "test_papers": len(test),
        "levels": levels,
    }


def evaluate_csv(
    model: str | Path,
    csv: str | Path,
    *,
    out: str | Path | None = None,
    engine: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluates a model on a file; arguments and errors as `evaluate_model`.

    Returns what that does, with `split` null and `csv`: {rows_read, rows_scored, rejected, other_labels,
    in_training_split, in_training_split_exact}; the last two are null when the model has no recipe, and the
    number is an upper bound unless the last is true.
    """
    from arxiv_cls.models.predictor import load_predictor

    refuse_own_folder(model, out)
    predictor = load_predictor(model, engine=engine)
    scored, counts, data_version = score_csv(predictor, csv, progress=progress)
    seen = training_papers(Path(predictor.directory), scored.arxiv_ids, scored.published, csv)
    counts["in_training_split"] = None if seen is None else int(seen[0].sum())
    counts["in_training_split_exact"] = None if seen is None else seen[1]
    data = data_record(data_version, {"csv": str(csv), "config": None, "split": None, "seed": None})
    evaluation = evaluation_record(predictor, file_sha256(predictor.weights_path), None, data, scored)
    evaluation["csv"] = counts
    _warn(counts)
    write_files(evaluation, scored, None if out is None else Path(out))
    return evaluation


def _warn(counts: dict[str, Any]) -> None:
    if (seen := counts["in_training_split"]) is None:
        logger.warning("the model has no recipe.yaml: whether it was trained on these papers is not known")
    elif seen:
        logger.warning(
            "%s%s of the %s scored papers belong to the model's own training split: the figures %s too good",
            "" if counts["in_training_split_exact"] else "up to ",
            f"{seen:,}",
            f"{counts['rows_scored']:,}",
            "are" if counts["in_training_split_exact"] else "may be",
        )
    for key, what in (
        ("rejected", "%s rows cannot be used: %s"),
        ("other_labels", "%s rows have a label that the model does not have (%s): not scored"),
    ):
        if found := counts[key]:
            shown = ", ".join(f"{name} {count:,}" for name, count in list(found.items())[:NAMED_AT_MOST])
            more = f" and {len(found) - NAMED_AT_MOST} more" if len(found) > NAMED_AT_MOST else ""
            logger.warning(what, f"{sum(found.values()):,}", shown + more)
