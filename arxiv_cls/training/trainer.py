"""The Trainer of a fine-tuning run: loss, learning rates by layer, frozen parts, callbacks."""

from __future__ import annotations

import itertools
import logging
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import scores_of
from arxiv_cls.recipe import nearest
from arxiv_cls.record.model_files import MULTI_LABEL
from arxiv_cls.scoring import multi_label as multi_label_scoring
from arxiv_cls.scoring.metrics import SCALAR_METRICS, arxiv_metric
from arxiv_cls.training.arguments import TransformerTrainerConfig
from arxiv_cls.training.batches import EpochDataLoader, LengthGroupedBatches, collate
from arxiv_cls.training.interruption import Interruption
from arxiv_cls.training.remote import CheckpointMirror
from arxiv_cls.training.run_directory import COMPLETE
from arxiv_cls.training.trackers import Trackers

# Parameters without weight decay: biases and normalisation, as in BERT's own training.
_NOT_DECAYED = re.compile(r"(?:^|\.)bias$|norm", re.IGNORECASE)
_LAYER = re.compile(r"\.(?:layer|layers|h|block)\.(\d+)\.")

logger = logging.getLogger(__name__)


def make_loss(
    weights: torch.Tensor | None, label_smoothing: float, *, multi_label: bool = False
) -> Callable[..., torch.Tensor]:
    """A loss for `Trainer(compute_loss_func=...)`: cross-entropy in float32 with (classes,) weights.

    For a multi-label model the binary cross-entropy of each class, with its weight, mean over the classes, as
    transformers has it.

    Returns:
        A function of (outputs, labels, num_items_in_batch): the sum over the papers divided by the number
        of papers of the whole step (all processes and accumulated batches), or without that number their
        mean. Labels are class numbers, (papers,), or distributions over the classes, (papers, classes); for a
        multi-label model numbers from 0 to 1 for each class.
    """

    def loss(outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        logits = outputs["logits"].float()
        weight = None if weights is None else weights.to(logits.device)
        if multi_label:
            total = functional.binary_cross_entropy_with_logits(
                logits, labels, weight=weight, reduction="sum"
            )
            total = total / logits.shape[1]
        else:
            total = functional.cross_entropy(
                logits, labels, weight=weight, label_smoothing=label_smoothing, reduction="sum"
            )
        if num_items_in_batch is None:
            return total / len(labels)
        # The Trainer counts the elements of the labels: there is one per class, or one per paper.
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
            raise UserError(
                f"trainer.freeze: the model has no part {part!r}",
                f"Parts are embeddings, encoder, and layer.0 to layer.{model.config.num_hidden_layers - 1}.",
            )
        for parameter in found:
            parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in encoder.values() if not parameter.requires_grad)


class PaperTrainer(Trainer):
    """Fine-tunes a sequence classifier with `id2label` on columns `input_ids` and `label`.

    Raises:
        UserError: `metric_for_best_model` names no metric of the validation split, or label smoothing for a
            multi-label model.
    """

    def __init__(
        self, model: PreTrainedModel, args: TransformerTrainerConfig, tokenizer: PreTrainedTokenizerBase,
        train_dataset: Dataset, eval_dataset: Dataset, callbacks: list[TrainerCallback],
    ) -> None:  # fmt: skip
        labels = self.labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        self.multi_label = model.config.problem_type == MULTI_LABEL
        check_metric_name(args.metric_for_best_model, labels, multi_label=self.multi_label)
        if self.multi_label and args.label_smoothing_factor:
            raise UserError("trainer.label_smoothing_factor: not with data.task: multi_label", "leave it out")
        every = train_dataset["labels"] if self.multi_label else [train_dataset["label"][:]]
        counts = torch.bincount(torch.as_tensor([*itertools.chain(*every)]), minlength=len(labels))
        weights = class_weights(counts, args.class_weighting)
        super().__init__(
            model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=tokenizer,
            data_collator=lambda features: collate(
                features, tokenizer.pad_token_id, side=tokenizer.padding_side, classes=len(labels)
            ),
            compute_loss_func=make_loss(weights, args.label_smoothing_factor, multi_label=self.multi_label),
            compute_metrics=lambda prediction: scalar_metrics(prediction, labels), callbacks=callbacks,
        )  # fmt: skip
        # `LogCallback` writes each step; the Trainer's own would print it once more.
        self.remove_callback(PrinterCallback)
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(_TrainingBar)

    def get_train_dataloader(self) -> DataLoader:
        """Batches by length, divided among the processes by the sampler itself."""
        args = self.args
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        seed = args.data_seed if args.data_seed is not None else args.seed
        batches = LengthGroupedBatches(
            lengths, args.per_device_train_batch_size, seed, process_index=args.process_index,
            num_processes=args.world_size, grouped=args.length_grouping,
        )  # fmt: skip
        return EpochDataLoader(
            self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
        )  # fmt: skip

    def prediction_step(self, *args: Any, **options: Any) -> tuple[Any, Any, Any]:
        """Loss, logits and labels; an encoder with a decoder gives hidden states beside its logits."""
        loss, logits, labels = super().prediction_step(*args, **options)
        return loss, logits[0] if isinstance(logits, tuple) else logits, labels

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW (or what `optim` names) over the groups of `parameter_groups`."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(parameter_groups(self.model, self.args), **options)
        return self.optimizer


