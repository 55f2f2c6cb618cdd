"""Sweep files: the syntax of Weights & Biases, of which this reads the part that a local search needs.

One file, two readers: `wandb sweep FILE` and `make sweep SWEEP=FILE`. The keys are those of
https://docs.wandb.ai/guides/sweeps/sweep-config-keys; what this reader leaves out (nested parameters,
probabilities, normal distributions) is refused by name, so that both search the same space.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import (
    GROUPS,
    MISMATCH,
    coerce,
    load_recipe,
    nearest,
    raise_problems,
    read_yaml_mapping,
    resolved,
)
from arxiv_cls.record.manifest import RUN_RECORD
from arxiv_cls.record.model_files import RunRecord, read_record
from arxiv_cls.scoring.metrics import SCALAR_METRICS

SHAPE = "a sweep file is a mapping with program, method, metric, parameters and command"
KEYS = ("program", "method", "metric", "run_cap", "parameters", "command", "name", "description", "project",
        "entity", "early_terminate")  # fmt: skip
METHODS = ("grid", "random", "bayes")
PROGRAMS = ("arxiv_cls/train.py", "arxiv_cls/train_tfidf.py")
SWITCHES = ("--overwrite", "--no-evaluate", "--resume")
DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values")
PARAMETER_KEYS = ("value", "values", "min", "max", "q", "distribution")
SPLIT = "validation/"
DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class Parameter:
    """The values that one key of the recipe may take.

    Attributes:
        choices: the values themselves; empty where there is a range.
        low, high: ends of a range, both included.
        whole: only whole numbers.
        log: even on a logarithmic scale.
        step: distance of two values; None for any.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    step: float | None = None

    def extremes(self) -> tuple[Any, ...]:
        """The values that show whether the recipe takes all of them."""
        return self.choices or (self.low, self.high)


@dataclass(frozen=True)
class Sweep:
    """A search as its file says.

    Attributes:
        path: the file.
        program: the entry script that a trial runs.
        recipe: the recipe that every trial starts from.
        fixed: overrides that every trial has, as `--group.key=value`.
        method: grid, random or bayes.
        metric: of the validation split, such as macro_f1.
        maximize: whether more of it is better.
        trials: finished trials after which the search ends.
        parameters: by key of the recipe, `group.key`.
    """

    path: Path
    program: str
    recipe: Path
    fixed: tuple[str, ...]
    method: str
    metric: str
    maximize: bool
    trials: int
    parameters: dict[str, Parameter]

    def schema(self) -> type:
        """The dataclass of the recipe's kind."""
        return recipe_schema(self.program)


def recipe_schema(program: str) -> type:
    """The dataclass of the recipes that an entry script reads; a transformer's takes seconds to import."""
    if program == PROGRAMS[0]:
        from arxiv_cls.training.arguments import TransformerRecipe

        return TransformerRecipe
    from arxiv_cls.recipe import TfidfRecipe

    return TfidfRecipe


def override(key: str, value: Any) -> str:
    """A value as W&B's agent writes it on the command line."""
    return f"--{key}={value}"


