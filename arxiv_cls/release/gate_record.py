"""The overridden checks of a release, `eval/gate.json`: what the notice on its card is held against."""

from __future__ import annotations

import json
from collections.abc import Sequence

from arxiv_cls.release.card_numbers import Shown
from arxiv_cls.release.check_result import CheckResult
from arxiv_cls.release.evidence import Evidence
from arxiv_cls.release.manifest import GATE_RECORD

SCHEMA_VERSION = 1


def gate_record(overridden: Sequence[CheckResult], version: str) -> bytes:
    """The content of `eval/gate.json`.

    Args:
        overridden: the checks that failed and were overridden.
        version: the release's tag.
    """
    checks = [
        {"check": result.check, "found": result.found, "wanted": result.wanted, "reason": result.reason}
        for result in overridden
    ]
    record = {"schema_version": SCHEMA_VERSION, "version": version, "overridden": checks}
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def shown_overrides(overridden: Sequence[CheckResult]) -> list[Shown]:
    """The sentences of the notice on the card, each under the name of its check."""
    return [Shown(f"gate.{result.check}", str(result)) for result in overridden]


def recorded_overrides(evidence: Evidence) -> list[Shown]:
    """The sentences that the card of a release must show; none where nothing was overridden.

    Raises:
        UserError: when the record is not what a release writes.
    """
    record = evidence.optional_json(GATE_RECORD) or {"overridden": []}
    checks = [
        CheckResult(
            check=entry["check"],
            passed=False,
            found=entry["found"],
            wanted=entry["wanted"],
            reason=entry["reason"],
        )
        for entry in record["overridden"]
    ]
    return shown_overrides(checks)
