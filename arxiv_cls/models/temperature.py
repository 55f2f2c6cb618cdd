"""Folding the calibration temperature into a classifier, so that plain `pipeline()` is calibrated."""

from __future__ import annotations

import torch
from torch import nn


def fold_temperature(model: nn.Module, temperature: float) -> None:
    """Divides the last layer's weight and bias by the temperature, in place.

    softmax(logits / T) is then what the model computes by itself. The order of the scores, and so
    every label, stays as it was.

    Args:
        model: a sequence classifier whose logits come from one `nn.Linear` with `num_labels` outputs.
        temperature: above 0.

    Raises:
        ValueError: a temperature that is not above 0, or no such layer.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature must be above 0, got {temperature}")
    layer = output_layer(model)
    with torch.no_grad():
        layer.weight.div_(temperature)
        if layer.bias is not None:
            layer.bias.div_(temperature)


def output_layer(model: nn.Module) -> nn.Linear:
    """The layer that the logits of a sequence classifier come out of.

    Raises:
        ValueError: no linear layer has `num_labels` outputs.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and layer.out_features == model.config.num_labels
    ]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer with num_labels outputs")
    return layers[-1]
