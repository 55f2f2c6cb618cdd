"""YAML values against the types of dataclass fields: read strictly, converted where nothing is lost."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import difflib
import enum
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml

from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import DEFAULT_LABEL_SET, LABEL_SETS

MISMATCH = object()
MAX_RECIPE_BYTES = 1_000_000


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, collections.abc.Hashable) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is there twice", problem_mark=key_node.start_mark
                )
            seen.add(key if isinstance(key, collections.abc.Hashable) else id(key_node))
        return super().construct_mapping(node, deep=deep)


RECIPE_SHAPE = "a recipe is a mapping with the groups model, data, trainer, release"


def read_yaml_mapping(path: Path, shape: str = RECIPE_SHAPE) -> dict:
    """The mapping at the top of a YAML file.

    Args:
        path: the file.
        shape: what such a file is, for the message of one that is no mapping.

    Raises:
        UserError: no such file, not text, not YAML (with its line), or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes are too many for a recipe")
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_StrictLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe", hint="The project's recipes are in recipes/.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory, not a recipe file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a recipe") from None
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise UserError(f"{path}: {shape}; this is {kind}")
    return content


def parse_scalar(text: str) -> Any:
    """The value of an override, read as YAML would read it; what is not YAML stays a string."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def nearest(key: str, known: Iterable[str]) -> str:
    """`"; did you mean x?"` when a known key is close, else an empty string."""
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def coerce(value: Any, annotation: Any) -> tuple[Any, str]:
    """Converts a YAML value to a field's type.

    `2e-5` is a string in YAML 1.1: where a number is expected it is read as one. A bare `no` is
    `False` there: where a string is expected that is an error which says to quote it.

    Returns:
        The converted value and what was expected; the value is `MISMATCH` when it cannot be converted.
    """
    expected = describe(annotation)
    if annotation is Any:
        return value, expected
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, arguments), expected
    if origin is Literal:
        if isinstance(value, bool) and all(isinstance(argument, str) for argument in arguments):
            return (
                MISMATCH,
                f'{expected} (YAML reads a bare {_yaml_word(value)} as {value}: write "{_yaml_word(value)}")',
            )
        return (
            value if value in arguments and type(value) in {type(a) for a in arguments} else MISMATCH
        ), expected
    if annotation is type(None):
        return (None if value is None else MISMATCH), expected
    if annotation is bool:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true", expected
        return (value if isinstance(value, bool) else MISMATCH), expected
    if annotation in (int, float):
        return _coerce_number(value, annotation), expected
    if annotation is str:
        if isinstance(value, bool):
            return (
                MISMATCH,
                f'a string (YAML reads a bare yes or no as true or false: write "{_yaml_word(value)}")',
            )
        # A date in YAML (2018-01-31) is a string to us.
        return (
            str(value) if isinstance(value, str | int | float) or hasattr(value, "isoformat") else MISMATCH
        ), expected
    if origin in (list, tuple, collections.abc.Sequence) or annotation in (list, tuple):
        return _coerce_list(value, arguments), expected
    if origin is dict or annotation is dict:
        return (value if isinstance(value, dict) else MISMATCH), expected
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        values = {member.value: member for member in annotation}
        return values.get(value, MISMATCH), expected
    return value, expected


def describe(annotation: Any) -> str:
    """What a field takes, in words for an error message."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        words = dict.fromkeys(describe(argument) for argument in arguments if argument is not type(None))
        return " or ".join(words) + (" or null" if type(None) in arguments else "")
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in annotation)
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        dict: "a mapping",
    }
    if annotation in names:
        return names[annotation]
    return {list: "a list", tuple: "a list", dict: "a mapping"}.get(
        origin, str(getattr(annotation, "__name__", annotation))
    )


def _coerce_number(value: Any, kind: type) -> Any:
    if isinstance(value, bool):
        return MISMATCH
    try:
        number = float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        return MISMATCH
    if kind is float:
        return number
    if isinstance(value, int):
        return value
    return int(number) if number == int(number) else MISMATCH


def _coerce_union(value: Any, arguments: tuple) -> Any:
    if value is None and type(None) in arguments:
        return None
    # The type that needs no conversion wins, so that `int | float` keeps 3 an int and 0.5 a float.
    for argument in arguments:
        if isinstance(argument, type) and type(value) is argument:
            return value
    for argument in arguments:
        converted, _ = coerce(value, argument)
        if converted is not MISMATCH:
            return converted
    return MISMATCH


