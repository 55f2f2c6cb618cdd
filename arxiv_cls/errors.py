"""The one exception that a person is meant to read: what was wrong, where, what to do next."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import sys
from collections.abc import Callable

# What a shell shows for a process that the kernel killed for its memory: ours ends with the same status.
OUT_OF_MEMORY = 137
# Exit status: not the input but the other side is at fault.
UNREACHABLE = 3


class UserError(Exception):
    """Bad input or an unmet condition that the person at the terminal can correct.

    Args:
        message: what was wrong and where (file, line, key), in one or a few lines.
        hint: what to do next; printed on a line of its own.
        exit_code: process exit status; 2 is bad input, `UNREACHABLE` (3) something that cannot be reached.
    """

    def __init__(self, message: str, hint: str | None = None, exit_code: int = 2) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Runs an entry point and exits with its status: what a person can correct is told without a traceback.

    Args:
        main: takes the arguments after the program's name; returns an exit status or None for 0.
    """
    try:
        status = main(sys.argv[1:]) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nothing is left to say to it.
        status = 141
    except Exception as error:
        told = error if isinstance(error, UserError) else _explained(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr, flush=True)
        status = told.exit_code
    sys.exit(status)


def _explained(error: Exception) -> UserError | None:
    if isinstance(error, ModuleNotFoundError) and (hint := how_to_install(error)):
        return UserError(f"this needs {error.name}, which is not installed", hint)
    if is_out_of_memory(error):
        return UserError(
            f"out of memory: {str(error).partition(chr(10))[0] or type(error).__name__}",
            "training: halve --trainer.per_device_train_batch_size and double "
            "--trainer.gradient_accumulation_steps, or lower --model.max_length",
            OUT_OF_MEMORY,
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own error, torch's for a GPU, or torch's plain one for a CPU."""
    # By its name, so that this module does not import torch.
    named = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return named or isinstance(error, MemoryError)


# Libraries that are imported under another name than the one they are installed by.
_DISTRIBUTIONS = {
    "google": "google-cloud-storage",
    "PIL": "gradio",
    "prometheus_client": "prometheus-fastapi-instrumentator",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",
    "umap": "umap-learn",
    "xgboost": "xgboost-cpu",
    "yaml": "pyyaml",
}
# Where several extras bring a library, the first of these that does is the one to name.
_PREFERRED = ("train", "baseline", "serve", "export", "space")


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """The command that brings the library that is missing; None for a module that is in no extra."""
    extra = _extra_with(error.name or "")
    return extra and f'pip install "arxiv_cls[{extra}]", or in a checkout: make setup'


def _extra_with(module: str) -> str | None:
    """The extra that brings a module, by the installed project's own metadata; None for a module of ours."""
    top = module.split(".")[0]
    name = re.sub(r"[-_.]+", "-", _DISTRIBUTIONS.get(module) or _DISTRIBUTIONS.get(top) or top).lower()
    found = set()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for requirement in importlib.metadata.requires("arxiv_cls") or []:
            extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
            if extra and re.split(r"[^\w.-]", requirement)[0].lower() == name:
                found.add(extra.group(1))
    ordered = [*_PREFERRED, *sorted(found - {"dev"})]
    return next((extra for extra in ordered if extra in found), None)
