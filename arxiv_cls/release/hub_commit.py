"""One release: one commit with exactly the given files, guarded by its parent, then one tag.

What makes it safe to run twice: before anything is sent the repository is compared with the files, so
that a commit whose answer was lost, or whose tag is missing, is recognised and only finished.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import METRICS, RUN_RECORD
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.release.hub import (
    AGAIN,
    ATTEMPTS,
    RELEASE_TITLE,
    ROLLBACK_TITLE,
    Content,
    RepositoryState,
    check_repo_id,
    connect,
    download_release,
    hub_call,
    hub_errors,
    open_request,
    parse_version,
    read_state,
    remote_files,
    same_release,
)

logger = logging.getLogger(__name__)

RERUN = f"{AGAIN}: it finishes what was begun, and nothing is sent twice"


@dataclass(frozen=True)
class ReleaseResult:
    """What became of a release.

    Attributes:
        repo_id: `user/name`.
        version: its tag.
        commit: the commit that holds it; None while a pull request waits.
        state: "released", "finished" (an earlier run's commit got its tag), "present" (nothing to do),
            "proposed" (a pull request waits).
        url: where to look at it.
    """

    repo_id: str
    version: str
    commit: str | None
    state: str
    url: str

    def describe(self) -> str:
        """One or two lines for the terminal: what was done, where it is, what comes next."""
        what = f"{self.repo_id} {self.version}"
        return {
            "released": f"released {what}: {self.url}",
            "finished": f"finished the release of {what}, which was committed but not tagged: {self.url}",
            "present": f"{what} holds these files already, nothing to do: {self.url}",
            "proposed": f"proposed {what}: {self.url}\n  once it is merged, run the same command to tag it",
        }[self.state]


@dataclass(frozen=True)
class Plan:
    """What is to be done: a version, and the commit that already holds it when there is one."""

    version: str
    commit: str | None
    tagged: bool


def plan_release(
    api: HfApi,
    repo_id: str,
    state: RepositoryState | None,
    version: str | None,
    files: Mapping[str, Content],
    repo_type: str = "model",
) -> Plan:
    """Decides the version, and whether these files are on the Hub already.

    Args:
        api: the client.
        repo_id: `user/name`.
        state: the repository; None when it does not exist yet.
        version: the version asked for; None for the next one.
        files: path to content of everything but what the release itself writes.
        repo_type: "model" or "dataset".

    Raises:
        UserError: when the version exists and holds something else.
    """
    if version is not None:
        parse_version(version)
    if state is None:
        return Plan(version or "v0.1.0", None, False)

    def holds(revision: str) -> bool:
        return same_release(remote_files(api, repo_id, revision, repo_type), files)

    existing = version if version in state.versions else state.latest_version if version is None else None
    if existing is not None and holds(state.versions[existing]):
        return Plan(existing, state.versions[existing], True)
    if version in state.versions:
        raise UserError(
            f"{repo_id} has a release {version} with other files; a version is never overwritten",
            hint=f"leave VERSION out for {state.next_version()}, or name a new one",
        )
    wanted = version or state.next_version()
    return Plan(wanted, next((oid for oid in _untagged(state, wanted) if holds(oid)), None), False)


def _untagged(state: RepositoryState, version: str) -> Iterator[str]:
    """Commits that are titled as a version and are not tagged, newest first.

    Not only the head: others may have changed main since the request was merged or the tag failed. What lies
    below a tag or a roll-back was superseded, and is no longer to be finished.
    """
    tagged = set(state.versions.values())
    for commit in state.history:
        if commit.oid in tagged or ROLLBACK_TITLE.fullmatch(commit.title):
            return
        title = RELEASE_TITLE.fullmatch(commit.title)
        if title and title[1] == version:
            yield commit.oid


def publish(
    api: HfApi,
    repo_id: str,
    plan: Plan,
    files: Mapping[str, Content],
    *,
    parent: str,
    repo_type: str = "model",
    create_pr: bool = False,
    description: str = "",
    created: bool = False,
) -> ReleaseResult:
    """Makes the commit and the tag that the plan still lacks.

    Args:
        api: the client.
        repo_id: `user/name`; it exists.
        plan: from `plan_release`.
        files: path to content of the whole release, the card too.
        parent: main's head as it was when the plan was made.
        repo_type: "model" or "dataset".
        create_pr: open a pull request instead; the same command tags it once it is merged.
        description: the commit's body.
        created: the repository was made for this release and holds nothing yet.

    Raises:
        UserError: when the Hub refuses, fails or cannot be reached, or main has moved since.
    """
    prefix = "" if repo_type == "model" else f"{repo_type}s/"
    url = f"{api.endpoint}/{prefix}{repo_id}"
    commit, finished = plan.commit, plan.commit is not None
    if plan.tagged:
        return ReleaseResult(repo_id, plan.version, commit, "present", f"{url}/tree/{plan.version}")
    title = f"Release {plan.version}"
    if commit is None and create_pr:
        request = open_request(api, repo_id, title, files, repo_type)
        request = request or _commit(
            api, repo_id, title, files, parent, repo_type, description, True, created
        )
        return ReleaseResult(repo_id, plan.version, None, "proposed", request)
    if commit is None:
        commit = _commit(api, repo_id, title, files, parent, repo_type, description, False, created)
    _tag(api, repo_id, plan.version, commit, repo_type)
    state = "finished" if finished else "released"
    return ReleaseResult(repo_id, plan.version, commit, state, f"{url}/tree/{plan.version}")


def _commit(
    api: HfApi,
    repo_id: str,
    title: str,
    files: Mapping[str, Content],
    parent: str,
    repo_type: str,
    description: str,
    create_pr: bool,
    created: bool,
) -> str:
    """Sends the commit; returns its id, or the URL of the pull request."""
    present = remote_files(api, repo_id, parent, repo_type)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, content) for path, content in files.items()
    ]
    operations += [CommitOperationDelete(path) for path in present if path not in files]

    def commit() -> str:
        try:
            info = api.create_commit(
                repo_id,
                operations,
                commit_message=title,
                commit_description=description,
                repo_type=repo_type,
                parent_commit=parent,
                create_pr=create_pr,
            )
        except Exception as error:
            committed = None if create_pr else _landed(api, repo_id, title, files, repo_type, parent)
            if committed is None:
                raise
            logger.info("the commit is on the Hub although its answer was lost (%s)", type(error).__name__)
            return committed
        return info.pr_url if create_pr else info.oid

    again = RERUN
    if created:
        kind = "" if repo_type == "model" else f" --type {repo_type}"
        again += (
            f"\n  {repo_id} was created for it and is empty: `hf repos delete {repo_id}{kind}` removes it"
        )
    with warnings.catch_warnings():
        # The predictions belong to the evaluation that the model carries.
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        # A second commit on the same parent is refused; a second pull request would be opened.
        attempts = 1 if create_pr else ATTEMPTS
        return hub_call(f"committing to {repo_id}", commit, unless_done=again, attempts=attempts)


def _landed(
    api: HfApi, repo_id: str, title: str, files: Mapping[str, Content], repo_type: str, parent: str
) -> str | None:
    """The head, when it is the commit whose answer was lost."""
    try:
        state = read_state(api, repo_id, repo_type)
    except UserError:
        return None
    if state is None or state.head == parent or state.history[0].title != title:
        return None
    return state.head if same_release(remote_files(api, repo_id, state.head, repo_type), files) else None


def _tag(api: HfApi, repo_id: str, version: str, commit: str, repo_type: str) -> None:
    def tag() -> None:
        try:
            api.create_tag(repo_id, tag=version, revision=commit, repo_type=repo_type)
        except HfHubHTTPError as error:
            # A tag whose answer was lost is there at the second attempt; somebody else's is not ours.
            if error.response.status_code != 409:
                raise
            state = read_state(api, repo_id, repo_type)
            if state is None or state.versions.get(version) != commit:
                raise

    hub_call(f"tagging {version}", tag, unless_done=RERUN)


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
