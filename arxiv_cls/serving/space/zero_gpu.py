"""ZeroGPU: a Space there borrows a GPU for the length of a decorated call; elsewhere nothing changes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any

from arxiv_cls.errors import UserError

# What a call asks for: the time to get the model onto the GPU, and a slow guess of its speed. Less is granted
# sooner and fits into what is left of a visitor's daily share, of which only the time that was used is taken.
STARTING_SECONDS = 15
TEXTS_PER_SECOND = 20


def on_zero_gpu() -> bool:
    """Whether this is ZeroGPU hardware (it sets a variable and installs the package `spaces`)."""
    return bool(os.environ.get("SPACES_ZERO_GPU")) and importlib.util.find_spec("spaces") is not None


def prepare_zero_gpu() -> None:
    """Lets `spaces` change torch before anything touches a GPU; elsewhere nothing happens."""
    if on_zero_gpu():
        importlib.import_module("spaces")


def borrow_gpu(function: Callable[..., Any], count_texts: Callable[..., int]) -> Callable[..., Any]:
    """The function under `spaces.GPU` on ZeroGPU hardware, the function itself elsewhere.

    ZeroGPU refuses to start a Space without any decorated function, so this is called whatever the engine.

    Args:
        function: computes on the GPU.
        count_texts: of the same arguments: how many texts the model will read; decides the longest duration.

    Raises:
        UserError: by the function that is returned, when the visitor's share of GPU time is used up.
    """
    if not on_zero_gpu():
        return function

    def seconds(*arguments: Any) -> int:
        return STARTING_SECONDS + math.ceil(count_texts(*arguments) / TEXTS_PER_SECOND)

    @functools.wraps(function)
    def on_gpu(*arguments: Any) -> Any:
        return function(*arguments)

    borrowed = importlib.import_module("spaces").GPU(duration=seconds)(on_gpu)

    @functools.wraps(function)
    def ask(*arguments: Any) -> Any:
        try:
            return borrowed(*arguments)
        except Exception as error:
            # `spaces` raises Gradio's own error for everything and tells the cases apart by their words.
            if "quota" not in f"{getattr(error, 'title', '')} {error}".lower():
                raise
            raise UserError(
                "Your share of GPU time on the Hub is used up for now.",
                hint="Sign in to the Hub for a larger one, come back in some hours, or send fewer papers.",
            ) from error

    return ask
