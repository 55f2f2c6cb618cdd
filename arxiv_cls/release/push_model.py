"""Releases a model directory to the Hub: the gate with every check, the card, one commit, one tag."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.record.directory import ModelDirectory, find_secrets, read_model_directory
from arxiv_cls.record.files import write_atomically
from arxiv_cls.record.manifest import CARD, GATE_RECORD, RENDERED, release_files
from arxiv_cls.release.card import render_model_card
from arxiv_cls.release.gate_checks import (
    LOCAL_CHECKS,
    CheckResult,
    check_weights_evaluated,
    secrets_result,
)
from arxiv_cls.release.hub import Content, download_release
from arxiv_cls.release.releases import ReleaseResult, begin_release, plan_release, publish
from arxiv_cls.release.rescoring import (
    COMPARED,
    check_answers,
    check_corpus,
    compare_with_release,
    rebuild_corpus,
)
from arxiv_cls.scoring.scored_papers import ensure_examples

logger = logging.getLogger(__name__)

CHECK_NAMES = (*LOCAL_CHECKS, "corpus", "answers", *COMPARED)


@dataclass(frozen=True)
class GateReport:
    """All verdicts, and which refusals the person overrode."""

    results: list[CheckResult]
    overrides: frozenset[str]

    @property
    def refused(self) -> list[CheckResult]:
        """Checks that failed and were not, or cannot be, overridden."""
        return [result for result in self.results if not result.passed and result not in self.overridden]

    @property
    def overridden(self) -> list[CheckResult]:
        """Checks that failed and were overridden: these go on the card."""
        failed = [result for result in self.results if not result.passed]
        return [result for result in failed if result.overridable and result.check in self.overrides]

    def summary(self) -> str:
        """One line per check."""
        lines = []
        for result in self.results:
            verdict = "OVERRIDDEN" if result in self.overridden else "FAIL"
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


def run_gate(
    model: str | Path | ModelDirectory,
    *,
    current: Path | None = None,
    current_version: str = "",
    csv: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> GateReport:
    """Runs every check, also against the files `current` of the release on the Hub, where there is one.

    Raises:
        UserError: the directory is no finished model.
    """
    model = model if isinstance(model, ModelDirectory) else read_model_directory(model)
    results = [check(model) for check in LOCAL_CHECKS.values()]
    failed = {result.check for result in results if not result.passed}
    measured = not failed & {"weights", "data", "predictions"}
    corpus, problem = None, ""
    try:
        corpus = rebuild_corpus(model, csv)
    except UserError as error:
        problem = f"{error.message}: {error.hint}"
    results.append(check_corpus(model, corpus, problem))
    unscored = problem
    if "pickles" in failed:
        unscored = "a file that may run code when it is loaded is not loaded"
    elif not measured:
        unscored = "there are no recorded predictions of these weights to compare its answers with"
    results.append(check_answers(model, None if unscored else corpus, unscored))
    if current is None:
        reason = "no release on the Hub to compare with"
        results += [CheckResult(check, True, "-", "-", reason) for check in COMPARED]
    elif measured:
        results += compare_with_release(model, current, current_version, corpus, problem)
    else:
        reason = f"cannot be compared with {current_version} before it is evaluated"
        results += [CheckResult(check, False, "-", "-", reason) for check in COMPARED]
    return GateReport(results, frozenset(overrides))


@dataclass(frozen=True)
class PushOutcome:
    """A release and the gate's report; no report when the release was there already."""

    release: ReleaseResult
    gate: GateReport | None


def push_model(
    model_dir: str | Path,
    repo_id: str,
    *,
    version: str | None = None,
    overrides: Sequence[str] = (),
    create_pr: bool = False,
    private: bool = False,
    csv: str | Path | None = None,
) -> PushOutcome:
    """Releases a model directory to `user/name`, which is created when it does not exist.

    Without a version it is v0.1.0, then the next minor one. Overridden checks go on the card. With
    `create_pr` the same call tags the release once the request is merged. `csv` is data to score with, where
    it is not at the recipe's path.

    Raises:
        UserError: no such check to override, the gate refuses, the version exists with other content, the
            token is missing or refused, or the Hub cannot be reached (before any work, with exit code 3).
    """
    if unknown := sorted(set(overrides) - set(CHECK_NAMES)):
        message = f"there is no check {', '.join(unknown)} to override"
        raise UserError(message, hint=f"checks: {', '.join(CHECK_NAMES)}")
    model = read_model_directory(model_dir)
    folder = model.model_dir
    repository, state = begin_release(repo_id, version)
    # The examples are a file of the release: made later, they would be missing from it.
    if model.evaluation is not None and check_weights_evaluated(model).passed:
        ensure_examples(model)
    files: dict[str, Content] = {path: folder / path for path in release_files(folder, model.kind)}
    plan = plan_release(repository, state, version, files)
    if plan.commit is not None:
        return PushOutcome(publish(repository, plan, files), None)
    current, current_version = None, state.current_version if state else None
    if current_version is not None:
        logger.info("fetching %s@%s to compare with", repo_id, current_version)
        current = download_release(repository.api, repo_id, current_version)
    report = run_gate(
        model, current=current, current_version=current_version or "", csv=csv, overrides=overrides
    )
    report.raise_if_refused()
    if not (model.recipe.get("release") or {}).get("dataset"):
        logger.info(
            "the card names no dataset: write `dataset: user/name` into the recipe's release group, then "
            "`arxiv-cls card %s --recipe FILE`",
            folder,
        )
    rendered = _render(model, repo_id, plan.version, report)
    # Listed again: where other weights were overridden, the card had the examples made now.
    listing = release_files(folder, model.kind)
    files = {path: folder / path for path in listing if path not in RENDERED} | rendered
    release = publish(repository, plan, files, private=private, create_pr=create_pr)
    for path in RENDERED - set(rendered):
        (folder / path).unlink(missing_ok=True)
    for path, content in rendered.items():
        write_atomically(folder / path, content)
    return PushOutcome(release, report)


def _render(model: ModelDirectory, repo_id: str, version: str, report: GateReport) -> dict[str, bytes]:
    """What this release writes itself: the card, and the record of the overridden checks where there are any.

    Raises:
        UserError: when the card would hold a secret and that is not overridden.
    """

    def card() -> str:
        lines = [str(result) for result in overridden]
        return render_model_card(model, repo_id=repo_id, version=version, overrides=lines)

    overridden = report.overridden
    text = card()
    if found := find_secrets(text, CARD):
        secrets = GateReport([secrets_result(found)], report.overrides)
        secrets.raise_if_refused()
        if all(result.check != "secrets" for result in overridden):
            overridden = overridden + secrets.overridden
            text = card()
    if not overridden:
        return {CARD: text.encode()}
    fields = ("check", "found", "wanted", "reason")
    checks = [{name: getattr(result, name) for name in fields} for result in overridden]
    record = {"schema_version": 1, "version": version, "overridden": checks}
    return {
        CARD: text.encode(),
        GATE_RECORD: (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode(),
    }
