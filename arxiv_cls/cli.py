"""The `arxiv-cls` command: one app that mounts the commands of each package.

A package's `commands.py` imports nothing heavy at module level, so that `arxiv-cls --help` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

import arxiv_cls.batch.commands
import arxiv_cls.cloud.commands
import arxiv_cls.cloud.job_commands
import arxiv_cls.corpus.commands
import arxiv_cls.monitoring.commands
import arxiv_cls.release.commands
import arxiv_cls.scoring.commands
import arxiv_cls.serving.commands
import arxiv_cls.space.commands
from arxiv_cls import __version__
from arxiv_cls.errors import UserError, run_main

# A person waits for these, and has to know what is fetched or scored again.
_LOGGED = {"evaluate", "compare", "visualize", "push-model", "push-dataset", "verify"}

# A full disk, a folder in the place of a file or the other way round, no permission.
_CANNOT_WRITE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip

app = typer.Typer(
    name="arxiv-cls", rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"arxiv-cls {__version__}")
        raise typer.Exit


@app.callback()
def _arxiv_cls_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train, verify and release classifiers that name the arXiv category of a paper."""
    if context.invoked_subcommand in _LOGGED:
        context.with_resource(_log_to_stderr())


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Shows on stderr what this package logs about its work, and nothing of the libraries below it."""
    logger, handler = logging.getLogger("arxiv_cls"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


app.add_typer(arxiv_cls.corpus.commands.app, name="data")
app.add_typer(arxiv_cls.monitoring.commands.app, name="monitor")
app.add_typer(arxiv_cls.cloud.job_commands.app, name="cloud")
for commands in (
    arxiv_cls.batch.commands,
    arxiv_cls.scoring.commands,
    arxiv_cls.release.commands,
    arxiv_cls.serving.commands,
    arxiv_cls.space.commands,
    arxiv_cls.cloud.commands,
):
    app.add_typer(commands.app)


def main(argv: list[str]) -> int | None:
    """Runs the words after the program's name; returns the exit status, None for 0.

    Raises:
        UserError: bad input or bad usage; `run_main` prints it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A Latin-1 terminal shows `?` for what it does not have.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = app(args=argv, prog_name="arxiv-cls", standalone_mode=False)
        sys.stdout.flush()
        return status
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        problem = f"{error.filename or 'the output'}: {os.strerror(error.errno)}"
        raise UserError(problem, hint="name another place to write to") from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        # Of bad usage: typer's own subclasses know the command that was meant.
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "arxiv-cls"
        message = error.format_message().replace("Value error, ", "")
        raise UserError(message, hint=f"`{command} --help` shows what it takes") from None


def entry_point() -> None:
    """The console script `arxiv-cls`."""
    try:
        run_main(main)
    finally:
        # What a full disk did not take must not fail again at exit.
        with contextlib.suppress(OSError):
            sys.stdout.close()


if __name__ == "__main__":
    entry_point()
