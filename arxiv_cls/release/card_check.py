"""Holds a released card against the records released with it, and names each field that differs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from arxiv_cls.release.card import ModelCard, render
from arxiv_cls.release.card_templates import FIELD_END, FIELD_NAMED, FIELD_START, layout_of

FIELD = re.compile(f"{FIELD_START}(.*?){FIELD_NAMED}(.*?){FIELD_END}", re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class CardDifference:
    """A field of a card that is not what the records say.

    Attributes:
        field: its name, such as `metrics.macro_f1` or `metadata: model-index[0]...value`.
        on_card: what the card says; empty where the line is gone.
        recorded: what the records say.
    """

    field: str
    on_card: str
    recorded: str

    def __str__(self) -> str:
        return f"{self.field}: the card says {self.on_card!r}, the record {self.recorded!r}"


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flatten(inner, f"{path}[{index}]")
    else:
        yield path, value


def _named_metrics(metadata: Any) -> Any:
    """The metadata with each indexed metric under its name, so that a difference can be read.

    A hand may have given the index any shape: what is not as the Hub has it stays as it is, and differs.
    """
    for model in _dicts(metadata, "model-index"):
        for result in _dicts(model, "results"):
            if entries := _dicts(result, "metrics"):
                result["metrics"] = {str(entry.get("name", entry.get("type"))): entry for entry in entries}
    return metadata


def _dicts(parent: Any, key: str) -> list[dict[str, Any]]:
    """The dictionaries in a list below a key; empty where there is anything else."""
    value = parent.get(key) if isinstance(parent, dict) else None
    items = value if isinstance(value, list) else []
    return items if all(isinstance(item, dict) for item in items) else []


def _compare_metadata(actual: str, expected: str) -> list[CardDifference]:
    try:
        found = dict(_flatten(_named_metrics(yaml.safe_load(actual))))
    except yaml.YAMLError as error:
        return [CardDifference("metadata", str(error).splitlines()[0], "valid YAML")]
    wanted = dict(_flatten(_named_metrics(yaml.safe_load(expected))))
    return [
        CardDifference(f"metadata: {path}", str(found.get(path, "")), str(wanted.get(path, "")))
        for path in wanted | found
        if found.get(path) != wanted.get(path)
    ]


def _compare_line(number: int, actual: str, marked: str) -> list[CardDifference]:
    """Differences of one line, by field where the text around the fields is as it was."""
    names = [match[1] for match in FIELD.finditer(marked)]
    values = [match[2] for match in FIELD.finditer(marked)]
    around = [re.escape(part) for part in re.split(FIELD, marked)[::3]]
    match = re.fullmatch("(.*?)".join(around), actual)
    if match is None or not names:
        expected = FIELD.sub(r"\2", marked)
        return [CardDifference(f"line {number}", actual, expected)]
    return [
        CardDifference(name, found, wanted)
        for name, found, wanted in zip(names, match.groups(), values, strict=True)
        if found != wanted
    ]


def compare_card(text: str, card: ModelCard) -> list[CardDifference]:
    """Every difference between a card's text and what the records make of it, in the card's own layout.

    Args:
        text: the released `README.md`.
        card: filled from the released records.

    Raises:
        UserError: when the card's layout is of a later version of the project.
    """
    marked = render(card, layout=layout_of(text), mark=True)
    expected = FIELD.sub(r"\2", marked)
    found, wanted = FRONT_MATTER.match(text), FRONT_MATTER.match(expected)
    assert wanted is not None
    if found is None:
        return [CardDifference("metadata", "", "front matter between two lines of ---")]
    differences = _compare_metadata(found[1], wanted[1])
    actual_lines = text[found.end() :].splitlines()
    marked_lines = marked[FRONT_MATTER.match(marked).end() :].splitlines()  # type: ignore[union-attr]
    plain_lines = [FIELD.sub(r"\2", line) for line in marked_lines]
    first = text[: found.end()].count("\n") + 1
    matcher = difflib.SequenceMatcher(None, plain_lines, actual_lines, autojunk=False)
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            continue
        for offset in range(max(i2 - i1, j2 - j1)):
            line = actual_lines[j1 + offset] if j1 + offset < j2 else ""
            if i1 + offset < i2:
                differences += _compare_line(first + j1 + offset, line, marked_lines[i1 + offset])
            else:
                differences.append(CardDifference(f"line {first + j1 + offset}", line, ""))
    return differences
