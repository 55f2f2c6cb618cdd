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

from arxiv_cls.errors import UserError, run_main
from arxiv_cls.recipe import DataConfig
from arxiv_cls.record.model_files import Evaluation, read_record

DEFAULT_CSV = DataConfig().csv
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

ACCELERATE = "accelerate launch --config_file recipes/accelerate/cpu.yaml"
# What each command is for; all are run from the project's root.
STEPS = {
    "Check the CSV, merge versions, split by paper": f"arxiv-cls data build --csv {SAMPLE}",
    "Fine-tune a pretrained encoder": (
        f"{ACCELERATE} --quiet arxiv_cls/train.py {RECIPES[TRANSFORMER]} --overwrite"
    ),
    "Train the TF-IDF + XGBoost baseline on the same papers": (
        f"python arxiv_cls/train_tfidf.py {RECIPES[BASELINE]} --data.csv {SAMPLE} "
        f"--trainer.output_dir {BASELINE} --overwrite"
    ),
    "Evaluate on the test split": f"arxiv-cls evaluate {TRANSFORMER}",
    "Export to ONNX, fp32 and int8": f"arxiv-cls export {TRANSFORMER}",
    "Classify two new texts": shlex.join(["arxiv-cls", "predict", TRANSFORMER, *TEXTS]),
}
# What a person types next, as it works in a new shell: from the environment to predictions.
NEXT_COMMANDS = f"""Next, on real papers:

  . .venv/bin/activate
  make data SOURCE=kaggle    # or REMOTE=<a DVC remote: directory or url>, into {DEFAULT_CSV}
  {ACCELERATE} arxiv_cls/train.py recipes/minilm.yaml
  arxiv-cls predict outputs/minilm --csv {DEFAULT_CSV} --out scores.csv
"""


def run(purpose: str, command: str, place: str) -> None:
    """Prints a step's command and runs it, its output going straight to the terminal.

    Raises:
        UserError: the command is not installed or did not exit with 0; its own message is above.
    """
    print(f"\n[{place}] {purpose}\n$ {command}\n", flush=True)
    # The environment of this process comes first, so that the printed command uses it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    name, *arguments = shlex.split(command)
    program = shutil.which(name, path=path)
    if program is None:
        raise UserError(f"step {place}: no command {name!r}", hint="run `make setup`")
    status = subprocess.run([program, *arguments], env=os.environ | {"PATH": path}, check=False).returncode
    if status:
        raise UserError(
            f"step {place} ({purpose.lower()}) ended with exit status {status}",
            hint="its own message is above; the command can be run by itself",
            exit_code=status if 0 < status < 126 else 1,
        )


def _result_row(name: str, model: str) -> list[str]:
    report = read_record(Path(model, "eval", "metrics.json"), Evaluation)
    cells = [name, str(report["papers"])]
    for metric in ("accuracy", "macro_f1"):
        low, high = report["intervals"][metric]
        cells.append(f"{report['metrics'][metric]:.3f} ({low:.3f} to {high:.3f})")
    return cells


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


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
    for number, (purpose, command) in enumerate(STEPS.items(), start=1):
        run(purpose, command, f"{number}/{len(STEPS)}")
    rows = [
        ["model", "test papers", "accuracy (95% interval)", "macro-F1 (95% interval)"],
        _result_row("MiniLM-L6, fine-tuned", TRANSFORMER),
        _result_row("TF-IDF + XGBoost", BASELINE),
    ]
    print(f"\nResults on the synthetic sample ({time.monotonic() - started:.0f} s in all)\n\n{_table(rows)}")
    print(f"\nThe model is in {TRANSFORMER}, its evaluation in {TRANSFORMER}/eval. {NEXT_COMMANDS}")


if __name__ == "__main__":
    run_main(main)
