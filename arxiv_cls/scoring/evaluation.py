"""Evaluates a model: rebuilds its split, scores it, writes `eval/`.

`eval/metrics.json` names the sha256 of the weights and of the data it was measured on: that, never a file
time, is what makes an evaluation fresh.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.scoring.bootstrap import RESAMPLES, bootstrap_intervals
from arxiv_cls.scoring.calibration import ECE_BINS, chance_calibration_errors
from arxiv_cls.scoring.metrics import SCALAR_METRICS, compute_metrics, confusion_matrix
from arxiv_cls.scoring.model_data import data_record, file_sha256, load_model_and_corpus
from arxiv_cls.scoring.plots import plot_accuracy_by_year, plot_confusion_matrix, plot_reliability
from arxiv_cls.scoring.scored_papers import ScoredPapers, score_papers, write_json, write_predictions
from arxiv_cls.scoring.slices import slices_by_words, slices_by_year

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


def hand_over(evaluation: dict[str, Any], scored: ScoredPapers, folder: Path | None) -> None:
    """Gives an evaluation to the open W&B run, if any, and writes it where there is a folder.

    Predictions and plots are written first and `metrics.json` last: when it is there, the rest is.

    Args:
        evaluation: what `metrics.json` holds.
        scored: the papers.
        folder: None writes nothing.
    """
    plots = []
    if folder is not None:
        write_predictions(scored, folder / "predictions.parquet")
        plots = write_plots(scored, evaluation["slices"], folder)
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
        from arxiv_cls.scoring.csv_evaluation import evaluate_csv

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
    hand_over(evaluation, scored, folder)
    if own_folder and folder is not None:
        from arxiv_cls.scoring.rules import drop_stale_rules, fit_rules

        drop_stale_rules(folder, evaluation["weights_sha256"])
        if rules:
            evaluation["rules"] = fit_rules(predictor, corpus, scored, folder, progress=progress)
    return evaluation
