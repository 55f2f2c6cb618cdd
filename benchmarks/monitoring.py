"""False alarms and power of the drift check on real papers, through the endpoint and its request log.

Run as: python benchmarks/monitoring.py outputs/tfidf_xgboost outputs/minilm:int8 \\
            outputs/minilm:int8+outputs/tfidf_xgboost outputs/tfidf_time --new FILE --evidently 15 --json FILE
        python benchmarks/monitoring.py outputs/tfidf_xgboost --lines 1000000
        python benchmarks/monitoring.py outputs/tfidf_xgboost --lines 60000 --files 10000 --bucket

A model is DIRECTORY[:ENGINE][+BASELINE]; with a baseline it is a cascade. `arxiv-cls serve` answers every
text once, and windows are drawn from the lines of its log, which --cache keeps. In each run one half of the
quiet papers is the reference and the other is served, so that without a shift they are exchangeable, as
production and the test split are when nothing has changed. A model with `data.split: time` has the validation
papers of 2018 as its quiet ones, and those of 2019 as its shift.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arxiv_cls.corpus.taxonomy import archive_of
from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.accuracy import AccuracyEstimate
from arxiv_cls.monitoring.drift import ALARM, verdict_of
from arxiv_cls.monitoring.log_reader import LogReader, LogRow
from arxiv_cls.monitoring.robustness import CHANGES, changed
from arxiv_cls.monitoring.windows import drift_tests, group_rows, to_rows
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.manifest import WEIGHTS, model_kind
from arxiv_cls.scoring.reference import FEATURES, Reference, Rows
from arxiv_cls.scoring.scored_papers import load_corpus
from benchmarks.children import end, run_benchmark

TEXTS_AT_A_TIME = 64
QUIET_IN_A_ROW = 30
ACCURACY_TEXTS = 1000
NEW_YEAR = date(2019, 1, 1)
QUIET, LATER, ONE_SENTENCE = "no shift", "papers of 2019", "one sentence"
OUTSIDE, NEAR = "physics and mathematics", "neighbouring fields"
Texts = dict[str, tuple[list[str], list[int]]]


class Side(NamedTuple):
    """A model as it is served."""

    name: str
    model: Path
    engine: str
    baseline: str


def side_of(text: str) -> Side:
    first, _, baseline = text.partition("+")
    model, _, engine = first.partition(":")
    if not (Path(model) / "recipe.yaml").is_file():
        raise UserError(f"{model}: no model directory with a recipe")
    name = " ".join(word for word in (Path(model).name, engine, baseline and "cascade") if word)
    return Side(name, Path(model), engine, baseline)


# --- texts ---


def gibberish(text: str, severity: float, draw: random.Random) -> str:
    """Random letters of the same length."""
    return "".join(draw.choice("abcdefghijklmnopqrstuvwxyz     ") for _ in range(len(text) - 1)) + "x"


def texts_of(side: Side, arguments: argparse.Namespace) -> tuple[list[str], Texts]:
    """The labels, and of each pool texts and true labels (-1 for papers of other fields)."""
    corpus, options = load_corpus(side.model, arguments.data)
    labels, most = corpus.labels, arguments.changed

    def papers(
        *splits: str, wanted: Callable[[date], bool] = lambda day: True
    ) -> tuple[list[str], list[int]]:
        rows = [row for split in splits for row in corpus.splits[split].to_list() if wanted(row["published"])]
        rows = random.Random(0).sample(rows, min(len(rows), arguments.papers or len(rows)))
        return [row["text"] for row in rows], [row["label"] for row in rows]

    if options["split"] == "time":
        return labels, {
            QUIET: papers("validation", wanted=lambda day: day < NEW_YEAR),
            LATER: papers("validation", "test", wanted=lambda day: day >= NEW_YEAR),
        }
    if not arguments.new:
        raise UserError(f"{side.model}: --new FILE is needed: papers of other fields")
    texts, truth = papers("test", "validation")
    pools = {QUIET: (texts, truth)}
    for name, change, severity, count in (
        (ONE_SENTENCE, CHANGES["one sentence"], 1.0, ACCURACY_TEXTS + most),
        ("LaTeX", CHANGES["LaTeX"], 0.25, most),
        ("random letters", gibberish, 1.0, most // 4),
    ):
        pools[name] = (changed(texts[:count], change, severity, 0), truth[:count])
    outside: dict[str, list[str]] = {OUTSIDE: [], NEAR: []}
    with gzip.open(arguments.new, "rt", encoding="utf-8") as file:
        for paper in map(json.loads, file):
            categories = paper["categories"].split()
            archive = archive_of(categories[0])
            name = OUTSIDE if archive in ("physics", "math") else NEAR
            if archive in ("physics", "math", "cs", "stat", "eess") and not {*categories} & {*labels}:
                title, abstract = (" ".join(paper[key].split()) for key in ("title", "abstract"))
                outside[name].append(f"{title}\n\n{abstract}")
    for name, found in outside.items():
        chosen = random.Random(0).sample(found, min(most, len(found)))
        pools[name] = (chosen, [-1] * len(chosen))
    return labels, pools


# --- the endpoint and its log ---


@contextmanager
def endpoint(side: Side, log: Path) -> Iterator[str]:
    """The address of `arxiv-cls serve` with a request log, which is whole when the block has ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "arxiv_cls.cli", "serve", str(side.model), "--port", str(port)]
    command += ["--request-log", str(log), "--max-wait", "120", "--log-level", "warning"]
    command += [*(["--engine", side.engine] if side.engine else [])]
    command += [*(["--cascade", side.baseline] if side.baseline else [])]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=10).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise UserError(f"{side.name}: the endpoint did not start") from None
                time.sleep(0.1)
        yield url
    finally:
        end(process)


