"""The one exception that a person is meant to read: what was wrong, where, what to do next."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable

# What a shell shows for a process that the kernel killed for its memory: ours ends with the same status.
OUT_OF_MEMORY = 137


class UserError(Exception):
    """Bad input or an unmet condition that the person at the terminal can correct.

    Args:
        message: what was wrong and where (file, line, key), in one or a few lines.
        hint: what to do next; printed on a line of its own.
        exit_code: process exit status; 2 is bad input, 3 something that cannot be reached.
    """

    def __init__(self, message: str, hint: str | None = None, exit_code: int = 2) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Runs an entry point and exits with its status: a `UserError` is printed without a traceback.

    Args:
        main: takes the arguments after the program's name; returns an exit status or None for 0.
    """
    try:
        status = main(sys.argv[1:]) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nothing is left to say to it.
        status = 141
    except ModuleNotFoundError as error:
        explanation = explain(error)
        if explanation is None:
            raise
        print("error: " + "\n  ".join(explanation), file=sys.stderr, flush=True)
        status = 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        print(
            f"error: out of memory: {reason}\n"
            "  training: halve --trainer.per_device_train_batch_size and double "
            "--trainer.gradient_accumulation_steps, or lower --model.max_length",
            file=sys.stderr,
            flush=True,
        )
        status = OUT_OF_MEMORY
    sys.exit(status)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own error, torch's for a GPU, or torch's plain one for a CPU.

    Args:
        error: any exception; torch is recognised by its name, so that this module does not import it.
    """
    if isinstance(error, MemoryError):
        return True
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


# Libraries that are imported under another name than the one they are installed by.
DISTRIBUTIONS = {
    "google": "google-cloud-storage",
    "google.cloud.run_v2": "google-cloud-run",
    "PIL": "gradio",
    "prometheus_client": "prometheus-fastapi-instrumentator",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",
    "umap": "umap-learn",
    "xgboost": "xgboost-cpu",
    "yaml": "pyyaml",
}
# Where several extras bring a library, the first of these that does is the one to name.
PREFERRED = ("train", "baseline", "serve", "export", "space")


def extras_with(module: str) -> list[str]:
    """The project's extras that bring a module, the one to name first; empty when none does.

    Read from the installed project's own metadata, so that it cannot differ from pyproject.toml.
    """
    name = DISTRIBUTIONS.get(module) or DISTRIBUTIONS.get(module.split(".")[0]) or module.split(".")[0]
    if name == "arxiv_cls":
        return []
    found = set()
    for requirement in importlib.metadata.requires("arxiv_cls") or []:
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        required = re.match(r"[\w.-]+", requirement)
        if extra and required and canonical(required.group()) == canonical(name):
            found.add(extra.group(1))
    order = {extra: position for position, extra in enumerate(PREFERRED)}
    return sorted(found - {"dev"}, key=lambda extra: (order.get(extra, len(order)), extra))


def explain(error: ModuleNotFoundError) -> tuple[str, str] | None:
    """The message and the hint for a library that is missing; None when it is none of ours to install."""
    try:
        extras = extras_with(error.name or "")
    except importlib.metadata.PackageNotFoundError:
        return None
    if not extras:
        return None
    return (
        f"this needs {error.name}, which is not installed",
        f'pip install "arxiv_cls[{extras[0]}]", or in a checkout: make setup',
    )


def canonical(name: str) -> str:
    """The normalised form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
