"""Scoring a file into Parquet: the plain predictor beside `predict --input`, local and on Ray.

    python benchmarks/bench_batch.py [--model outputs/minilm] [--csv data/raw/arxiv.csv] [--papers 2000]
                                     [--engine int8] [--workers 2] [--stub-records 0]

`--csv` is any file that `arxiv-cls predict --input` reads. All sides score the same papers; the plain
predictor, one process with all cores, has one half before and the other after, so that a machine that gets
busier is seen.
Loading models and starting workers or Ray is counted apart. `--stub-records N` makes N records of the file's
and takes the time and memory of planning, of a run without a model, and of going on with what is whole.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow.parquet as pq

from arxiv_cls.batch.runs import Summary, predict_files
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import Prediction
from arxiv_cls.models.predictor import load_predictor
from benchmarks.bench_predict import MODELS, machine
from benchmarks.children import DATA, run_benchmark

SIDES = ("plain", "local", "ray")


class StubPredictor:
    """Answers at once."""

    def __init__(self, model: str, **_: Any) -> None:
        self.labels = list(json.loads((Path(model) / "config.json").read_text())["id2label"].values())

    def predict(self, texts: list[str]) -> list[Prediction]:
        scores = {label: 1 / len(self.labels) for label in self.labels}
        one = Prediction(self.labels[0], 1.0, scores, False, None, True, 1.0, "stub")
        return [one] * len(texts)


def first_papers(source: str, count: int, folder: Path) -> Path:
    """So many records of a file as JSON Lines of id, title and abstract, those with an error left out."""
    from arxiv_cls.corpus.papers import read_papers

    table = read_papers(source, required=("title", "abstract")).table.slice(0, count)
    out = folder / "papers.jsonl"
    with out.open("w", encoding="utf-8") as file:
        for row in table.select(["id", "title", "abstract"]).to_pylist():
            file.write(json.dumps(row) + "\n")
    return out


def plain(arguments: argparse.Namespace, papers: Path, half: int) -> tuple[int, float]:
    """Papers `half`, `half` + 2, ...: how many, and the seconds that one process with all cores takes."""
    texts = []
    with papers.open(encoding="utf-8") as file:
        for line in islice(file, half, None, 2):
            record = json.loads(line)
            texts.append(f"{record['title'].strip()}\n\n{record['abstract'].strip()}")
    predictor = load_predictor(arguments.model, engine=arguments.engine)
    predictor.predict(texts[:8])
    start = time.perf_counter()
    predictor.predict(texts)
    return len(texts), time.perf_counter() - start


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows, in the order of the files."""
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """The sides on the same papers."""
    papers = first_papers(arguments.csv, arguments.papers, folder)
    before = plain(arguments, papers, 0)
    found: dict[str, Summary] = {}
    for runner in ("local", "ray"):
        if runner in arguments.sides:
            found[runner] = predict_files(
                arguments.model, [str(papers)], str(folder / runner), engine=arguments.engine,
                workers=arguments.workers, runner=runner,
                shard_rows=max(1, arguments.papers // (8 * arguments.workers)),
            )  # fmt: skip
    after = plain(arguments, papers, 1)
    stock = (before[0] + after[0]) / (before[1] + after[1])
    print(f"{arguments.papers} papers, {arguments.engine}, {machine()}")
    print(f"plain   {stock:8.1f} papers/s  (halves: {before[0] / before[1]:.1f}, {after[0] / after[1]:.1f})")
    for runner, summary in found.items():
        speed = summary.rows / summary.seconds
        print(
            f"{runner:<7} {speed:8.1f} papers/s  ratio {speed / stock:.2f},"
            f" start {summary.start_seconds:.1f} s, {arguments.workers} workers"
        )
    if len(found) == 2:
        print(f"rows of local and ray are equal: {rows_of(folder / 'local') == rows_of(folder / 'ray')}")


def stub(arguments: argparse.Namespace, folder: Path) -> None:
    """Planning, scoring without a model and going on, with as many records as arXiv has."""
    papers, many = first_papers(arguments.csv, 24_000, folder), folder / "many.jsonl"
    with papers.open("rb") as source, many.open("wb") as target:
        lines = source.readlines()
        target.writelines(islice(cycle(lines), arguments.stub_records))
    print(f"{arguments.stub_records:,} records, {many.stat().st_size / 2**30:.2f} GiB")
    for what in ("run", "again"):
        start = time.perf_counter()
        summary = predict_files(
            arguments.model, [str(many)], str(folder / "stub"), engine=arguments.engine,
            workers=arguments.workers, load=StubPredictor,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        driver, workers = (
            resource.getrusage(who).ru_maxrss / 2**20
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        print(
            f"{what}: {summary.rows:,} rows; planning, start and summary"
            f" {seconds - summary.seconds:.1f} s, scoring {summary.seconds:.1f} s;"
            f" peak of driver {driver:.2f} GiB, of a worker {workers:.2f} GiB"
        )


def main(argv: list[str]) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help=f"default: {' or '.join(MODELS)}")
    parser.add_argument("--csv", default=DATA)
    parser.add_argument("--papers", type=int, default=2000)
    parser.add_argument("--engine", default="int8", choices=("torch", "onnx", "int8"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--stub-records", type=int, default=0)
    parser.add_argument("--baseline", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.model = arguments.model or next((path for path in MODELS if Path(path).is_dir()), None)
    if arguments.model is None or not Path(arguments.model).is_dir():
        raise UserError(f"no model: {arguments.model or ' and '.join(MODELS)} missing", "make demo")
    with tempfile.TemporaryDirectory(prefix="bench-batch-") as name:
        if arguments.stub_records:
            stub(arguments, Path(name))
        else:
            compare(arguments, Path(name))
    return 0


if __name__ == "__main__":
    run_benchmark(main)
