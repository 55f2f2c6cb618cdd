"""The steps of a fine-tuning run that `train.py` puts in a row."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_model
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    TrainerState,
    enable_full_determinism,
    set_seed,
)

from arxiv_cls.models.loading import load_encoder, load_encoder_config
from arxiv_cls.recipe import resolved
from arxiv_cls.record.files import file_sha256
from arxiv_cls.scoring import calibration
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.training.arguments import TransformerModelConfig, TransformerRecipe, TransformerTrainerConfig
from arxiv_cls.training.distributed import device_name, resolve_precision
from arxiv_cls.training.run_directory import STARTING_WEIGHTS
from arxiv_cls.training.trainer import HeadOnlyEpochs, PaperTrainer, ProfileSteps, freeze

logger = logging.getLogger(__name__)

# Keys that may differ between a run and its resumption: none of them changes the weights.
NOT_IN_FINGERPRINT = {
    "trainer.output_dir",
    "trainer.report_to",
    "trainer.logging_steps",
    "trainer.disable_tqdm",
    "trainer.profile_steps",
    "data.csv",
}


def apply_to_machine(args: TransformerTrainerConfig, checkpoints: Path) -> str:
    """Points the Trainer at the run's folder, sets its precision, and seeds every generator.

    Returns:
        The precision: fp32, bf16 or fp16.

    Raises:
        UserError: the device does not compute in the precision that the recipe asks for.
    """
    args.output_dir = str(checkpoints)
    precision = resolve_precision(args.precision, args.use_cpu)
    args.bf16, args.fp16 = precision == "bf16", precision == "fp16"
    args.mixed_precision = "no" if precision == "fp32" else precision
    # Pinned memory is for copies to a GPU: without one torch warns of it at every evaluation.
    args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
    if args.head_only_epochs:
        # Parameters without a gradient would keep the ranks waiting for one another.
        args.ddp_find_unused_parameters = True
    args.restore_callback_states_from_checkpoint = True
    if args.full_determinism:
        enable_full_determinism(args.seed)
    else:
        set_seed(args.seed)
    return precision


def load_classifier(config: TransformerModelConfig, directory: Path, labels: list[str]) -> PreTrainedModel:
    """A pretrained encoder in float32 with a new head for these labels.

    Raises:
        UserError: the directory holds no model that transformers can load, or no safetensors.
    """
    dropouts = {
        name: value
        for value, names in (
            (config.attention_dropout, ("attention_probs_dropout_prob", "attention_dropout")),
            (config.hidden_dropout, ("hidden_dropout_prob", "dropout", "seq_classif_dropout")),
        )
        if value is not None
        for name in names
    }
    settings = load_encoder_config(directory, num_labels=len(labels))
    for name, value in dropouts.items():
        # Each architecture has its own name for the same thing; the others are not its business.
        if hasattr(settings, name):
            setattr(settings, name, value)
    settings.id2label = dict(enumerate(labels))
    settings.label2id = {label: index for index, label in enumerate(labels)}
    settings.problem_type = "single_label_classification"
    return load_encoder(directory, settings)


def starting_weights(directory: Path) -> dict[str, str | None]:
    """What a run starts from, as it goes on record.

    Args:
        directory: from `resolve_pretrained`.

    Returns:
        `sha256` of the weights, those of several files taken one after another; `hub_commit`, or None for
        a model that did not come from the Hub.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as weights:
            while chunk := weights.read(1 << 20):
                digest.update(chunk)
    # The Hub's cache keeps each commit in a folder of its name.
    return {
        "sha256": digest.hexdigest(),
        "hub_commit": directory.name if directory.parent.name == "snapshots" else None,
    }


def fingerprint(
    recipe: TransformerRecipe, data_sha256: str, world_size: int, weights_sha256: str | None
) -> dict[str, Any]:
    """What decides the weights, as flat keys: recipe, data, starting weights, the number of ranks."""
    flat = {
        f"{group}.{key}": value
        for group, section in resolved(recipe).items()
        for key, value in section.items()
        if group != "release" and f"{group}.{key}" not in NOT_IN_FINGERPRINT
    }
    decided = {"data sha256": data_sha256, STARTING_WEIGHTS: weights_sha256, "processes": world_size}
    return flat | decided


