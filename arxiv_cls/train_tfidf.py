"""Run as: python arxiv_cls/train_tfidf.py recipes/tfidf_xgboost.yaml

Trains a TF-IDF baseline as a recipe says, and leaves a whole model directory. With overrides:

    python arxiv_cls/train_tfidf.py recipes/tfidf_linear.yaml --trainer.seed 1 --data.max_samples 2000
"""

from __future__ import annotations

import logging

from tqdm.contrib.logging import logging_redirect_tqdm

from arxiv_cls.errors import run_main
from arxiv_cls.recipe import TfidfRecipe, load_recipe, parse_arguments, resolved

logger = logging.getLogger("arxiv_cls.train_tfidf")


def main(argv: list[str]) -> None:
    """One run, from the recipe to the model directory.

    Precedence, last wins: the defaults of the dataclasses, the recipe file, the overrides of the
    command line. A run takes about a minute, so that one which was killed starts anew.

    Raises:
        UserError: bad recipe or data, a run in the way.
    """
    resume = "start an unfinished run anew: a baseline keeps no checkpoints"
    arguments, overrides = parse_arguments(
        argv, "train_tfidf.py", "Train a TF-IDF baseline as a recipe says.", resume
    )
    recipe = load_recipe(arguments.recipe, overrides, TfidfRecipe)
    # These take seconds to import: a wrong key of the recipe is reported before.
    from arxiv_cls.models.tfidf import TfidfPredictor
    from arxiv_cls.record.run_record import available_cores, peak_resident_bytes, processor_name
    from arxiv_cls.release.card import write_model_card
    from arxiv_cls.scoring.evaluation import evaluation_table
    from arxiv_cls.training.interruption import Interruption
    from arxiv_cls.training.run_directory import TrainingRun
    from arxiv_cls.training.tfidf_fit import Split, fit_tfidf

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    threads = recipe.trainer.cpu_threads or available_cores()
    with TrainingRun(recipe, overrides) as run, logging_redirect_tqdm():
        run.enter_context(Interruption(run.directory.folder))
        run.build_corpus()
        run.begin(resolved(recipe), resume=False, overwrite=arguments.overwrite)
        if arguments.resume:
            logger.info("--resume: a baseline keeps no checkpoints, the run starts from the beginning")
        train, validation = (
            Split(run.corpus.splits[name]["text"][:], run.corpus.targets(name))
            for name in ("train", "validation")
        )

        def on_round(losses: dict[str, float]) -> None:
            values = {"train/loss": losses["loss"], "eval/loss": losses["eval_loss"]}
            run.trackers.log(values, step=int(losses["epoch"]))

        configs = (recipe.model, recipe.trainer)
        fitted = fit_tfidf(train, validation, run.corpus.labels, *configs, threads, on_round)
        fitted.model.save(run.directory.staging)
        predictor = TfidfPredictor(fitted.model, run.directory.staging)
        run.write_record(
            predictor, fitted.seconds, fitted.history,
            device={"type": "cpu", "name": processor_name(), "processes": 1, "threads": threads,
                    "precision": "fp32", "peak_memory_of": "process"},
            peak_memory_bytes=peak_resident_bytes(), calibration=fitted.calibration,
            training={"rounds": fitted.rounds, "papers_seen": len(train.texts)},
            metrics={"validation": fitted.metrics},
        )  # fmt: skip
        if not arguments.no_evaluate:
            run.evaluate(predictor)
            write_model_card(run.directory.staging)
            print(evaluation_table(run.evaluation))
        run.publish()


if __name__ == "__main__":
    run_main(main)
