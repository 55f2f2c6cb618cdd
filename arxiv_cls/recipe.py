"""Recipes: one YAML file is one complete run, read into dataclasses whose fields pydantic checks."""

from __future__ import annotations

import argparse
import collections
import datetime
import difflib
import enum
import itertools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import DEFAULT_LABEL_SET, KNOWN_LABEL_SETS, label_set

GROUPS = ("model", "data", "trainer", "release")
RECIPE_SHAPE = f"a recipe is a mapping with the groups {', '.join(GROUPS)}"
LARGEST_SEED = 2**32 - 1  # of numpy
MAX_VALUES = 10_000  # with aliases counted each time: nested ones can stand for billions of values
NULL = ("null", "Null", "NULL", "~", "")
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
WHOLE = re.compile(r"[+-]?\d+(\.0+)?", re.ASCII)

ALIASES = {"data": {"path": "csv"}}
"""Second names of keys, by group: a recipe may use either, records have the first."""

RecipeT = TypeVar("RecipeT")
Tracker = Literal["auto", "none", "wandb", "trackio"]
TRACKERS = "Trackers: none, wandb, trackio, a list; auto: wandb where a key or login is there."


def _known_label_set(name: str) -> str:
    try:
        label_set(name)
    except ValueError:
        raise ValueError(KNOWN_LABEL_SETS) from None
    return name


@dataclass
class DataConfig:
    """Which papers, with which labels, in which splits."""

    config: Annotated[str, AfterValidator(_known_label_set)] = Field(
        DEFAULT_LABEL_SET, description=f"Label set: {KNOWN_LABEL_SETS}."
    )
    labels: list[str] | None = Field(
        None, description="Category codes in place of the label set, as in [cs.CL, math.ST]."
    )
    task: Literal["single_label", "multi_label"] = Field(
        "single_label",
        description="`multi_label`: a paper has every label of the set that is among its categories.",
    )
    csv: str = Field(
        "data/raw/arxiv.csv",
        description="The file, also as `path`: CSV, arXiv's snapshot (JSON Lines), Parquet, hf://datasets/...",
    )
    split: Literal["paper", "time"] = Field(
        "paper", description="`paper`: by the hash of the arXiv id; `time`: by date, training first."
    )
    time_boundaries: list[str] | None = Field(
        None, description="For `split: time`: the first day of validation and that of test, ISO dates."
    )
    seed: int = Field(42, ge=0, description="Seed of the split by paper.")
    ratios: list[float] | None = Field(
        None, description="Shares of training, validation and test by paper; null: 0.70, 0.15, 0.15."
    )
    near_duplicates: Literal["keep", "drop"] = Field(
        "keep", description="`drop`: without papers that have a near-duplicate in a later split."
    )
    max_samples: int | None = Field(
        None, ge=4, description="At most N training papers, N/4 each of validation and test, in hash order."
    )

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        found = []
        if self.labels is not None and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            found.append(f"labels: {self.labels} should be two or more different codes")
        if self.ratios is not None:
            if self.split != "paper":
                found.append("ratios: only with split: paper")
            shares = self.ratios
            if len(shares) != 3 or min(shares, default=0) <= 0 or abs(math.fsum(shares) - 1) > 1e-6:
                found.append(f"ratios: {shares} should be three shares above 0 that add up to 1")
        return found + self._boundary_problems()

    def _boundary_problems(self) -> list[str]:
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

    base_model: str | None = Field(None, description="Hub id of the pretrained model that the card names.")
    dataset: str | None = Field(None, description="Hub id of the dataset that the card names.")
    license: str = Field("apache-2.0", description="Licence of the weights, as the Hub spells it.")
    language: str = Field("en", description="Language of the texts, ISO 639-1.")
    tags: list[str] = Field(default_factory=list, description="Further tags of the card.")


