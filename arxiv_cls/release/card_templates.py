"""The templates of the cards: one for each layout that was ever released, and how a card names its own.

A release is verified with the template that wrote its card. So the template of a released layout is never
edited: new words or sections get the next number, and a card of the last one goes to
`tests/fixtures/cards`. Words live in the templates, values in `ModelCard`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from arxiv_cls.errors import UserError
from arxiv_cls.release.card_numbers import Shown

TEMPLATES = Path(__file__).parent / "templates"
LAYOUT = 2
"""The layout of new cards."""
LAYOUT_LINE = re.compile(r"^<!-- Card layout (\d+), written by arxiv_cls", re.MULTILINE)
FIELD_START, FIELD_NAMED, FIELD_END = "\x01", "\x02", "\x03"


def layout_of(card: str) -> int:
    """The layout that a card names; cards of the first one name none.

    Raises:
        UserError: when it is of a later version of the project.
    """
    named = LAYOUT_LINE.search(card)
    layout = int(named[1]) if named else 1
    if not 1 <= layout <= LAYOUT:
        raise UserError(
            f"the card has layout {layout}, and this version knows layouts up to {LAYOUT}",
            hint="verify it with the version of arxiv_cls that run.json names, or upgrade",
        )
    return layout


@cache
def template(name: str, mark: bool = False) -> Template:
    """A card template.

    Args:
        name: file name in `templates/`.
        mark: put each `Shown` between MARK characters with its field's name, for `card_check`.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=_marked if mark else None,
    )
    return environment.get_template(name)


def model_card_template(layout: int = LAYOUT, mark: bool = False) -> Template:
    """The template of a layout; see `template` for the marks."""
    return template(f"model_card.v{layout}.md.j2", mark)


def _marked(value: object) -> object:
    if isinstance(value, Shown):
        return f"{FIELD_START}{value.field}{FIELD_NAMED}{value}{FIELD_END}"
    return value
