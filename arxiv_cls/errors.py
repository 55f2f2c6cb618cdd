"""The one exception that a person is meant to read: what was wrong, where, what to do next."""

from __future__ import annotations

import sys
from collections.abc import Callable

# What a shell shows for a process that the kernel killed for its memory: ours ends with the same status.
OUT_OF_MEMORY = 137


class UserError(Exception):
    """Bad input or an unmet condition that the person at the terminal can mend.

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
        from arxiv_cls.missing_library import explain

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
        error: any exception; torch is told by name, so that this module does not import it.
    """
    if isinstance(error, MemoryError):
        return True
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