def check_metric_name(name: str | None, labels: list[str], *, multi_label: bool = False) -> None:
    """Checks `metric_for_best_model` at the start: the Trainer would raise a KeyError after the first epoch.

    Raises:
        UserError: the validation split has no such metric.
    """
    known = ["loss", *(multi_label_scoring.METRICS if multi_label else SCALAR_METRICS)]
    known += [f"f1/{label}" for label in labels]
    if name is not None and name.removeprefix("eval_") not in known:
        raise UserError(
            f"trainer.metric_for_best_model: {name!r} is no metric{nearest(name, known)}",
            hint=f"one of {', '.join(known)}",
        )


def scalar_metrics(prediction: EvalPrediction, labels: list[str]) -> dict[str, float]:
    """The numbers of `compute_metrics`, and the F1 of each class; logits are (papers, classes).

    For a multi-label model at thresholds fitted on these papers, as those of the final model will be.

    Raises:
        UserError: logits that are not finite.
    """
    if not np.isfinite(prediction.predictions).all():
        raise _diverged("scores of the validation split are not finite")
    logits, truth = np.asarray(prediction.predictions, dtype=np.float64), prediction.label_ids
    probabilities = scores_of(logits, multi_label=truth.ndim == 2)
    if truth.ndim == 2:
        listed = truth > 0
        thresholds = multi_label_scoring.fit_thresholds(listed, probabilities)
        metrics = multi_label_scoring.compute_metrics(listed, probabilities, thresholds, labels)
    else:
        metrics = arxiv_metric(labels).compute(predictions=probabilities, references=truth)
    per_class = metrics.pop("per_class")
    return metrics | {f"f1/{label}": scores["f1"] for label, scores in per_class.items()}


def _diverged(what: str) -> UserError:
    return UserError(
        f"the training has diverged: {what}",
        "Lower trainer.learning_rate, or take --trainer.precision fp32 if it was fp16.",
    )


def recipe_callbacks(
    model: PreTrainedModel, args: TransformerTrainerConfig, profile: Path
) -> list[TrainerCallback]:
    """Freezes what the recipe freezes and returns the callbacks that its trainer group asks for."""
    frozen = freeze(model, args.freeze)
    if frozen:
        logger.info("frozen: %s of %s parameters", f"{frozen:,}", f"{model.num_parameters():,}")
    chosen: list[TrainerCallback] = []
    if args.early_stopping_patience:
        chosen.append(EarlyStoppingCallback(args.early_stopping_patience))
    if args.head_only_epochs:
        chosen.append(_HeadOnlyEpochs(model, args.head_only_epochs))
    if args.profile_steps and args.process_index == 0:
        chosen.append(_ProfileSteps(args.profile_steps, profile))
    return chosen


class _TrainingBar(ProgressCallback):
    """The Trainer's bars without its lines, which `LogCallback` writes."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        pass


class LogCallback(TrainerCallback):
    """Passes what the Trainer logs on to log file and trackers; a loss that is no number ends the run."""

    def __init__(self, trackers: Trackers) -> None:
        self.trackers = trackers

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Writes one line and one point per logged step."""
        numbers = {
            name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)
        }
        for name in ("loss", "eval_loss", "train_loss"):
            if not math.isfinite(numbers.get(name, 0.0)):
                raise _diverged(f"{name} is {numbers[name]} at step {state.global_step}")
        if not state.is_world_process_zero or not numbers:
            return
        line = " ".join(f"{name}={value:.5g}" for name, value in numbers.items())
        logger.info("step %d/%d %s", state.global_step, state.max_steps, line)
        prefixed = {
            f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": value
            for name, value in numbers.items()
        }
        self.trackers.log(prefixed, step=state.global_step)


