"""Recipes: one YAML file is one complete run, in the groups model, data, trainer and release.

A recipe is a dataclass whose four fields are dataclasses too; `load_recipe` fills it from the file and
then from overrides of the command line, and reports everything that is wrong at once.
"""

from __future__ import annotations

import dataclasses
import datetime
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from arxiv_cls.errors import UserError
from arxiv_cls.recipe_values import MISMATCH, coerce, nearest, parse_scalar, portable_path, read_yaml_mapping

GROUPS = ("model", "data", "trainer", "release")
LARGEST_SEED = 2**32 - 1  # that numpy takes

RecipeT = TypeVar("RecipeT")


class Limits(NamedTuple):
    """The range of a number."""

    minimum: float | None = None  # smallest allowed value
    above: float | None = None  # values must be greater than this
    maximum: float | None = None  # largest allowed value
    below: float | None = None  # values must be less than this


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A field of a recipe group: its default, one sentence of help, and the range of its values.

    Args:
        default: the value when the recipe does not name the key; lists and dicts are copied per recipe.
        help: one sentence, with the unit; the documentation's table is made of it.
        minimum: smallest allowed value.
        above: values must be greater than this.
        maximum: largest allowed value.
    """
    metadata = {"help": help, "minimum": minimum, "above": above, "maximum": maximum}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass
class DataConfig:
    """Which papers, with which labels, in which splits."""

    config: Literal["top5", "top10", "top20", "archive", "all"] = option(
        "top5", "Label set of the builder: top5, top10, top20, archive or all."
    )
    csv: str = option("data/raw/arxiv.csv", "Path of the CSV file.")
    split: Literal["paper", "time"] = option(
        "paper", "`paper`: by the hash of the arXiv id; `time`: train before a date, test after one."
    )
    time_boundaries: list[str] | None = option(
        None, "For `split: time`: the first day of validation and the first day of test, ISO dates."
    )
    seed: int = option(42, "Seed of the split by paper.", minimum=0)
    near_duplicates: Literal["keep", "drop"] = option(
        "keep", "`drop`: papers with a near-duplicate in a later split go, those of training first."
    )
    max_samples: int | None = option(
        None, "At most N training papers, and N/4 each of validation and test, in hash order.", minimum=4
    )

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        if self.time_boundaries is None:
            return []
        if self.split != "time":
            return ["time_boundaries: only with split: time"]
        try:
            dates = [datetime.date.fromisoformat(day) for day in self.time_boundaries]
        except ValueError as error:
            return [f"time_boundaries: {error}; write dates as '2018-01-31'"]
        if len(dates) != 2 or dates[0] >= dates[1]:
            return ["time_boundaries: two dates, the first day of validation before the first day of test"]
        return []


@dataclass
class ReleaseConfig:
    """What the model card says that no file of the run knows."""

    base_model: str | None = option(None, "Hub id of the pretrained model that the card names.")
    dataset: str | None = option(None, "Hub id of the dataset that the card names.")
    license: str = option("apache-2.0", "Licence of the weights, as the Hub spells it.")
    language: str = option("en", "Language of the texts, ISO 639-1.")
    tags: list[str] = option([], "Further tags of the card.")


def load_recipe(path: str | Path, overrides: list[str], schema: type[RecipeT]) -> RecipeT:
    """Reads a recipe file, lays the overrides of the command line over it and checks every value.

    Precedence, last wins: the defaults of the dataclasses, the file, the overrides.

    Args:
        path: the YAML file.
        overrides: words of the command line, `--group.key value` or `--key=value`; a bare key works
            where only one group has it.
        schema: a dataclass with the fields `name` (the file's stem) and one dataclass per group.

    Returns:
        An instance of `schema`.

    Raises:
        UserError: one for the whole recipe, which names every key that is wrong, its value, what is
            allowed and the nearest known key.
    """
    path = Path(path)
    groups = _group_types(schema)
    given, problems = _read_groups(path, groups)
    for group, key, value in _parse_overrides(overrides, groups, problems):
        given[group][key] = value

    built = {}
    for group, group_type in groups.items():
        values, wrong = _check_values(group, group_type, given[group])
        problems += wrong
        if not wrong:
            built[group] = _build(group, group_type, values, problems)
    raise_problems(path, problems)
    # Every schema has these two fields beside its groups, which its type alone does not say.
    make_recipe: Callable[..., RecipeT] = schema
    return make_recipe(name=path.stem, given=given, **built)


def load_group(path: str | Path, group: str, schema: type[RecipeT]) -> RecipeT:
    """Reads one group that both kinds of recipe share, without the libraries that the others need.

    Args:
        path: the YAML file, of either kind.
        group: `data` or `release`.
        schema: its dataclass.

    Raises:
        UserError: every problem of that group at once, or a file that is no recipe.
    """
    path = Path(path)
    content = read_yaml_mapping(path).get(group)
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path}: {group}: must be a mapping of keys to values")
    values, problems = _check_values(group, schema, content or {})
    section = None if problems else _build(group, schema, values, problems)
    raise_problems(path, problems)
    return typing.cast(RecipeT, section)


def raise_problems(path: Path, problems: list[str]) -> None:
    """Reports all that is wrong with a file at once; does nothing when nothing is.

    Raises:
        UserError: one line per problem.
    """
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"{path}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems))


def resolved(recipe: Any) -> dict[str, dict[str, Any]]:
    """The recipe as plain YAML values: what was given, and the defaults of the project's own fields.

    The hundred-odd fields that `trainer` inherits from the libraries are written only when given.
    """
    plain: dict[str, dict[str, Any]] = {}
    for group in GROUPS:
        section = getattr(recipe, group)
        # `option` alone writes "minimum": the libraries' own fields carry a "help" too.
        own = {field.name for field in dataclasses.fields(section) if "minimum" in field.metadata}
        names = [
            field.name
            for field in dataclasses.fields(section)
            if field.name in own or field.name in recipe.given[group]
        ]
        plain[group] = {name: _plain(getattr(section, name)) for name in names}
    return plain


def recorded(recipe: Any) -> dict[str, dict[str, Any]]:
    """The recipe as it is written beside the weights: `resolved`, without absolute paths.

    See `portable_path`. The run itself, and what `--resume` compares, keep the paths as they were given.
    """
    return {
        group: {key: portable_path(value) if isinstance(value, str) else value for key, value in keys.items()}
        for group, keys in resolved(recipe).items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return getattr(value, "value", value)
    return getattr(value, "value", str(value))


def _group_types(schema: type) -> dict[str, type]:
    hints = typing.get_type_hints(schema)
    return {group: hints[group] for group in GROUPS}


def _fields(group_type: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(group_type) if field.init}


def _read_groups(path: Path, groups: dict[str, type]) -> tuple[dict[str, dict], list[str]]:
    content = read_yaml_mapping(path)
    problems = []
    given: dict[str, dict] = {group: {} for group in groups}
    for group, section in content.items():
        if group not in groups:
            problems.append(
                f"{group}: unknown group{nearest(str(group), groups)}; a recipe has {', '.join(groups)}"
            )
        elif section is None:
            continue
        elif not isinstance(section, dict):
            problems.append(f"{group}: must be a mapping of keys to values, is a {type(section).__name__}")
        else:
            given[group] = {str(key): value for key, value in section.items()}
    return given, problems


def _parse_overrides(
    words: list[str], groups: dict[str, type], problems: list[str]
) -> list[tuple[str, str, Any]]:
    parsed = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--") or word == "--":
            problems.append(f"{word!r}: an override starts with --, as in --trainer.learning_rate 3e-5")
            continue
        key, equals, text = word[2:].partition("=")
        if not equals:
            if position == len(words) or words[position].startswith("--"):
                problems.append(f"--{key}: no value given")
                continue
            text = words[position]
            position += 1
        group, dot, name = key.partition(".")
        if not dot:
            name = key
            owners = [candidate for candidate, kind in groups.items() if name in _fields(kind)]
            if len(owners) != 1:
                known = {field for kind in groups.values() for field in _fields(kind)}
                problems.append(
                    f"--{name}: is a key of {' and '.join(owners)}; write --{owners[0]}.{name}"
                    if owners
                    else f"--{name}: unknown key{nearest(name, known)}"
                )
                continue
            group = owners[0]
        elif group not in groups:
            problems.append(f"--{key}: unknown group {group!r}{nearest(group, groups)}")
            continue
        parsed.append((group, name, _override_value(text, groups[group], name)))
    return parsed


def _override_value(text: str, group_type: type, name: str) -> Any:
    """A word of the command line as YAML reads it, or as it stands where only that fits the field."""
    value = parse_scalar(text)
    hint = typing.get_type_hints(group_type).get(name, Any)
    if coerce(value, hint)[0] is MISMATCH and coerce(text, hint)[0] is not MISMATCH:
        # On the command line nobody quotes the `no` of --eval_strategy no.
        return text
    return value


def _check_values(group: str, group_type: type, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    fields = _fields(group_type)
    hints = typing.get_type_hints(group_type)
    limits = getattr(group_type, "LIMITS", {})
    values, problems = {}, []
    for key, value in given.items():
        if key not in fields:
            problems.append(f"{group}.{key}: unknown key{nearest(key, fields)}")
            continue
        converted, expected = coerce(value, hints[key])
        if converted is MISMATCH:
            problems.append(f"{group}.{key}: {value!r} is a {type(value).__name__}, expected {expected}")
            continue
        values[key] = converted
        known = {name: fields[key].metadata.get(name) for name in ("minimum", "above", "maximum")}
        wrong = _out_of_range(converted, limits.get(key, Limits(**known)))
        if wrong:
            problems.append(f"{group}.{key}: {converted} {wrong}")
    return values, problems


def _out_of_range(value: Any, limits: Limits) -> str | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if limits.minimum is not None and not value >= limits.minimum:
        return f"is below the smallest allowed value, {limits.minimum}"
    if limits.above is not None and not value > limits.above:
        return f"must be greater than {limits.above}"
    if limits.maximum is not None and not value <= limits.maximum:
        return f"is above the largest allowed value, {limits.maximum}"
    if limits.below is not None and not value < limits.below:
        return f"must be less than {limits.below}"
    return None


def _build(group: str, group_type: type, values: dict[str, Any], problems: list[str]) -> Any:
    try:
        section = group_type(**values)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        # The checks of the libraries' own argument classes.
        problems.append(f"{group}: {' '.join(str(error).split())}")
        return None
    for problem in section.problems() if hasattr(section, "problems") else []:
        problems.append(f"{group}.{problem}")
    return section
