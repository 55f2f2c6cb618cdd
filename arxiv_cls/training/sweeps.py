"""Sweeps: a file of Weights & Biases, searched on this machine by an Optuna study.

One file, two readers: `wandb sweep FILE` and `make sweep SWEEP=FILE`. The keys are those of
https://docs.wandb.ai/guides/sweeps/sweep-config-keys; what is not supported here (nested parameters,
probabilities, normal distributions) is refused by name, so that both search the same space.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from tqdm import tqdm

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import (
    GROUPS,
    TfidfRecipe,
    load_recipe,
    nearest,
    raise_problems,
    read_value,
    read_yaml_mapping,
    resolved,
)
from arxiv_cls.record.manifest import RUN_RECORD
from arxiv_cls.scoring import multi_label
from arxiv_cls.scoring.metrics import LOWER_IS_BETTER, SCALAR_METRICS

SHAPE = "a sweep file is a mapping with program, method, metric, parameters and command"
SWITCHES = ("--overwrite", "--no-evaluate", "--resume")
RANGES = ("int_uniform", "uniform", "q_uniform", "log_uniform_values")
PARAMETER_KEYS = ("value", "values", "min", "max", "q", "distribution")
SPLIT = "validation/"
SEED = 42
MOST_FAILURES_IN_A_ROW = 3


class Command(NamedTuple):
    """What a trial runs: the recipe and the overrides of every trial, as `--group.key=value`."""

    recipe: Path
    fixed: tuple[str, ...]


def _read_command(words: Any) -> Command:
    # Folder and tracker are those of W&B's agent and are left out.
    words = words if isinstance(words, list) else []
    if "${program}" not in words or words[-1:] != ["${args}"]:
        raise ValueError("a list with ${program}, then the recipe, and ${args} as its end")
    recipe, *rest = [*words[words.index("${program}") + 1 : -1], "-"]
    overrides = [word for word in rest[:-1] if word not in SWITCHES]
    fixed = [w for w in overrides if not w.startswith(("--trainer.output_dir=", "--trainer.report_to="))]
    problems = [
        f"{word!r}: write an override as --group.key=value"
        for word in fixed
        if not word.startswith("--") or "=" not in word
    ]
    if recipe.startswith("-"):
        problems.append("the recipe comes right after ${program}")
    if "--no-evaluate" not in rest:
        problems.append("--no-evaluate is missing: a search may not look at the test split")
    if "--overwrite" in rest and not any(word.startswith("--trainer.output_dir=") for word in rest):
        problems.append("--overwrite without --trainer.output_dir=... would replace the recipe's own model")
    if problems:
        raise ValueError("\n".join(problems))
    return Command(Path(recipe), tuple(fixed))


def _read_distribution(space: Any) -> CategoricalDistribution | FloatDistribution | IntDistribution:
    if not isinstance(space, dict):
        raise ValueError("a mapping with value, values, or min and max")
    unknown = [key for key in space if key not in PARAMETER_KEYS]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not supported; there are {', '.join(PARAMETER_KEYS)}")
    given = [key for key in ("value", "values", "min") if key in space]
    if len(given) != 1 or ("min" in space) != ("max" in space):
        raise ValueError("either value, or values, or min and max")
    kind = space.get("distribution")
    if given != ["min"]:
        choices = space["values"] if given == ["values"] else [space["value"]]
        if not isinstance(choices, list) or not choices or not all(isinstance(item, str) for item in choices):
            raise ValueError("values: a list of numbers and strings; null and lists are not supported")
        if kind not in (None, "categorical", "constant") or "q" in space:
            raise ValueError("values come with no other distribution than categorical")
        plain = [read_value(choice, Any) for choice in choices]
        # A number whose text would change on the way, such as 007, stays a string.
        return CategoricalDistribution(
            [n if str(n) == text else text for n, text in zip(plain, choices, strict=True)]
        )
    low, high, step = (read_value(space.get(key, "1"), Any) for key in ("min", "max", "q"))
    if not all(isinstance(end, int | float) for end in (low, high, step)) or not low < high or step <= 0:
        raise ValueError(f"min {low!r}, max {high!r}: two numbers, min below max, and q above 0")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = kind or ("int_uniform" if whole else "uniform")
    if kind == "int_uniform" and whole:
        return IntDistribution(low, high)
    if kind == "uniform":
        return FloatDistribution(low, high)
    if kind == "log_uniform_values":
        return FloatDistribution(low, high, log=True)
    if kind != "q_uniform":
        raise ValueError(f"{kind!r} is not supported for {low} to {high}; there are {', '.join(RANGES)}")
    if not math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-9):
        raise ValueError(f"q: {step} must divide the distance from min to max")
    return FloatDistribution(low, high, step=step)


class Metric(BaseModel, extra="forbid"):
    """What is searched for; the test split chooses nothing."""

    name: Literal[  # type: ignore[valid-type]
        tuple(SPLIT + name for name in dict.fromkeys((*SCALAR_METRICS, *multi_label.METRICS)))
    ]
    goal: Literal["minimize", "maximize"] = Field("minimize", validate_default=True)

    @field_validator("goal")
    @classmethod
    def _belongs_to_the_metric(cls, goal: str, others: ValidationInfo) -> str:
        name = others.data.get("name", "").removeprefix(SPLIT)
        right = "minimize" if name in LOWER_IS_BETTER else "maximize"
        if name and goal != right:
            raise ValueError(f"{goal!r}, for {name} write {right}")
        return goal


class Sweep(BaseModel, extra="forbid"):
    """A sweep file that has been read; the keys without a type are only W&B's."""

    path: Path
    program: Literal["arxiv_cls/train.py", "arxiv_cls/train_tfidf.py"]
    method: Literal["grid", "random", "bayes"]
    run_cap: int = Field(20, ge=1)
    command: Annotated[Command, BeforeValidator(_read_command)]
    metric: Metric
    parameters: dict[str, Annotated[Any, BeforeValidator(_read_distribution)]]
    name: Any = None
    description: Any = None
    project: Any = None
    entity: Any = None
    early_terminate: Any = None

    @field_validator("metric")
    @classmethod
    def _is_measured(cls, metric: Metric, others: ValidationInfo) -> Metric:
        try:
            command = others.data["command"]
            task = _load_recipe(others.data["program"], command.recipe, command.fixed).data.task
        except (KeyError, UserError):
            return metric  # what is wrong there is said of those keys
        known = multi_label.METRICS if task == multi_label.TASK else SCALAR_METRICS
        if (name := metric.name.removeprefix(SPLIT)) not in known:
            raise ValueError(f"no {name} for data.task {task}; there are {', '.join(known)}")
        return metric

    @field_validator("parameters")
    @classmethod
    def _fits_the_recipe(cls, parameters: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        problems = [] if parameters else ["keys of the recipe, such as trainer.learning_rate"]
        tried = {"command": ""}
        for key, space in parameters.items():
            choices = isinstance(space, CategoricalDistribution)
            if others.data.get("method") == "grid" and not choices:
                problems.append(f"{key}: method grid needs `values`, not a range")
            if key.partition(".")[0] not in GROUPS:
                problems.append(f"{key}: name the group too, as in trainer.learning_rate")
                continue
            ends = space.choices if choices else (space.low, space.high)
            tried |= {f"{key}={value}": override(key, value) for value in ends}
        if others.data.keys() >= {"program", "command"}:
            program, command = others.data["program"], others.data["command"]
            for place, word in tried.items():
                try:
                    _load_recipe(program, command.recipe, [*command.fixed, *filter(None, [word])])
                except UserError as error:
                    first, *lines = error.message.splitlines()
                    problems += [f"{place}: {line.strip().removeprefix('- ')}" for line in lines or [first]]
                    if not word:
                        break
        if problems:
            raise ValueError("\n".join(problems))
        return parameters

    @property
    def metric_name(self) -> str:
        """The metric of the validation split, such as macro_f1."""
        return self.metric.name.removeprefix(SPLIT)

    def load_recipe(self, overrides: Iterable[str]) -> Any:
        """The recipe of every trial with overrides."""
        return _load_recipe(self.program, self.command.recipe, overrides)


def _load_recipe(program: str, recipe: Path, overrides: Iterable[str]) -> Any:
    if program != "arxiv_cls/train.py":
        return load_recipe(recipe, list(overrides), TfidfRecipe)
    # It takes seconds to import.
    from arxiv_cls.training.arguments import TransformerRecipe

    return load_recipe(recipe, list(overrides), TransformerRecipe)


def override(key: str, value: Any) -> str:
    """A value as W&B's agent writes it on the command line."""
    return f"--{key}={value}"


def read_sweep(path: str | Path) -> Sweep:
    """Reads a sweep file and checks the values it can try by the recipe's own checks.

    Raises:
        UserError: one for the whole file, a line per problem.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such sweep file", "the project's sweeps are in recipes/sweeps/")
    try:
        return Sweep.model_validate(read_yaml_mapping(path, SHAPE) | {"path": path})
    except ValidationError as error:
        problems = []
        for wrong in error.errors():
            place = ".".join(map(str, wrong["loc"]))
            message = wrong["msg"].removeprefix("Value error, ").replace("Input", repr(wrong["input"])[:200])
            if wrong["type"] == "missing":
                message = "missing"
            elif wrong["type"] == "extra_forbidden":
                message = f"unknown key{nearest(place, Sweep.model_fields)}"
            problems += [f"{place}: {line}" for line in message.splitlines()]
    raise_problems(path, problems)
    raise AssertionError("a validation error names a problem")


def best_recipe(sweep: Sweep, values: Mapping[str, Any], value: float, record: Mapping[str, Any]) -> str:
    """The recipe of a sweep, as YAML, with the best values in it, and comments that say where they come from.

    The sweep's fixed overrides (fewer papers, fewer epochs) are left out and named.

    Args:
        sweep: the search.
        values: of the best trial, by `group.key`.
        value: its metric on the validation split.
        record: its `run.json`.
    """
    base, best = sweep.load_recipe([]), sweep.load_recipe(override(key, item) for key, item in values.items())
    data, commit = record["data"], record["git"]["commit"]
    lines = [
        f"# The best of {sweep.path.as_posix()}: {sweep.metric_name} {value:.4f} on the validation split",
        f"# of {data['csv']} (md5 {data['md5']}), one seed, code of commit {str(commit)[:12]}.",
        f"# Everything else is as in {sweep.command.recipe.as_posix()}. Not measured on the test split.",
    ]
    if sweep.command.fixed:
        lines.append(f"# Searched with {' '.join(sweep.command.fixed)}, which is not part of this recipe.")
    for key in values:
        group, _, name = key.partition(".")
        lines.append(f"# {key}: swept, was {getattr(getattr(base, group), name)}")
    plain = resolved(best)
    sections = {group: {key: plain[group][key] for key in keys} for group, keys in best.given.items() if keys}
    return "\n".join(lines) + "\n" + yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


class SweepStudy:
    """One search in its folder, on a CSV of this checksum.

    Raises:
        UserError: the folder holds a study of another space, recipe or data.
    """

    def __init__(self, sweep: Sweep, folder: Path, data_md5: str) -> None:
        self.sweep, self.folder = sweep, folder
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(
            storage=f"sqlite:///{(folder / 'study.db').resolve().as_posix()}",
            study_name=sweep.path.stem,
            direction=sweep.metric.goal,
            load_if_exists=True,
        )
        self._check_same(data_md5)
        # A sampler that starts from the same seed again would propose the first trials a second time.
        kind = optuna.samplers.TPESampler if sweep.method == "bayes" else optuna.samplers.RandomSampler
        self.study.sampler = kind(seed=SEED + len(self.study.trials))

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(state,))

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that were trained and measured, oldest first."""
        return self._trials(TrialState.COMPLETE)

    def record(self, trial: FrozenTrial) -> dict[str, Any]:
        """The `run.json` of a finished trial."""
        return json.loads(self._model(trial.number).with_suffix(".json").read_text(encoding="utf-8"))

    def run(self, count: int, on_trial: Callable[[FrozenTrial], None]) -> None:
        """Trains until `count` trials are finished in all, or each point of a grid; calls back after each.

        Raises:
            UserError: three trials in a row failed, points of a grid failed when it was through, or another
                process runs this study.
            KeyboardInterrupt: Ctrl-C; the trial under way is trained anew when the study goes on.
        """
        try:
            lock = FileLock(self.folder / "running.lock", timeout=0).acquire()
        except Timeout:
            raise UserError(
                f"{self.folder}: another process runs this study", "wait for it, or end it"
            ) from None
        with lock:
            self._enqueue_interrupted()
            grid = self.sweep.method == "grid"
            if grid:
                count = min(count, self._enqueue_grid())
            elif not self.study.trials:
                self._enqueue_recipe_itself()
            failures = 0
            done = min(len(self.finished), count)
            with tqdm(total=count, initial=done, unit="trial", desc=self.sweep.path.stem) as bar:
                # A point of a grid that failed is not asked for again, and nothing takes its place.
                while len(self.finished) < count and (not grid or self._trials(TrialState.WAITING)):
                    trial = self.study.ask(self.sweep.parameters)
                    error = self._train(trial)
                    failures = failures + 1 if error else 0
                    if error:
                        self.study.tell(trial, state=TrialState.FAIL)
                        tqdm.write(f"trial {trial.number} failed: {error}", file=sys.stderr)
                    else:
                        bar.update()
                        on_trial(self.study.get_trials(deepcopy=False)[trial.number])
                    if failures == MOST_FAILURES_IN_A_ROW:
                        raise UserError(
                            f"{failures} trials in a row failed; the last one: {error}",
                            f"their logs are in {self.folder}",
                        )
            finished = [trial.params for trial in self.finished]
            if len(finished) < count:
                failed = [trial.params for trial in self._trials(TrialState.FAIL)]
                points = dict.fromkeys(str(point) for point in failed if point not in finished)
                raise UserError(
                    f"{len(points)} of {count} points of the grid failed: {', '.join(points)}",
                    f"their logs are in {self.folder}; the same command tries them again",
                )

    def _model(self, number: int) -> Path:
        return self.folder / f"trial-{number:04}"

    def _train(self, trial: optuna.Trial) -> str:
        # Tells the study the metric; returns why that failed, or an empty string.
        model = self._model(trial.number)
        command = [
            sys.executable, self.sweep.program, str(self.sweep.command.recipe), *self.sweep.command.fixed,
            *(override(key, value) for key, value in trial.params.items()),
            f"--trainer.output_dir={model}", "--trainer.report_to=none", "--overwrite", "--no-evaluate",
        ]  # fmt: skip
        with model.with_suffix(".log").open("w+", encoding="utf-8", errors="replace") as log:
            done = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
            )
            if done.returncode:
                log.seek(0)
                lines = log.read().strip().splitlines() or ["nothing was printed"]
                errors = [line.removeprefix("error: ") for line in lines if line.startswith("error:")]
                return (errors or lines)[-1]
        # The record stays, the weights go: the best recipe makes them again.
        (model / RUN_RECORD).replace(model.with_suffix(".json"))
        self._remove(trial.number)
        value = self.record(trial)["metrics"]["validation"][self.sweep.metric_name]
        if not math.isfinite(value):
            return f"its {self.sweep.metric_name} is {value}"
        self.study.tell(trial, value)
        return ""

    def _remove(self, number: int) -> None:
        for folder in (self.folder, self.folder / ".checkpoints"):
            shutil.rmtree(folder / self._model(number).name, ignore_errors=True)

    def _check_same(self, data_md5: str) -> None:
        sweep = self.sweep
        recipe = resolved(sweep.load_recipe(sweep.command.fixed))
        now = {"program": sweep.program, "metric": sweep.metric.name, "data md5": data_md5}
        now |= {f"parameters.{key}": str(space) for key, space in sweep.parameters.items()}
        for group in ("model", "data", "trainer"):
            now |= {f"recipe.{group}.{key}": json.dumps(value) for key, value in recipe[group].items()}
        before = self.study.user_attrs.get("search")
        if before is None:
            self.study.set_user_attr("search", now)
        elif before != now:
            changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
            lines = [f"\n  - {key}: was {before.get(key)}, is {now.get(key)}" for key in changed]
            raise UserError(
                f"{self.folder} holds a study that this sweep cannot go on with:" + "".join(lines),
                f"undo the change to go on, or start again: move {self.folder} away",
            )

    def _enqueue_interrupted(self) -> None:
        """Trials that never ended, because the process did, are trained anew with the same values."""
        for trial in self._trials(TrialState.RUNNING):
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params, skip_if_exists=False)
            self._remove(trial.number)

    def _enqueue_recipe_itself(self) -> None:
        """The first trial is the recipe as it stands, where the space holds it."""
        recipe = self.sweep.load_recipe(self.sweep.command.fixed)
        values = {}
        for key, space in self.sweep.parameters.items():
            group, _, name = key.partition(".")
            value = getattr(getattr(recipe, group), name)
            if isinstance(space, CategoricalDistribution):
                values[key] = next(
                    (c for c in space.choices if c == value or str(c) == str(value).lower()), None
                )
            elif value is not None and space.low <= value <= space.high:
                steps = (value - space.low) / space.step if space.step else 0.0
                values[key] = value if math.isclose(steps, round(steps), abs_tol=1e-9) else None
        if len(values) == len(self.sweep.parameters) and None not in values.values():
            self.study.enqueue_trial(values)

    def _enqueue_grid(self) -> int:
        """Every point of the grid, once over all runs; returns how many there are."""
        spaces = self.sweep.parameters
        points = [
            dict(zip(spaces, point, strict=True))
            for point in itertools.product(*(space.choices for space in spaces.values()))
        ]
        tried = [trial.params for trial in self.finished]
        tried += [trial.system_attrs.get("fixed_params", {}) for trial in self._trials(TrialState.WAITING)]
        for point in points:
            if point not in tried:
                self.study.enqueue_trial(point)
        return len(points)
