"""What the machine can do: threads, precision, and the figures of a run that depend on it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
from accelerate.utils import broadcast_object_list

from arxiv_cls.errors import UserError
from arxiv_cls.models.hardware import available_cores, peak_resident_bytes
from arxiv_cls.training.arguments import TransformerTrainerConfig


def set_cpu_threads(requested: int | None) -> int:
    """Sets torch's CPU threads to the cores of this process's share of the machine.

    `accelerate launch` exports OMP_NUM_THREADS=1 when nothing else is said, which would leave all
    cores but one idle.

    Args:
        requested: threads; None divides the usable cores by the processes on this host.

    Returns:
        The number of threads now in use.
    """
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(requested or max(1, available_cores() // local_processes))
    return torch.get_num_threads()


def resolve_precision(requested: str, use_cpu: bool) -> str:
    """The precision that a run computes in.

    Args:
        requested: auto, fp32, bf16 or fp16.
        use_cpu: whether the run stays on the CPU although an accelerator may be there.

    Returns:
        `requested`, or for auto: bf16 on a GPU of compute capability 8.0 or later and on a CPU with
        AVX512-BF16 or AMX instructions, fp16 on an older GPU, else fp32. On a CPU without those
        instructions bf16 is emulated and slower than fp32.

    Raises:
        UserError: fp16 on a CPU, where the Trainer would compute in fp32 without a word.
    """
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    if requested == "fp16" and (use_cpu or not accelerated):
        raise UserError("trainer.precision: fp16 needs a GPU", hint="On a CPU take auto, bf16 or fp32.")
    if requested != "auto":
        return requested
    if torch.cuda.is_available() and not use_cpu:
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    if torch.backends.mps.is_available() and not use_cpu:
        return "fp32"
    computes_in_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if computes_in_bf16 else "fp32"


def device_name(device: torch.device) -> str:
    """The accelerator's or processor's model name, as it goes on the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as processors:
            return next(line.split(":", 1)[1].strip() for line in processors if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far, in bytes: of the device for a GPU, resident for a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


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
