"""ZeroGPU: a Space there borrows a GPU for the length of a decorated call; elsewhere nothing changes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

SECONDS = 60
"""Longest duration of one call; a visitor's daily share is counted in these."""


def on_zero_gpu() -> bool:
    """Whether this is ZeroGPU hardware (it sets a variable and installs the package `spaces`)."""
    return bool(os.environ.get("SPACES_ZERO_GPU")) and importlib.util.find_spec("spaces") is not None


def prepare_zero_gpu() -> None:
    """Lets `spaces` change torch before anything touches a GPU; elsewhere nothing happens."""
    if on_zero_gpu():
        importlib.import_module("spaces")


def borrow_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under `spaces.GPU` on ZeroGPU hardware, the function itself elsewhere.

    ZeroGPU refuses to start a Space without any decorated function, so this is called whatever the engine.
    """
    if not on_zero_gpu():
        return function

    @functools.wraps(function)
    def on_gpu(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return importlib.import_module("spaces").GPU(duration=SECONDS)(on_gpu)
