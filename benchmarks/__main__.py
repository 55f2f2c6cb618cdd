"""Run the side-by-side benchmarks, all of them or those named.

Run as: make bench [BENCH="corpus baseline training"]        (or: python -m benchmarks corpus baseline)

Each is a script, benchmarks/bench_<name>.py, and a process of its own, so that the peak memory of one
is not that of another.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from arxiv_cls.errors import UserError, run_main

FOLDER = Path(__file__).resolve().parent


def available() -> list[str]:
    """The names of the benchmarks, from the scripts beside this file."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def main(names: list[str]) -> int:
    """Runs the named benchmarks one after another; returns 1 when one of them failed.

    Raises:
        UserError: on a name that there is no benchmark of.
    """
    unknown = sorted(set(names) - set(available()))
    if unknown:
        raise UserError(f"no benchmark {', '.join(unknown)}", hint=f"there are: {', '.join(available())}")
    failed = []
    for name in names or available():
        print(f"== {name}", flush=True)
        script = str(FOLDER / f"bench_{name}.py")
        if subprocess.run([sys.executable, script], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
