"""The `arxiv-cls` command: every verb belongs to a room, this file only lists the rooms.

A room's `commands.py` has `register(subparsers)`; it imports nothing heavy at module level, so that
`arxiv-cls --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib

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
    return arguments.run(arguments)


def entry_point() -> None:
    """The console script `arxiv-cls`."""
    run_main(main)


if __name__ == "__main__":
    entry_point()
