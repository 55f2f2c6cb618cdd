"""One voice and one order for a run of several processes: what is said, and what only the main one does."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import datasets
from accelerate.utils import broadcast_object_list

from arxiv_cls.errors import UserError
from arxiv_cls.training.arguments import TransformerTrainerConfig

ResultT = TypeVar("ResultT")


@contextlib.contextmanager
def only_main_talks(args: TransformerTrainerConfig) -> Iterator[None]:
    """Says each line, draws each bar and tells each error once, not once per rank."""
    project = logging.getLogger("arxiv_cls")
    level = project.level
    if args.process_index:
        project.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
    try:
        yield
    except UserError as error:
        # The first rank of each host speaks: what is missing there may be missing on that host alone.
        if args.local_process_index:
            raise SystemExit(error.exit_code) from None
        raise
    finally:
        project.setLevel(level)


def on_main_rank(args: TransformerTrainerConfig, work: Callable[[], ResultT]) -> ResultT:
    """Does something on the one main rank of all hosts and gives every rank its result.

    Args:
        work: called on the main rank; its result must be picklable.

    Raises:
        UserError: on the main rank, what `work` raised; the others then end without a word.
    """
    outcome: list[Any] = [None, 0]
    failure = None
    if args.process_index == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            failure, outcome[1] = error, error.exit_code
    if args.world_size > 1:
        broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1]:
        raise SystemExit(outcome[1])
    return outcome[0]
