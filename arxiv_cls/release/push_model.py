"""Releases a model directory to the Hub: gate, card, one commit, one tag."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.record.directory import ModelDirectory, find_secrets, read_model_directory
from arxiv_cls.record.files import write_atomically
from arxiv_cls.record.manifest import CARD, GATE_RECORD, RENDERED, release_files
from arxiv_cls.release.card import render_model_card
from arxiv_cls.release.gate import GateReport, check_names_known, gate_record, run_gate, shown_overrides
from arxiv_cls.release.gate_checks import CheckResult, check_weights_evaluated, listed
from arxiv_cls.release.hub import Content, check_repo_id, connect, download_release, parse_version
from arxiv_cls.release.releases import ReleaseResult, Repository, plan_release, publish
from arxiv_cls.scoring.example_papers import ensure_examples

logger = logging.getLogger(__name__)


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
    """Releases a model directory.

    Args:
        model_dir: what train.py or train_tfidf.py wrote.
        repo_id: `user/name`; created when it does not exist.
        version: the tag, such as v1.2.0; None for v0.1.0, then the next minor version.
        overrides: names of gate checks to override; those that were needed go on the card.
        create_pr: open a pull request; the same command tags it once it is merged.
        private: create the repository private.
        csv: data to score with, where the gate cannot pair the predictions of the two models as they are.

    Raises:
        UserError: when the gate refuses, the version exists with other content, the token is missing or
            refused, or the Hub cannot be reached (before any work, with exit code 3).
    """
    check_repo_id(repo_id)
    check_names_known(overrides)
    if version is not None:
        parse_version(version)
    model = read_model_directory(model_dir)
    folder = model.model_dir
    repository = Repository(connect(write=True), repo_id)
    state = repository.state()

    # The examples are a file of the release: made later, they would be missing from it.
    if model.evaluation is not None and check_weights_evaluated(model).passed:
        ensure_examples(model)
    files: dict[str, Content] = {path: folder / path for path in release_files(folder, model.kind)}
    plan = plan_release(repository, state, version, files)
    report, rendered = None, {}
    if plan.commit is None:
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
    created = state is None
    state = state or repository.create(private=private)
    release = publish(repository, plan, files, parent=state.head, create_pr=create_pr, created=created)
    if report is not None:
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

    def card(overridden: list[CheckResult]) -> str:
        lines = shown_overrides(overridden)
        return render_model_card(model, repo_id=repo_id, version=version, overrides=lines)

    overridden = report.overridden
    text = card(overridden)
    if found := find_secrets(text, CARD):
        reason = f"looks like a secret: {listed(found)}"
        secrets = GateReport([CheckResult("secrets", False, str(len(found)), "0", reason)], report.overrides)
        secrets.raise_if_refused()
        if all(result.check != "secrets" for result in overridden):
            overridden = overridden + secrets.overridden
            text = card(overridden)
    record = {GATE_RECORD: gate_record(overridden, version)} if overridden else {}
    return {CARD: text.encode(), **record}
