"""Run as: make reproduce RECIPE=recipes/tfidf_xgboost.yaml [REMOTE=../shared/dvc-store]

One recipe's pipeline: the data it needs, every stage whose inputs changed, the metrics.
The stages are in dvc.yaml, and `dvc repro card_tfidf@tfidf_xgboost` runs them too; this adds the data, the
checks that DVC does not make, and the figures. What was made of what is noted in dvc.lock, to be committed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from arxiv_cls.corpus.fetch import fetch_from_dvc, is_cached, is_kaggle_original, open_repository
from arxiv_cls.corpus.stats import recipe_data
from arxiv_cls.errors import UserError, run_main

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")
DEFAULT_RECIPE = "recipes/tfidf_xgboost.yaml"
LAST_STAGE = {"baselines": "card_tfidf", "transformers": "card"}


def pipeline_entry(recipe: str) -> tuple[str, Path, str]:
    """The recipe's name, its CSV, and the last stage of its line in `dvc.yaml`.

    Raises:
        UserError: the recipe has no line there, or the line names another CSV than the recipe.
    """
    path = Path(recipe)
    csv = recipe_data(path)["csv"]
    listed = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))["vars"][0]
    lines = {name: (listed[kind][name]["csv"], kind) for kind in LAST_STAGE for name in listed[kind]}
    if path.resolve() != (ROOT / "recipes" / f"{path.stem}.yaml").resolve() or path.stem not in lines:
        demo = "; `make demo` runs recipes/demo.yaml" if path.stem == "demo" else ""
        raise UserError(
            f"{recipe}: not in the pipeline{demo}",
            f"a recipe in recipes/ gets its line under `vars` in {PIPELINE}; there are: {', '.join(lines)}",
        )
    listed_csv, kind = lines[path.stem]
    if listed_csv != csv:
        raise UserError(
            f"{recipe} reads {csv}, and its line in {PIPELINE} says {listed_csv}", "write the same path"
        )
    return path.stem, Path(csv), LAST_STAGE[kind]


def bring_data(csv: Path, remote: str | None) -> str:
    """Makes the CSV what its `.dvc` file says; the public original from Kaggle is taken in its place.

    Raises:
        UserError: it is not there and cannot be brought.
    """
    if not csv.with_name(csv.name + ".dvc").is_file():
        if not csv.is_file():
            raise UserError(f"{csv} is not there, and no {csv}.dvc says what it is", f"dvc add {csv}")
        return f"{csv} is in place"
    if csv.is_file() and remote is None and is_kaggle_original(csv):
        return f"{csv} is the public original from Kaggle: its checksum goes into {csv}.dvc and {LOCK}"
    try:
        return fetch_from_dvc(remote, csv)
    except UserError as error:
        if csv.exists():
            raise
        hint = "`make data SOURCE=kaggle`, or name a DVC remote (directory or url): make reproduce REMOTE=URL"
        raise UserError(f"no data: {error.message}", hint, error.exit_code) from None


def refuse_other_model(model: Path) -> None:
    """Keeps DVC from deleting a model that was trained by hand: it clears a stage's outputs unasked.

    Raises:
        UserError: the model directory holds a run whose record is not in DVC's cache.
    """
    record = model / "run.json"
    if not record.is_file():
        return
    with open_repository() as repository:
        if not is_cached(record, repository):
            raise UserError(
                f"{model} holds a model that the pipeline did not make, or did not finish to note",
                "move it away, or replace it: make reproduce OVERWRITE=1",
            )


def _run_stages(target: str) -> None:
    # The environment that runs this module goes first, so that the stages' commands mean it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro", target], env=environment) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the stage got the same signal; DVC ends after it and lets go of its lock
            raise
    if status:
        raise UserError(
            f"the pipeline stopped (dvc repro {target}: exit status {status})",
            "the message of the stage is above; what was finished before it is kept",
            1,
        )


def metrics_table(name: str) -> str:
    """The headline figures of a recipe's model, a line each."""
    figures = json.loads(Path("outputs/.pipeline", name, "metrics.json").read_text(encoding="utf-8"))
    figures |= {f"F1 of {label}": value for label, value in figures.pop("f1").items()}
    width = max(map(len, figures))
    return "\n".join(
        f"  {key:<{width}}  {value:{',' if isinstance(value, int) else '.4f'}}"
        for key, value in figures.items()
    )


def main(argv: list[str]) -> None:
    """Brings the data, runs what changed, shows the metrics.

    Raises:
        UserError: the recipe is not in the pipeline, its data cannot be had, or a stage failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m arxiv_cls.reproduce",
        description="Run the stages of a recipe's pipeline whose inputs changed.",
    )
    parser.add_argument("recipe", nargs="?", default=DEFAULT_RECIPE, help="default: %(default)s")
    parser.add_argument("--remote", metavar="URL_OR_DIR", help="DVC remote to bring the data from")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model of this name that the pipeline did not make"
    )
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    os.chdir(ROOT)
    if not Path(".git").exists():
        raise UserError(
            f"{ROOT} is no git repository", "the pipeline's record belongs to commits: git clone it"
        )
    name, csv, last_stage = pipeline_entry(arguments.recipe)
    model = Path("outputs", name)
    print(bring_data(csv, arguments.remote), flush=True)
    if not arguments.overwrite:
        refuse_other_model(model)
    before = LOCK.read_bytes() if LOCK.is_file() else b""
    _run_stages(f"{last_stage}@{name}")
    changed = LOCK.read_bytes() != before
    what = f"made in {time.monotonic() - started:.0f} s" if changed else "up to date, nothing had to run"
    print(f"\n{model}: {what}; test split:\n\n{metrics_table(name)}\n\nIts card: {model}/README.md")
    command = ["git", "status", "--porcelain", "--", str(LOCK), f"{csv}.dvc"]
    noted = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    if noted:
        files = " ".join(line[3:] for line in noted)
        print(
            f'Keep it with the commit: git add {files} && git commit -m "{name}: ..."\n'
            "Beside the last commit: dvc plots diff; "
            f"dvc metrics diff --targets outputs/.pipeline/{name}/metrics.json"
        )


if __name__ == "__main__":
    run_main(main)
