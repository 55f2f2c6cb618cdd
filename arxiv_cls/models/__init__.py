"""Models: what turns the text of a paper into scores of categories."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "ENGINES": "predictor", "load_predictor": "predictor",
    "EncodedText": "prediction", "Prediction": "prediction", "Predictor": "prediction",
}  # fmt: skip
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"arxiv_cls.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
