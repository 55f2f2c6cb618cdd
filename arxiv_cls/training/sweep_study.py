"""The local search: an Optuna study on disk, each trial a run of an entry script in a process of its own.

Everything lies in one folder: `study.db` (SQLite, which optuna-dashboard reads), and for each trial its log
and its run record. A study that was stopped, by Ctrl-C or by a power cut, goes on where it was.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import load_recipe, resolved
from arxiv_cls.release.manifest import RUN_RECORD
from arxiv_cls.training.sweep_file import Parameter, Sweep, override

SEED = 42
MOST_FAILURES_IN_A_ROW = 3
_STOP_SECONDS = 20.0


def distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    """A parameter as Optuna knows it."""
    if parameter.choices:
        return optuna.distributions.CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return optuna.distributions.IntDistribution(int(parameter.low), int(parameter.high))
    return optuna.distributions.FloatDistribution(
        parameter.low, parameter.high, log=parameter.log, step=parameter.step
    )


class SweepStudy:
    """One search in its folder.

    Args:
        sweep: what its file says.
        folder: holds the study; made where it is missing.
        data_md5: of the CSV that the trials train on.

    Raises:
        UserError: the folder holds a study of another space, recipe or data, or it is being run now.
    """

    def __init__(self, sweep: Sweep, folder: Path, data_md5: str) -> None:
        self.sweep, self.folder = sweep, folder
        self.distributions = {key: distribution(value) for key, value in sweep.parameters.items()}
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(
            storage=f"sqlite:///{(folder / 'study.db').resolve().as_posix()}",
            study_name=sweep.path.stem,
            direction="maximize" if sweep.maximize else "minimize",
            load_if_exists=True,
        )
        self._check_same(data_md5)
        # A sampler that starts from the same seed again would propose the first trials a second time.
        seed = SEED + len(self.study.trials)
        bayes = sweep.method == "bayes"
        self.study.sampler = (
            optuna.samplers.TPESampler(seed=seed) if bayes else optuna.samplers.RandomSampler(seed)
        )

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that were trained and measured, oldest first."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def best(self) -> FrozenTrial:
        """The best finished trial; there must be one."""
        return self.study.best_trial

    def run(self, trials: int, on_trial: Callable[[FrozenTrial], None]) -> None:
        """Trains until so many trials are finished in all, earlier ones counted.

        Args:
            trials: of the study; a grid ends when it is through.
            on_trial: called after every finished trial.

        Raises:
            UserError: three trials in a row failed, points of a grid failed when it was through, or another
                process runs this study.
            KeyboardInterrupt: Ctrl-C; the trial under way is trained anew when the study goes on.
        """
        with self._only_runner():
            self._take_up_interrupted()
            if self.sweep.method == "grid":
                trials = min(trials, self._enqueue_grid())
            elif not self.study.trials:
                self._enqueue_recipe_itself()
            failures = 0
            done = len(self.finished)
            with tqdm(
                total=trials, initial=min(done, trials), unit="trial", desc=self.sweep.path.stem
            ) as bar:
                # A point of a grid that failed is not asked for again, and nothing takes its place.
                while len(self.finished) < trials and (self.sweep.method != "grid" or self._waiting()):
                    finished = self._run_trial()
                    failures = 0 if finished else failures + 1
                    if finished is not None:
                        bar.update()
                        bar.set_postfix(best=f"{self.best().value:.4f}")
                        on_trial(finished)
                    elif failures == MOST_FAILURES_IN_A_ROW:
                        raise UserError(
                            f"{failures} trials in a row failed; the last one: {self._last_error()}",
                            f"their logs are in {self.folder}",
                        )
            if len(self.finished) < trials:
                failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
                done = [trial.params for trial in self.finished]
                points = {str(trial.params): trial.params for trial in failed if trial.params not in done}
                raise UserError(
                    f"{len(points)} of {trials} points of the grid failed: {', '.join(points)}",
                    f"their logs are in {self.folder}; the same command tries them again",
                )

    def _waiting(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))

    def record(self, trial: FrozenTrial) -> dict[str, Any]:
        """The `run.json` of a finished trial."""
        path = self.folder / f"trial-{trial.number:04}.json"
        return json.loads(path.read_text(encoding="utf-8"))

    def _run_trial(self) -> FrozenTrial | None:
        """Asks for values, trains with them and tells the outcome; None when the training failed."""
        trial = self.study.ask(self.distributions)
        model = self.folder / f"trial-{trial.number:04}"
        log = model.with_suffix(".log")
        command = [
            sys.executable, self.sweep.program, str(self.sweep.recipe), *self.sweep.fixed,
            *(override(key, value) for key, value in trial.params.items()),
            f"--trainer.output_dir={model}", "--trainer.report_to=none", "--overwrite", "--no-evaluate",
        ]  # fmt: skip
        started = time.monotonic()
        status = _run_logged(command, log)
        if status:
            self.study.tell(trial, state=TrialState.FAIL)
            tqdm.write(f"trial {trial.number} failed: {self._last_error(log)}", file=sys.stderr)
            return None
        run = json.loads((model / RUN_RECORD).read_text(encoding="utf-8"))
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        # The record stays, the weights go: the best recipe makes them again.
        (model / RUN_RECORD).replace(model.with_suffix(".json"))
        shutil.rmtree(model)
        shutil.rmtree(self.folder / ".checkpoints" / model.name, ignore_errors=True)
        value = run["metrics"]["validation"][self.sweep.metric]
        if not math.isfinite(value):
            self.study.tell(trial, state=TrialState.FAIL)
            tqdm.write(f"trial {trial.number} failed: its {self.sweep.metric} is {value}", file=sys.stderr)
            return None
        return self.study.tell(trial, value)

    def _check_same(self, data_md5: str) -> None:
        recipe = load_recipe(self.sweep.recipe, list(self.sweep.fixed), self.sweep.schema())
        now = {
            "program": self.sweep.program,
            "metric": self.sweep.metric,
            "goal": "maximize" if self.sweep.maximize else "minimize",
            "parameters": {key: repr(value) for key, value in self.sweep.parameters.items()},
            "recipe": {
                f"{group}.{key}": value
                for group, keys in resolved(recipe).items()
                if group != "release"
                for key, value in keys.items()
            },
            "data md5": data_md5,
        }
        now = json.loads(json.dumps(now))
        before = self.study.user_attrs.get("search")
        if before is None:
            self.study.set_user_attr("search", now)
            return
        changed = [
            f"  - {name}{f'.{key}' if key else ''}: was {old!r}, is {new!r}"
            for name in now
            for key, old, new in _differences(before.get(name), now[name])
        ]
        if changed:
            raise UserError(
                f"{self.folder} holds a study that this sweep cannot go on with:\n" + "\n".join(changed),
                f"undo the change to go on, or start again: move {self.folder} away",
            )

    def _take_up_interrupted(self) -> None:
        """Trials that never ended, because the process did, are trained anew with the same values."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params, skip_if_exists=False)
            shutil.rmtree(self.folder / f"trial-{trial.number:04}", ignore_errors=True)
            shutil.rmtree(self.folder / ".checkpoints" / f"trial-{trial.number:04}", ignore_errors=True)

    def _enqueue_recipe_itself(self) -> None:
        """The first trial is the recipe as it stands, where the space holds it: what the others must beat."""
        recipe = load_recipe(self.sweep.recipe, list(self.sweep.fixed), self.sweep.schema())
        values = {}
        for key, space in self.distributions.items():
            group, _, name = key.partition(".")
            value = getattr(getattr(recipe, group), name)
            if value is None or not _holds(space, value):
                return
            values[key] = value
        self.study.enqueue_trial(values)

    def _enqueue_grid(self) -> int:
        """Every point of the grid, once over all runs; gives back how many there are."""
        keys = list(self.sweep.parameters)
        points = list(itertools.product(*(self.sweep.parameters[key].choices for key in keys)))
        tried = [trial.params for trial in self.finished]
        tried += [trial.system_attrs.get("fixed_params", {}) for trial in self._waiting()]
        for point in points:
            values = dict(zip(keys, point, strict=True))
            if values not in tried:
                self.study.enqueue_trial(values)
        return len(points)

    @contextlib.contextmanager
    def _only_runner(self) -> Iterator[None]:
        mark = self.folder / "running"
        if mark.is_file():
            pid = mark.read_text(encoding="utf-8").strip()
            if pid.isdigit() and int(pid) != os.getpid() and psutil.pid_exists(int(pid)):
                raise UserError(f"{self.folder}: the process {pid} runs this study", "wait for it, or end it")
        mark.write_text(str(os.getpid()), encoding="utf-8")
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _last_error(self, log: Path | None = None) -> str:
        logs = sorted(self.folder.glob("trial-*.log"), key=lambda path: path.stat().st_mtime)
        lines = (log or logs[-1]).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or ["nothing was printed"])[-1].removeprefix("error: ")


def _differences(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now))
        return [(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]
    return [] if before == now else [("", before, now)]


def _holds(space: optuna.distributions.BaseDistribution, value: Any) -> bool:
    if isinstance(space, optuna.distributions.CategoricalDistribution):
        return value in space.choices
    if isinstance(space, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution):
        steps = (value - space.low) / space.step if space.step else 0.0
        return space.low <= value <= space.high and math.isclose(steps, round(steps), abs_tol=1e-9)
    return False


def _run_logged(command: list[str], log: Path) -> int:
    """Runs a command, its output going to a file; its process ends with this one's interruption."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
