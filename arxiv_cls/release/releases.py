"""The versions of a model on the Hub: list them with their numbers, and make an older one current."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi

from arxiv_cls.errors import UserError
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.release.atomic_commit import RERUN
from arxiv_cls.release.hub_client import check_repo_id, connect, download_release, hub_errors, parse_version
from arxiv_cls.release.hub_state import RepositoryState, read_state, remote_files
from arxiv_cls.release.manifest import METRICS, RUN_RECORD


@dataclass(frozen=True)
class ReleaseLine:
    """One version with what it recorded; a number that it does not record is None.

    Attributes:
        version: the tag.
        commit: the commit it names.
        current: main serves it now.
        kind: "transformer" or "tfidf".
        accuracy, macro_f1, expected_calibration_error: on the test split.
        test_papers: how many papers these were measured on.
        data_md5: version of the data.
        weights_sha256: identity of the weights.
    """

    version: str
    commit: str
    current: bool
    kind: str | None
    accuracy: float | None
    macro_f1: float | None
    expected_calibration_error: float | None
    test_papers: int | None
    data_md5: str | None
    weights_sha256: str | None


def _state_of(api: HfApi, repo_id: str) -> RepositoryState:
    state = read_state(api, check_repo_id(repo_id))
    if state is None:
        raise UserError(
            f"the Hub knows no repository {repo_id}",
            hint="check the name; a private repository needs HF_TOKEN or `hf auth login`",
        )
    return state


def list_releases(repo_id: str) -> list[ReleaseLine]:
    """Every version of a repository, newest first.

    Raises:
        UserError: when there is no such repository or the Hub cannot be reached.
    """
    api = connect(write=False)
    state = _state_of(api, repo_id)
    lines = []
    for version, commit in reversed(state.versions.items()):
        folder = download_release(api, repo_id, commit, only=[METRICS, RUN_RECORD])
        evaluation, run = read_model_file(folder, METRICS) or {}, read_model_file(folder, RUN_RECORD) or {}
        metrics = evaluation.get("metrics", {})
        lines.append(
            ReleaseLine(
                version=version,
                commit=commit,
                current=version == state.current_version,
                kind=run.get("kind"),
                accuracy=metrics.get("accuracy"),
                macro_f1=metrics.get("macro_f1"),
                expected_calibration_error=metrics.get("expected_calibration_error"),
                test_papers=evaluation.get("papers"),
                data_md5=run.get("data", {}).get("md5"),
                weights_sha256=run.get("weights_sha256"),
            )
        )
    return lines


def format_releases(lines: Sequence[ReleaseLine]) -> str:
    """The list as a table for the terminal; `*` marks the version that main serves."""
    header = ("", "version", "kind", "accuracy", "macro_f1", "calibration", "papers", "data", "weights")
    rows = [header]
    for line in lines:
        numbers = (line.accuracy, line.macro_f1, line.expected_calibration_error)
        rows.append(
            (
                "*" if line.current else "",
                line.version,
                line.kind or "?",
                *("?" if number is None else f"{number:.4f}" for number in numbers),
                "?" if line.test_papers is None else str(line.test_papers),
                (line.data_md5 or "?")[:8],
                (line.weights_sha256 or "?")[:8],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def rollback(repo_id: str, version: str) -> str:
    """Makes an older version current: a new commit on main with exactly that version's files.

    Args:
        repo_id: `user/name`.
        version: the tag to go back to.

    Returns:
        The id of main's head afterwards; the same as before when main held these files already.

    Raises:
        UserError: when the version does not exist, main moves meanwhile, or the Hub cannot be reached.
    """
    check_repo_id(repo_id)
    parse_version(version)
    api = connect(write=True)
    state = _state_of(api, repo_id)
    if version not in state.versions:
        known = ", ".join(state.versions) or "none"
        raise UserError(f"{repo_id} has no version {version}", hint=f"versions there: {known}")
    wanted, present = remote_files(api, repo_id, version), remote_files(api, repo_id, state.head)
    operations: list[CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationCopy(path, path, src_revision=version)
        for path, file in wanted.items()
        if present.get(path) != file
    ]
    operations += [CommitOperationDelete(path) for path in present if path not in wanted]
    if not operations:
        return state.head
    with hub_errors(f"rolling {repo_id} back to {version}", unless_done=RERUN):
        return api.create_commit(
            repo_id, operations, commit_message=f"Roll back to {version}", parent_commit=state.head
        ).oid
