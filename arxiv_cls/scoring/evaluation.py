"""Evaluation of a model on a split or a CSV: metrics with intervals, calibration, slices, plots, records."""

from __future__ import annotations

import itertools
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import set_members
from arxiv_cls.record.files import file_sha256, write_atomically, write_json, write_step_record
from arxiv_cls.record.manifest import METRICS as METRICS_FILE
from arxiv_cls.record.manifest import PREDICTION_SETS, PREDICTIONS, SCOPE, SCOPE_PLOT
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.scoring import multi_label, out_of_scope, plots
from arxiv_cls.scoring.calibration import ECE_BINS, chance_calibration_errors, coverage_threshold
from arxiv_cls.scoring.intervals import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_intervals,
    intervals_of,
    wilson_interval,
)
from arxiv_cls.scoring.metrics import (
    METRICS,
    Metric,
    class_counts,
    compute_metrics,
    listed_values,
    macro_f1,
    true_scores,
)
from arxiv_cls.scoring.reference import write_model_reference
from arxiv_cls.scoring.scored_papers import (
    LoadedModel,
    Predictions,
    ScoredPapers,
    TrainedOn,
    evaluated_data,
    load_model_and_corpus,
    read_predictions,
    score_csv,
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
HEADLINES = ("accuracy", "macro_f1", "log_loss", "expected_calibration_error")

logger = logging.getLogger(__name__)


def _slice_metrics(scored: ScoredPapers, chosen: np.ndarray) -> dict[str, Any]:
    """{n, accuracy, accuracy_interval (Wilson, 95%), macro_f1} of the papers of a mask, at least one.

    Of a multi-label model {n, subset_accuracy, subset_accuracy_interval, macro_f1, micro_f1}.
    """
    if scored.listed is not None and scored.thresholds is not None:
        listed, given = scored.listed[chosen], scored.probabilities[chosen] >= scored.thresholds
        label_counts = multi_label.label_counts(listed, given)
        exact = int((listed == given).all(axis=1).sum())
        return {
            "n": len(listed),
            "subset_accuracy": exact / len(listed),
            "subset_accuracy_interval": list(wilson_interval(exact, len(listed))),
            "macro_f1": float(macro_f1(label_counts)),
            "micro_f1": float(multi_label.micro_f1(label_counts)),
        }
    labels, predicted = scored.labels[chosen], scored.predicted[chosen]
    counts = class_counts(labels, predicted, len(scored.label_names))
    hits = int(counts[0].sum())
    return {
        "n": len(labels),
        "accuracy": hits / len(labels),
        "accuracy_interval": list(wilson_interval(hits, len(labels))),
        "macro_f1": float(macro_f1(counts)),
    }


def _slices_by_year(scored: ScoredPapers) -> dict[str, dict[str, Any]]:
    """The slice of each run of years, earliest first; keys such as `1993-2001` and `2015`.

    A run has at least `SMALLEST_SLICE` papers where there are so many; a rest that is too small joins the
    run before it. Papers without a date are in none.
    """
    years = scored.published.astype("datetime64[Y]").astype(np.int64) + 1970
    years[np.isnat(scored.published)] = 0
    found, counts = np.unique(years[years > 0], return_counts=True)
    runs: list[list[int]] = []
    papers = SMALLEST_SLICE
    for year, count in zip(found.tolist(), counts.tolist(), strict=True):
        if papers >= SMALLEST_SLICE:
            runs.append([])
            papers = 0
        runs[-1].append(year)
        papers += count
    if papers < SMALLEST_SLICE and len(runs) > 1:
        runs[-2:] = [runs[-2] + runs[-1]]
    slices = {}
    for run in runs:
        name = f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0])
        slices[name] = _slice_metrics(scored, (years >= run[0]) & (years <= run[-1]))
    return slices


