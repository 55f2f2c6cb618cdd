"""Searches the keys of a recipe for the best metric on the validation split, on this machine.

Run as: make sweep SWEEP=recipes/sweeps/tfidf_linear.yaml TRIALS=20
   (or: python -m arxiv_cls.sweep recipes/sweeps/tfidf_linear.yaml --trials 20)

The file is a W&B sweep: `wandb sweep FILE` searches the same space with W&B's agents. Here the study is on
disk (outputs/.sweeps/<name>): after an interruption the same command goes on with it. The best values are
written as a recipe after every trial.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from arxiv_cls.errors import UserError, run_main

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

DEFAULT_SWEEP = "recipes/sweeps/tfidf_linear.yaml"


def main(argv: list[str]) -> None:
    """Reads the file, goes on with its study or begins one, and writes the best recipe.

    Raises:
        UserError: the file or the recipe is wrong, the study is another's, or trials keep failing.
        KeyboardInterrupt: the search was stopped; the study can go on.
    """
    parser = argparse.ArgumentParser(
        prog="python -m arxiv_cls.sweep", description="Search the keys of a recipe on the validation split."
    )
    parser.add_argument("sweep", nargs="?", default=DEFAULT_SWEEP, help="default: %(default)s")
    parser.add_argument(
        "--trials", type=int, metavar="N", help="finished trials in all (default: run_cap of the file)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: outputs/.sweeps/<file's name>")
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("optuna") is None:
        raise UserError("a sweep needs Optuna, which is not installed", "make setup EXTRAS=sweep")
    from arxiv_cls.corpus.fetch import file_md5, local_file
    from arxiv_cls.record.files import write_atomically
    from arxiv_cls.training.sweeps import SweepStudy, best_recipe, read_sweep

    if arguments.trials is not None and arguments.trials < 1:
        raise UserError(f"--trials {arguments.trials}: at least 1")
    sweep = read_sweep(arguments.sweep)
    if not Path(sweep.program).is_file():
        raise UserError(f"{sweep.program} is not there", "run this in the project's root folder")
    count = arguments.trials or sweep.run_cap
    csv = local_file(sweep.load_recipe(sweep.command.fixed).data.csv)
    if not csv.is_file():
        raise UserError(f"{csv}, which {sweep.command.recipe} names, is not there", "make data")
    folder = arguments.out or Path("outputs", ".sweeps", sweep.path.stem)
    search = SweepStudy(sweep, folder, file_md5(csv))
    best_path = folder / f"{sweep.command.recipe.stem}_best.yaml"

    def on_trial(trial: FrozenTrial) -> None:
        best = search.study.best_trial
        shown = {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in trial.params.items()}
        values = "  ".join(f"{key}={value}" for key, value in shown.items())
        mark = " *" if best.number == trial.number else ""
        line = f"trial {trial.number}: {sweep.metric_name} {trial.value:.4f}{mark}  {values}"
        tqdm.write(line, file=sys.stdout)
        recipe = best_recipe(sweep, best.params, search.study.best_value, search.record(best))
        write_atomically(best_path, recipe)

    # SIGTERM stops the search as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        search.run(count, on_trial)
    except KeyboardInterrupt:
        done = f"{len(search.finished)} of {count} trials"
        print(f"\nstopped after {done}; the same command goes on with them", file=sys.stderr)
        raise
    best = search.study.best_trial
    print(
        f"\n{len(search.finished)} trials; the best is number {best.number}: {sweep.metric_name} "
        f"{best.value:.4f} on validation\nits recipe: {best_path}\n"
        f"to keep it: copy it into recipes/, and train it: python {sweep.program} {best_path}"
    )


if __name__ == "__main__":
    run_main(main)
