"""False alarms and power of the drift check on real papers, and how fast it reads a log.

Run as: python benchmarks/monitoring.py outputs/tfidf_xgboost --new papers-of-other-fields.jsonl.gz
        python benchmarks/monitoring.py outputs/minilm --engine onnx --scope outputs/tfidf_xgboost --new FILE
        python benchmarks/monitoring.py outputs/tfidf_xgboost --lines 1000000

Every paper is scored once and its row kept in --cache; windows are drawn from the rows. In each run the
windows are disjoint and the reference is the rest of the test and validation papers, so that a window with no
shift and the reference are exchangeable, as production and the test split are when nothing has changed.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.corpus.taxonomy import archive_of
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import load_scope
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.models.text_features import TEXT_FEATURES
from arxiv_cls.monitoring.accuracy import AccuracyEstimate
from arxiv_cls.monitoring.drift import ALARM, DriftTest, verdict_of
from arxiv_cls.monitoring.perturbations import gibberish, latex, one_sentence, perturbed
from arxiv_cls.monitoring.robustness import rows_of
from arxiv_cls.scoring.reference import Reference, Rows
from arxiv_cls.scoring.scored_papers import load_corpus
from benchmarks.children import run_benchmark

AT_A_TIME = 500
QUIET_IN_A_ROW = 30


class Pool:
    """Scored papers: rows, and true labels (-1 for papers of other fields)."""

    def __init__(self, rows: Rows, truth: np.ndarray) -> None:
        self.rows, self.truth = rows, truth

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, chosen: np.ndarray) -> Pool:
        return Pool(self.rows.take(chosen), self.truth[chosen])


def join(pools: list[Pool]) -> Pool:
    rows = Rows(*(np.concatenate([getattr(pool.rows, name) for pool in pools])
                  for name in ("scores", "features", "in_scope")))  # fmt: skip
    return Pool(rows, np.concatenate([pool.truth for pool in pools]))


def texts_of_pools(
    arguments: argparse.Namespace, labels: list[str]
) -> dict[str, tuple[list[str], list[int]]]:
    """Texts and true labels of each pool."""
    corpus, _ = load_corpus(Path(arguments.model), arguments.data)
    papers = {"texts": [], "truth": []}
    for split in arguments.splits.split(","):
        part = corpus.splits[split]
        papers["texts"] += list(part["text"])
        papers["truth"] += [labels.index(corpus.labels[label]) for label in part["label"]]
    pools = {"quiet": (papers["texts"][: arguments.papers], papers["truth"][: arguments.papers])}
    changed = arguments.changed
    for name, change, severity, count in (
        ("one sentence", one_sentence, 1.0, changed),
        ("LaTeX", latex, 0.25, changed),
        ("gibberish", gibberish, 1.0, changed // 4),
    ):
        pools[name] = (perturbed(papers["texts"][:count], change, severity, 0), papers["truth"][:count])
    if arguments.new:
        outside: dict[str, list[str]] = {"physics and math": [], "near scope": []}
        with gzip.open(arguments.new, "rt", encoding="utf-8") as file:
            for line in file:
                paper = json.loads(line)
                archive = archive_of(paper["categories"].split()[0])
                name = {"physics": "physics and math", "math": "physics and math"}.get(
                    archive, "near scope" if archive in ("cs", "stat", "eess") else ""
                )
                if name and not set(paper["categories"].split()) & set(labels):
                    abstract = " ".join(paper["abstract"].split())
                    outside[name].append(f"{' '.join(paper['title'].split())}\n\n{abstract}")
        for name, texts in outside.items():
            random.Random(0).shuffle(texts)
            pools[name] = (texts[:changed], [-1] * len(texts[:changed]))
    if arguments.later:
        from arxiv_cls.corpus.papers import read_papers

        table = read_papers(arguments.later, required=("title", "abstract", "category")).table
        rows = [row for row in table.to_pylist() if row["published"] and row["published"].year == 2019
                and row["category"] in labels]  # fmt: skip
        random.Random(0).shuffle(rows)
        rows = rows[: 4 * changed]
        texts = [f"{row['title']}\n\n{row['abstract']}" for row in rows]
        pools["2019"] = (texts, [labels.index(row["category"]) for row in rows])
    return pools


def scored_pools(arguments: argparse.Namespace) -> tuple[list[str], dict[str, Pool]]:
    """The rows of every pool, from the cache where it has them."""
    predictor = load_predictor(arguments.model, engine=arguments.engine)
    scope = load_scope(Path(arguments.scope or arguments.model))
    folder = Path(arguments.cache) / f"{Path(arguments.model).name}-{predictor.engine}"
    folder.mkdir(parents=True, exist_ok=True)
    pools = {}
    for name, (texts, truth) in texts_of_pools(arguments, predictor.labels).items():
        parts = []
        for first in range(0, len(texts), AT_A_TIME):
            batch = texts[first : first + AT_A_TIME]
            path = folder / f"{hashlib.sha256(json.dumps(batch).encode()).hexdigest()[:20]}.npz"
            if not path.is_file():
                with Path(arguments.lock).open("w") if arguments.lock else nullcontext() as lock:
                    if lock:
                        fcntl.flock(lock, fcntl.LOCK_EX)
                    np.savez(path, scores=predictor.predict_proba(batch).round(6))
                print(f"  scored {name} {first + len(batch):,}/{len(texts):,}", file=sys.stderr, flush=True)
            with np.load(path) as saved:
                parts.append(rows_of(predictor, batch, saved["scores"], scope))
        pools[name] = join([Pool(part, np.zeros(len(part))) for part in parts])
        pools[name].truth = np.array(truth)
    return predictor.labels, pools


def reference_of(labels: list[str], pool: Pool) -> Reference:
    return Reference(labels, pool.rows, pool.truth, {}, "")


Draw = Callable[[np.random.Generator, np.ndarray, int], Pool]


def draws(labels: list[str], pools: dict[str, Pool]) -> dict[str, Draw]:
    """How a window of n is drawn from shuffled quiet rows; each draw takes from the front of `order`."""
    quiet = pools["quiet"]

    def mixed(name: str, share: float) -> Draw:
        def draw(generator: np.random.Generator, order: np.ndarray, n: int) -> Pool:
            other = round(share * n)
            chosen = generator.choice(len(pools[name]), other, replace=False)
            return join([quiet.take(order[: n - other]), pools[name].take(chosen)])

        return draw

    def more_of(label: str, factor: float) -> Draw:
        number = labels.index(label)

        def draw(generator: np.random.Generator, order: np.ndarray, n: int) -> Pool:
            wanted = round(factor * float((quiet.truth == number).mean()) * n)
            of_label, rest = order[quiet.truth[order] == number], order[quiet.truth[order] != number]
            return quiet.take(np.concatenate([of_label[:wanted], rest[: n - wanted]]))

        return draw

    found: dict[str, Draw] = {"no shift": mixed("quiet", 0.0)}
    for title, name, share in (
        ("10% physics and math", "physics and math", 0.1),
        ("20% near scope", "near scope", 0.2),
        ("20% one sentence", "one sentence", 0.2),
        ("20% LaTeX", "LaTeX", 0.2),
        ("5% gibberish", "gibberish", 0.05),
        ("papers of 2019", "2019", 1.0),
    ):
        if name in pools:
            found[title] = mixed(name, share)
    for label, factor in (("cs.CV", 2), ("cs.CL", 1.4)):
        if label in labels:
            found[f"{label} x {factor}"] = more_of(label, factor)
    return found


def run_of_windows(
    generator: np.random.Generator, labels: list[str], quiet: Pool, draw: Draw, size: int, windows: int
) -> tuple[list[float], list[str]]:
    """p-values and verdicts of windows that follow each other, against the rest of the quiet papers."""
    order = generator.permutation(len(quiet))
    # More than a window, so that a draw can choose among labels.
    room = min(2 * size, len(quiet) // (2 * windows))
    used, rest = order[: room * windows], order[room * windows :]
    test = DriftTest(reference_of(labels, quiet.take(rest)))
    p: list[float] = []
    verdicts: list[str] = []
    for number in range(windows):
        found = test(draw(generator, used[number * room : (number + 1) * room], size).rows)
        verdicts.append(verdict_of(found.p, p[-1] if p else None))
        p.append(found.p)
    return p, verdicts


def table(arguments: argparse.Namespace) -> dict[str, Any]:
    labels, pools = scored_pools(arguments)
    quiet, size = pools["quiet"], arguments.window
    generator = np.random.default_rng(arguments.seed)
    in_a_row = min(10, len(quiet) // 2 // size)
    kinds = draws(labels, pools)
    print(f"{arguments.model}: {len(quiet):,} papers, windows of {size}")
    runs = [run_of_windows(generator, labels, quiet, kinds["no shift"], size, in_a_row)
            for _ in range(arguments.runs)]  # fmt: skip
    p = np.array([value for run, _ in runs for value in run])
    alarms = np.array([[verdict == ALARM for verdict in verdicts] for _, verdicts in runs])
    blocks = QUIET_IN_A_ROW // in_a_row
    longer = alarms.any(axis=1)[: len(alarms) // blocks * blocks].reshape(-1, blocks).any(axis=1)
    result: dict[str, Any] = {
        "model": str(arguments.model), "papers": len(quiet), "window": size,
        "no_shift": {
            "windows": len(p), "alarms": float(alarms.mean()), "p_below_0.05": float((p < 0.05).mean()),
            "any_alarm_in_30_windows": float(longer.mean()), "runs_of_30": len(longer),
        },
        "shifts": {}, "accuracy": {},
    }  # fmt: skip
    found = result["no_shift"]
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.2%}" for name, value in found.items() if value < 1)
    print(f"  no shift: {len(p):,} windows; {shown} ({len(longer)} runs)")
    print("  shift                    alarm in the first window   within two")
    for title, draw in kinds.items():
        if title == "no shift":
            continue
        both = [run_of_windows(generator, labels, quiet, draw, size, 2)[1] for _ in range(arguments.runs)]
        first = np.mean([verdicts[0] == ALARM for verdicts in both])
        within = np.mean([ALARM in verdicts for verdicts in both])
        result["shifts"][title] = {"first": float(first), "within_two": float(within)}
        print(f"  {title:<24} {first:>25.1%}   {within:>10.1%}")
    print("  accuracy without labels, n = 1,000: mean error and share of intervals that hold the truth")
    for title in ("no shift", "20% one sentence", "papers of 2019", "cs.CL x 1.4", "10% physics and math"):
        if title in kinds:
            errors, held = accuracy_errors(generator, labels, quiet, kinds[title], arguments.runs // 2)
            result["accuracy"][title] = {"mean_error": errors, "held": held}
            print(f"  {title:<24} {errors:>25.4f}   {held:>10.1%}")
    return result


def accuracy_errors(
    generator: np.random.Generator, labels: list[str], quiet: Pool, draw: Draw, runs: int, n: int = 1000
) -> tuple[float, float]:
    """Mean distance of the estimate from the accuracy of the rows that count, and how often it is inside."""
    errors, held = [], []
    for _ in range(runs):
        order = generator.permutation(len(quiet))
        estimate = AccuracyEstimate(reference_of(labels, quiet.take(order[len(quiet) // 2 :])))
        window = draw(generator, order[: len(quiet) // 2], n)
        found = estimate(window.rows)
        counted = window.rows.in_scope != 0
        truth = (window.rows.scores.argmax(axis=1) == window.truth)[counted].mean()
        errors.append(abs(found["accuracy"] - truth))
        held.append(found["low"] <= truth <= found["high"])
    return float(np.mean(errors)), float(np.mean(held))


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


def reading(arguments: argparse.Namespace) -> None:
    """Writes a log of so many lines from the rows of the quiet pool; reads it, and with pandas beside it."""
    from arxiv_cls.record.files import file_sha256

    labels, pools = scored_pools(arguments)
    quiet = pools["quiet"]
    predictor = load_predictor(arguments.model, engine=arguments.engine)
    version = file_sha256(predictor.weights_path)[:12]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        per_file = -(-arguments.lines // arguments.files)
        written = 0
        for number in range(arguments.files):
            path = folder / f"requests-20260101T{number:012d}Z-aaaa.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for _ in range(min(per_file, arguments.lines - written)):
                    at = written % len(quiet)
                    # A count that grows makes each line another text.
                    features = dict(zip(TEXT_FEATURES, quiet.rows.features[at], strict=False))
                    features["characters"] += (written // len(quiet)) / 1000
                    scores = dict(zip(labels, quiet.rows.scores[at].tolist(), strict=True))
                    label = max(scores, key=scores.get)
                    line = {
                        "schema_version": 2, "time": (start + timedelta(seconds=written)).isoformat(),
                        "request_id": f"{written:032x}", "index": 0, "schema": "text", "model": "m",
                        "model_version": version, "answered_by": predictor.engine, "label": label,
                        "score": scores[label], "scores": scores, "prediction_set": [label],
                        "in_scope": bool(quiet.rows.in_scope[at]), "scope_score": 0.5, "truncated": False,
                        "milliseconds": 10.0, "waited_milliseconds": 1.0, "texts_in_request": 1,
                        "tokens": int(features["words"]), **features,
                    }  # fmt: skip
                    file.write(json.dumps(line) + "\n")
                    written += 1
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{written:,} lines in {arguments.files:,} files, {size:,.0f} MB")
        sides = {"arxiv-cls monitor drift": READ}
        if not arguments.no_pandas:
            sides["pandas.read_json alone"] = PANDAS
        with tempfile.TemporaryDirectory() as out:
            for title, code in sides.items():
                command = [sys.executable, "-c", code, str(arguments.model), str(folder), out]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"  {title:<26} failed: {(done.stderr.strip() or 'killed').splitlines()[-1]}")
                    continue
                seconds, cpu, megabytes, rows = json.loads(done.stdout)
                print(
                    f"  {title:<26} {seconds:6.1f} s ({cpu:.1f} s CPU)  {megabytes:7,.0f} MB  {rows:,} rows"
                )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model directory with its recipe")
    parser.add_argument("--engine", choices=("torch", "onnx", "int8"), help="what computes a transformer")
    parser.add_argument("--scope", help="directory whose eval/scope.json to take (default: the model's)")
    parser.add_argument("--data", help="CSV of the model's splits (default: the recipe's)")
    parser.add_argument("--new", help="papers of other fields, arXiv's JSON Lines, gzip")
    parser.add_argument("--later", help="CSV with papers of 2019 that the model has not seen")
    parser.add_argument("--splits", default="test,validation", help="splits of the quiet papers")
    parser.add_argument("--papers", type=int, help="at most so many quiet papers (default: all)")
    parser.add_argument("--changed", type=int, default=800, help="papers of each shifted pool")
    parser.add_argument("--window", type=int, default=300)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="outputs/.monitoring", help="folder of scored rows")
    parser.add_argument("--lock", help="file to lock while papers are scored, on a shared machine")
    parser.add_argument("--json", help="also write the table there")
    parser.add_argument("--lines", type=int, help="instead: read a log of so many lines")
    parser.add_argument("--files", type=int, default=20, help="of that log")
    parser.add_argument("--no-pandas", action="store_true", help="without the other side")
    arguments = parser.parse_args(argv)
    if not (Path(arguments.model) / "recipe.yaml").is_file():
        raise UserError(f"{arguments.model}: no model directory with a recipe")
    before = time.perf_counter()
    if arguments.lines:
        reading(arguments)
    else:
        result = table(arguments)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"({time.perf_counter() - before:.0f} s, {peak:,.0f} MB)")
    return 0


if __name__ == "__main__":
    run_benchmark(main)