def _coerce_list(value: Any, arguments: tuple) -> Any:
    if not isinstance(value, list | tuple):
        return MISMATCH
    items = [coerce(item, arguments[0])[0] if arguments else item for item in value]
    return MISMATCH if any(item is MISMATCH for item in items) else items


def _yaml_word(value: bool) -> str:
    return "yes" if value else "no"


def portable_path(path: str) -> str:
    """A path as a record may show it: relative below the working directory, else the name alone.

    Records are published with the model, and a path such as `/home/ada/papers.csv` tells about a machine and
    its user. Relative paths and texts that are no paths stay as they are.
    """
    given = Path(path)
    if not given.is_absolute():
        return path
    try:
        return given.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        return given.name or path


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

    config: Literal[tuple(LABEL_SETS)] = option(  # type: ignore[valid-type]
        DEFAULT_LABEL_SET, f"Label set of the builder: {', '.join(LABEL_SETS)}."
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


@dataclass
class TfidfModelConfig:
    """The terms, the linear models on them and the trees on top."""

    classifier: Literal["xgboost", "linear"] = option(
        "xgboost", "`xgboost`: trees that start from the linear models' score; `linear`: that score alone."
    )
    ngram_max: int = option(2, "Longest term, in words.", minimum=1)
    min_df: int = option(2, "A term must occur in this many training papers.", minimum=1)
    title_weight: float = option(
        0.5, "Weight of the title's own terms beside those of the whole text; 0: none.", minimum=0
    )
    folds: int = option(
        5, "Parts in which training papers get scores from linear models that did not see them.", minimum=2
    )
    svm_cost: float = option(0.2, "Cost C of the linear support vector machine.", above=0)
    ridge_penalty: float = option(1.5, "Penalty of the ridge classifier.", above=0)
    naive_bayes_smoothing: float = option(0.1, "Smoothing of complement naive Bayes.", above=0)
    components: int = option(
        64, "Dimensions of the latent semantic analysis that the trees read; 0: none.", minimum=0
    )
    components_min_df: int = option(
        20, "The analysis reads terms that occur in this many training papers.", minimum=1
    )
    max_depth: int = option(4, "Depth of a tree.", minimum=1)
    min_child_weight: float = option(5.0, "Smallest sum of second derivatives in a leaf.", minimum=0)
    subsample: float = option(0.7, "Share of the papers that a boosting round sees.", above=0)
    colsample_bytree: float = option(0.4, "Share of the features that a tree sees.", above=0)
    reg_alpha: float = option(0.0, "L1 penalty of the leaves.", minimum=0)
    reg_lambda: float = option(2.0, "L2 penalty of the leaves.", minimum=0)
    max_bin: int = option(64, "Histogram bins of a feature.", minimum=2)

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        shares = (("subsample", self.subsample), ("colsample_bytree", self.colsample_bytree))
        return [f"{name}: {value} is a share, at most 1" for name, value in shares if value > 1]


@dataclass
class TfidfTrainerConfig:
    """How the trees are grown, and where the run goes; the names are those of `TrainingArguments`."""

    output_dir: str | None = option(None, "Model directory; default outputs/<recipe's file name>.")
    num_train_epochs: int = option(400, "Boosting rounds at most; not used by `linear`.", minimum=1)
    learning_rate: float = option(0.1, "Step of a boosting round.", above=0)
    early_stopping_patience: int = option(
        15, "Stop after this many rounds without a lower log-loss on the validation split.", minimum=1
    )
    seed: int = option(
        42, "Seed of the folds, the linear models and the trees.", minimum=0, maximum=LARGEST_SEED
    )
    cpu_threads: int | None = option(None, "Threads; null: the cores of the machine.", minimum=1)
    report_to: str | list[str] = option("none", "Trackers: none, wandb, trackio, or a list of them.")

    @property
    def trackers(self) -> list[str]:
        """The names in `report_to`, without `none`."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in names if name != "none"]

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        return [
            f"report_to: {name!r} is not one of none, wandb, trackio"
            for name in self.trackers
            if name not in ("wandb", "trackio")
        ]


@dataclass
class TfidfRecipe:
    """A complete training run of a baseline."""

    name: str
    given: dict[str, dict[str, Any]]
    model: TfidfModelConfig
    data: DataConfig
    trainer: TfidfTrainerConfig
    release: ReleaseConfig
