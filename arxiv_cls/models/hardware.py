"""How many cores this process may really use; the standard library only."""

from __future__ import annotations

import math
import os
import platform
import sys
from pathlib import Path


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its CPU affinity, and the CPU quota of its container, at least 1.

    A container with a limit of 2 CPUs on a host of 64 still sees 64 cores; 64 threads would take turns on
    two and be slower than two.

    Args:
        cgroup: where the control groups are mounted.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            # "max" in version 2 and -1 in version 1 mean no limit.
            if quota != "max" and int(quota) > 0:
                return max(1, min(cores, math.ceil(int(quota) / int(period))))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return cores


def peak_resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Largest resident memory of this process since its program started, in bytes.

    Linux's `ru_maxrss` will not do: a new program inherits it from the process that started it, so that a
    small run started by a large one (a test, a benchmark, a pipeline) would report the large one's peak.
    `VmHWM` begins anew with each program.

    Args:
        status: where Linux describes the process.
    """
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor_name() -> str:
    """The processor's model name, as it goes on record."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as processors:
            return next(line.split(":", 1)[1].strip() for line in processors if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
