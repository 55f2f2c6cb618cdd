"""The steps of a fine-tuning run that `train.py` calls one after another."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from safetensors.torch import load_model
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    TrainerState,
    enable_full_determinism,
    set_seed,
)

from arxiv_cls.models.loading import load_encoder, load_encoder_config, new_classifier
from arxiv_cls.models.transformer import TransformerPredictor, fold_temperature
from arxiv_cls.recipe import resolved
from arxiv_cls.scoring import calibration
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.training.arguments import TransformerModelConfig, TransformerRecipe, TransformerTrainerConfig
from arxiv_cls.training.distributed import resolve_precision
from arxiv_cls.training.run_directory import STARTING_WEIGHTS
from arxiv_cls.training.tfidf_fit import out_of_fold_probabilities
from arxiv_cls.training.trainer import HeadOnlyEpochs, PaperTrainer, ProfileSteps, freeze

logger = logging.getLogger(__name__)

# Keys that may differ between a run and its resumption: none of them changes the weights.
NOT_IN_FINGERPRINT = {
    "trainer.output_dir", "trainer.report_to", "trainer.logging_steps", "trainer.disable_tqdm",
    "trainer.profile_steps", "data.csv",
}  # fmt: skip


def starting_weights(directory: Path) -> dict[str, str | None]:
    """What a run starts from, as it goes on record.

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
    commit = directory.name if directory.parent.name == "snapshots" else None
    return {"sha256": digest.hexdigest(), "hub_commit": commit}


def fingerprint(
    recipe: TransformerRecipe, data_sha256: str, processes: int, weights_sha256: str | None
) -> dict[str, Any]:
    """What decides the weights, as flat keys: recipe, data, starting weights, number of processes."""
    flat = {
        f"{group}.{key}": value
        for group, section in resolved(recipe).items()
        for key, value in section.items()
        if group != "release" and f"{group}.{key}" not in NOT_IN_FINGERPRINT
    }
    return flat | {"data sha256": data_sha256, STARTING_WEIGHTS: weights_sha256, "processes": processes}


def apply_to_machine(args: TransformerTrainerConfig, checkpoints: Path) -> str:
    """Sets the Trainer's directory and precision, seeds every generator, and returns the precision.

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
        # Processes would wait for the gradients of frozen parameters.
        args.ddp_find_unused_parameters = True
    args.restore_callback_states_from_checkpoint = True
    if args.full_determinism:
        enable_full_determinism(args.seed)
    else:
        set_seed(args.seed)
    return precision


def load_classifier(config: TransformerModelConfig, directory: Path, labels: list[str]) -> PreTrainedModel:
    """A pretrained encoder in float32 with a head for these labels, a new one unless it has just these.

    Raises:
        UserError: the directory holds no model that transformers can load, or no safetensors.
    """
    settings = load_encoder_config(directory)
    settings.problem_type = "single_label_classification"
    for value, names in (
        (config.attention_dropout, ("attention_probs_dropout_prob", "attention_dropout")),
        (config.hidden_dropout, ("hidden_dropout_prob", "dropout", "seq_classif_dropout")),
    ):
        for name in names:
            # Each architecture has its own name for the same thing.
            if value is not None and hasattr(settings, name):
                setattr(settings, name, value)
    classifier = any("ForSequenceClassification" in name for name in settings.architectures or ())
    other_labels = classifier and settings.id2label != dict(enumerate(labels))
    encoder = load_encoder(directory, settings).base_model if other_labels else None
    settings.id2label = dict(enumerate(labels))
    settings.label2id = {label: index for index, label in enumerate(labels)}
    if encoder is None:
        return load_encoder(directory, settings)
    logger.info("new head: the classifier to start from has other labels")
    return new_classifier(settings, encoder)


def add_soft_labels(papers: Dataset, texts: Sequence[str], weight: float, seed: int) -> Dataset:
    """Adds the column `target`: the label mixed with the probabilities of a TF-IDF model.

    Knowledge distillation (Hinton et al. 2015). Each paper gets the probabilities of models fitted without
    its fold: on its own papers a linear model is nearly always right and would add nothing to the label.

    Args:
        papers: with `label` (a `ClassLabel`), in the order of `texts`.
        texts: title and abstract of each paper.
        weight: share of the probabilities in the (classes,) targets; 0 returns the papers as they are.
        seed: of the folds and the TF-IDF model.
    """
    if not weight:
        return papers
    labels = np.asarray(papers["label"][:])
    classes = papers.features["label"].num_classes
    logger.info("soft labels: fits a TF-IDF model on the training papers, fold by fold")
    soft = out_of_fold_probabilities(texts, labels, classes, seed)
    right = (soft.argmax(1) == labels).mean()
    logger.info("soft labels: %.4f of the labels right on papers that the model had not seen", right)
    targets = weight * soft + (1 - weight) * np.eye(classes)[labels]
    return papers.add_column("target", list(targets.astype(np.float32)))


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


def train(trainer: PaperTrainer, checkpoint: Path | None, ended: bool) -> None:
    """Trains to the end, from a checkpoint where there is one.

    Where nothing was left to train there (`ended`), its weights are taken: the Trainer would
    undo an early stop.
    """
    if checkpoint is None or not ended:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return
    logger.info("the training had ended at %s: its weights are taken as they are", checkpoint.name)
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    weights = checkpoint.parent / Path(best).name if best else checkpoint
    load_model(trainer.model, weights / "model.safetensors")


def calibrate(trainer: PaperTrainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fits the temperature on the validation split and folds it into the model; every process takes part.

    Returns:
        The record of the temperature, and the validation metrics of the calibrated model.
    """
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation")
    record, probabilities = calibration.calibrate(output.predictions, output.label_ids)
    names = trainer.model.config.id2label
    labels = [names[index] for index in range(len(names))]
    fold_temperature(trainer.accelerator.unwrap_model(trainer.model), record["temperature"])
    return record, compute_metrics(output.label_ids, probabilities, labels)


def save_model(trainer: PaperTrainer, directory: Path) -> TransformerPredictor:
    """Writes weights and tokenizer, without any pickle, and returns a predictor over the same weights."""
    # Without the wrapper for mixed precision the model computes in float32, as when it is loaded.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False, keep_torch_compile=False)
    tokenizer = trainer.processing_class
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return TransformerPredictor(model, tokenizer, directory)


def training_record(trainer: PaperTrainer, seconds: float, start: dict[str, str | None]) -> dict[str, Any]:
    """The start, steps, epochs, the best checkpoint and the speed of a finished training."""
    state, args = trainer.state, trainer.args
    best = state.best_model_checkpoint
    return {
        "starting_weights": start,
        "max_length": trainer.processing_class.model_max_length,
        "steps": state.global_step,
        "epochs": round(state.epoch or 0.0, 4),
        "global_batch_size": (
            args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        ),
        "best_step": int(best.rpartition("-")[2]) if best else state.global_step,
        "best_metric": state.best_metric,
        "metric_for_best_model": args.metric_for_best_model,
        "papers_seen": round((state.epoch or 0.0) * len(trainer.train_dataset)),
        "seconds": round(seconds, 2),
    }