def callbacks(model: PreTrainedModel, args: TransformerTrainerConfig, profile: Path) -> list[TrainerCallback]:
    """Freezes what the recipe freezes and returns the callbacks that its trainer group asks for."""
    frozen = freeze(model, args.freeze)
    if frozen:
        logger.info("frozen: %s of %s parameters", f"{frozen:,}", f"{model.num_parameters():,}")
    chosen: list[TrainerCallback] = []
    if args.early_stopping_patience:
        chosen.append(EarlyStoppingCallback(args.early_stopping_patience))
    if args.head_only_epochs:
        chosen.append(HeadOnlyEpochs(model, args.head_only_epochs))
    if args.profile_steps:
        chosen.append(ProfileSteps(args.profile_steps, profile))
    return chosen


def calibrate(trainer: PaperTrainer) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Fits the temperature on the validation split, and measures the model there.

    Every rank takes part, since the scores are gathered from all of them.

    Returns:
        The temperature, the record of it with the expected calibration error before and after, and the
        metrics of the calibrated model.
    """
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation")
    labels = output.label_ids
    record, calibrated = calibration.calibrate(output.predictions, labels)
    names = trainer.model.config.id2label
    metrics = compute_metrics(labels, calibrated, [names[index] for index in range(len(names))])
    return record["temperature"], record, metrics


def device_record(args: TransformerTrainerConfig, precision: str, threads: int) -> dict[str, Any]:
    """The device of a run, as it goes on record."""
    return {
        "type": args.device.type,
        "name": device_name(args.device),
        "processes": args.world_size,
        "threads": threads,
        "precision": precision,
        "peak_memory_of": "device" if args.device.type == "cuda" else "process",
    }


def train(trainer: PaperTrainer, checkpoint: Path | None, ended: bool) -> None:
    """Trains to the end, or takes up the end of a training that was killed between it and publishing.

    Args:
        checkpoint: to go on from, or None.
        ended: whether nothing was left to train there; the Trainer itself would undo an early stop.
    """
    if checkpoint is None or not ended:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return
    logger.info("the training had ended at %s: its weights are taken as they are", checkpoint.name)
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    weights = checkpoint.parent / Path(best).name if best else checkpoint
    load_model(trainer.model, weights / "model.safetensors")


def training_record(trainer: PaperTrainer, seconds: float, start: dict[str, str | None]) -> dict[str, Any]:
    """The start, steps, epochs, the best checkpoint and the speed of a finished training."""
    state, args = trainer.state, trainer.args
    global_batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    best = state.best_model_checkpoint
    return {
        "starting_weights": start,
        "max_length": trainer.processing_class.model_max_length,
        "steps": state.global_step,
        "epochs": round(state.epoch or 0.0, 4),
        "global_batch_size": global_batch,
        "best_step": int(best.rpartition("-")[2]) if best else state.global_step,
        "best_metric": state.best_metric,
        "metric_for_best_model": args.metric_for_best_model,
        "papers_seen": round((state.epoch or 0.0) * len(trainer.train_dataset)),
        "seconds": round(seconds, 2),
    }


def save_model(trainer: PaperTrainer, directory: Path, recipe: dict[str, dict[str, Any]]) -> str:
    """Writes weights, tokenizer and the resolved recipe; no pickle.

    Returns:
        The sha256 of the weights.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.cpu().save_pretrained(directory)
    trainer.processing_class.save_pretrained(directory)
    (directory / "recipe.yaml").write_text(
        yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return file_sha256(directory / "model.safetensors")


def data_options(recipe: Any) -> dict[str, Any]:
    """The keywords of `build_corpus` that a recipe's data group stands for."""
    options = dataclasses.asdict(recipe.data)
    return {key: value for key, value in options.items() if value is not None}
