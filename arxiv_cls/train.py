"""Run as: accelerate launch arxiv_cls/train.py recipes/distilbert.yaml

Fine-tunes a transformer as a recipe says, and leaves a whole model directory. On a CPU, with overrides:

    accelerate launch --config_file recipes/accelerate/cpu.yaml arxiv_cls/train.py recipes/minilm.yaml \\
        --trainer.learning_rate 5e-5 --data.max_samples 2000
"""

from __future__ import annotations

import logging

from tqdm.contrib.logging import logging_redirect_tqdm

from arxiv_cls.errors import run_main
from arxiv_cls.recipe import TRANSFORMER_GROUPS, load_recipe, parse_arguments, read_groups

logger = logging.getLogger("arxiv_cls.train")


def main(argv: list[str]) -> None:
    """One run, from the recipe to the model directory.

    Precedence, last wins: the defaults of the dataclasses, the recipe file, the overrides of the
    command line.

    Raises:
        UserError: bad recipe or data, a model that cannot be had, a run in the way, a training that diverged.
    """
    arguments, overrides = parse_arguments(
        argv, "train.py", "Fine-tune a transformer as a recipe says.", "go on from the last whole checkpoint"
    )
    # What is wrong outside of `trainer` is reported before transformers is imported, which takes seconds.
    read_groups(arguments.recipe, overrides, TRANSFORMER_GROUPS)
    from arxiv_cls.training.arguments import TransformerRecipe

    recipe = load_recipe(arguments.recipe, overrides, TransformerRecipe)
    from transformers.utils import logging as transformers_logging

    from arxiv_cls.models.loading import resolve_pretrained
    from arxiv_cls.release.card import write_model_card
    from arxiv_cls.scoring.evaluation import evaluation_table
    from arxiv_cls.training import fine_tuning
    from arxiv_cls.training.batches import load_tokenizer, tokenize
    from arxiv_cls.training.interruption import Interruption, restarted
    from arxiv_cls.training.run_directory import STATE, TrainingRun
    from arxiv_cls.training.trainer import (
        LogCallback,
        MarkComplete,
        PaperTrainer,
        StopTogether,
        recipe_callbacks,
    )

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    args = recipe.trainer
    threads = fine_tuning.set_cpu_threads(args.cpu_threads)
    with fine_tuning.one_output(args), logging_redirect_tqdm(), TrainingRun(recipe, overrides) as run:
        folder = run.directory.folder
        interruption = run.enter_context(Interruption(folder, args.max_hours, main=not args.process_index))
        resume = arguments.resume or restarted(folder, STATE)
        pretrained = resolve_pretrained(recipe.model.name_or_path, recipe.model.revision)
        with args.main_process_first(desc="build the corpus"):
            run.build_corpus()
        start = fine_tuning.starting_weights(pretrained)
        state = fine_tuning.fingerprint(recipe, run.corpus.data.sha256, args.world_size, start["sha256"])
        checkpoint = fine_tuning.on_main_process(
            args, lambda: run.begin(state, resume=resume, overwrite=arguments.overwrite)
        )

        precision = fine_tuning.apply_to_machine(args, folder)
        tokenizer = load_tokenizer(pretrained, recipe.model.max_length)
        papers = tokenize(run.corpus.splits, tokenizer)
        texts = run.corpus.splits["train"]["text"][:]
        papers["train"] = fine_tuning.add_soft_labels(
            papers["train"], texts, args.distillation_weight, args.seed
        )
        model = fine_tuning.load_classifier(recipe.model, pretrained, run.corpus.labels, recipe.data.task)
        logger.info(
            "%s: %s training papers, %s, %s, %d processes of %d threads",
            recipe.name, f"{len(texts):,}", args.device.type, precision, args.world_size, threads,
        )  # fmt: skip
        marks = MarkComplete(checkpoint, run.mirror)
        chosen = recipe_callbacks(model, args, folder / "profile")
        callbacks = [marks, *chosen, LogCallback(run.trackers), StopTogether(interruption, run.mirror)]
        trainer = PaperTrainer(model, args, tokenizer, papers["train"], papers["validation"], callbacks)
        fine_tuning.train(trainer, checkpoint, marks.ended)
        seconds, memory = marks.seconds(), fine_tuning.peak_memory_bytes(args.device)

        calibration, validation = fine_tuning.calibrate(trainer)
        if args.process_index:
            return
        predictor = fine_tuning.save_model(trainer, run.directory.staging)
        run.write_record(
            predictor, seconds, trainer.state.log_history,
            device=fine_tuning.device_record(args, precision, threads), peak_memory_bytes=memory,
            calibration=calibration, training=fine_tuning.training_record(trainer, seconds, start),
            metrics={"validation": validation},
        )  # fmt: skip
        if not arguments.no_evaluate:
            run.evaluate(predictor)
            write_model_card(run.directory.staging)
            print(evaluation_table(run.evaluation))
        run.publish()


if __name__ == "__main__":
    run_main(main)
