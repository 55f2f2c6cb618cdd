"""The steps of a fine-tuning run that `train.py` puts in a row."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import (
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    enable_full_determinism,
    set_seed,
)

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import resolved
from arxiv_cls.recipe_transformer import TransformerModelConfig, TransformerRecipe, TransformerTrainerConfig
from arxiv_cls.scoring.calibration import expected_calibration_error, fit_temperature, softmax
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.training.hardware import device_name, resolve_precision
from arxiv_cls.training.learning_rates import HeadOnlyEpochs, freeze
from arxiv_cls.training.paper_trainer import PaperTrainer

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
    """
    args.output_dir = str(checkpoints)
    precision = resolve_precision(args.precision, args.use_cpu)
    args.bf16, args.fp16 = precision == "bf16", precision == "fp16"
    args.mixed_precision = "no" if precision == "fp32" else precision
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
    try:
        from transformers import AutoConfig

        settings = AutoConfig.from_pretrained(directory, num_labels=len(labels))
        for name, value in dropouts.items():
            # Each architecture has its own name for the same thing; the others are not its business.
            if hasattr(settings, name):
                setattr(settings, name, value)
        settings.id2label = dict(enumerate(labels))
        settings.label2id = {label: index for index, label in enumerate(labels)}
        settings.problem_type = "single_label_classification"
        return AutoModelForSequenceClassification.from_pretrained(
            directory, config=settings, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{directory}: cannot be loaded as a text encoder: {' '.join(str(error).split())[:300]}",
            hint="model.name_or_path wants a model of transformers with weights in safetensors.",
        ) from None


def fingerprint(recipe: TransformerRecipe, data_sha256: str, world_size: int) -> dict[str, Any]:
    """What decides the weights, as flat keys: the recipe, the content of the data, the number of ranks."""
    flat = {
        f"{group}.{key}": value
        for group, section in resolved(recipe).items()
        for key, value in section.items()
        if group != "release" and f"{group}.{key}" not in NOT_IN_FINGERPRINT
    }
    return flat | {"data sha256": data_sha256, "processes": world_size}


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


class ProfileSteps(TrainerCallback):
    """Records a few steps with torch's profiler, after a step of warm-up.

    The trace opens in Perfetto or chrome://tracing; `operators.txt` is the table of the costly operators.
    """

    def __init__(self, steps: int, folder: Path) -> None:
        self.steps, self.folder = steps, folder
        self.profiler: torch.profiler.profile | None = None

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Starts to record at the second step of this process."""
        if not state.is_world_process_zero or self.steps <= 0 or self.profiler is not None:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        schedule = torch.profiler.schedule(wait=0, warmup=1, active=self.steps, repeat=1)
        self.profiler = torch.profiler.profile(activities=activities, schedule=schedule, record_shapes=True)
        self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Counts the step, and writes the trace after the last one."""
        if self.profiler is None or self.steps < 0:
            return
        self.profiler.step()
        self.recorded = getattr(self, "recorded", 0) + 1
        if self.recorded > self.steps:
            self._write()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Writes what there is when the training was shorter than the recording."""
        if self.profiler is not None and self.steps >= 0:
            self._write()

    def _write(self) -> None:
        self.profiler.stop()
        self.steps = -1
        self.folder.mkdir(parents=True, exist_ok=True)
        self.profiler.export_chrome_trace(str(self.folder / "trace.json"))
        table = self.profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        (self.folder / "operators.txt").write_text(table, encoding="utf-8")
        logger.info("profile of the first steps: %s", self.folder)


def calibrate(trainer: PaperTrainer) -> tuple[float, dict[str, float], dict[str, Any]]:
    """Fits the temperature on the validation split, and measures the model there.

    Every rank takes part, since the scores are gathered from all of them.

    Returns:
        The temperature, the record of it with the expected calibration error before and after, and the
        metrics of the calibrated model.
    """
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation")
    logits, labels = np.asarray(output.predictions, dtype=np.float64), output.label_ids
    temperature = fit_temperature(logits, labels)
    calibrated = softmax(logits / temperature)
    record = {
        "temperature": temperature,
        "expected_calibration_error_before": expected_calibration_error(softmax(logits), labels),
        "expected_calibration_error_after": expected_calibration_error(calibrated, labels),
    }
    names = trainer.model.config.id2label
    metrics = compute_metrics(labels, calibrated, [names[index] for index in range(len(names))])
    return temperature, record, metrics


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


def training_record(trainer: PaperTrainer, seconds: float) -> dict[str, Any]:
    """Steps, epochs, the best checkpoint and the speed of a finished training."""
    state, args = trainer.state, trainer.args
    global_batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    best = state.best_model_checkpoint
    return {
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
    with (directory / "model.safetensors").open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()


@contextlib.contextmanager
def only_main_talks(args: TransformerTrainerConfig):
    """Silences the loggers of the other ranks, so that each line is said once."""
    project = logging.getLogger("arxiv_cls")
    level = project.level
    if args.process_index:
        project.setLevel(logging.ERROR)
        os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        project.setLevel(level)


def data_options(recipe: Any) -> dict[str, Any]:
    """The keywords of `build_corpus` that a recipe's data group stands for."""
    options = dataclasses.asdict(recipe.data)
    return {key: value for key, value in options.items() if value is not None}
