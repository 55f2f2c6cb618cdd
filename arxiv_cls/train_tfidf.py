"""Trains a TF-IDF baseline as a recipe says, and leaves a whole model directory.

Run as:

    python arxiv_cls/train_tfidf.py recipes/tfidf_xgboost.yaml
    python arxiv_cls/train_tfidf.py recipes/tfidf_linear.yaml --trainer.seed 1 --data.max_samples 2000
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import logging
import time

import numpy as np
import torch
import yaml
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from arxiv_cls.corpus import Corpus, build_corpus
from arxiv_cls.errors import run_main
from arxiv_cls.recipe import TfidfRecipe, load_recipe, recorded, resolved
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.run_record import build_run_record, data_record, git_state
from arxiv_cls.release.finish_run import finish_run
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.plots import plot_training_curve
from arxiv_cls.training.distributed import device_name, peak_memory_bytes, set_cpu_threads
from arxiv_cls.training.run_directory import RunFolder
from arxiv_cls.training.tfidf_fit import Split, fit_tfidf
from arxiv_cls.training.tracking import Trackers, log_to_file

logger = logging.getLogger("arxiv_cls.train_tfidf")


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The recipe and the switches; the words that are left are overrides."""
    parser = argparse.ArgumentParser(
        prog="train_tfidf.py",
        description="Train a TF-IDF baseline as a recipe says.",
        epilog="Any key of the recipe can be overridden: --trainer.seed 1, --data.max_samples 2000.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", help="YAML file, such as recipes/tfidf_xgboost.yaml")
    parser.add_argument(
        "--resume", action="store_true", help="start an unfinished run anew: a baseline keeps no checkpoints"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run of the same name")
    parser.add_argument(
        "--no-evaluate",
        action="store_true",
        help="leave test split and card to `arxiv-cls evaluate` and `card`",
    )
    return parser.parse_known_args(argv)


def main(argv: list[str]) -> None:
    """One run, from the recipe to the model directory.

    Precedence, last wins: the defaults of the dataclasses, the recipe file, the overrides of the
    command line. A run takes about a minute, so that one which was killed starts anew.

    Raises:
        UserError: bad recipe or data, a run in the way.
    """
    arguments, overrides = parse_arguments(argv)
    recipe = load_recipe(arguments.recipe, overrides, TfidfRecipe)
    run = RunFolder(recipe.trainer.output_dir or f"outputs/{recipe.name}")
    threads = set_cpu_threads(recipe.trainer.cpu_threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = {key: value for key, value in dataclasses.asdict(recipe.data).items() if value is not None}
    corpus = build_corpus(**options)
    data = data_record(corpus, options)
    config = {"recipe": recorded(recipe), "data": data}
    with run.at_work():
        run.prepare(resolved(recipe), resume=False, overwrite=arguments.overwrite)
        run.staging.mkdir()
        with (
            log_to_file(run.log_file),
            Trackers(recipe.trainer.trackers, recipe.name, run.folder, config) as trackers,
        ):
            if arguments.resume:
                logger.info("--resume: a baseline keeps no checkpoints, the run starts from the beginning")
            logger.info("%s", corpus.report_line())
            fit_and_evaluate(
                recipe, run, corpus, data, threads, trackers, overrides, evaluate=not arguments.no_evaluate
            )


def fit_and_evaluate(
    recipe: TfidfRecipe, run: RunFolder, corpus: Corpus, data: dict, threads: int, trackers: Trackers,
    overrides: list[str], *, evaluate: bool,
) -> None:  # fmt: skip
    """Fits, calibrates, saves, evaluates, and puts the finished directory in its place."""
    git = git_state()
    train, validation = (
        Split(list(corpus.splits[name]["text"]), np.asarray(corpus.splits[name]["label"]))
        for name in ("train", "validation")
    )
    history: list[dict[str, float]] = []
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()

    # The linear models are fitted in one go: a bar would stand still.
    rounds = {"total": recipe.trainer.num_train_epochs, "disable": recipe.model.classifier == "linear"}
    with logging_redirect_tqdm(), tqdm(**rounds, leave=False) as bar:

        def on_round(losses: dict[str, float]) -> None:
            history.append(losses)
            values = {"train/loss": losses["loss"], "eval/loss": losses["eval_loss"]}
            trackers.log(values, step=int(losses["epoch"]))
            bar.update()

        def on_stage(name: str) -> None:
            bar.set_description(name)
            logger.info("%5.1f s  %s", time.perf_counter() - clock, name)

        fitted = fit_tfidf(
            train, validation, corpus.labels, recipe.model, recipe.trainer, threads, on_round, on_stage
        )
    seconds = time.perf_counter() - clock
    logger.info("%5.1f s  fitted, %d boosting rounds kept", seconds, fitted.rounds)

    fitted.model.save(run.staging)
    recipe_file = yaml.safe_dump(recorded(recipe), sort_keys=False, allow_unicode=True)
    (run.staging / "recipe.yaml").write_text(recipe_file, encoding="utf-8")
    metrics = compute_metrics(validation.labels, fitted.validation_probabilities, list(corpus.labels))
    last = {"epoch": 0.0} | (history.pop() if history else {})
    scores = {"eval_accuracy": metrics["accuracy"], "eval_macro_f1": metrics["macro_f1"]}
    plot_training_curve([*history, last | scores], run.staging / "training_curve.png")
    cpu = torch.device("cpu")
    record = build_run_record(
        kind="tfidf", recipe=recipe.name, data=data, git=git, seed=recipe.trainer.seed,
        device={"type": "cpu", "name": device_name(cpu), "processes": 1, "threads": threads,
                "precision": "fp32", "peak_memory_of": "process"},
        started=started, duration_seconds=seconds, papers_per_second=len(train.texts) / seconds,
        peak_memory_bytes=peak_memory_bytes(cpu), calibration=fitted.calibration,
        weights_sha256=file_sha256(run.staging / "model.skops"),
        training={"rounds": fitted.rounds, "papers_seen": len(train.texts)},
        metrics={"validation": metrics}, overrides=overrides,
    )  # fmt: skip
    finish_run(run, record, trackers, recipe.data.csv, evaluate=evaluate)


if __name__ == "__main__":
    run_main(main)
