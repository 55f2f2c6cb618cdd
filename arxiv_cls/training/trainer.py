"""The loss: cross-entropy with class weights and label smoothing, right under accumulation and ranks."""

from __future__ import annotations

import logging
import re
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


def make_loss(weights: torch.Tensor | None, label_smoothing: float) -> Callable[..., torch.Tensor]:
    """A loss for `Trainer(compute_loss_func=...)`.

    Args:
        weights: of the classes, (classes,), with a mean of 1 over the training papers; None: equal.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.

    Returns:
        A function of (outputs, labels, num_items_in_batch): the sum over the papers divided by the
        number of papers of the whole step (all ranks and accumulated batches), in float32. Without
        that number, as in evaluation, the mean over the batch. Labels are class numbers, (papers,), or
        a distribution over the classes for each paper, (papers, classes).
    """

    def loss(
        outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        logits = outputs["logits"].float()
        total = functional.cross_entropy(
            logits,
            labels,
            weight=None if weights is None else weights.to(logits.device),
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        if num_items_in_batch is None:
            return total / len(labels)
        # The Trainer counts the elements of the labels: a distribution has one per class.
        return total / (num_items_in_batch / (labels.numel() // len(labels)))

    return loss


# Parameters that weight decay leaves alone: biases and normalisation, as in BERT's own training.
_NOT_DECAYED = re.compile(r"(?:^|\.)bias$|norm", re.IGNORECASE)
_LAYER = re.compile(r"\.(?:layer|layers|h|block)\.(\d+)\.")


def is_head(name: str, model: PreTrainedModel) -> bool:
    """Whether a parameter belongs to the new head, not to the pretrained encoder."""
    return not name.startswith(model.base_model_prefix + ".")


def depth(name: str, model: PreTrainedModel) -> int:
    """Layers above a parameter: 0 for the last layer and the head, all of them for the embeddings."""
    layers = model.config.num_hidden_layers
    layer = _LAYER.search(name)
    if layer:
        return layers - 1 - int(layer.group(1))
    return layers if "embeddings" in name else 0


def parameter_groups(
    model: PreTrainedModel,
    *,
    learning_rate: float,
    head_learning_rate: float | None,
    layerwise_decay: float,
    weight_decay: float,
) -> list[dict]:
    """Groups for an optimizer: one per learning rate and decay.

    A layer `d` below the top learns with `learning_rate * layerwise_decay ** d` (discriminative
    fine-tuning, Howard and Ruder 2018; the factor per layer as in ELECTRA, Clark et al. 2020).

    Args:
        model: a sequence classifier of transformers.
        learning_rate: of the encoder's last layer.
        head_learning_rate: of the head; None: `learning_rate`.
        layerwise_decay: 0 to 1.
        weight_decay: of all but biases and normalisation.

    Returns:
        Dicts with `params`, `lr`, `weight_decay`; the order is that of the model's parameters.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if is_head(name, model):
            rate = head_learning_rate or learning_rate
        else:
            rate = learning_rate * layerwise_decay ** depth(name, model)
        decay = 0.0 if _NOT_DECAYED.search(name) else weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def freeze(model: PreTrainedModel, parts: list[str]) -> int:
    """Stops parts of the encoder from learning.

    Args:
        parts: `embeddings`, `encoder` (all but the head), or `layer.N`.

    Returns:
        How many parameters are frozen.

    Raises:
        UserError: a part that the model does not have.
    """
    frozen = 0
    for part in parts:
        pattern = {"encoder": r"", "embeddings": r"\bembeddings\."}.get(part, rf"\b{re.escape(part)}\.")
        found = [
            parameter
            for name, parameter in model.named_parameters()
            if not is_head(name, model) and re.search(pattern, name)
        ]
        if not found:
            layers = model.config.num_hidden_layers
            raise UserError(
                f"trainer.freeze: the model has no part {part!r}",
                hint=f"Parts are embeddings, encoder, and layer.0 to layer.{layers - 1}.",
            )
        for parameter in found:
            frozen += parameter.numel() if parameter.requires_grad else 0
            parameter.requires_grad_(False)
    return frozen


class HeadOnlyEpochs(TrainerCallback):
    """Keeps the encoder still for the first epochs: gradual unfreezing in its simplest form.

    The state follows from the step alone, so that a resumed run goes on as it would have.
    """

    def __init__(self, model: PreTrainedModel, epochs: float) -> None:
        self.epochs = epochs
        self.encoder = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and not is_head(name, model)
        ]

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Sets which parameters want gradients before each step."""
        learns = state.global_step >= self.epochs * state.max_steps / args.num_train_epochs
        if self.encoder and self.encoder[0].requires_grad != learns:
            for parameter in self.encoder:
                parameter.requires_grad_(learns)


def class_weights(counts: torch.Tensor, weighting: str) -> torch.Tensor | None:
    """Weights of the classes in the loss, with a mean of 1 over the training papers.

    Args:
        counts: training papers per class, (classes,).
        weighting: none, balanced (1 / count) or sqrt (1 / sqrt(count)).

    Returns:
        (classes,) float32, or None for equal weights.
    """
    if weighting == "none":
        return None
    exponent = {"balanced": 1.0, "sqrt": 0.5}[weighting]
    counts = counts.double()
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -exponent, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


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
        self,
        model: PreTrainedModel,
        args: TransformerTrainerConfig,
        tokenizer: PreTrainedTokenizerBase,
        train_dataset: Dataset,
        eval_dataset: Dataset,
        callbacks: list[TrainerCallback],
    ) -> None:
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        check_metric_name(args.metric_for_best_model, labels)
        counts = torch.bincount(torch.as_tensor(train_dataset["label"][:]), minlength=len(labels))
        super().__init__(
            model=model,
            args=args,
            processing_class=tokenizer,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=lambda features: collate(features, tokenizer.pad_token_id),
            compute_loss_func=make_loss(
                class_weights(counts, args.class_weighting), args.label_smoothing_factor
            ),
            compute_metrics=lambda prediction: scalar_metrics(prediction, labels),
            callbacks=callbacks,
        )
        # The callbacks of the project say each step; the Trainer's own would print it once more.
        self.remove_callback(PrinterCallback)
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(TrainingBar)

    def get_train_dataloader(self) -> DataLoader:
        """Batches by length, dealt out to the ranks by the sampler itself."""
        args = self.args
        batches = LengthGroupedBatches(
            [len(ids) for ids in self.train_dataset["input_ids"]],
            args.per_device_train_batch_size,
            args.data_seed if args.data_seed is not None else args.seed,
            rank=args.process_index,
            world_size=args.world_size,
            grouped=args.length_grouping,
            drop_last=args.dataloader_drop_last,
        )
        return EpochDataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
        )

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW (or what `optim` names) over the groups of `parameter_groups`."""
        if self.optimizer is None:
            groups = parameter_groups(
                self.model,
                learning_rate=self.args.learning_rate,
                head_learning_rate=self.args.head_learning_rate,
                layerwise_decay=self.args.layerwise_learning_rate_decay,
                weight_decay=self.args.weight_decay,
            )
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer


class TrainingBar(ProgressCallback):
    """The Trainer's bars without its lines."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Leaves the line to the log."""


def check_metric_name(name: str | None, labels: list[str]) -> None:
    """Says at the start what would otherwise be a KeyError after the first epoch.

    Args:
        name: `metric_for_best_model`, with or without `eval_`; None for no metric.
        labels: category codes.

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
    """The numbers of `compute_metrics` that fit on a curve, and the F1 of each class.

    Args:
        prediction: logits of shape (papers, classes) and label ids of shape (papers,).
        labels: category codes in the order of the columns.
    """
    probabilities = softmax(np.asarray(prediction.predictions, dtype=np.float64), axis=1)
    metrics = arxiv_metric(labels).compute(predictions=probabilities, references=prediction.label_ids)
    scalars = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return scalars | {f"f1/{label}": scores["f1"] for label, scores in metrics["per_class"].items()}


logger = logging.getLogger(__name__)


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
