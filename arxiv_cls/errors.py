"""The one exception that a person is meant to read: what was wrong, where, what to do next."""

from __future__ import annotations

import sys
from collections.abc import Callable


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
    sys.exit(status)