@dataclass
class TfidfModelConfig:
    """The terms, the linear models on them and the trees on top."""

    classifier: Literal["xgboost", "linear"] = Field(
        "xgboost", description="`xgboost`: trees on top of the linear models; `linear`: their score alone."
    )
    ngram_max: int = Field(2, ge=1, description="Longest term, in words.")
    min_df: int = Field(2, ge=1, description="A term must occur in this many training papers.")
    title_weight: float = Field(0.5, ge=0, description="Weight of the title's own terms; 0: none.")
    folds: int = Field(5, ge=2, description="Folds of the linear models' scores on their training papers.")
    svm_cost: float = Field(0.2, gt=0, description="Cost C of the linear support vector machine.")
    ridge_penalty: float = Field(1.5, gt=0, description="Penalty of the ridge classifier.")
    naive_bayes_smoothing: float = Field(0.1, gt=0, description="Smoothing of complement naive Bayes.")
    components: int = Field(64, ge=0, description="Dimensions of latent semantic analysis; 0: none.")
    components_min_df: int = Field(20, ge=1, description="The analysis reads terms in this many papers.")
    max_depth: int = Field(4, ge=1, description="Depth of a tree.")
    min_child_weight: float = Field(5.0, ge=0, description="Smallest sum of second derivatives in a leaf.")
    subsample: float = Field(0.7, gt=0, le=1, description="Share of the papers that a boosting round sees.")
    colsample_bytree: float = Field(0.4, gt=0, le=1, description="Share of the features that a tree sees.")
    reg_alpha: float = Field(0.0, ge=0, description="L1 penalty of the leaves.")
    reg_lambda: float = Field(2.0, ge=0, description="L2 penalty of the leaves.")
    max_bin: int = Field(64, ge=2, description="Histogram bins of a feature.")


@dataclass
class TfidfTrainerConfig:
    """How the trees are grown, and where the run goes; the names are those of `TrainingArguments`."""

    output_dir: str | None = Field(None, description="Model directory; default outputs/<recipe's file name>.")
    num_train_epochs: int = Field(400, ge=1, description="Boosting rounds at most; not used by `linear`.")
    learning_rate: float = Field(0.1, gt=0, description="Step of a boosting round.")
    early_stopping_patience: int = Field(
        15, ge=1, description="Stop after this many rounds without a lower log-loss on the validation split."
    )
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="Seed of folds, linear models and trees.")
    cpu_threads: int | None = Field(None, ge=1, description="Threads; null: the cores of the machine.")
    report_to: Tracker | list[Tracker] = Field("auto", description=TRACKERS)


@dataclass
class TransformerModelConfig:
    """Which pretrained encoder, and how long a text it reads."""

    name_or_path: str = Field(
        "distilbert/distilbert-base-uncased",
        description="Hub id, directory, or package:NAME/FOLDER for weights in an installed package.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the Hub id.")
    max_length: int = Field(
        256, ge=8, description="Longest input, in tokens; saved as the tokenizer's model_max_length."
    )
    attention_dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout of the attention weights; null keeps the checkpoint's."
    )
    hidden_dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout of the hidden states; null keeps the checkpoint's."
    )


@dataclass
class Recipe:
    """What both kinds of training run have: `name`, the file's stem, and `given`, its values by group."""

    name: str
    given: dict[str, dict[str, Any]]
    data: DataConfig
    release: ReleaseConfig


@dataclass
class TfidfRecipe(Recipe):
    """A complete training run of a baseline."""

    model: TfidfModelConfig
    trainer: TfidfTrainerConfig


# Of a transformer's recipe, what can be read without the trainer's library, which takes seconds to import.
TRANSFORMER_GROUPS = {"model": TransformerModelConfig, "data": DataConfig, "release": ReleaseConfig}


def load_recipe(path: str | Path, overrides: list[str], schema: type[RecipeT]) -> RecipeT:
    """Reads a recipe file, applies the overrides of the command line and checks every value.

    Precedence, last wins: the defaults of the dataclasses, the file, the overrides.

    Args:
        path: the YAML file.
        overrides: words of the command line, `--group.key value` or `--key=value`; a bare key works
            where only one group has it.
        schema: a `Recipe` with one field per group.

    Raises:
        UserError: as of `read_groups`.
    """
    hints = typing.get_type_hints(schema)
    sections, given = read_groups(path, overrides, {group: hints[group] for group in GROUPS})
    # A schema's type alone does not say what its fields are.
    make_recipe: Callable[..., RecipeT] = schema
    return make_recipe(name=Path(path).stem, given=given, **sections)