def read_sweep(path: str | Path) -> Sweep:
    """Reads a sweep file and holds every value it can try against the recipe.

    Raises:
        UserError: one for the whole file, a line per problem.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such sweep file", "the project's sweeps are in recipes/sweeps/")
    content = read_yaml_mapping(path, SHAPE)
    problems = [f"{key}: unknown key{nearest(str(key), KEYS)}" for key in content if key not in KEYS]
    program = _one_of(content, "program", PROGRAMS, problems)
    method = _one_of(content, "method", METHODS, problems)
    metric, maximize = _read_metric(content.get("metric"), problems)
    trials = content.get("run_cap", DEFAULT_TRIALS)
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        problems.append(f"run_cap: {trials!r}, expected a whole number from 1")
    recipe, fixed = _read_command(content.get("command"), problems)
    parameters = _read_parameters(content.get("parameters"), problems)
    if method == "grid":
        problems += [
            f"parameters.{key}: method grid needs `values`, not a range"
            for key, parameter in parameters.items()
            if not parameter.choices
        ]
    if program and recipe:
        problems += _recipe_problems(program, recipe, fixed, parameters)
    raise_problems(path, problems)
    return Sweep(path, program, Path(recipe), tuple(fixed), method, metric, maximize, trials, parameters)


def _one_of(content: dict, key: str, allowed: tuple[str, ...], problems: list[str]) -> str:
    if content.get(key) in allowed:
        return str(content[key])
    given = f"{content[key]!r} is not" if key in content else "missing; it is"
    problems.append(f"{key}: {given} one of {', '.join(allowed)}")
    return ""


def _read_metric(metric: Any, problems: list[str]) -> tuple[str, bool]:
    name = metric.get("name") if isinstance(metric, dict) else None
    goal = metric.get("goal", "minimize") if isinstance(metric, dict) else None
    known = [SPLIT + metric_name for metric_name in SCALAR_METRICS]
    if isinstance(name, str) and name.startswith("test/"):
        problems.append(f"metric.name: {name}: the test split chooses nothing; one of {', '.join(known)}")
    elif name not in known:
        problems.append(f"metric.name: {name!r} is not one of {', '.join(known)}")
    if goal not in ("maximize", "minimize"):
        problems.append(f"metric.goal: {goal!r} is neither maximize nor minimize")
    return str(name).removeprefix(SPLIT), goal == "maximize"


def _read_command(command: Any, problems: list[str]) -> tuple[str, list[str]]:
    """The recipe and the overrides of every trial; folder and tracker are those of W&B's agent, and go."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "${program}" not in words or words[-1:] != ["${args}"]:
        problems.append("command: a list with ${program}, then the recipe, and ${args} as its end")
        return "", []
    recipe, *rest = [*words[words.index("${program}") + 1 : -1], ""]
    if not recipe or recipe.startswith("-"):
        problems.append("command: the recipe comes right after ${program}")
        return "", []
    fixed, agent_keys = [], []
    for word in filter(None, rest):
        key, equals, _ = word.removeprefix("--").partition("=")
        if word in SWITCHES:
            continue
        if not word.startswith("--") or not equals:
            problems.append(f"command: {word!r}: write an override as --group.key=value")
        elif key in ("trainer.output_dir", "trainer.report_to"):
            agent_keys.append(key)
        else:
            fixed.append(word)
    if "--no-evaluate" not in rest:
        problems.append("command: --no-evaluate is missing: a search may not look at the test split")
    if "--overwrite" in rest and "trainer.output_dir" not in agent_keys:
        problems.append(
            "command: --overwrite without --trainer.output_dir=... would replace the recipe's own model"
        )
    return recipe, fixed


def _read_parameters(given: Any, problems: list[str]) -> dict[str, Parameter]:
    if not isinstance(given, dict) or not given:
        problems.append("parameters: a mapping from keys of the recipe, such as trainer.learning_rate")
        return {}
    parameters = {}
    for key, space in given.items():
        group, dot, _ = str(key).partition(".")
        if not dot or group not in GROUPS:
            problems.append(f"parameters.{key}: name the group too, as in trainer.learning_rate")
            continue
        try:
            parameters[str(key)] = _read_parameter(space)
        except ValueError as error:
            problems.append(f"parameters.{key}: {error}")
    return parameters


def _read_parameter(space: Any) -> Parameter:
    """One entry of `parameters`; a ValueError says what is wrong with it."""
    if not isinstance(space, dict):
        raise ValueError("a mapping with value, values, or min and max")
    unknown = [key for key in space if key not in PARAMETER_KEYS]
    if unknown:
        raise ValueError(
            f"{', '.join(map(str, unknown))}: not read here; there are {', '.join(PARAMETER_KEYS)}"
        )
    ways = [way for way in ("value", "values", "min") if way in space]
    if len(ways) != 1 or ("min" in space) != ("max" in space):
        raise ValueError("either value, or values, or min and max")
    if ways != ["min"]:
        choices = space["values"] if ways == ["values"] else [space["value"]]
        if not isinstance(choices, list) or not choices:
            raise ValueError("values: a list with at least one value")
        if not all(isinstance(choice, str | int | float) for choice in choices):
            raise ValueError("values: numbers, strings, true and false; null and lists are not read here")
        if space.get("distribution", "categorical") not in ("categorical", "constant") or "q" in space:
            raise ValueError("values come with no other distribution than categorical")
        return Parameter(choices=tuple(choices))
    return _read_range(space)


