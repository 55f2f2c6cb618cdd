"""Run as: make demo        (or: python -m arxiv_cls.demo)

The whole workflow on a small sample: splits, training, evaluation, export, predictions, results.

Nothing but a package registry is needed: the papers are synthetic and the pretrained encoder comes in a PyPI
package. Every step is printed as the command that a person would type, and run as exactly that. A second run
starts over.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from arxiv_cls.errors import UserError, run_main

SAMPLE = "data/sample/arxiv_sample.csv"
TRANSFORMER = "outputs/demo"
BASELINE = "outputs/demo_tfidf_xgboost"
RECIPES = {TRANSFORMER: "recipes/demo.yaml", BASELINE: "recipes/tfidf_xgboost.yaml"}

TEXTS = (
    "Learning to parse with pretrained sentence encoders. We fine-tune a language model for dependency "
    "parsing and machine translation and report gains on low-resource corpora.",
    "Segmenting tumours in volumetric scans. A convolutional network labels every voxel of an image and "
    "transfers across scanners.",
)


class Step(NamedTuple):
    """One command and what it is for."""

    purpose: str
    command: list[str]


def steps() -> list[Step]:
    """The workflow; each command is run from the project's root."""
    accelerate = ["accelerate", "launch", "--quiet", "--config_file", "recipes/accelerate/cpu.yaml"]
    baseline = ["python", "arxiv_cls/train_tfidf.py", RECIPES[BASELINE], "--data.csv", SAMPLE]
    return [
        Step(
            "Check the CSV, merge versions, split by paper",
            ["arxiv-cls", "data", "build", "--csv", SAMPLE],
        ),
        Step(
            "Fine-tune a pretrained encoder",
            [*accelerate, "arxiv_cls/train.py", RECIPES[TRANSFORMER], "--overwrite"],
        ),
        Step(
            "Train the TF-IDF + XGBoost baseline on the same papers",
            [*baseline, "--trainer.output_dir", BASELINE, "--overwrite"],
        ),
        Step("Evaluate on the test split", ["arxiv-cls", "evaluate", TRANSFORMER]),
        Step("Export to ONNX, fp32 and int8", ["arxiv-cls", "export", TRANSFORMER]),
        Step("Classify two new texts", ["arxiv-cls", "predict", TRANSFORMER, *TEXTS]),
    ]


def run(step: Step, number: int, total: int) -> None:
    """Prints a step's command and runs it, its output going straight to the terminal.

    Raises:
        UserError: the command is not installed or did not exit with 0; its own message is above.
    """
    print(f"\n[{number}/{total}] {step.purpose}\n$ {shlex.join(step.command)}\n", flush=True)
    # The environment of this process comes first, so that the printed command uses it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(step.command[0], path=path)
    if program is None:
        raise UserError(f"step {number} of {total}: no command {step.command[0]!r}", hint="run `make setup`")
    environment = os.environ | {"PATH": path}
    status = subprocess.run([program, *step.command[1:]], env=environment, check=False).returncode
    if status:
        raise UserError(
            f"step {number} of {total} ({step.purpose.lower()}) ended with exit status {status}",
            hint="its own message is above; the command can be run by itself",
            exit_code=status if 0 < status < 126 else 1,
        )


def result_row(name: str, model: str) -> list[str]:
    """The cells of one model's line: name, papers, accuracy and macro-F1 with their 95% intervals."""
    from arxiv_cls.record.model_files import Evaluation, read_record

    report = read_record(Path(model, "eval", "metrics.json"), Evaluation)
    cells = [name, str(report["papers"])]
    for metric in ("accuracy", "macro_f1"):
        low, high = report["intervals"][metric]
        cells.append(f"{report['metrics'][metric]:.3f} ({low:.3f} to {high:.3f})")
    return cells


def table(rows: list[list[str]]) -> str:
    """Rows of cells as aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def next_commands() -> str:
    """What a person types next, as it works in a new shell: from the environment to predictions."""
    accelerate = "accelerate launch --config_file recipes/accelerate/cpu.yaml"
    return (
        "Next, on real papers:\n\n"
        "  . .venv/bin/activate\n"
        "  make data SOURCE=kaggle    # or REMOTE=<a DVC remote: directory or url>, into data/raw/arxiv.csv\n"
        f"  {accelerate} arxiv_cls/train.py recipes/minilm.yaml\n"
        "  arxiv-cls predict outputs/minilm --csv data/raw/arxiv.csv --out scores.csv\n"
    )


def main(argv: list[str]) -> None:
    """Runs every step and prints the results.

    Raises:
        UserError: on arguments, outside a clone of the repository, or when a step fails.
    """
    if argv:
        raise UserError(f"the demo takes no arguments, got: {shlex.join(argv)}")
    os.chdir(Path(__file__).resolve().parent.parent)
    missing = [path for path in (SAMPLE, *RECIPES.values()) if not Path(path).is_file()]
    if missing:
        raise UserError(f"not found: {', '.join(missing)}", hint="the demo runs in a clone of the repository")
    started = time.monotonic()
    workflow = steps()
    for number, step in enumerate(workflow, start=1):
        run(step, number, len(workflow))
    rows = [
        ["model", "test papers", "accuracy (95% interval)", "macro-F1 (95% interval)"],
        result_row("MiniLM-L6, fine-tuned", TRANSFORMER),
        result_row("TF-IDF + XGBoost", BASELINE),
    ]
    print(f"\nResults on the synthetic sample ({time.monotonic() - started:.0f} s in all)\n\n{table(rows)}")
    print(f"\nThe model is in {TRANSFORMER}, its evaluation in {TRANSFORMER}/eval. {next_commands()}")


if __name__ == "__main__":
    run_main(main)
