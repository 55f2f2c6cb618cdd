"""The steps of a fine-tuning run that `train.py` calls one after another."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from safetensors.torch import load_model
from transformers import PreTrainedModel, TrainerState, enable_full_determinism, set_seed

from arxiv_cls.corpus.splits import label_matrix
from arxiv_cls.errors import UserError
from arxiv_cls.models.loading import load_encoder, load_encoder_config, new_classifier
from arxiv_cls.models.transformer import (
    TransformerPredictor,
    fold_label_calibration,
    fold_temperature,
    output_layer,
)
from arxiv_cls.recipe import TransformerModelConfig, resolved
from arxiv_cls.record.run_record import available_cores, peak_resident_bytes, processor_name
from arxiv_cls.scoring import calibration, multi_label
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.training.arguments import TransformerRecipe, TransformerTrainerConfig
from arxiv_cls.training.trainer import PaperTrainer

logger = logging.getLogger(__name__)

# Keys that may differ between a run and its resumption: none of them changes the weights.
NOT_IN_FINGERPRINT = {
    "trainer.output_dir", "trainer.report_to", "trainer.logging_steps", "trainer.disable_tqdm",
    "trainer.profile_steps", "trainer.max_hours", "trainer.checkpoint_dir", "data.csv",
}  # fmt: skip

ResultT = TypeVar("ResultT")


@contextlib.contextmanager
def one_output(args: TransformerTrainerConfig) -> Iterator[None]:
    """Prints each line, bar and error once, not once per process."""
    project = logging.getLogger("arxiv_cls")
    level = project.level
    if args.process_index:
        project.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
    try:
        yield
    except UserError as error:
        # The first process of each host prints it: what is missing may be missing on that host alone.
        if args.local_process_index:
            raise SystemExit(error.exit_code) from None
        raise
    finally:
        project.setLevel(level)


def on_main_process(args: TransformerTrainerConfig, work: Callable[[], ResultT]) -> ResultT:
    """Calls `work` in the main process of all hosts and returns its result, which is picklable, in each.

    Raises:
        UserError: in the main process, what `work` raised; the others then exit without a message.
    """
    outcome: list[Any] = [None, 0]
    failure = None
    if args.process_index == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            failure, outcome[1] = error, error.exit_code
    if args.world_size > 1:
        broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1]:
        raise SystemExit(outcome[1])
    return outcome[0]


def set_cpu_threads(requested: int | None) -> int:
    """Sets and returns torch's CPU threads; None divides the usable cores by the processes on this host.

    `accelerate launch` exports OMP_NUM_THREADS=1, which would leave all cores but one idle.
    """
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(requested or max(1, available_cores() // local_processes))
    return torch.get_num_threads()


def resolve_precision(requested: str, use_cpu: bool) -> str:
    """The precision that a run computes in: fp32, bf16 or fp16.

    `auto` is bf16 on a GPU of compute capability 8.0 or later and on a CPU with AVX512-BF16 or AMX
    instructions (without them bf16 is emulated), fp16 on an older GPU, else fp32.

    Raises:
        UserError: fp16 on a CPU, where the Trainer would compute in fp32 without a warning.
    """
    cuda = torch.cuda.is_available() and not use_cpu
    mps = torch.backends.mps.is_available() and not use_cpu
    if requested == "fp16" and not (cuda or mps):
        raise UserError("trainer.precision: fp16 needs a GPU", hint="On a CPU take auto, bf16 or fp32.")
    if requested != "auto":
        return requested
    if cuda:
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    in_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if in_bf16 and not mps else "fp32"


def device_record(args: TransformerTrainerConfig, precision: str, threads: int) -> dict[str, Any]:
    """The device of a run, as it goes on record."""
    kind = args.device.type
    name = torch.cuda.get_device_name(args.device) if kind == "cuda" else kind
    return {
        "type": kind,
        "name": processor_name() if kind == "cpu" else name,
        "processes": args.world_size,
        "threads": threads,
        "precision": precision,
        "peak_memory_of": "device" if kind == "cuda" else "process",
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far, in bytes: of the device for a GPU, resident for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


def starting_weights(directory: Path) -> dict[str, str | None]:
    """`sha256` of the weights, of several files in order; `hub_commit`, None for a model not of the Hub."""
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
    return flat | {
        "data sha256": data_sha256, "starting weights sha256": weights_sha256, "processes": processes
    }  # fmt: skip


def apply_to_machine(args: TransformerTrainerConfig, checkpoints: Path) -> str:
    """Sets the Trainer's directory and precision, seeds every generator, and returns the precision.

    Raises:
        UserError: the device does not compute in the precision that the recipe asks for.
    """
    # Trackers are opened by the run, not by the Trainer.
    args.output_dir, args.report_to = str(checkpoints), []
    precision = resolve_precision(args.precision, args.use_cpu)
    args.bf16, args.fp16 = precision == "bf16", precision == "fp16"
    args.mixed_precision = "no" if precision == "fp32" else precision
    # Pinned memory is for copies to a GPU: without one torch warns of it at every evaluation.
    args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
    if args.head_only_epochs:
        # Processes would wait for the gradients of frozen parameters.
        args.ddp_find_unused_parameters = True
    args.restore_callback_states_from_checkpoint = True
    # The filter would leave a loss that is no number out of what is logged.
    args.logging_nan_inf_filter = False
    if args.full_determinism:
        enable_full_determinism(args.seed)
    else:
        set_seed(args.seed)
    return precision


def load_classifier(
    config: TransformerModelConfig, directory: Path, labels: list[str], task: str = "single_label"
) -> PreTrainedModel:
    """A pretrained encoder in float32 with a head for these labels, a new one unless it has just these.

    Raises:
        UserError: the directory holds no model that transformers can load, or no safetensors.
    """
    settings = load_encoder_config(directory)
    settings.problem_type = f"{task}_classification"
    # Those of the model to start from are of its own scores.
    vars(settings).pop("label_thresholds", None)
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
    """Adds the column `target`, (classes,): the label mixed with the probabilities of a TF-IDF model.

    In a multi-label corpus all labels of a paper, each mixed with its own probability.

    Knowledge distillation (Hinton et al. 2015). Each paper gets the probabilities of models fitted without
    its fold: on its own papers a linear model is nearly always right and would add nothing to the label.
    With a weight of 0 the papers are returned as they are.
    """
    if not weight:
        return papers
    from arxiv_cls.training.tfidf_fit import out_of_fold_probabilities

    classes = papers.features["label"].num_classes
    several = "labels" in papers.column_names
    labels = label_matrix(papers["labels"][:], classes) if several else np.asarray(papers["label"][:])
    logger.info("soft labels: fits a TF-IDF model on the training papers, fold by fold")
    soft = out_of_fold_probabilities(texts, labels, classes, seed)
    highest = soft.argmax(1)
    right = (labels[np.arange(len(labels)), highest] if several else highest == labels).mean()
    logger.info("soft labels: %.4f of the labels right on papers that the model had not seen", right)
    targets = weight * soft + (1 - weight) * (labels if several else np.eye(classes)[labels])
    return papers.add_column("target", list(targets.astype(np.float32)))


def train(trainer: PaperTrainer, checkpoint: Path | None, ended: bool) -> None:
    """Trains to the end, from a checkpoint where there is one, or takes its weights if that was the end.

    Raises:
        UserError: no time to train and no checkpoint.
    """
    if checkpoint is None and trainer.args.max_hours == 0:
        raise UserError(
            "trainer.max_hours: 0 takes a checkpoint as it is, and there is none to take",
            "With --resume it takes the last one of an unfinished run.",
        )
    # The Trainer would undo an early stop.
    if checkpoint is None or not (ended or trainer.args.max_hours == 0):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return
    logger.info("no further training after %s: its weights are taken as they are", checkpoint.name)
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    weights = checkpoint.parent / Path(best).name if best else checkpoint
    load_model(trainer.model, weights / "model.safetensors")


def calibrate(trainer: PaperTrainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Folds a temperature into the model, in every process; returns its record and the validation metrics.

    A multi-label model gets a scale and a shift for each label, and its thresholds go into its configuration.
    """
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation")
    if trainer.multi_label:
        return _calibrate_labels(trainer, output.predictions, output.label_ids > 0)
    record, probabilities = calibration.calibrate(output.predictions, output.label_ids)
    fold_temperature(trainer.accelerator.unwrap_model(trainer.model), record["temperature"])
    return record, compute_metrics(output.label_ids, probabilities, trainer.labels)


