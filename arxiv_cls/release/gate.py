"""The overridden checks of a release, `eval/gate.json`: what the notice on its card is held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import GATE_RECORD
from arxiv_cls.record.model_directory import ModelDirectory, read_model_directory
from arxiv_cls.release.card_data import Shown
from arxiv_cls.release.check_result import CheckResult
from arxiv_cls.release.comparison import Comparison, RebuiltData, compare_with_release, rebuild_data
from arxiv_cls.release.gate_checks import LOCAL_CHECKS, check_answers, check_corpus

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


def recorded_overrides(evidence: ModelDirectory) -> list[Shown]:
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


CHECK_NAMES = (
    "files", "checksums", "pickles", "secrets", "weights", "data", "predictions", "commit", "clean-tree",
    "recipe", "onnx", "corpus", "answers", "quality", "calibration",
)  # fmt: skip


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
        if self.refused:
            names = [result.check for result in self.refused if result.overridable]
            fixed = [result.check for result in self.refused if not result.overridable]
            options = " ".join(f"--override {name}" for name in names)
            options += f" (with make OVERRIDE={','.join(names)})"
            hints = [f"no override helps {', '.join(fixed)}: the card could not be written"] if fixed else []
            if names:
                first = "the rest: mend it" if fixed else "mend it"
                hints.append(f"{first}, or override, and the card will say so: {options}")
            raise UserError(
                "the gate refuses this release:\n" + "\n".join(f"  - {result}" for result in self.refused),
                hint="\n  ".join(hints),
            )


def check_against_release(comparison: Comparison | None) -> list[CheckResult]:
    """Macro-F1 and calibration are not significantly worse than those of the release now on the Hub."""
    if comparison is None:
        reason = "no release on the Hub to compare with"
        return [CheckResult(check, True, "-", "-", reason) for check in ("quality", "calibration")]
    if comparison.impossible:
        return [
            CheckResult(check, False, comparison.found, comparison.wanted, comparison.impossible)
            for check in ("quality", "calibration")
        ]
    results = []
    left_out = ""
    if comparison.left_out:
        left_out = f" (less {comparison.left_out} that {comparison.version} was trained on)"
    for check, metric, sign in (
        ("quality", "macro_f1", 1),
        ("calibration", "expected_calibration_error", -1),
    ):
        old, new, difference = (
            comparison.before[metric],
            comparison.after[metric],
            comparison.differences[metric],
        )
        worst_case = difference.high if sign == 1 else -difference.low
        passed = worst_case >= 0
        reason = (
            f"{metric} is {'not ' if passed else ''}significantly worse than {comparison.version}'s on the "
            f"same {comparison.papers} papers{left_out}: difference {difference.difference:+.4f}, "
            f"95% interval {difference.low:+.4f} to {difference.high:+.4f}"
        )
        results.append(CheckResult(check, passed, f"{new:.4f}", f"{old:.4f}", reason))
    return results


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
    evidence = model if isinstance(model, ModelDirectory) else read_model_directory(model)
    results = [check(evidence) for check in LOCAL_CHECKS]
    comparison = None
    failed = {result.check for result in results if not result.passed}
    measured = not failed & {"weights", "data", "predictions"}
    data, problem = _data_at_hand(evidence, csv)
    results.append(check_corpus(evidence, data, problem))
    if "pickles" in failed:
        problem = "a file that may run code when it is loaded is not loaded"
    elif not measured:
        problem = "there are no recorded predictions of these weights to hold its answers against"
    results.append(check_answers(evidence, None if problem else data, problem))
    if current is not None and measured:
        comparison = compare_with_release(evidence, current, current_version, csv=csv, data=data)
    if current is not None and not measured:
        reason = f"cannot be compared with {current_version} before it is evaluated"
        results += [CheckResult(check, False, "-", "-", reason) for check in ("quality", "calibration")]
    else:
        results += check_against_release(comparison)
    return GateReport(results, frozenset(overrides))


def _data_at_hand(evidence: ModelDirectory, csv: str | Path | None) -> tuple[RebuiltData | None, str]:
    """The candidate's corpus, or what a person must do to have it."""
    try:
        return rebuild_data(evidence, csv), ""
    except UserError as error:
        return None, f"{error.message}: {error.hint}" if error.hint else error.message
