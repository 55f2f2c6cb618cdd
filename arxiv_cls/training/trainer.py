"""The Trainer of a fine-tuning run: loss, learning rates by layer, frozen parts, callbacks."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from scipy.special import softmax
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import nearest
from arxiv_cls.scoring.metrics import arxiv_metric
from arxiv_cls.training.arguments import TransformerTrainerConfig
from arxiv_cls.training.batches import EpochDataLoader, LengthGroupedBatches, collate
from arxiv_cls.training.run_directory import COMPLETE
from arxiv_cls.training.tracking import Trackers, is_number

# Parameters without weight decay: biases and normalisation, as in BERT's own training.
_NOT_DECAYED = re.compile(r"(?:^|\.)bias$|norm", re.IGNORECASE)
_LAYER = re.compile(r"\.(?:layer|layers|h|block)\.(\d+)\.")

logger = logging.getLogger(__name__)


def make_loss(weights: torch.Tensor | None, label_smoothing: float) -> Callable[..., torch.Tensor]:
    """A loss for `Trainer(compute_loss_func=...)`: cross-entropy in float32.

    Args:
        weights: of the classes, (classes,), with a mean of 1 over the training papers; None: equal.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.

    Returns:
        A function of (outputs, labels, num_items_in_batch): the sum over the papers divided by the number
        of papers of the whole step (all processes and accumulated batches), or without that number their
        mean. Labels are class numbers, (papers,), or distributions over the classes, (papers, classes).
    """

    def loss(
        outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        logits = outputs["logits"].float()
        weight = None if weights is None else weights.to(logits.device)
        total = functional.cross_entropy(
            logits, labels, weight=weight, label_smoothing=label_smoothing, reduction="sum"
        )
        if num_items_in_batch is None:
            return total / len(labels)
        # The Trainer counts the elements of the labels: a distribution has one per class.
        return total / (num_items_in_batch / (labels.numel() // len(labels)))

    return loss


def class_weights(counts: torch.Tensor, weighting: str) -> torch.Tensor | None:
    """Weights of the classes in the loss, (classes,) float32 with a mean of 1 over the training papers.

    None for `none`, 1 / count for `balanced`, 1 / sqrt(count) for `sqrt`; `counts` are papers per class.
    """
    if weighting == "none":
        return None
    exponent = {"balanced": 1.0, "sqrt": 0.5}[weighting]
    counts = counts.double()
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -exponent, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def is_head(name: str, model: PreTrainedModel) -> bool:
    """Whether a parameter belongs to the new head, not to the pretrained encoder."""
    return not name.startswith(model.base_model_prefix + ".")


def parameter_groups(model: PreTrainedModel, args: TransformerTrainerConfig) -> list[dict]:
    """Groups for an optimizer, one per learning rate and weight decay.

    A layer `d` below the top learns with `learning_rate * layerwise_learning_rate_decay ** d` (discriminative
    fine-tuning, Howard and Ruder 2018; the factor per layer as in ELECTRA, Clark et al. 2020), embeddings as
    below all layers, and the head with `head_learning_rate` where there is one.
    """
    layers = model.config.num_hidden_layers
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer = _LAYER.search(name)
        below_top = layers - 1 - int(layer.group(1)) if layer else layers if "embeddings" in name else 0
        rate = args.learning_rate * args.layerwise_learning_rate_decay**below_top
        if is_head(name, model):
            rate = args.head_learning_rate or args.learning_rate
        decay = 0.0 if _NOT_DECAYED.search(name) else args.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def freeze(model: PreTrainedModel, parts: list[str]) -> int:
    """Freezes `embeddings`, `encoder` (all but the head) or `layer.N`; returns the number of parameters.

    Raises:
        UserError: a part that the model does not have.
    """
    encoder = {name: value for name, value in model.named_parameters() if not is_head(name, model)}
    for part in parts:
        pattern = {"encoder": "", "embeddings": r"\bembeddings\."}.get(part, rf"\b{re.escape(part)}\.")
        found = [parameter for name, parameter in encoder.items() if re.search(pattern, name)]
        if not found:
            last = model.config.num_hidden_layers - 1
            raise UserError(
                f"trainer.freeze: the model has no part {part!r}",
                hint=f"Parts are embeddings, encoder, and layer.0 to layer.{last}.",
            )
        for parameter in found:
            parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in encoder.values() if not parameter.requires_grad)


class PaperTrainer(Trainer):
    """Fine-tunes a sequence classifier on tokenised papers.

    Args:
        model: a sequence classifier with `id2label`.
        args: the recipe's trainer group, with `output_dir` set to the folder of the checkpoints.
        tokenizer: saved with the checkpoints; gives the padding token.
        train_dataset, eval_dataset: columns `input_ids` and `label`; `eval_dataset` sorted by length.
        callbacks: further callbacks.

    Raises:
        UserError: `metric_for_best_model` names no metric of the validation split.
    """

    def __init__(
        self, model: PreTrainedModel, args: TransformerTrainerConfig, tokenizer: PreTrainedTokenizerBase,
        train_dataset: Dataset, eval_dataset: Dataset, callbacks: list[TrainerCallback],
    ) -> None:  # fmt: skip
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        check_metric_name(args.metric_for_best_model, labels)
        counts = torch.bincount(torch.as_tensor(train_dataset["label"][:]), minlength=len(labels))
        weights = class_weights(counts, args.class_weighting)
        super().__init__(
            model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=tokenizer,
            data_collator=lambda features: collate(
                features, tokenizer.pad_token_id, side=tokenizer.padding_side
            ),
            compute_loss_func=make_loss(weights, args.label_smoothing_factor),
            compute_metrics=lambda prediction: scalar_metrics(prediction, labels), callbacks=callbacks,
        )  # fmt: skip
        # `LogCallback` writes each step; the Trainer's own would print it once more.
        self.remove_callback(PrinterCallback)
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(TrainingBar)

    def get_train_dataloader(self) -> DataLoader:
        """Batches by length, divided among the processes by the sampler itself."""
        args = self.args
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        seed = args.data_seed if args.data_seed is not None else args.seed
        batches = LengthGroupedBatches(
            lengths, args.per_device_train_batch_size, seed, process_index=args.process_index,
            num_processes=args.world_size, grouped=args.length_grouping, drop_last=args.dataloader_drop_last,
        )  # fmt: skip
        return EpochDataLoader(
            self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
        )  # fmt: skip

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW (or what `optim` names) over the groups of `parameter_groups`."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(parameter_groups(self.model, self.args), **options)
        return self.optimizer


def check_metric_name(name: str | None, labels: list[str]) -> None:
    """Checks `metric_for_best_model` at the start: the Trainer would raise a KeyError after the first epoch.

    Raises:
        UserError: the validation split has no such metric.
    """
    perfect = EvalPrediction(predictions=np.eye(len(labels)), label_ids=np.arange(len(labels)))
    known = ["loss", *scalar_metrics(perfect, labels)]
    if name is not None and name.removeprefix("eval_") not in known:
        raise UserError(
            f"trainer.metric_for_best_model: {name!r} is no metric{nearest(name, known)}",
            hint=f"one of {', '.join(known)}",
        )


def scalar_metrics(prediction: EvalPrediction, labels: list[str]) -> dict[str, float]:
    """The numbers of `compute_metrics`, and the F1 of each class; logits are (papers, classes)."""
    probabilities = softmax(np.asarray(prediction.predictions, dtype=np.float64), axis=1)
    metrics = arxiv_metric(labels).compute(predictions=probabilities, references=prediction.label_ids)
    scalars = {name: value for name, value in metrics.items() if is_number(value)}
    return scalars | {f"f1/{label}": scores["f1"] for label, scores in metrics["per_class"].items()}


class TrainingBar(ProgressCallback):
    """The Trainer's bars without its lines."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Prints nothing: `LogCallback` does."""


