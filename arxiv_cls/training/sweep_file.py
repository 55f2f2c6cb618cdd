"""Sweep files: the syntax of Weights & Biases, of which this reads the part that a local search needs.

One file, two readers: `wandb sweep FILE` and `make sweep SWEEP=FILE`. The keys are those of
https://docs.wandb.ai/guides/sweeps/sweep-config-keys; what this reader leaves out (nested parameters,
probabilities, normal distributions) is refused by name, so that both search the same space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import GROUPS, load_recipe, raise_problems
from arxiv_cls.recipe_values import MISMATCH, coerce, nearest, read_yaml_mapping
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
        from arxiv_cls.recipe_transformer import TransformerRecipe

        return TransformerRecipe
    from arxiv_cls.recipe_tfidf import TfidfRecipe

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
