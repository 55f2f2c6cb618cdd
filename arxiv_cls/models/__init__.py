"""Models: what turns the text of a paper into scores of categories."""

from __future__ import annotations

from typing import Any

__all__ = ["ENGINES", "EncodedText", "Prediction", "Predictor", "load_predictor"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from arxiv_cls.models import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
