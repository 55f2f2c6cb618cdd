"""Fine-tunes a transformer as a recipe says, and leaves a whole model directory.

Run as:

    accelerate launch arxiv_cls/train.py recipes/distilbert.yaml
    accelerate launch --config_file recipes/accelerate/cpu.yaml arxiv_cls/train.py recipes/minilm.yaml \\
        --trainer.learning_rate 5e-5 --data.max_samples 2000
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm
from transformers.utils import logging as transformers_logging

from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import run_main
from arxiv_cls.models.pretrained import resolve_pretrained
from arxiv_cls.models.transformer import fold_temperature
from arxiv_cls.recipe import load_recipe, portable_path, recorded
from arxiv_cls.record.run_record import build_run_record, data_record, git_state
from arxiv_cls.release.finish_run import finish_run
from arxiv_cls.scoring.plots import plot_training_curve
from arxiv_cls.training import fine_tuning
from arxiv_cls.training.arguments import TransformerRecipe
from arxiv_cls.training.batches import load_tokenizer, tokenize
from arxiv_cls.training.distillation import add_teacher
from arxiv_cls.training.distributed import on_main_rank, only_main_talks, peak_memory_bytes, set_cpu_threads
from arxiv_cls.training.run_directory import MarkComplete, RunFolder
from arxiv_cls.training.tracking import TrackerCallback, Trackers, log_to_file
from arxiv_cls.training.trainer import PaperTrainer

logger = logging.getLogger("arxiv_cls.train")


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The recipe and the switches; the words that are left are overrides."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Fine-tune a transformer as a recipe says.",
        epilog="Any key of the recipe is an option: --trainer.learning_rate 3e-5 --data.max_samples 2000",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", help="YAML file, such as recipes/distilbert.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier run of the same name; with --resume: unless it is this very run, unfinished",
    )
    parser.add_argument(
        "--no-evaluate",
        action="store_true",
        help="leave test split and card to `arxiv-cls evaluate` and `card`",
    )
    return parser.parse_known_args(argv)


def main(argv: list[str]) -> None:
    """One run, from the recipe to the model directory.

    Precedence, last wins: the defaults of the dataclasses, the recipe file, the overrides of the
    command line.

    Raises:
        UserError: bad recipe or data, a model that cannot be had, a run in the way.
    """
    arguments, overrides = parse_arguments(argv)
    recipe = load_recipe(arguments.recipe, overrides, TransformerRecipe)
    args = recipe.trainer
    run = RunFolder(args.output_dir or f"outputs/{recipe.name}")
    # The Trainer's own output_dir is the folder of the checkpoints: the record keeps the model directory.
    recipe_as_run = recorded(recipe)
    recipe_as_run["trainer"]["output_dir"] = portable_path(run.model_dir.as_posix())
    threads = set_cpu_threads(args.cpu_threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    main_process = args.process_index == 0
    with only_main_talks(args), contextlib.ExitStack() as work:
        pretrained = resolve_pretrained(recipe.model.name_or_path, recipe.model.revision)
        options = fine_tuning.data_options(recipe)
        with args.main_process_first(desc="build the corpus"):
            corpus = build_corpus(**options)
        start = fine_tuning.starting_weights(pretrained)
        state = fine_tuning.fingerprint(recipe, corpus.data.sha256, args.world_size, start["sha256"])

        def prepare() -> Path | None:
            work.enter_context(run.at_work())
            return run.prepare(state, resume=arguments.resume, overwrite=arguments.overwrite)

        checkpoint = on_main_rank(args, prepare)
        work.enter_context(log_to_file(run.log_file if main_process else None))
        work.enter_context(logging_redirect_tqdm())
        logger.info("%s", corpus.report_line())
        data = data_record(corpus, options)
        trackers = Trackers(
            args.trackers if main_process else [], recipe.name, run.folder,
            {"recipe": recipe_as_run, "data": data},
        )  # fmt: skip
        work.enter_context(trackers)
        fine_tune(
            recipe, recipe_as_run, run, corpus, data, pretrained, start, checkpoint, threads, trackers,
            overrides, evaluate=not arguments.no_evaluate,
        )  # fmt: skip


def fine_tune(
    recipe, recipe_as_run: dict, run, corpus, data: dict, pretrained: Path, start: dict,
    checkpoint: Path | None, threads: int, trackers: Trackers, overrides: list[str], *, evaluate: bool,
) -> None:  # fmt: skip
    """Trains, calibrates, saves, evaluates, and puts the finished directory in its place."""
    git = git_state()
    args = recipe.trainer
    precision = fine_tuning.apply_to_machine(args, run.folder)
    tokenizer = load_tokenizer(pretrained, recipe.model.max_length)
    papers = tokenize(corpus.splits, tokenizer)
    papers["train"] = add_teacher(
        papers["train"], corpus.splits["train"]["text"][:], args.teacher_weight, args.seed
    )
    model = fine_tuning.load_classifier(recipe.model, pretrained, corpus.labels)
    logger.info(
        "%s: %s training papers, %s, %s, %d processes of %d threads",
        recipe.name, f"{len(papers['train']):,}", args.device.type, precision, args.world_size, threads,
    )  # fmt: skip

    marks = MarkComplete(checkpoint)
    callbacks = [
        marks,
        *fine_tuning.callbacks(model, args, run.folder / "profile"),
        TrackerCallback(trackers),
    ]
    trainer = PaperTrainer(model, args, tokenizer, papers["train"], papers["validation"], callbacks)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fine_tuning.train(trainer, checkpoint, marks.ended)
    seconds = marks.seconds()
    memory = peak_memory_bytes(args.device)
    training = fine_tuning.training_record(trainer, seconds, start)

    temperature, calibration, validation = fine_tuning.calibrate(trainer)
    if args.process_index:
        return
    fold_temperature(trainer.accelerator.unwrap_model(trainer.model), temperature)
    weights_sha256 = fine_tuning.save_model(trainer, run.staging, recipe_as_run)
    plot_training_curve(trainer.state.log_history, run.staging / "training_curve.png")
    record = build_run_record(
        kind="transformer", recipe=Path(recipe.name).name, data=data, git=git, seed=args.seed,
        device=fine_tuning.device_record(args, precision, threads), started=started,
        duration_seconds=seconds, papers_per_second=training["papers_seen"] / seconds,
        peak_memory_bytes=memory, calibration=calibration, weights_sha256=weights_sha256,
        overrides=overrides, training=training, metrics={"validation": validation},
    )  # fmt: skip
    finish_run(run, record, trackers, recipe.data.csv, evaluate=evaluate)


if __name__ == "__main__":
    run_main(main)
