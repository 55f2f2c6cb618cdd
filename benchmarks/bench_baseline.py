"""The TF-IDF baselines beside the setting that a user would pick instead.

    python benchmarks/bench_baseline.py [--csv data/raw/arxiv.csv] [--scale 1.0] [--seeds 42 1 2]

Stock is a common setting of TfidfVectorizer and XGBClassifier (10,000 features, English stop words, 1-3
grams, depth 8), cut to 120 trees per label at a learning rate of 0.3; as it was set, 1,000 trees at 0.043,
it takes most of an hour. LinearSVC on 1-2 grams (200,000 features, sublinear tf) is the other figure to beat;
its scores are no probabilities. `--scale` takes that share of the training papers, in hash order, and at most
a quarter of it of validation and test papers. Each run is a process of its own. Seconds are from the texts to
the fitted model, vectorising and early stopping included, without imports and reading; CPU seconds are those
of all threads together, which tells a busy machine from a slow program; memory is the peak of the whole
process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arxiv_cls.errors import UserError
from arxiv_cls.record.run_record import available_cores
from benchmarks.children import DATA, run_benchmark, run_child

ROOT = Path(__file__).resolve().parents[1]
OURS = ("tfidf_xgboost", "tfidf_linear")
REFERENCES = ("stock", "linear_svc")
TOP5_TRAINING_PAPERS = 15_176


def read(csv: str, scale: float) -> tuple[dict[str, tuple[list[str], Any]], list[str]]:
    """Texts and label numbers of each split, and the labels."""
    import numpy as np

    from arxiv_cls.corpus import build_corpus

    limit = None if scale >= 1 else max(40, round(scale * TOP5_TRAINING_PAPERS))
    corpus = build_corpus("top5", csv=csv, max_samples=limit)
    splits = {name: (list(part["text"]), np.asarray(part["label"])) for name, part in corpus.splits.items()}
    return splits, list(corpus.labels)


def run_stock(splits: dict, labels: list[str], seed: int, threads: int) -> tuple[float, Any]:
    """Vectorises and grows the trees as the setting has it; returns seconds and test probabilities."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from xgboost import XGBClassifier

    start = time.perf_counter()
    vectorizer = TfidfVectorizer(
        max_features=10_000, stop_words="english", ngram_range=(1, 3), min_df=5, max_df=0.715
    )
    train = vectorizer.fit_transform(splits["train"][0])
    validation = vectorizer.transform(splits["validation"][0])
    model = XGBClassifier(
        n_estimators=120, learning_rate=0.3, max_depth=8, subsample=0.765, colsample_bytree=0.707,
        reg_alpha=0.0387, reg_lambda=0.740, early_stopping_rounds=10, objective="multi:softprob",
        tree_method="hist", n_jobs=threads, random_state=seed,
    )  # fmt: skip
    model.fit(train, splits["train"][1], eval_set=[(validation, splits["validation"][1])], verbose=False)
    seconds = time.perf_counter() - start
    return seconds, model.predict_proba(vectorizer.transform(splits["test"][0]))


