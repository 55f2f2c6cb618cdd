"""CSV to Arrow splits of `top5`: ours beside `load_dataset("csv")` + `filter` + `map`.

    python benchmarks/bench_corpus.py [--csv data/raw/arxiv.csv] [--repeats 3]

Both sides run in turn, each in a fresh process with empty caches in a temporary folder. The CSV is read once
before, so that it comes from memory for both. Seconds are those of the calls, without imports; CPU seconds
sum over threads and hold on a busy machine too; memory is the peak of the whole process. Ours does more: it
checks every row, merges versions, drops duplicates, splits. Nothing is cut short or scaled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arxiv_cls.errors import UserError
from arxiv_cls.record.run_record import peak_resident_bytes
from benchmarks.children import DATA, run_benchmark, run_child

SIDES = ("ours", "stock")
NAMES = {"ours": "load_arxiv", "stock": 'load_dataset("csv") + filter + map'}


def run_ours(csv: Path, cache: str) -> dict:
    """Builds the three splits, then asks for them again."""
    from arxiv_cls.corpus import load_arxiv

    start, cpu = time.perf_counter(), time.process_time()
    splits = load_arxiv("top5", csv=csv, cache_dir=cache)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    load_arxiv("top5", csv=csv, cache_dir=cache)
    again = time.perf_counter() - start
    return {"seconds": seconds, "cpu_seconds": cpu, "again": again, "papers": sum(splits.num_rows.values())}


def run_stock(csv: Path, cache: str) -> dict:
    """What the documentation of `datasets` would have a user write."""
    from datasets import load_dataset

    from arxiv_cls.label_sets import LABEL_SETS

    label_of = {code: index for index, code in enumerate(LABEL_SETS["top5"].labels)}
    start, cpu = time.perf_counter(), time.process_time()
    rows = load_dataset("csv", data_files=str(csv), split="train", cache_dir=cache)
    rows = rows.filter(lambda row: row["category_code"] in label_of)
    rows = rows.map(
        lambda row: {
            "text": row["title"] + "\n\n" + row["summary"],
            "label": label_of[row["category_code"]],
        }
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu, "papers": len(rows)}


def measure(side: str, csv: Path) -> dict:
    """One run of one side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "HF_HOME": folder,
            "HF_DATASETS_CACHE": str(Path(folder) / "datasets"),
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path[1:]]),
        }
        command = [sys.executable, __file__, "--csv", str(csv), "--side", side, "--cache", folder]
        done = run_child(command, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(
                f"the side {side!r} ended with exit status {done.returncode}", hint="its own message is above"
            )
        return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    """Runs both sides in turn and prints medians and the ratio; with `--side`, one run as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=Path(DATA))
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if not arguments.csv.is_file():
        parser.exit(
            2, f"error: {arguments.csv}: no such file\n  get it with `make data`, or name one: --csv\n"
        )
    if arguments.side:
        result = {"ours": run_ours, "stock": run_stock}[arguments.side](arguments.csv, arguments.cache)
        result["peak_bytes"] = peak_resident_bytes()
        print(json.dumps(result))
        return
    arguments.csv.read_bytes()
    runs: dict[str, list[dict]] = {side: [] for side in SIDES}
    for _ in range(arguments.repeats):
        for side in SIDES:
            runs[side].append(measure(side, arguments.csv))
    print(f"CSV to Arrow splits, top5, {arguments.csv}: median of {arguments.repeats} runs each, in turn")
    medians = {}
    for side in SIDES:
        medians[side] = statistics.median(run["seconds"] for run in runs[side])
        peak = statistics.median(run["peak_bytes"] for run in runs[side])
        cpu = statistics.median(run["cpu_seconds"] for run in runs[side])
        spread = ", ".join(f"{run['seconds']:.2f}" for run in runs[side])
        print(
            f"  {NAMES[side]:<36} {medians[side]:7.2f} s  {cpu:5.2f} CPU s  peak {peak / 1e6:5.0f} MB  "
            f"{runs[side][0]['papers']:,} papers  (runs: {spread})"
        )
    again = statistics.median(run["again"] for run in runs["ours"])
    print(f"  {'load_arxiv, second call':<36} {again:7.2f} s")
    print(f"  ratio ours / stock: {medians['ours'] / medians['stock']:.2f}")


if __name__ == "__main__":
    run_benchmark(main)