def _slices_by_words(scored: ScoredPapers) -> dict[str, dict[str, Any]]:
    """The slices by the number of words of title and abstract; lengths without papers are left out."""
    place = np.searchsorted(WORD_EDGES, scored.words, side="right")
    between = (f"{low} to {high - 1}" for low, high in itertools.pairwise(WORD_EDGES))
    names = [f"under {WORD_EDGES[0]}", *between, f"{WORD_EDGES[-1]} and more"]
    return {names[number]: _slice_metrics(scored, place == number) for number in np.unique(place)}


def _listed(scored: ScoredPapers) -> dict[str, Any]:
    """What all categories of the papers tell: {metrics, intervals, papers} by name of `LISTED_METRICS`.

    Shares have Wilson intervals, the mean rank one by the normal approximation. One that is about no paper is
    left out.
    """
    if scored.listed is None:
        return {}
    found: dict[str, Any] = {"metrics": {}, "intervals": {}, "papers": {}}
    for name, values in listed_values(scored.labels, scored.probabilities, scored.listed).items():
        if count := len(values):
            mean = float(values.mean())
            half = 1.96 * float(values.std()) / count**0.5
            shares = values.dtype == bool
            ends = (
                wilson_interval(int(values.sum()), count) if shares else (mean - half, min(1.0, mean + half))
            )
            found["metrics"][name], found["intervals"][name] = mean, list(ends)
            found["papers"][name] = count
    return {"listed": found}


