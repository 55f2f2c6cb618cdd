"""Run the side-by-side benchmarks, all of them or those named.

Run as: make bench [BENCH="corpus predict"] [MODEL=outputs/name BASELINE=outputs/name CSV=papers.csv]
        (or: python -m benchmarks corpus predict --model outputs/name)

Each is a script, benchmarks/bench_<name>.py, and a process of its own, so that the peak memory of one
is not that of another. Where there is no real data yet, the papers are those of the synthetic sample.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from arxiv_cls.demo import SAMPLE
from arxiv_cls.errors import UserError
from benchmarks.children import DATA, run_benchmark, run_child

FOLDER = Path(__file__).resolve().parent
OF_A_MODEL = ("batch", "predict", "serving")


def available() -> list[str]:
    """The names of the benchmarks, from the scripts beside this file."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def main(argv: list[str]) -> int:
    """Runs the named benchmarks one after another; returns 1 when one of them failed.

    Raises:
        UserError: on a name that there is no benchmark of.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(available())} (default: all)")
    parser.add_argument("--model", help=f"what {' and '.join(OF_A_MODEL)} measure (default: see there)")
    parser.add_argument("--baseline", help="the baseline of their cascade")
    parser.add_argument("--csv", help=f"the papers (default: {DATA}, or the sample where there is none)")
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.names) - set(available()))
    if unknown:
        raise UserError(f"no benchmark {', '.join(unknown)}", hint=f"there are: {', '.join(available())}")
    csv = arguments.csv or (DATA if Path(DATA).is_file() else SAMPLE)
    if csv == SAMPLE:
        print(f"papers: {SAMPLE}, which is synthetic: speeds only, no accuracy of note (make data)")
    failed = []
    for name in arguments.names or available():
        print(f"== {name}", flush=True)
        command = [sys.executable, str(FOLDER / f"bench_{name}.py"), "--csv", csv]
        if name in OF_A_MODEL:
            given = {"--model": arguments.model, "--baseline": arguments.baseline}
            command += [word for option, value in given.items() if value for word in (option, value)]
        if run_child(command).returncode:
            failed.append(name)
    if failed:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_benchmark(main)
