"""Scoring papers on a CPU: transformers' `pipeline()` beside each step of ours, with the accuracy of each.

    python benchmarks/bench_predict.py [--model outputs/minilm] [--baseline outputs/tfidf_xgboost]
                                       [--csv data/raw/arxiv.csv] [--papers 1000]

Without `--model` it is outputs/minilm, or the demo's model where there is none. It needs its export
(`arxiv-cls export MODEL`) and, for the last two sides, a fitted cascade (`arxiv-cls cascade MODEL BASELINE`);
the last side is the named fast mode, ENGINE=int8 CASCADE=BASELINE. Every side is a process that
has loaded its model before the clock starts. Blocks of papers of the test split go to all sides in turn, so
that a machine that gets busier slows all of them alike. Seconds are from texts to predictions, tokenising
included; CPU seconds are those of all threads. The ratio is to the faster of the two ways to call
`pipeline()`, the gain to the side that differs in one thing only. They hold on a machine that has nothing
else to do: where other programs want the cores, `pipeline()`, whose threads wait for each other after every
product, loses far more than we do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arxiv_cls import demo
from arxiv_cls.errors import UserError
from benchmarks.children import DATA, end, run_benchmark

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = ("pipeline", "pipeline-16")
SIDES = {
    "pipeline": "pipeline(truncation=True), a text at a time",
    "pipeline-16": "pipeline(truncation=True, batch_size=16)",
    "onnx-stock": "ONNX fp32, a session as it comes, a text at a time",
    "onnx-batches": "ONNX fp32, batches by length of up to 2,048 tokens",
    "onnx": "ONNX fp32, a text on each core: no padding (the endpoint's default)",
    "int8": "+ int8",
    "int8-budget": "+ reads no more tokens than validation asks for",
    "cascade": "+ the baseline first: the fast mode",
}
# The side that a side changes one thing of: its own gain is measured against that one.
STEP_BEFORE = {
    "pipeline-16": "pipeline",
    "onnx-stock": "pipeline",
    "onnx-batches": "onnx-stock",
    "onnx": "onnx-stock",
    "int8": "onnx",
    "int8-budget": "int8",
    "cascade": "int8-budget",
}

# Models that are measured unless one is named, the first that is there, each with its baseline.
DEFAULT_MODEL = "outputs/minilm"
MODELS = {DEFAULT_MODEL: "outputs/tfidf_xgboost", demo.TRANSFORMER: demo.BASELINE}
OF_A_CASCADE = ("int8-budget", "cascade")

Scorer = Callable[[list[str]], list[str]]


def scorer(side: str, model: str, baseline: str) -> Scorer:
    """Loads a side; what comes back names the label of each text."""
    if side in PIPELINES:
        from transformers import pipeline
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        classify = pipeline("text-classification", model=model, truncation=True)
        if side == "pipeline":
            return lambda texts: [classify(text)[0]["label"] for text in texts]
        return lambda texts: [said["label"] for said in classify(texts, batch_size=16)]
    if side == "cascade":
        from arxiv_cls.models.cascade import load_cascade

        predictor: Any = load_cascade(model, baseline)
    else:
        from arxiv_cls.models.predictor import load_predictor

        predictor = load_predictor(model, engine="onnx" if side.startswith("onnx") else "int8")
    if side == "int8-budget":
        record = json.loads((Path(model) / "eval" / "cascade.json").read_text(encoding="utf-8"))
        predictor.limit_tokens(record["max_tokens"])
    if side == "onnx-batches":
        predictor.tokens_per_batch = 2048
    if side == "onnx-stock":
        import onnxruntime

        predictor.session.session = onnxruntime.InferenceSession(
            str(predictor.weights_path), providers=["CPUExecutionProvider"]
        )
        return lambda texts: [predictor.predict([text])[0].label for text in texts]
    return lambda texts: [said.label for said in predictor.predict(texts)]


def run_side(side: str, model: str, baseline: str) -> None:
    """Answers on standard output what comes in on standard input, a JSON line each: texts, then labels."""
    answers = os.fdopen(os.dup(1), "w")
    # What a library prints must not come between the answers.
    os.dup2(2, 1)
    score = scorer(side, model, baseline)
    for line in sys.stdin:
        texts = json.loads(line)
        before, start = _cpu_seconds(), time.perf_counter()
        labels = score(texts)
        seconds = time.perf_counter() - start
        print(
            json.dumps({"labels": labels, "seconds": seconds, "cpu": _cpu_seconds() - before}),
            file=answers,
            flush=True,
        )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Side:
    """A side in a process of its own, ready to score."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        words = ["--side", name, "--model", arguments.model, "--baseline", arguments.baseline]
        self.name, self.seconds, self.cpu, self.labels = name, [], [], []
        self.process = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
        )

    def score(self, texts: list[str]) -> dict[str, Any]:
        """Sends texts and waits for the answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"the side {self.name!r} failed", hint="its own message is above")
        return json.loads(line)

    def measure(self, texts: list[str]) -> None:
        """Scores a block and keeps what it took."""
        answer = self.score(texts)
        self.seconds.append(answer["seconds"])
        self.cpu.append(answer["cpu"])
        self.labels += answer["labels"]

    def close(self) -> None:
        """Ends the process, which keeps nothing."""
        end(self.process)


def test_papers(csv: str) -> tuple[list[str], list[str]]:
    """Texts and labels of the test split of `top5`."""
    from arxiv_cls.corpus import build_corpus

    corpus = build_corpus("top5", csv=csv)
    papers = corpus.splits["test"]
    return list(papers["text"]), [corpus.labels[label] for label in papers["label"]]


def pair(arguments: argparse.Namespace, sides: Iterable[str]) -> list[str]:
    """Fills in the model and its baseline, says which they are, and returns the sides that can run.

    Raises:
        UserError: there is no CSV, no model or no export.
    """
    if not Path(arguments.csv).is_file():
        raise UserError(f"{arguments.csv}: no such file", hint="make data, or name one: --csv")
    models = [arguments.model] if arguments.model else list(MODELS)
    arguments.model = next((model for model in models if Path(model).is_dir()), None)
    if arguments.model is None:
        hint = "`make demo` makes one; MODEL= of make and --model name another"
        raise UserError(f"no model: {' and '.join(models)} are missing", hint=hint)
    arguments.baseline = arguments.baseline or MODELS.get(arguments.model, MODELS[DEFAULT_MODEL])
    if not Path(arguments.model, "onnx", "model_int8.onnx").is_file():
        hint = f"arxiv-cls export {arguments.model}"
        raise UserError(f"{arguments.model}: onnx/model_int8.onnx is missing", hint=hint)
    print(f"model: {arguments.model}, baseline: {arguments.baseline}")
    cascade = Path(arguments.model, "eval", "cascade.json").is_file() and Path(arguments.baseline).is_dir()
    if cascade:
        return list(sides)
    left_out = [side for side in sides if side in OF_A_CASCADE]
    if left_out:
        print(
            f"left out: {', '.join(left_out)}; they need a cascade:\n"
            f"  arxiv-cls cascade {arguments.model} {arguments.baseline}"
        )
    return [side for side in sides if side not in left_out]


def machine() -> str:
    """The cores, and how busy they were in the last minute; an idle machine is well below 0.5."""
    busy = f", load average {os.getloadavg()[0]:.1f} before the start" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores{busy}"


def report(sides: list[Side], truth: list[str]) -> None:
    """Prints a line per side, with ratios to the faster pipeline and a paired interval of the accuracy."""
    import numpy as np

    papers = len(truth)
    stock = min((side for side in sides if side.name in PIPELINES), key=lambda side: sum(side.seconds))
    right_of_stock = np.asarray(stock.labels) == np.asarray(truth)
    print(
        f"{'side':<13}{'papers/s':>9}{'ratio':>7}{'gain':>7}{'CPU ratio':>10}{'accuracy':>10}"
        "   difference (95%, paired)"
    )
    seconds = {side.name: sum(side.seconds) for side in sides}
    for side in sides:
        right = np.asarray(side.labels) == np.asarray(truth)
        difference = right.astype(float) - right_of_stock
        drawn = np.random.default_rng(0).integers(papers, size=(2000, papers))
        low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
        ratio, of_cpu = sum(stock.seconds) / seconds[side.name], sum(stock.cpu) / sum(side.cpu)
        before, speed = seconds.get(STEP_BEFORE.get(side.name, "")), papers / seconds[side.name]
        gain = f"{before / seconds[side.name]:7.2f}" if before else f"{'':7}"
        print(
            f"{side.name:<13}{speed:9.1f}{ratio:7.2f}{gain}{of_cpu:10.2f}{right.mean():10.4f}"
            f"   {difference.mean():+.4f} ({low:+.4f} to {high:+.4f})   {SIDES[side.name]}"
        )
    fast = sides[-1]
    per_block = np.asarray(stock.seconds) / np.asarray(fast.seconds)
    low, middle, high = np.quantile(per_block, [0.25, 0.5, 0.75])
    print(
        f"{fast.name} against {stock.name}, block by block: {middle:.1f} times "
        f"(half of the {len(per_block)} blocks between {low:.1f} and {high:.1f})"
    )


def main(argv: list[str]) -> int:
    """Runs all sides on the same papers and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help=f"transformer with its export (default: {' or '.join(MODELS)})")
    parser.add_argument("--baseline", help="the cascade's baseline (default: the model's)")
    parser.add_argument("--csv", default=DATA)
    parser.add_argument("--papers", type=int, default=0, help="papers of the test split (default: all)")
    parser.add_argument("--block", type=int, default=256, help="papers that a side scores in its turn")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.side:
        run_side(arguments.side, arguments.model, arguments.baseline)
        return 0
    names = pair(arguments, [name for name in SIDES if name in arguments.sides])
    if not set(names) & set(PIPELINES):
        names.insert(0, "pipeline")
    texts, truth = test_papers(arguments.csv)
    papers = min(arguments.papers or len(texts), len(texts))
    print(f"{papers:,} of {len(texts):,} test papers, blocks of {arguments.block}, {machine()}")
    sides: list[Side] = []
    try:
        for name in names:
            sides.append(Side(name, arguments))
        for side in sides:
            side.score(texts[-8:])
        for start in range(0, papers, arguments.block):
            for side in sides:
                side.measure(texts[start : min(start + arguments.block, papers)])
    finally:
        for side in sides:
            side.close()
    report(sides, truth[:papers])
    return 0


if __name__ == "__main__":
    run_benchmark(main)