def run_linear_svc(splits: dict, labels: list[str], seed: int, threads: int) -> tuple[float, Any]:
    """Fits scikit-learn's LinearSVC with its defaults; returns seconds and one 1 per test paper."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    start = time.perf_counter()
    vectorizer = TfidfVectorizer(max_features=200_000, ngram_range=(1, 2), sublinear_tf=True)
    model = LinearSVC(random_state=seed).fit(vectorizer.fit_transform(splits["train"][0]), splits["train"][1])
    seconds = time.perf_counter() - start
    return seconds, np.eye(len(labels))[model.predict(vectorizer.transform(splits["test"][0]))]


def run_ours(name: str, splits: dict, labels: list[str], seed: int, threads: int) -> tuple[float, Any]:
    """Fits one of our recipes; returns seconds and test probabilities."""
    from scipy.special import softmax

    from arxiv_cls.recipe import TfidfRecipe, load_recipe
    from arxiv_cls.training.tfidf_fit import Split, fit_tfidf

    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", ["--trainer.seed", str(seed)], TfidfRecipe)
    start = time.perf_counter()
    fitted = fit_tfidf(
        Split(*splits["train"]), Split(*splits["validation"]), labels, recipe.model, recipe.trainer, threads,
        on_round=lambda losses: None,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    model = fitted.model
    return seconds, softmax(
        model.logits(model.terms.transform(splits["test"][0])) / model.temperature, axis=1
    )


def run_side(side: str, csv: str, scale: float, seed: int) -> dict[str, Any]:
    """One side in this process."""
    splits, labels = read(csv, scale)
    threads = available_cores()
    cpu = time.process_time()
    if side in REFERENCES:
        run = {"stock": run_stock, "linear_svc": run_linear_svc}[side]
        seconds, probabilities = run(splits, labels, seed, threads)
    else:
        seconds, probabilities = run_ours(side, splits, labels, seed, threads)
    cpu = time.process_time() - cpu
    from arxiv_cls.record.run_record import peak_resident_bytes
    from arxiv_cls.scoring.metrics import compute_metrics

    metrics = compute_metrics(splits["test"][1], probabilities, labels)
    peak = peak_resident_bytes()
    names = ("accuracy", "macro_f1", "expected_calibration_error")
    papers = len(splits["train"][0])
    return {"seconds": seconds, "cpu": cpu, "bytes": peak, "papers": papers} | {
        name: metrics[name] for name in names
    }


def measure(side: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run of one side in a process of its own; prints its line."""
    command = [
        sys.executable, __file__, "--side", side, "--csv", arguments.csv,
        "--scale", str(arguments.scale), "--seeds", str(seed),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = run_child(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"the side {side!r} ended with exit status {done.returncode}", hint="its own message is above"
        )
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{side:14} {seed:5d} {result['seconds']:8.1f} {result['cpu']:8.1f} {result['bytes'] / 1e9:8.2f} "
        f"{result['accuracy']:8.4f} {result['macro_f1']:8.4f} "
        + (f"{'-':>8}" if side == "linear_svc" else f"{result['expected_calibration_error']:8.4f}"),
        flush=True,
    )
    return result


def summary(name: str, runs: list[dict[str, Any]], stock: dict[str, Any] | None) -> str:
    """Mean and standard deviation over the seeds, and the ratios to stock."""
    mean = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
    spread = {key: statistics.stdev(run[key] for run in runs) if runs[1:] else 0.0 for key in runs[0]}
    text = (
        f"{name}, {len(runs)} seeds: {mean['seconds']:.1f} s, {mean['bytes'] / 1e9:.2f} GB, "
        f"accuracy {mean['accuracy']:.4f} (sd {spread['accuracy']:.4f}), "
        f"macro-F1 {mean['macro_f1']:.4f} (sd {spread['macro_f1']:.4f})"
    )
    if stock is None:
        return text
    ratio = {key: stock[key] / mean[key] for key in ("seconds", "cpu", "bytes")}
    gain = {key: 100 * (mean[key] - stock[key]) for key in ("accuracy", "macro_f1")}
    return (
        f"{text}\n  stock / ours: {ratio['seconds']:.1f} in seconds, {ratio['cpu']:.1f} in CPU seconds, "
        f"{ratio['bytes']:.1f} in memory; ours - stock: {gain['accuracy']:+.1f} points of accuracy, "
        f"{gain['macro_f1']:+.1f} of macro-F1"
    )


def main(argv: list[str]) -> int:
    """Runs the sides in turn and prints the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", default=DATA)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training papers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2], help="seeds of our runs")
    parser.add_argument("--skip-stock", action="store_true", help="only ours, without the ratios")
    parser.add_argument("--side", choices=(*REFERENCES, *OURS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.side:
        print(json.dumps(run_side(arguments.side, arguments.csv, arguments.scale, arguments.seeds[0])))
        return 0
    if not Path(arguments.csv).is_file():
        print(
            f"error: {arguments.csv} is missing\n  make data fetches it; --csv names another", file=sys.stderr
        )
        return 2

    print("stock cut from 1,000 trees at learning rate 0.043 to 120 at 0.3;", end=" ")
    print("all papers" if arguments.scale >= 1 else f"{arguments.scale:.0%} of the training papers")
    names = ("seconds", "CPU s", "GB", "accuracy", "macro-F1", "ECE")
    print(f"{'side':14} {'seed':>5} " + " ".join(f"{name:>8}" for name in names), flush=True)
    stock = None if arguments.skip_stock else measure("stock", arguments, arguments.seeds[0])
    measure("linear_svc", arguments, arguments.seeds[0])
    for name in OURS:
        runs = [measure(name, arguments, seed) for seed in arguments.seeds]
        print(summary(name, runs, stock), flush=True)
    return 0


if __name__ == "__main__":
    run_benchmark(main)