class _HeadOnlyEpochs(TrainerCallback):
    """Freezes the encoder for the first epochs; follows from the step alone, also after a resume."""

    def __init__(self, model: PreTrainedModel, epochs: float) -> None:
        self.epochs = epochs
        named = model.named_parameters()
        self.encoder = [value for name, value in named if value.requires_grad and not is_head(name, model)]

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        learns = state.global_step >= self.epochs * state.max_steps / args.num_train_epochs
        for parameter in self.encoder:
            parameter.requires_grad_(learns)


class _ProfileSteps(TrainerCallback):
    """Records a few steps with torch's profiler, after a step of warm-up.

    The trace opens in Perfetto or chrome://tracing; `operators.txt` is the table of the costly operators.
    """

    def __init__(self, steps: int, folder: Path) -> None:
        self.folder = folder
        schedule = torch.profiler.schedule(wait=0, warmup=1, active=steps, repeat=1)
        self.profiler = torch.profiler.profile(
            schedule=schedule, on_trace_ready=self.write, record_shapes=True
        )

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.profiler.step()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        # Writes what there is when the training was shorter than the recording.
        self.profiler.stop()

    def write(self, profiler: torch.profiler.profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        (self.folder / "operators.txt").write_text(table, encoding="utf-8")
        logger.info("profile of the first steps: %s", self.folder)


class MarkComplete(TrainerCallback):
    """Writes a mark into each checkpoint after its last file; without it, a checkpoint is incomplete.

    The mark holds the seconds of training so far, those before the checkpoint that was resumed included, and
    `ended` where nothing was left to train: the Trainer forgets an early stop when it goes on. The mirror
    gets each marked checkpoint.
    """

    def __init__(self, checkpoint: Path | None, mirror: CheckpointMirror | None = None) -> None:
        self.mirror = mirror
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
        # Each process writes the state of its own random numbers.
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            ended = " ended" if control.should_training_stop else ""
            (checkpoint / COMPLETE).write_text(f"{self.seconds():.2f}{ended}", encoding="utf-8")
            if self.mirror:
                self.mirror.update()


class StopTogether(TrainerCallback):
    """Ends all processes after the same step, with a whole checkpoint, when one of them is due to end.

    It leaves the Trainer by an exception, after `MarkComplete`: `should_training_stop` would make it evaluate
    and return, and the model would be published.
    """

    def __init__(self, interruption: Interruption, mirror: CheckpointMirror | None) -> None:
        self.interruption, self.mirror = interruption, mirror

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """From here on there is something to save."""
        self.interruption.deferred = True

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Asks for a checkpoint."""
        # The last step of an epoch is left to `on_epoch_end`: a resumed run would not make its evaluation.
        if not (control.should_training_stop or float(state.epoch).is_integer()):
            control.should_save |= self._due(args)

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        """Asks for a checkpoint, after the evaluation where the epoch ends with one."""
        control.should_save |= self._due(args)

    def on_save(self, args, state, control, **kwargs) -> None:
        """Ends the process once its checkpoint is whole."""
        if self._due(args):
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._end(f"{checkpoint} of {state.max_steps} steps is whole")

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Ends the process before the model is evaluated."""
        if self._due(args):
            self._end("the training is complete")
        self.interruption.deferred = False

    def _due(self, args) -> bool:
        if args.world_size == 1:
            return self.interruption.due()
        due = torch.tensor(int(self.interruption.due()), device=args.device)
        torch.distributed.all_reduce(due, op=torch.distributed.ReduceOp.MAX)
        return bool(due)

    def _end(self, state: str) -> None:
        # The checkpoint is whole here: a launcher that ends the process during the upload leaves the marker.
        self.interruption.mark(state)
        if self.mirror:
            problem = self.mirror.flush()
            state += f", {f'not ({problem})' if problem else 'also'} in {self.mirror.address}"
        # A launcher ends all processes when the first has ended.
        PartialState().wait_for_everyone()
        self.interruption.end(state)
