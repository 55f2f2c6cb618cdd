"""Scoring: metrics, calibration, intervals, plots and the evaluation of a model directory.

The names below load on first use, so that importing one part does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ArxivMetric": "arxiv_metric",
    "bootstrap_intervals": "bootstrap",
    "compute_metrics": "metrics",
    "evaluate_model": "evaluation",
    "expected_calibration_error": "calibration",
    "fit_temperature": "calibration",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