def _calibrate_labels(
    trainer: PaperTrainer, logits: np.ndarray, listed: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    # Some architectures have a last layer without a bias.
    shifted = output_layer(model).bias is not None
    record, fitted, scores = multi_label.calibrate(logits, listed, shifted=shifted)
    fold_label_calibration(model, fitted.scale, fitted.shift)
    model.config.label_thresholds = fitted.thresholds.tolist()
    return record, multi_label.compute_metrics(listed, scores, fitted.thresholds, trainer.labels)


def save_model(trainer: PaperTrainer, directory: Path) -> TransformerPredictor:
    """Writes weights and tokenizer, without any pickle, and returns a predictor over the same weights."""
    # Without the wrapper for mixed precision the model computes in float32, as when it is loaded.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False, keep_torch_compile=False)
    model.save_pretrained(directory)
    trainer.processing_class.save_pretrained(directory)
    return TransformerPredictor(model, trainer.processing_class, directory)


def training_record(trainer: PaperTrainer, seconds: float, start: dict[str, str | None]) -> dict[str, Any]:
    """The start, steps, epochs, the best checkpoint and the speed of a finished training."""
    state, args = trainer.state, trainer.args
    best = state.best_model_checkpoint
    epochs = state.epoch or 0.0
    return {
        "starting_weights": start,
        "max_length": trainer.processing_class.model_max_length,
        "steps": state.global_step,
        "epochs": round(epochs, 4),
        "global_batch_size": (
            args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        ),
        "best_step": int(best.rpartition("-")[2]) if best else state.global_step,
        "best_metric": state.best_metric,
        "metric_for_best_model": args.metric_for_best_model,
        "papers_seen": round(epochs * len(trainer.train_dataset)),
        "seconds": round(seconds, 2),
    }