def _read_range(space: dict) -> Parameter:
    ends = [coerce(space[end], float)[0] for end in ("min", "max")]
    if MISMATCH in ends or not ends[0] < ends[1]:
        raise ValueError(f"min {space['min']!r} and max {space['max']!r}: two numbers, min below max")
    whole = all(isinstance(space[end], int) for end in ("min", "max"))
    kind = space.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "log_uniform":
        raise ValueError("log_uniform takes exponents; write log_uniform_values, which takes the values")
    if kind not in DISTRIBUTIONS or kind in ("constant", "categorical"):
        raise ValueError(
            f"distribution {kind!r} is not read here; for a range: {', '.join(DISTRIBUTIONS[2:])}"
        )
    if kind == "int_uniform" and not whole:
        raise ValueError("int_uniform: min and max must be whole numbers")
    if kind == "log_uniform_values" and ends[0] <= 0:
        raise ValueError(f"log_uniform_values: min {ends[0]:g} must be greater than 0")
    step = None
    if kind == "q_uniform":
        step = coerce(space.get("q", 1), float)[0]
        steps = 0.5 if step is MISMATCH or step <= 0 else (ends[1] - ends[0]) / step
        if not math.isclose(steps, round(steps), abs_tol=1e-9):
            raise ValueError(f"q: {space.get('q', 1)!r} must divide the distance from min to max")
    low, high = (int(end) if kind == "int_uniform" else end for end in ends)
    return Parameter((), low, high, kind == "int_uniform", kind == "log_uniform_values", step)


def _recipe_problems(
    program: str, recipe: str, fixed: list[str], parameters: dict[str, Parameter]
) -> list[str]:
    """What the recipe's own checks say of every value at an end of the space, each problem once."""
    schema = recipe_schema(program)
    try:
        load_recipe(recipe, fixed, schema)
    except UserError as error:
        return [f"command: {line.strip().removeprefix('- ')}" for line in error.message.splitlines()]
    problems = []
    for key, parameter in parameters.items():
        for value in parameter.extremes():
            try:
                load_recipe(recipe, [*fixed, override(key, value)], schema)
            except UserError as error:
                lines = [line.strip() for line in error.message.splitlines()]
                problems += [f"parameters.{key}: {line[2:]}" for line in lines if line.startswith("- ")]
    return list(dict.fromkeys(problems))


def best_recipe(sweep: Sweep, values: Mapping[str, Any], value: float, record: Mapping[str, Any]) -> str:
    """The recipe of the sweep with the best values in it, and comments that say where they come from.

    The fixed overrides of the search (fewer papers, fewer epochs) are left out and named.

    Args:
        sweep: the search.
        values: of the best trial, by `group.key`.
        value: its metric on the validation split.
        record: its `run.json`.

    Returns:
        YAML text.
    """
    base = load_recipe(sweep.recipe, [], sweep.schema())
    data, commit = record["data"], record["git"]["commit"]
    lines = [
        f"# The best of {sweep.path.as_posix()}: {sweep.metric} {value:.4f} on the validation split",
        f"# of {data['csv']} (md5 {data['md5']}), one seed, code of commit {str(commit)[:12]}.",
        f"# Everything else is as in {sweep.recipe.as_posix()}. Not measured on the test split.",
    ]
    if sweep.fixed:
        lines.append(f"# Searched with {' '.join(sweep.fixed)}, which is not part of this recipe.")
    for group in GROUPS:
        section = dict(base.given[group])
        section |= {
            key.partition(".")[2]: best for key, best in values.items() if key.startswith(f"{group}.")
        }
        if not section:
            continue
        lines += ["", f"{group}:"]
        for key, item in section.items():
            # A mapping in flow style is the line of a key, whatever its value is, between braces.
            text = yaml.safe_dump({key: item}, default_flow_style=True, allow_unicode=True, width=10_000)
            text = text.strip()[1:-1]
            if f"{group}.{key}" in values:
                text += f"  # swept, was {getattr(getattr(base, group), key)}"
            lines.append(f"  {text}")
    return "\n".join(lines) + "\n"


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
        run = read_record(model / RUN_RECORD, RunRecord)
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
