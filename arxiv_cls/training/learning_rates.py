"""Which parameters learn, and how fast: head, encoder layers, embeddings."""

from __future__ import annotations

import re

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from arxiv_cls.errors import UserError

# Parameters that weight decay leaves alone: biases and normalisation, as in BERT's own training.
_NOT_DECAYED = re.compile(r"(?:^|\.)bias$|norm", re.IGNORECASE)
_LAYER = re.compile(r"\.(?:layer|layers|h|block)\.(\d+)\.")


def is_head(name: str, model: PreTrainedModel) -> bool:
    """Whether a parameter belongs to the new head, not to the pretrained encoder."""
    return not name.startswith(model.base_model_prefix + ".")


def depth(name: str, model: PreTrainedModel) -> int:
    """Layers between a parameter and the top of the encoder: 0 for the last layer and what follows it,
    the number of layers for the embeddings."""
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