def evaluation_of(
    scored: ScoredPapers, seed: int = BOOTSTRAP_SEED, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The part of `metrics.json` that follows from the scores alone."""
    if scored.listed is not None and scored.thresholds is not None:
        return _multi_label_evaluation(scored, scored.listed, scored.thresholds, seed, resamples)
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
        "slices": {"year": _slices_by_year(scored), "words": _slices_by_words(scored)},
        **_listed(scored),
    }


def _multi_label_evaluation(
    scored: ScoredPapers, listed: np.ndarray, thresholds: np.ndarray, seed: int, resamples: int
) -> dict[str, Any]:
    """`evaluation_of` a multi-label model, with what thresholds of 0.5 would give, and labels per paper."""
    scores, names = scored.probabilities, scored.label_names
    resampler = multi_label.MultiLabelResampler(listed, scores, thresholds, names)
    given = scores >= thresholds
    at_half = multi_label.label_counts(listed, scores >= multi_label.DEFAULT_THRESHOLD)
    return {
        "task": multi_label.TASK,
        "papers": len(scored),
        "resamples": resamples,
        "confidence": CONFIDENCE,
        "seed": seed,
        "metrics": multi_label.compute_metrics(listed, scores, thresholds, names),
        "intervals": {name: list(ends) for name, ends in intervals_of(resampler, seed, resamples).items()},
        "at_half": {"macro_f1": float(macro_f1(at_half)), "micro_f1": float(multi_label.micro_f1(at_half))},
        "labels_per_paper": {
            "listed": float(listed.sum(axis=1).mean()),
            "given": float(given.sum(axis=1).mean()),
            "papers_without": float((~given.any(axis=1)).mean()),
        },
        "slices": {"year": _slices_by_year(scored), "words": _slices_by_words(scored)},
    }


def loaded_versions() -> dict[str, str]:
    """What computed the figures; libraries that this process did not load are left out."""
    libraries = ("numpy", "sklearn", "xgboost", "torch", "transformers", "onnxruntime")
    return {
        "arxiv_cls": __version__,
        "python": platform.python_version(),
        "scipy": version("scipy"),
        **{name: str(sys.modules[name].__version__) for name in libraries if name in sys.modules},
    }


def _evaluate(
    predictor: Any,
    weights_sha256: str,
    scored: ScoredPapers,
    data: dict[str, Any],
    folder: Path | None,
    split: str | None = None,
) -> dict[str, Any]:
    """What `metrics.json` holds; writes predictions and plots, and logs to the open W&B run, if any."""
    evaluation = {
        "schema_version": SCHEMA_VERSION,
        "kind": predictor.kind,
        "engine": predictor.engine,
        "labels": list(predictor.labels),
        "split": split,
        "data": data,
        "data_sha256": data["sha256"],
        "weights_sha256": weights_sha256,
        **evaluation_of(scored),
        "versions": loaded_versions(),
    }
    images = {}
    if folder is not None:
        write_predictions(scored, folder / "predictions.parquet")
        path = folder / "reliability.png"
        if scored.multi_label and scored.listed is not None:
            plots.plot_reliability(
                scored.probabilities.ravel(), scored.listed.ravel(), path, "each label", "scores"
            )
        else:
            right = scored.predicted == scored.labels
            plots.plot_reliability(scored.probabilities.max(axis=1), right, path)
            path = folder / "confusion_matrix.png"
            plots.plot_confusion_matrix(scored.labels, scored.predicted, scored.label_names, path)
            if years := evaluation["slices"]["year"]:
                plots.plot_accuracy_by_year(years, folder / "accuracy_by_year.png")
        images = {path.stem: path for path in sorted(folder.glob("*.png"))}
    # Nothing is imported where no run is open.
    if (run := getattr(sys.modules.get("wandb"), "run", None)) is not None:
        name, metrics = split or "csv", evaluation["metrics"]
        for metric in metrics_of(evaluation):
            run.summary[f"{name}/{metric}"] = metrics[metric]
        for label, scores in metrics["per_class"].items():
            run.summary[f"{name}/f1/{label}"] = scores["f1"]
        if images:
            image = sys.modules["wandb"].Image
            run.log({f"{name}/{stem}": image(str(path)) for stem, path in images.items()})
    return evaluation


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, Metric]:
    """The table of metrics that an evaluation has values of, by its task."""
    return multi_label.METRICS if evaluation.get("task") == multi_label.TASK else METRICS


def evaluate_model(
    model: str | Path,
    *,
    split: str = "test",
    csv: str | Path | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    engine: str | None = None,
    rules: bool = True,
) -> dict[str, Any]:
    """Scores a split of the model's own data, or every paper of a file.

    Args:
        model: directory or Hub id.
        split: not used with `csv`.
        csv: a file in the schema of the data; its papers are scored instead of a split.
        data: as `csv` of `load_model_and_corpus`.
        out: folder for metrics.json, predictions.parquet and the plots. By default the test split goes to
            `eval/` of a local model directory; nothing else is written unless a folder is named.
        engine: as of `load_model_and_corpus`. `eval/` belongs to the weights, so an evaluation by an ONNX
            engine, which computes with an export of them, goes only to the folder that `out` names.
        rules: with `eval/`, also fit prediction sets and the out-of-scope rule and write them there.

    Returns:
        What `metrics.json` holds; what was fitted stands under `rules`, which is not in the file. With `csv`,
        `split` is null and `csv` holds {rows_read, rows_scored, rejected, other_labels, in_training_split,
        in_training_split_exact, training_split_not_known}. `in_training_split` is null where nothing is
        known, and else counts the papers that can be judged; it is an upper bound unless exact.

    Raises:
        UserError: when model, recipe or data cannot be had or do not fit together.
    """
    from arxiv_cls.models.predictor import load_predictor

    loaded = load_model_and_corpus(model, data, engine) if csv is None else None
    predictor = loaded.predictor if loaded else load_predictor(model, engine=engine)
    own = Path(model) / "eval"
    is_own = loaded is not None and split == "test" and predictor.engine in ("torch", "tfidf")
    folder = own if is_own and own.parent.is_dir() else None
    if out is not None:
        folder, problem = Path(out), ""
        if folder.exists() and not folder.is_dir():
            problem = "is no folder"
        elif not is_own and folder.resolve() == own.resolve():
            problem = "holds the evaluation of the model's test split"
        if problem:
            raise UserError(f"{out} {problem}", hint="name another folder with --out")
    if loaded:
        return evaluate_loaded(loaded, split, folder, rules=rules)
    scored, counts, data_version = score_csv(predictor, str(csv))
    found = training_papers(Path(predictor.directory), scored.arxiv_ids, scored.published, str(csv))
    seen, unknown = (0, len(scored)) if found is None else (int(found.seen.sum()), int(found.unknown.sum()))
    known = found is not None and (seen > 0 or unknown == 0)
    counts["in_training_split"] = seen if known else None
    counts["in_training_split_exact"] = found.exact and not unknown if found and known else None
    counts["training_split_not_known"] = unknown
    _warn(counts, found)
    described = evaluated_data(data_version, {"csv": str(csv)})
    evaluation = _evaluate(predictor, file_sha256(predictor.weights_path), scored, described, folder)
    evaluation["csv"] = counts
    if folder is not None:
        write_json(evaluation, folder / "metrics.json")
    return evaluation


def _warn(counts: dict[str, Any], found: TrainedOn | None) -> None:
    scored = f"of the {counts['rows_scored']:,} scored papers"
    if found is None:
        logger.warning("the model has no recipe.yaml: whether it was trained on these papers is not known")
    elif unknown := counts["training_split_not_known"]:
        logger.warning(
            "%s %s have no arXiv id that can be read, or lack the date of a split by time: whether the model "
            "was trained on them is not known", f"{unknown:,}", scored,
        )  # fmt: skip
    if seen := counts["in_training_split"]:
        up_to, are = ("", "are") if found and found.exact else ("up to ", "may be")
        logger.warning(
            "%s%s %s belong to the model's own training split: the figures %s too good",
            up_to, f"{seen:,}", scored, are,
        )  # fmt: skip
    for key, what in (
        ("rejected", "%s rows cannot be used: %s"),
        ("other_labels", "%s rows have a label that the model does not have (%s): not scored"),
    ):
        if rows := counts[key]:
            shown = ", ".join(f"{name} {count:,}" for name, count in list(rows.items())[:NAMED_AT_MOST])
            more = f" and {len(rows) - NAMED_AT_MOST} more" if len(rows) > NAMED_AT_MOST else ""
            logger.warning(what, f"{sum(rows.values()):,}", shown + more)


def evaluate_loaded(
    loaded: LoadedModel, split: str = "test", folder: Path | None = None, *, rules: bool = True
) -> dict[str, Any]:
    """`evaluate_model` of a split with what is in memory; reads neither the CSV nor the weights again.

    `folder` is where the files go; None writes none. With `eval/` of `loaded.directory` the reference
    for monitoring is written too, and metrics.json records the checksums of the model's files.
    """
    scored = loaded.score(split)
    data = evaluated_data(loaded.corpus.data, loaded.options)
    evaluation = _evaluate(loaded.predictor, loaded.weights_sha256, scored, data, folder, split)
    if folder is None:
        return evaluation
    # `metrics.json` last: when it is there, the rest is.
    if folder.resolve() != (loaded.directory / "eval").resolve():
        write_json(evaluation, folder / "metrics.json")
        return evaluation
    _drop_files_of_other_weights(folder.parent, loaded.weights_sha256)
    fitted = {"rules": _fit_rules(loaded, scored, folder.parent)} if rules else {}
    if not scored.multi_label:
        write_model_reference(loaded, scored, split)
    known = {Path(loaded.predictor.weights_path).name: loaded.weights_sha256}
    return write_step_record(evaluation, folder.parent, METRICS_FILE, known) | fitted


def _drop_files_of_other_weights(model_dir: Path, weights_sha256: str) -> None:
    """Takes away what was fitted for other weights, so that no card shows it for these."""
    for record, *plot in ((PREDICTION_SETS,), (SCOPE, SCOPE_PLOT)):
        try:
            content = read_model_file(model_dir, record)
        except UserError:
            # Whatever a damaged one was fitted for, it is of no use.
            content = {}
        if content is not None and content.get("weights_sha256") != weights_sha256:
            for name in (record, *plot):
                (model_dir / name).unlink(missing_ok=True)


def _fit_rules(loaded: LoadedModel, tested: ScoredPapers, model_dir: Path) -> dict[str, Any]:
    """Fits on the validation split and writes `prediction_sets.json` and `scope.json` into `eval/`.

    Figures are of the `tested` papers. `scope` is None, and an older rule is taken away, when the label set
    leaves out too few papers of the file. A multi-label model has thresholds instead of prediction sets.
    """
    weights, sets = {"weights_sha256": loaded.weights_sha256}, None
    if not tested.multi_label:
        sets = fit_prediction_sets(loaded.score("validation"), tested) | weights
        write_json(sets, model_dir / PREDICTION_SETS)
    splits, limit = loaded.corpus.splits, out_of_scope.MOST_TRAINING_PAPERS
    train, validation, test = (splits[name][:limit]["text"] for name in ("train", "validation", "test"))
    outside = out_of_scope.outside_papers(loaded.corpus)
    found = out_of_scope.fit_scope(train, validation, test, outside)
    if found is None:
        few = out_of_scope.FEWEST_PAPERS
        logger.info("no out-of-scope rule: fewer than %s papers inside or outside the labels", few)
        for name in (SCOPE, SCOPE_PLOT):
            (model_dir / name).unlink(missing_ok=True)
        return {"prediction_sets": sets, "scope": None}
    scope = found[0] | weights
    write_json(scope, model_dir / SCOPE)
    plots.plot_out_of_scope(*found[1], scope["threshold"], model_dir / SCOPE_PLOT)
    return {"prediction_sets": sets, "scope": scope}


def measure_prediction_sets(scored: Predictions, threshold: float) -> dict[str, float]:
    """{coverage, mean_size} of the sets that a threshold gives: share of true labels in them, and labels."""
    members = set_members(scored.probabilities, threshold)
    return {
        "coverage": float(true_scores(scored.labels, members).mean()),
        "mean_size": float(members.sum(axis=1).mean()),
    }


def fit_prediction_sets(validation: Predictions, test: Predictions) -> dict[str, Any]:
    """The content of `eval/prediction_sets.json` less the sha256 of the weights.

    Thresholds come from the validation split, coverage and size from the test split.
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


def aligned(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """A table: the first column to the left, the others to the right, two blanks between."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def _span(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def evaluation_table(evaluation: Mapping[str, Any]) -> str:
    """What `evaluate_model` returns, as tables: metrics with intervals, classes, slices, what was fitted."""
    metrics, intervals = evaluation["metrics"], evaluation["intervals"]
    of = f"{evaluation['split']} split" if evaluation["split"] else evaluation["data"]["csv"]
    several = evaluation.get("task") == multi_label.TASK
    parts = [
        f"{evaluation['papers']:,} papers, {of}; 95% intervals from {evaluation['resamples']:,} resamples",
        aligned(
            [[name, f"{metrics[name]:.4f}", _span(intervals[name])] for name in metrics_of(evaluation)],
            ["metric", "value", "95% interval"],
        ),
        _labels_line(evaluation) if several else _chance_line(evaluation["calibration"]),
    ]
    if listed := evaluation.get("listed"):
        rows = [
            [name, f"{value:.4f}", _span(listed["intervals"][name]), f"{listed['papers'][name]:,}"]
            for name, value in listed["metrics"].items()
        ]
        parts.append(aligned(rows, ["all categories of a paper", "value", "95% interval", "papers"]))
    rows = []
    for name, scores in metrics["per_class"].items():
        shown = [f"{scores[key]:.3f}" for key in ("precision", "recall", "f1")]
        rows.append([name, *shown, _span(intervals[f"f1/{name}"]), f"{scores['support']:,}"])
    parts.append(aligned(rows, ["category", "precision", "recall", "F1", "95% interval", "papers"]))
    if several:
        parts.append(_label_table(metrics["per_class"], intervals))
    correct = "subset_accuracy" if several else "accuracy"
    for key, title in (("year", "year"), ("words", "words in the text")):
        rows = []
        for name, part in evaluation["slices"][key].items():
            accuracy = [f"{part[correct]:.3f}", _span(part[f"{correct}_interval"])]
            rows.append([name, *accuracy, f"{part['macro_f1']:.3f}", f"{part['n']:,}"])
        if rows:
            name = correct.replace("_", " ")
            parts.append(aligned(rows, [title, name, "95% interval", "macro-F1", "papers"]))
    if fitted := evaluation.get("rules"):
        rows = []
        for level, part in (fitted["prediction_sets"] or {"levels": {}})["levels"].items():
            measured = [f"{part['coverage']:.3f}", f"{part['mean_size']:.2f}"]
            rows.append([f"{float(level):.0%}", *measured, f"{part['threshold']:.4f}"])
        if rows:
            parts.append(aligned(rows, ["prediction sets", "coverage", "mean size", "threshold"]))
        if scope := fitted["scope"]:
            parts.append(
                f"papers outside the labels: AUROC {scope['auroc']:.3f} ({_span(scope['auroc_interval'])}); "
                f"the threshold catches {scope['out_of_scope_caught']:.1%} of "
                f"{scope['out_of_scope_papers']:,} and keeps {scope['in_scope_kept']:.1%} of "
                f"{scope['in_scope_papers']:,} papers inside"
            )
    return "\n\n".join(parts)


def _chance_line(chance: Mapping[str, float]) -> str:
    return (
        f"calibration error by chance, perfectly calibrated: {chance['chance_mean']:.4f} "
        f"(95% below {chance['chance_upper']:.4f}); p = {chance['p_value']:.3f}"
    )


def _labels_line(evaluation: Mapping[str, Any]) -> str:
    labels, at_half = evaluation["labels_per_paper"], evaluation["at_half"]
    return (
        f"labels per paper: {labels['listed']:.2f} listed, {labels['given']:.2f} given, none for "
        f"{labels['papers_without']:.1%}; with thresholds of 0.5 macro-F1 {at_half['macro_f1']:.4f}, "
        f"micro-F1 {at_half['micro_f1']:.4f}; calibration error, mean of the labels: "
        f"{evaluation['metrics']['expected_calibration_error']:.4f}"
    )


def _label_table(per_class: Mapping[str, Any], intervals: Mapping[str, Sequence[float]]) -> str:
    rows = []
    for name, scores in per_class.items():
        key = f"average_precision/{name}"
        precision = (
            [f"{scores['average_precision']:.3f}", _span(intervals[key])] if key in intervals else ["", ""]
        )
        rows.append(
            [name, *precision, f"{scores['threshold']:.3f}", f"{scores['expected_calibration_error']:.4f}"]
        )
    return aligned(rows, ["category", "average precision", "95% interval", "threshold", "calibration error"])


def write_dvc_files(evaluation: Mapping[str, Any], model: str | Path, folder: Path) -> None:
    """Writes `metrics.json` (the headline metrics, F1 by category) and `predictions.csv` of `eval/`.

    Raises:
        UserError: a multi-label model, which has no table of actual and predicted labels.
    """
    if evaluation.get("task") == multi_label.TASK:
        raise UserError("--dvc: a multi-label model has no one predicted label a paper", hint="leave it out")
    recorded = read_predictions(Path(model) / PREDICTIONS)
    names = np.asarray(recorded.label_names)
    pairs = zip(names[recorded.labels], names[recorded.predicted], strict=True)
    lines = ["actual,predicted", *(f"{actual},{predicted}" for actual, predicted in pairs), ""]
    write_atomically(folder / "predictions.csv", "\n".join(lines))
    metrics = evaluation["metrics"]
    headlines = {
        "papers": evaluation["papers"],
        **{name: metrics[name] for name in HEADLINES},
        "f1": {label: scores["f1"] for label, scores in metrics["per_class"].items()},
    }
    write_json(headlines, folder / "metrics.json")
