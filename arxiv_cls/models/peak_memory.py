"""The most memory that this process has held so far; the standard library where it can tell."""

from __future__ import annotations

import sys
from pathlib import Path


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