def load_group(path: str | Path, group: str, schema: type[RecipeT]) -> RecipeT:
    """Reads one group that both kinds of recipe share; raises as `read_groups` does."""
    return read_groups(path, [], {group: schema})[0][group]


def read_groups(
    path: str | Path, overrides: list[str], groups: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The dataclasses of some groups of a recipe, and the values that were given for them.

    Args:
        path, overrides: as of `load_recipe`.
        groups: a dataclass by group; what is said of other groups is not looked at.

    Raises:
        UserError: a file that is no recipe, or every problem of these groups: the key, its value, what is
            allowed and the nearest known key.
    """
    given: dict[str, dict[str, Any]] = {group: {} for group in groups}
    problems = []
    for group, section in read_yaml_mapping(Path(path)).items():
        if group not in GROUPS:
            problems.append(f"{group}: unknown group{nearest(group, GROUPS)}; there are {', '.join(GROUPS)}")
        elif not isinstance(section, dict | None):
            problems.append(f"{group}: {section!r:.200} should be a mapping of keys to values")
        elif group in groups:
            for key, value in (section or {}).items():
                if (name := own_name(group, key)) in given[group]:
                    problems.append(f"{group}.{key}: is there twice, as {name} and by its other name")
                given[group][name] = value
    _apply_overrides(overrides, groups, given, problems)
    sections = {group: build_section(kind, given[group], problems, group) for group, kind in groups.items()}
    raise_problems(Path(path), problems)
    return sections, given


def raise_problems(path: Path, problems: list[str]) -> None:
    """Raises one UserError with a line per problem; does nothing when there is none."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError("\n  - ".join([f"{path}: {count}", *problems]))


def parse_arguments(
    argv: list[str], program: str = "", description: str = "", resume: str = ""
) -> tuple[argparse.Namespace, list[str]]:
    """The command line of a training script: the recipe and the switches; the words left are overrides."""
    epilog = "Any key of the recipe is an option: --trainer.learning_rate 3e-5 --data.max_samples 2000"
    parser = argparse.ArgumentParser(program, description=description, epilog=epilog, allow_abbrev=False)
    parser.add_argument("recipe", help="YAML file: one of recipes/, or your own")
    parser.add_argument("--resume", action="store_true", help=resume)
    replace = "replace an earlier run of the same name; with --resume: unless it is this very run, unfinished"
    parser.add_argument("--overwrite", action="store_true", help=replace)
    later = "leave test split and card to `arxiv-cls evaluate` and `card`"
    parser.add_argument("--no-evaluate", action="store_true", help=later)
    return parser.parse_known_args(argv)


def resolved(recipe: Any) -> dict[str, dict[str, Any]]:
    """The recipe as plain YAML values: what was given, and the defaults of the project's own fields.

    The hundred-odd fields that `trainer` inherits from the libraries are written only when given.
    """
    plain = {}
    for group in GROUPS:
        section = getattr(recipe, group)
        names = {name for name, field in fields_of(type(section)).items() if field.description}
        adapter: TypeAdapter = TypeAdapter(type(section))
        # TrainingArguments replaces some words by enums: no warnings of their types.
        plain[group] = adapter.dump_python(
            section, mode="json", include=names | set(recipe.given[group]), warnings=False
        )
    return plain


def recorded(recipe: Any) -> dict[str, dict[str, Any]]:
    """The recipe as it is written beside the weights: `resolved`, without absolute paths."""
    return {
        group: {key: portable_path(value) if isinstance(value, str) else value for key, value in keys.items()}
        for group, keys in resolved(recipe).items()
    }


def portable_path(path: str) -> str:
    """A path as a record may show it: relative below the working directory, else the name alone.

    Records are published with the model: an absolute path would tell about a machine and its user.
    """
    given, here = Path(path), Path.cwd().resolve()
    if not given.is_absolute():
        return path
    absolute = given.resolve()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else given.name or path


def nearest(key: str, known: Iterable[str]) -> str:
    """`"; did you mean x?"` when a known key is close, else an empty string."""
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def fields_of(group_type: Any) -> dict[str, FieldInfo]:
    """The fields of a recipe group by name: annotation, default, range and, for our own, description."""
    return {name: field for name, field in group_type.__pydantic_fields__.items() if field.init is not False}


def own_name(group: str, key: str) -> str:
    """The name that records have for a key of a group."""
    return ALIASES.get(group, {}).get(key, key)


def _apply_overrides(
    words: list[str], groups: Mapping[str, Any], given: dict[str, dict[str, Any]], problems: list[str]
) -> None:
    remaining = collections.deque(words)
    while remaining:
        word = remaining.popleft()
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            problems.append(f"{word!r}: an override starts with --, as in --trainer.learning_rate 3e-5")
            continue
        if not equals:
            if not remaining or remaining[0].startswith("--"):
                problems.append(f"--{name}: no value given")
                continue
            text = remaining.popleft()
        group, _, key = name.rpartition(".")
        owners = (
            [group]
            if group
            else [owner for owner, kind in groups.items() if own_name(owner, key) in fields_of(kind)]
        )
        if len(owners) > 1:
            problems.append(f"--{key}: is a key of {' and '.join(owners)}; write --{owners[0]}.{key}")
        elif not owners and len(groups) == len(GROUPS):
            known = {field for kind in groups.values() for field in fields_of(kind)}
            problems.append(f"--{key}: unknown key{nearest(key, known)}")
        elif group and group not in GROUPS:
            problems.append(f"--{name}: unknown group {group!r}{nearest(group, GROUPS)}")
        elif owners and owners[0] in groups:
            key = own_name(owners[0], key)
            field = fields_of(groups[owners[0]]).get(key)
            given[owners[0]][key] = _override_value(text, field.annotation if field else str)


def _override_value(text: str, annotation: Any) -> Any:
    """A word of the command line as it stands, or read as YAML where the field takes a list or a mapping."""
    kinds = {typing.get_origin(kind) or kind for kind in (annotation, *typing.get_args(annotation))}
    if text.startswith(("[", "{")) and kinds & {list, dict}:
        try:
            return parse_yaml(text)
        except yaml.YAMLError:
            return text  # which the field then refuses
    return None if text in NULL else text


def build_section(group_type: Any, values: dict[str, Any], problems: list[str], group: str = "") -> Any:
    """A group's dataclass, or None with what is wrong; `values` become those of the fields.

    Args:
        group_type: of pydantic; its method `problems`, where it has one, says what does not go together.
        values: of `parse_yaml`, by key.
        problems: what is wrong is added, a sentence each.
        group: the name that stands before the keys in them.
    """
    refused: dict[str, str] = getattr(group_type, "REFUSED_KEYS", {})
    known, prefix = fields_of(group_type), f"{group}." if group else ""
    wrong = []
    for key, value in list(values.items()):
        if key not in known:
            wrong.append(f"{prefix}{key}: unknown key{nearest(key, known.keys() - refused)}")
            continue
        try:
            values[key] = read_value(value, known[key].annotation, *known[key].metadata)
        except ValueError as error:
            wrong.append(f"{prefix}{key}: {refused.get(key, error)}")
            continue
        if key in refused and values.pop(key) != known[key].get_default(call_default_factory=True):
            wrong.append(f"{prefix}{key}: {refused[key]}")
    needed = [key for key, field in known.items() if field.is_required()]
    wrong += [f"{prefix}{key}: missing" for key in needed if key not in values]
    problems += wrong
    if wrong:
        return None
    try:
        section = group_type(**values)
    except (ValidationError, ImportError, RuntimeError, TypeError) as error:
        # The checks of the libraries' own argument classes.
        text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        problems.append(f"{group}: {' '.join(text.removeprefix('Value error, ').split())}")
        return None
    if not problems:
        # Those of a trainer import what takes seconds.
        problems += [f"{prefix}{problem}" for problem in getattr(section, "problems", list)()]
    return section


def read_value(value: Any, annotation: Any, *constraints: Any) -> Any:
    """A value of `parse_yaml` as a field of this annotation holds it.

    Raises:
        ValueError: the value and what is allowed.
    """
    constrained: Any = Annotated[_from_text(annotation), Field(), *constraints]
    try:
        return TypeAdapter(constrained).validate_python(value)
    except ValidationError as error:
        messages = [problem["msg"].removeprefix("Value error, ") for problem in error.errors()]
        allowed = [message.removeprefix("Input should be ") for message in messages]
        shown = "null" if value is None else f"{value!r:.200}"
        raise ValueError(f"{shown} should be {' or '.join(dict.fromkeys(allowed))}") from None


def _from_text(annotation: Any) -> Any:
    """The annotation by which pydantic reads a value of `parse_yaml` for a field of this type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        enums = [kind for kind in arguments if isinstance(kind, type) and issubclass(kind, enum.Enum)]
        kinds = [kind for kind in arguments if kind is not str or not enums]
        # Any word is a string: the other types are tried first.
        kinds.sort(key=lambda kind: kind is str)
        union: Any = Union[tuple(map(_from_text, kinds))]  # noqa: UP007
        several = len({*kinds} - {types.NoneType}) > 1
        return Annotated[union, Field(union_mode="left_to_right")] if several else union
    if origin in (list, dict):
        return origin[tuple(map(_from_text, arguments))]
    if annotation is int:
        return Annotated[int, BeforeValidator(_whole)]
    if annotation is float:
        return Annotated[float, BeforeValidator(_decimal), Field(allow_inf_nan=False)]
    return Annotated[annotation, BeforeValidator(_plain)] if annotation in (dict, Any) else annotation


def _decimal(value: Any) -> Any:
    # Python and pydantic would read nan, 1_000 and a number in spaces too.
    if not isinstance(value, str) or not DECIMAL.fullmatch(value):
        raise ValueError("a decimal number")
    return value


def _whole(value: Any) -> Any:
    if not isinstance(value, str) or not WHOLE.fullmatch(value):
        raise ValueError("a whole number")
    return value


def _plain(value: Any) -> Any:
    """A value of no declared type: a number where it is written as one, true, false, null or a string."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, str) and DECIMAL.fullmatch(value) and math.isfinite(float(value)):
        return int(value) if re.fullmatch(r"[+-]?\d{1,30}", value) else float(value)
    return value


def read_yaml_mapping(path: Path, shape: str = RECIPE_SHAPE) -> dict[str, Any]:
    """The mapping at the top of a YAML file, as `parse_yaml` reads it; `shape` says what it should hold.

    Raises:
        UserError: no such file, not UTF-8, not YAML (with its line), or not a mapping.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe", hint="The project's recipes are in recipes/.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        kind = {type(None): "empty", list: "a list"}.get(type(content), "a single value")
        raise UserError(f"{path}: {shape}; this is {kind}")
    return content


def parse_yaml(text: str) -> Any:
    """YAML of mappings, lists, null and strings, which stay as they are written.

    YAML's own types would read 010 as 8, 1:30 as 90, 20241127_1600 as a number and no as false.

    Raises:
        yaml.YAMLError: not YAML, a key twice, a merge key, a tag, or too many values.
    """
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return None if node is None else _construct(node, itertools.count())
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="nested too deeply") from None


def _construct(node: yaml.Node, count: Iterator[int]) -> Any:
    def refuse(where: yaml.Node, problem: str) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)

    if next(count) >= MAX_VALUES:
        refuse(node, "too many values")
    if not re.fullmatch("tag:yaml.org,2002:(str|seq|map)", node.tag):
        refuse(node, f"the tag {node.tag} is not supported")
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value in NULL else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, count) for item in node.value]
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            refuse(key, "a key must be a word; merge keys (<<) are not supported")
        if key.value in mapping:
            refuse(key, f"the key {key.value!r} is there twice")
        mapping[key.value] = _construct(value, count)
    return mapping