def log_of(side: Side, pools: Texts, cache: Path) -> Path:
    """The endpoint's log of all texts; a request's id is the number of the pool and of its first text."""
    about = [file_sha256(side.model / WEIGHTS[model_kind(side.model)]), side, pools]
    log = cache / hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:20]
    names, expected = list(pools), sum(len(texts) for texts, _ in pools.values())
    if not log.is_dir():
        part = log.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        jobs = [(number, first, pools[name][0][first : first + TEXTS_AT_A_TIME])
                for number, name in enumerate(names)
                for first in range(0, len(pools[name][0]), TEXTS_AT_A_TIME)]  # fmt: skip
        start = time.perf_counter()
        with endpoint(side, part) as url, ThreadPoolExecutor(2) as clients:

            def send(job: tuple[int, int, list[str]]) -> None:
                body = json.dumps({"inputs": [[text] for text in job[2]]}).encode()
                headers = {"Content-Type": "application/json", "X-Request-Id": f"{job[0]}-{job[1]}"}
                urllib.request.urlopen(
                    urllib.request.Request(f"{url}/predict", body, headers), timeout=300
                ).close()

            list(clients.map(send, jobs))
        seconds = time.perf_counter() - start
        print(f"{side.name}: {expected:,} texts in {seconds:.0f} s through the endpoint", file=sys.stderr)
        part.rename(log)
    return log


def rows_of_log(log: Path, labels: list[str], pools: Texts) -> dict[str, list[LogRow]]:
    """The rows of the log in the order of the texts."""
    names = list(pools)
    found: dict[str, list[Any]] = {name: [None] * len(pools[name][0]) for name in names}
    for row in LogReader(str(log), labels):
        number, first = map(int, row.request_id.split("-"))
        found[names[number]][first + row.place] = row
    if missing := sum(row is None for rows in found.values() for row in rows):
        raise UserError(f"{log}: {missing} texts have no line")
    return found


# --- windows ---


