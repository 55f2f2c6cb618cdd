"""The `arxiv-cls` command: every verb belongs to a room, this file only lists the rooms.

A room's `commands.py` has `register(subparsers)`; it imports nothing heavy at module level, so that
`arxiv-cls --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator

from arxiv_cls import __version__
from arxiv_cls.errors import run_main

ROOMS_WITH_VERBS = ("corpus", "models", "scoring", "release", "serving")


def build_parser() -> argparse.ArgumentParser:
    """The parser with the verbs of every room."""
    parser = argparse.ArgumentParser(
        prog="arxiv-cls",
        description="Train, verify and release classifiers that name the arXiv category of a paper.",
    )
    parser.add_argument("--version", action="version", version=f"arxiv-cls {__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for room in ROOMS_WITH_VERBS:
        importlib.import_module(f"arxiv_cls.{room}.commands").register(subparsers)
    return parser


def main(argv: list[str]) -> int | None:
    """Parses the command line and runs its verb.

    Raises:
        UserError: on bad input; `run_main` prints it.
    """
    arguments = build_parser().parse_args(argv)
    if not getattr(arguments, "narrated", False):
        return arguments.run(arguments)
    with narration():
        return arguments.run(arguments)


@contextlib.contextmanager
def narration() -> Iterator[None]:
    """Shows on stderr what this package says about its work, and nothing of the libraries below it.

    For verbs that set `narrated`: a person waits for them, and has to know what is fetched or scored again.
    """
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


def entry_point() -> None:
    """The console script `arxiv-cls`."""
    run_main(main)


if __name__ == "__main__":
    entry_point()
