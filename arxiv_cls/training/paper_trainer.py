"""`transformers.Trainer` with our batches, learning rates and loss; nothing else is changed."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
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
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.training.arguments import TransformerTrainerConfig
from arxiv_cls.training.batches import EpochDataLoader, LengthGroupedBatches, collate
from arxiv_cls.training.learning_rates import class_weights, parameter_groups
from arxiv_cls.training.loss import make_loss


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
    logits = np.asarray(prediction.predictions, dtype=np.float64)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    metrics = compute_metrics(prediction.label_ids, shifted / shifted.sum(axis=1, keepdims=True), labels)
    scalars = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return scalars | {f"f1/{label}": scores["f1"] for label, scores in metrics["per_class"].items()}
