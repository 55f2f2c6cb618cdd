"""Threads, precision and processes: what a fine-tuning run sets before it starts."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import datasets
import torch
from accelerate.utils import broadcast_object_list

from arxiv_cls.errors import UserError
from arxiv_cls.record.run_record import available_cores, peak_resident_bytes, processor_name
from arxiv_cls.training.arguments import TransformerTrainerConfig

ResultT = TypeVar("ResultT")


def set_cpu_threads(requested: int | None) -> int:
    """Sets and returns torch's CPU threads; None divides the usable cores by the processes on this host.

    `accelerate launch` exports OMP_NUM_THREADS=1, which would leave all cores but one idle.
    """
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(requested or max(1, available_cores() // local_processes))
    return torch.get_num_threads()


def resolve_precision(requested: str, use_cpu: bool) -> str:
    """The precision that a run computes in: fp32, bf16 or fp16.

    `auto` is bf16 on a GPU of compute capability 8.0 or later and on a CPU with AVX512-BF16 or AMX
    instructions (without them bf16 is emulated), fp16 on an older GPU, else fp32.

    Raises:
        UserError: fp16 on a CPU, where the Trainer would compute in fp32 without a warning.
    """
    cuda = torch.cuda.is_available() and not use_cpu
    mps = torch.backends.mps.is_available() and not use_cpu
    if requested == "fp16" and not (cuda or mps):
        raise UserError("trainer.precision: fp16 needs a GPU", hint="On a CPU take auto, bf16 or fp32.")
    if requested != "auto":
        return requested
    if cuda:
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    in_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if in_bf16 and not mps else "fp32"


def device_record(args: TransformerTrainerConfig, precision: str, threads: int) -> dict[str, Any]:
    """The device of a run, as it goes on record."""
    kind = args.device.type
    name = torch.cuda.get_device_name(args.device) if kind == "cuda" else kind
    return {
        "type": kind,
        "name": processor_name() if kind == "cpu" else name,
        "processes": args.world_size,
        "threads": threads,
        "precision": precision,
        "peak_memory_of": "device" if kind == "cuda" else "process",
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far, in bytes: of the device for a GPU, resident for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


@contextlib.contextmanager
def one_output(args: TransformerTrainerConfig) -> Iterator[None]:
    """Prints each line, bar and error once, not once per process."""
    project = logging.getLogger("arxiv_cls")
    level = project.level
    if args.process_index:
        project.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
    try:
        yield
    except UserError as error:
        # The first process of each host prints it: what is missing may be missing on that host alone.
        if args.local_process_index:
            raise SystemExit(error.exit_code) from None
        raise
    finally:
        project.setLevel(level)


def on_main_process(args: TransformerTrainerConfig, work: Callable[[], ResultT]) -> ResultT:
    """Calls `work` in the main process of all hosts and returns its result, which is picklable, in each.

    Raises:
        UserError: in the main process, what `work` raised; the others then exit without a message.
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