class Traffic:
    """The rows of a side's log, and how windows are drawn from them."""

    def __init__(self, side: Side, arguments: argparse.Namespace) -> None:
        self.labels, pools = texts_of(side, arguments)
        self.pools = rows_of_log(log_of(side, pools, Path(arguments.cache)), self.labels, pools)
        self.truth = {name: np.array(truth) for name, (_, truth) in pools.items()}
        # A text that a change left as it was is no shift.
        quiet = {*pools[QUIET][0]}
        for name in pools.keys() - {QUIET}:
            kept = [at for at, text in enumerate(pools[name][0]) if text not in quiet]
            self.pools[name] = [self.pools[name][at] for at in kept]
            self.truth[name] = self.truth[name][kept]
        self._quiet = to_rows(self.pools[QUIET])
        self._halves = np.array([row.half for row in self.pools[QUIET]])
        self.halves = sorted({*self._halves})

    def __len__(self) -> int:
        return len(self._halves)

    def kinds(self) -> dict[str, tuple[str, float]]:
        """{title: pool and its share, or label and the factor of its share}"""
        mixed = {
            f"10% {OUTSIDE}": (OUTSIDE, 0.1),
            f"20% {NEAR}": (NEAR, 0.2),
            "20% one sentence": (ONE_SENTENCE, 0.2),
            "20% with LaTeX in every fourth sentence": ("LaTeX", 0.2),
            "5% random letters": ("random letters", 0.05),
            LATER: (LATER, 1.0),
        }
        found = {title: pair for title, pair in mixed.items() if pair[0] in self.pools}
        return found | ({"cs.CV doubled": ("cs.CV", 2), "cs.CL from 36 to 50%": ("cs.CL", 1.4)}
                        if NEAR in self.pools else {})  # fmt: skip

    def halved(self, generator: np.random.Generator) -> tuple[np.ndarray, dict[tuple[bool, str], Reference]]:
        """Numbers of the quiet rows to serve, and references of the others as `load_references` has them."""
        order = generator.permutation(len(self))
        rest, truth = order[len(order) // 2 :], self.truth[QUIET]
        parts = {half: rest[self._halves[rest] == half] for half in self.halves}
        references = {half: Reference(self.labels, self._quiet.take(part), truth[part], {}, "")
                      for half, part in parts.items()}  # fmt: skip
        return order[: len(order) // 2], {(len(parts) > 1, half): one for half, one in references.items()}

    def draw(
        self, generator: np.random.Generator, served: np.ndarray, kind: tuple[str, float], n: int
    ) -> tuple[list[LogRow], np.ndarray]:
        """n rows and their true labels, in random order."""
        name, share = kind
        if name in self.labels:
            of_label = self.truth[QUIET][served] == self.labels.index(name)
            wanted = round(share * float(of_label.mean()) * n)
            first = served[of_label][:wanted]
            chosen = [(QUIET, at) for at in (*first, *served[~of_label][: n - len(first)])]
        else:
            others = generator.choice(len(self.pools[name]), round(share * n), replace=False)
            chosen = [(name, at) for at in others] + [(QUIET, at) for at in served[: n - len(others)]]
        chosen = [chosen[at] for at in generator.permutation(len(chosen))]
        return [self.pools[pool][at] for pool, at in chosen], np.array(
            [self.truth[pool][at] for pool, at in chosen]
        )


def windows_of(
    rows: list[LogRow], references: dict[tuple[bool, str], Reference], size: int
) -> dict[str, list[dict[str, Any]]]:
    """The windows of each half, and of both, as `arxiv-cls monitor drift` tests them."""
    version = "a+b" if any(cascade for cascade, _ in references) else "a"
    tests: Any = {key: (drift, lambda rows: None) for key, drift in drift_tests(references).items()}
    groups, _ = group_rows((row._replace(version=version) for row in rows), tests, {version}, size, {})
    return {half: group.windows for (_, half), group in groups.items()}


def evidently_alarms(reference: Reference, rows: list[LogRow], size: int, windows: int) -> list[bool]:
    """Whether Evidently's default calls each window drifted: half of the columns are.

    `DataDriftPreset` says so by its first metric, which is taken alone: the plots of the others take seconds.
    """
    import pandas
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import DriftedColumnsCount

    numbers = [*(f"score {label}" for label in reference.labels), *FEATURES]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=["label", "in_scope"])

    def dataset(part: Rows) -> Dataset:
        frame = pandas.DataFrame(np.column_stack([part.scores, part.features]), columns=numbers)
        frame["label"] = np.array(reference.labels)[part.scores.argmax(axis=1)]
        frame["in_scope"] = part.in_scope.astype(str)
        return Dataset.from_pandas(frame, data_definition=definition)

    before, found = dataset(reference.rows), []
    for number in range(windows):
        now = dataset(to_rows(rows[number * size : (number + 1) * size]))
        with warnings.catch_warnings():
            # Of columns whose bins are empty.
            warnings.simplefilter("ignore", RuntimeWarning)
            drifted = Report([DriftedColumnsCount()]).run(now, before).dict()["metrics"][0]["value"]["share"]
        found.append(drifted >= 0.5)
    return found


def measure(side: Side, arguments: argparse.Namespace) -> dict[str, Any]:
    """Alarms without and with shifts, and errors of the estimated accuracy."""
    traffic, size = Traffic(side, arguments), arguments.window
    generator = np.random.default_rng(arguments.seed)
    evidently = arguments.evidently if len(traffic.halves) == 1 else 0
    two = 2 * size
    p: dict[str, list[float]] = {}
    theirs: list[bool] = []
    for run in range(arguments.runs):
        served, references = traffic.halved(generator)
        rows, _ = traffic.draw(generator, served, (QUIET, 0.0), len(served))
        for half, windows in windows_of(rows, references, size).items():
            p.setdefault(half, []).extend(window["p"] for window in windows)
        if run < evidently:
            theirs += evidently_alarms(references[False, traffic.halves[0]], rows, size, 2)
    alarms: list[bool] = []
    blocks: list[bool] = []
    for values in p.values():
        of_half = [
            verdict_of(now, before) == ALARM for before, now in zip([None, *values], values, strict=False)
        ]
        alarms += of_half
        blocks += [any(of_half[at : at + QUIET_IN_A_ROW])
                   for at in range(0, len(of_half) - QUIET_IN_A_ROW + 1, QUIET_IN_A_ROW)]  # fmt: skip
    result: dict[str, Any] = {
        "papers": len(traffic), "window": size, "runs": arguments.runs, "halves": traffic.halves,
        "answered": {half: float(np.mean(traffic._halves == half)) for half in traffic.halves},
        "no_shift": {"windows": len(alarms), "alarms": float(np.mean(alarms)), "runs_of_30": len(blocks),
                     "any_alarm_in_30": float(np.mean(blocks)) if blocks else None},
        "shifts": {}, "accuracy": {}, "evidently": {"windows": len(theirs), "shifts": {}},
    }  # fmt: skip
    if theirs:
        result["evidently"]["alarms"] = float(np.mean(theirs))
    for title, kind in traffic.kinds().items():
        first, within, found = [], [], []
        for run in range(arguments.runs):
            served, references = traffic.halved(generator)
            rows, _ = traffic.draw(generator, served, kind, two)
            windows = windows_of(rows, references, size)
            verdicts = [[half[at]["verdict"] for half in windows.values() if len(half) > at] for at in (0, 1)]
            first.append(ALARM in verdicts[0])
            within.append(ALARM in verdicts[0] + verdicts[1])
            if run < evidently:
                found.append(any(evidently_alarms(references[False, traffic.halves[0]], rows, size, 2)))
        result["shifts"][title] = {"first": float(np.mean(first)), "within_two": float(np.mean(within))}
        if found:
            result["evidently"]["shifts"][title] = {"within_two": float(np.mean(found))}
    if len(traffic.halves) == 1:
        estimated = (ONE_SENTENCE, LATER, OUTSIDE, NEAR, "cs.CL")
        kinds = {QUIET: (QUIET, 0.0)} | {
            t: kind for t, kind in traffic.kinds().items() if kind[0] in estimated
        }
        if ONE_SENTENCE in traffic.pools:
            kinds["100% one sentence"] = (ONE_SENTENCE, 1.0)
        for title, kind in kinds.items():
            result["accuracy"][title] = accuracy_errors(generator, traffic, kind, arguments.runs // 4)
    return result


def accuracy_errors(
    generator: np.random.Generator, traffic: Traffic, kind: tuple[str, float], runs: int
) -> dict[str, float]:
    """The estimate of 1,000 texts beside the accuracy of those in scope."""
    differences, held, changes = [], [], []
    for _ in range(runs):
        served, (reference,) = (lambda served, found: (served, [*found.values()]))(*traffic.halved(generator))
        rows, truth = traffic.draw(generator, served, kind, ACCURACY_TEXTS)
        window, estimate = to_rows(rows), AccuracyEstimate(reference)
        found = estimate(window)
        correct = (window.scores.argmax(axis=1) == truth)[window.in_scope != 0].mean()
        differences.append(found["accuracy"] - correct)
        held.append(found["low"] <= correct <= found["high"])
        changes.append(correct - found["released"])
    return {
        "mean_error": float(np.abs(differences).mean()), "bias": float(np.mean(differences)),
        "held": float(np.mean(held)), "true_change": float(np.mean(changes)),
    }  # fmt: skip


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The tables of docs/monitoring.md."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{share:.1%}".replace(".0%", "%")

    columns: list[tuple[str, dict[str, Any]]] = []
    for name, result in results.items():
        columns.append((name, result | result["no_shift"]))
        if result["evidently"]["windows"]:
            theirs = result["evidently"] | {"papers": result["papers"], "any_alarm_in_30": None}
            columns.append(("Evidently", theirs))

    def table(names: list[str], rows: dict[str, list[str]]) -> str:
        lines = [
            ["", *names],
            ["---", *("---:" for _ in names)],
            *([title, *row] for title, row in rows.items()),
        ]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    rows = {
        "papers": [f"{one['papers']:,}" for _, one in columns],
        "windows without a shift": [f"{one['windows']:,}" for _, one in columns],
        "no shift, alarms per window": [f"{one['alarms']:.2%}" for _, one in columns],
        "no shift, any alarm in 30 windows": [percent(one["any_alarm_in_30"]) for _, one in columns],
    }
    for title in dict.fromkeys(title for result in results.values() for title in result["shifts"]):
        rows[title] = [percent(one["shifts"].get(title, {}).get("within_two")) for _, one in columns]
    accuracy = {name: result["accuracy"] for name, result in results.items() if result["accuracy"]}
    errors = {
        title: [_error(found.get(title)) for found in accuracy.values()]
        for title in dict.fromkeys(title for found in accuracy.values() for title in found)
    }
    return f"{table([name for name, _ in columns], rows)}\n\n{table([*accuracy], errors)}"


def _error(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    points, true = 100 * found["mean_error"], 100 * found["true_change"]
    return f"{points:.1f} points, {found['held']:.0%} (true change {true:+.1f})"


# --- reading ---

# The peak of this program alone: that of `getrusage` begins with its parent's.
PEAK = "int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024"
READ = f"""
import json, re, sys, time
from pathlib import Path
from arxiv_cls.monitoring.check import check_drift
start = time.perf_counter()
rows = check_drift(sys.argv[1], sys.argv[2], out=Path(sys.argv[3]))["log"]["rows_read"]
print(json.dumps([time.perf_counter() - start, time.process_time(), {PEAK}, rows]))
"""
PANDAS = f"""
import json, re, sys, time
from pathlib import Path
import pandas
start = time.perf_counter()
paths = sorted(Path(sys.argv[2]).iterdir())
rows = len(pandas.concat([pandas.read_json(path, lines=True) for path in paths]))
print(json.dumps([time.perf_counter() - start, time.process_time(), {PEAK}, rows]))
"""
EMULATOR = """
import socketserver, sys, threading
# With 5 that may wait, of those that connect at once most try again a second later.
socketserver.TCPServer.request_queue_size = 1024
from gcp_storage_emulator.server import create_server
from gcp_storage_emulator.storage import Storage
# An index that only a later emulator would read, written whole again for each object.
Storage._write_config_to_file = lambda self: None
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="logs").start()
threading.Event().wait()
"""


@contextmanager
def bucket_of(folder: Path) -> Iterator[str]:
    """The address of a bucket with the files of a folder, on an emulator in a process of its own."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-c", EMULATOR, str(port)])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        bucket = storage.Client(project="p", credentials=AnonymousCredentials()).bucket("logs")
        for path in sorted(folder.iterdir()):
            bucket.blob(f"requests/{path.name}").upload_from_string(path.read_bytes())
        yield "gs://logs/requests"
    finally:
        end(process)


def reading(arguments: argparse.Namespace) -> None:
    """Writes a log of so many lines from those of the endpoint; reads it, and with pandas beside it."""
    side = side_of(arguments.models[0])
    pools = {QUIET: texts_of(side, arguments)[1][QUIET]}
    log = log_of(side, pools, Path(arguments.cache))
    lines = [json.loads(line) for path in sorted(log.iterdir()) for line in path.open(encoding="utf-8")]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as out:
        folder, written = Path(name), 0
        per_file = -(-arguments.lines // arguments.files)
        for number in range(arguments.files):
            path = folder / f"requests-20260101T{number:012d}Z-aaaa.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for _ in range(min(per_file, arguments.lines - written)):
                    # A count that grows makes each line another text.
                    when = (start + timedelta(seconds=written)).isoformat()
                    line = lines[written % len(lines)] | {"time": when, "request_id": f"{written:032x}"}
                    line["characters"] += (written // len(lines)) / 1000
                    file.write(json.dumps(line) + "\n")
                    written += 1
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{written:,} lines in {arguments.files:,} files, {size:,.0f} MB")
        sides = {"arxiv-cls monitor drift": READ}
        if not arguments.no_pandas:
            sides["pandas.read_json alone"] = PANDAS
        for title, code in sides.items():
            measure_reading(title, code, side, str(folder), out)
        if arguments.bucket:
            with bucket_of(folder) as target:
                measure_reading("the same from a bucket", READ, side, target, out)


def measure_reading(title: str, code: str, side: Side, target: str, out: str) -> None:
    """Prints seconds and peak memory of a process that reads a log."""
    command = [sys.executable, "-c", code, str(side.model), target, out]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"  {title:<26} failed: {(done.stderr.strip() or 'killed').splitlines()[-1]}")
        return
    seconds, cpu, megabytes, rows = json.loads(done.stdout)
    print(
        f"  {title:<26} {seconds:6.1f} s ({cpu:.1f} s CPU)  {megabytes:7,.0f} MB  {rows:,} rows", flush=True
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="DIRECTORY[:ENGINE][+BASELINE]")
    parser.add_argument("--data", help="CSV of the models' splits (default: the recipe's)")
    parser.add_argument("--new", help="papers of other fields, arXiv's JSON Lines, gzip")
    parser.add_argument("--papers", type=int, help="quiet papers, at most (default: all)")
    parser.add_argument("--changed", type=int, default=800, help="papers of each shifted pool")
    parser.add_argument("--window", type=int, default=300)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--evidently", type=int, default=0, help="runs that Evidently tests as well")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="outputs/.monitoring", help="folder of the endpoint's logs")
    parser.add_argument("--json", help="also write the figures there")
    parser.add_argument("--lines", type=int, help="instead: read a log of so many lines")
    parser.add_argument("--files", type=int, default=20, help="of that log")
    parser.add_argument("--bucket", action="store_true", help="also from a bucket of an emulator")
    parser.add_argument("--no-pandas", action="store_true", help="without the other side")
    arguments = parser.parse_args(argv)
    sides = [side_of(text) for text in arguments.models]
    before = time.perf_counter()
    if arguments.lines:
        reading(arguments)
    else:
        with ProcessPoolExecutor(arguments.jobs) as jobs:
            found = jobs.map(partial(measure, arguments=arguments), sides)
            results = {side.name: one for side, one in zip(sides, found, strict=True)}
        print(markdown(results))
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"({time.perf_counter() - before:.0f} s, {peak:,.0f} MB)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_benchmark(main)
