"""The loss: cross-entropy with class weights and label smoothing, right under accumulation and ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


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
