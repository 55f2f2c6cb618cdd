"""The verdict of one check of the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN_AT_MOST = 5


@dataclass(frozen=True)
class CheckResult:
    """One check's verdict.

    Attributes:
        check: its name, which `--override` takes.
        passed: whether the model may pass.
        found: what the model has.
        wanted: what it is held against.
        reason: one sentence for the person who releases.
        overridable: False where a release could not be made whatever the person decides, because the card
            would lack a number.
        checked: False where the check could not be made here; `verify` lists it as such.
    """

    check: str
    passed: bool
    found: str
    wanted: str
    reason: str
    overridable: bool = True
    checked: bool = True

    def __str__(self) -> str:
        return f"{self.check}: {self.reason} (found {self.found}, wanted {self.wanted})"


def listed(items: Sequence[object]) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:SHOWN_AT_MOST])
    return f"{shown} and {len(items) - SHOWN_AT_MOST} more" if len(items) > SHOWN_AT_MOST else shown
