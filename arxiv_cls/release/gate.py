"""The release gate: every check of a model before it goes to the Hub, and which failures were overridden."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.record.directory import ModelDirectory, read_model_directory
from arxiv_cls.record.manifest import GATE_RECORD
from arxiv_cls.release.gate_checks import LOCAL_CHECKS, CheckResult
from arxiv_cls.release.rescoring import (
    COMPARED,
    check_answers,
    check_corpus,
    compare_with_release,
    rebuild_data,
)

SCHEMA_VERSION = 1
CHECK_NAMES = (*LOCAL_CHECKS, "corpus", "answers", *COMPARED)


@dataclass(frozen=True)
class GateReport:
    """All verdicts, and which refusals the person overrode."""

    results: list[CheckResult]
    overrides: frozenset[str]

    @property
    def refused(self) -> list[CheckResult]:
        """Checks that failed and were not, or cannot be, overridden."""
        return [result for result in self.results if not result.passed and not self._overridden(result)]

    @property
    def overridden(self) -> list[CheckResult]:
        """Checks that failed and were overridden: these go on the card."""
        return [result for result in self.results if not result.passed and self._overridden(result)]

    def _overridden(self, result: CheckResult) -> bool:
        return result.overridable and result.check in self.overrides

    def summary(self) -> str:
        """One line per check."""
        lines = []
        for result in self.results:
            verdict = "OVERRIDDEN" if self._overridden(result) else "FAIL"
            if result.passed:
                verdict = "pass" if result.checked else "unchecked"
            lines.append(f"  {verdict:<10} {result}")
        return "\n".join(lines)

    def raise_if_refused(self) -> None:
        """Stops a release that may not pass.

        Raises:
            UserError: naming each failed check, its two values and the option that overrides it.
        """
        if not self.refused:
            return
        names = [result.check for result in self.refused if result.overridable]
        fixed = [result.check for result in self.refused if not result.overridable]
        hints = [f"no override helps {', '.join(fixed)}: the card could not be written"] if fixed else []
        if names:
            options = " ".join(f"--override {name}" for name in names)
            options += f" (with make OVERRIDE={','.join(names)})"
            first = "the rest: repair it" if fixed else "repair it"
            hints.append(f"{first}, or override, and the card will say so: {options}")
        lines = "\n".join(f"  - {result}" for result in self.refused)
        raise UserError(f"the gate refuses this release:\n{lines}", hint="\n  ".join(hints))


def check_names_known(overrides: Sequence[str]) -> None:
    """Refuses a name that is no check.

    Raises:
        UserError: naming the checks there are.
    """
    unknown = sorted(set(overrides) - set(CHECK_NAMES))
    if unknown:
        raise UserError(
            f"there is no check {', '.join(unknown)} to override", hint=f"checks: {', '.join(CHECK_NAMES)}"
        )


def run_gate(
    model: str | Path | ModelDirectory,
    *,
    current: Path | None = None,
    current_version: str = "",
    csv: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> GateReport:
    """Runs every check.

    Args:
        model: the candidate, its directory or its records.
        current: files of the release now on the Hub; None when there is none.
        current_version: its version, for messages.
        csv: the data to score with, where it is not at the path that the recipe names.
        overrides: names of checks whose refusal the person takes upon themselves.

    Raises:
        UserError: for an unknown check name, or a directory that is no finished model.
    """
    check_names_known(overrides)
    model = model if isinstance(model, ModelDirectory) else read_model_directory(model)
    results = [check(model) for check in LOCAL_CHECKS.values()]
    failed = {result.check for result in results if not result.passed}
    measured = not failed & {"weights", "data", "predictions"}
    data, problem = None, ""
    try:
        data = rebuild_data(model, csv)
    except UserError as error:
        problem = f"{error.message}: {error.hint}" if error.hint else error.message
    results.append(check_corpus(model, data, problem))
    if "pickles" in failed:
        problem = "a file that may run code when it is loaded is not loaded"
    elif not measured:
        problem = "there are no recorded predictions of these weights to compare its answers with"
    results.append(check_answers(model, None if problem else data, problem))
    if current is None:
        reason = "no release on the Hub to compare with"
        results += [CheckResult(check, True, "-", "-", reason) for check in COMPARED]
    elif measured:
        results += compare_with_release(model, current, current_version, csv, data)
    else:
        reason = f"cannot be compared with {current_version} before it is evaluated"
        results += [CheckResult(check, False, "-", "-", reason) for check in COMPARED]
    return GateReport(results, frozenset(overrides))


def gate_record(overridden: Sequence[CheckResult], version: str) -> bytes:
    """The content of `eval/gate.json`: the checks of a release that failed and were overridden."""
    fields = ("check", "found", "wanted", "reason")
    checks = [{name: asdict(result)[name] for name in fields} for result in overridden]
    record = {"schema_version": SCHEMA_VERSION, "version": version, "overridden": checks}
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def shown_overrides(overridden: Sequence[CheckResult]) -> list[str]:
    """The sentences of the notice on the card, each under the name of its check."""
    return [str(result) for result in overridden]


def recorded_overrides(model: ModelDirectory) -> list[str]:
    """The sentences that the card of a release must show; none where nothing was overridden.

    Raises:
        UserError: when the record is not what a release writes.
    """
    record = model.optional_json(GATE_RECORD) or {"overridden": []}
    return shown_overrides(
        [
            CheckResult(entry["check"], False, entry["found"], entry["wanted"], entry["reason"])
            for entry in record["overridden"]
        ]
    )