class LogCallback(TrainerCallback):
    """Passes what the Trainer logs on to the log file and the trackers."""

    def __init__(self, trackers: Trackers) -> None:
        self.trackers = trackers

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Writes one line and one point per logged step."""
        if not state.is_world_process_zero or not logs:
            return
        numbers = {name: float(value) for name, value in logs.items() if is_number(value)}
        line = " ".join(f"{name}={value:.5g}" for name, value in numbers.items())
        logger.info("step %d/%d %s", state.global_step, state.max_steps, line)
        prefixed = {
            f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": value
            for name, value in numbers.items()
        }
        self.trackers.log(prefixed, step=state.global_step)


class HeadOnlyEpochs(TrainerCallback):
    """Freezes the encoder for the first epochs; follows from the step alone, also after a resume."""

    def __init__(self, model: PreTrainedModel, epochs: float) -> None:
        self.epochs = epochs
        named = model.named_parameters()
        self.encoder = [value for name, value in named if value.requires_grad and not is_head(name, model)]

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Sets which parameters require gradients."""
        learns = state.global_step >= self.epochs * state.max_steps / args.num_train_epochs
        for parameter in self.encoder:
            parameter.requires_grad_(learns)


class ProfileSteps(TrainerCallback):
    """Records a few steps of the main process with torch's profiler, after a step of warm-up.

    The trace opens in Perfetto or chrome://tracing; `operators.txt` is the table of the costly operators.
    """

    def __init__(self, steps: int, folder: Path) -> None:
        self.folder = folder
        schedule = torch.profiler.schedule(wait=0, warmup=1, active=steps, repeat=1)
        self.profiler = torch.profiler.profile(
            schedule=schedule, on_trace_ready=self.write, record_shapes=True
        )

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Starts the warm-up."""
        if state.is_world_process_zero:
            self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Counts the step."""
        if state.is_world_process_zero:
            self.profiler.step()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Writes what there is when the training was shorter than the recording."""
        if state.is_world_process_zero:
            self.profiler.stop()

    def write(self, profiler: torch.profiler.profile) -> None:
        """Writes the trace and the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        (self.folder / "operators.txt").write_text(table, encoding="utf-8")
        logger.info("profile of the first steps: %s", self.folder)


class MarkComplete(TrainerCallback):
    """Writes a mark into each checkpoint after its last file; without it, a checkpoint is incomplete.

    The mark holds the seconds of training so far, those before the checkpoint that was resumed included, and
    `ended` where nothing was left to train: the Trainer forgets an early stop when it goes on.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        mark = (checkpoint / COMPLETE).read_text(encoding="utf-8") if checkpoint else "0"
        seconds, _, ended = mark.partition(" ")
        self.ended = ended == "ended"
        self._before, self._start = float(seconds), time.monotonic()

    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._before + time.monotonic() - self._start

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_save(self, args, state, control, **kwargs) -> None:
        """Marks the checkpoint of this step."""
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            ended = " ended" if control.should_training_stop else ""
            (checkpoint / COMPLETE).write_text(f"{self.seconds():.2f}{ended}", encoding="utf-8")
