"""YAML values against the types of dataclass fields: read strictly, converted where nothing is lost."""

from __future__ import annotations

import collections.abc
import difflib
import enum
import math
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml

from arxiv_cls.errors import UserError

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
