"""Releases of a repository on the Hub: one commit with exactly the given files, then one tag.

What makes it safe to run twice: before anything is sent the repository is compared with the files, so
that a commit whose answer was lost, or whose tag is missing, is recognised and only finished.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import METRICS, RUN_RECORD
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.release import hub
from arxiv_cls.release.hub import Content, Repository, RepositoryState, hub_call

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleaseResult:
    """What became of a release: "released", "finished", "present" or "proposed", as `describe` explains.

    `commit` is None while a pull request waits; `url` is where a person looks at it.
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
    """What is to be done: a version, the commit that already holds it, if any, and whether that has its tag.

    `state` is the repository's when the plan was made; None when there was none.
    """

    version: str
    commit: str | None
    tagged: bool
    state: RepositoryState | None

    @property
    def title(self) -> str:
        """Of the commit."""
        return f"Release {self.version}"


def begin_release(
    repo_id: str, version: str | None, repo_type: str = "model", *, required: bool = False
) -> tuple[Repository, RepositoryState | None]:
    """The repository to write to, and its state (None: there is none): what can fail before any work.

    Raises:
        UserError: a name is malformed, the token is missing or refused, a required repository is not there,
            or the Hub cannot be reached.
    """
    hub.check_repo_id(repo_id)
    if version is not None:
        hub.parse_version(version)
    repository = Repository(hub.connect(write=True), repo_id, repo_type)
    return repository, repository.state(required=required)


def plan_release(
    repository: Repository,
    state: RepositoryState | None,
    version: str | None,
    files: Mapping[str, Content],
) -> Plan:
    """Decides the version, and whether these files are on the Hub already.

    `files` is path to content of everything but what the release itself writes.

    Raises:
        UserError: the version exists and holds something else.
    """
    if state is None:
        return Plan(version or "v0.1.0", None, False, None)
    existing = state.versions.get(version or state.latest_version or "")
    if existing is not None and repository.holds(existing, files):
        return Plan(version or str(state.latest_version), existing, True, state)
    if version in state.versions:
        raise UserError(
            f"{repository.repo_id} has a release {version} with other files; a version is never overwritten",
            hint=f"leave the version out for {state.next_version()}, or name a new one",
        )
    plan = Plan(version or state.next_version(), None, False, state)
    # Not only the head: others may have changed main since the request was merged or the tag failed. What
    # lies below a tag or a roll-back was superseded, and is no longer to be finished.
    for oid, title in state.history:
        if oid in state.versions.values() or hub.ROLLBACK_TITLE.fullmatch(title):
            break
        release = hub.RELEASE_TITLE.fullmatch(title)
        if release and release[1] == plan.version and repository.holds(oid, files):
            return replace(plan, commit=oid)
    return plan


def publish(
    repository: Repository,
    plan: Plan,
    files: Mapping[str, Content],
    *,
    private: bool = False,
    create_pr: bool = False,
    description: str = "",
) -> ReleaseResult:
    """Makes the repository, the commit and the tag that the plan still lacks.

    `files` is path to content of the whole release, the card too. With `create_pr` a pull request is opened
    instead; the same call tags it once it is merged.

    Raises:
        UserError: the Hub refuses, fails or cannot be reached, or main has moved since the plan.
    """
    commit, url = plan.commit, f"{repository.url}/tree/{plan.version}"
    outcome = "present" if plan.tagged else "finished"
    if commit is None:
        parent = (plan.state or repository.create(private=private)).head
        if create_pr:
            request = _open_request(repository, plan, files)
            request = request or _commit(repository, plan, files, parent, description, create_pr=True)
            return ReleaseResult(repository.repo_id, plan.version, None, "proposed", request)
        commit, outcome = _commit(repository, plan, files, parent, description), "released"
    if not plan.tagged:
        _tag(repository, plan.version, commit)
    return ReleaseResult(repository.repo_id, plan.version, commit, outcome, url)


def _commit(
    repository: Repository,
    plan: Plan,
    files: Mapping[str, Content],
    parent: str,
    description: str,
    *,
    create_pr: bool = False,
) -> str:
    """Sends the commit; returns its id, or the URL of the pull request."""
    repo_id = repository.repo_id
    operations: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
    operations += [CommitOperationDelete(path) for path in repository.files(parent) if path not in files]

    def commit() -> str:
        try:
            info = repository.api.create_commit(
                **repository.address,
                operations=operations,
                commit_message=plan.title,
                commit_description=description,
                parent_commit=parent,
                create_pr=create_pr,
            )
        except Exception as error:
            committed = None if create_pr else _lost_commit(repository, plan, files, parent)
            if committed is None:
                raise
            logger.info("the commit is on the Hub although its answer was lost (%s)", type(error).__name__)
            return committed
        return info.pr_url if create_pr else info.oid

    again = hub.RERUN
    if plan.state is None:
        kind = "" if repository.repo_type == "model" else f" --type {repository.repo_type}"
        again += (
            f"\n  {repo_id} was created for it and is empty: `hf repos delete {repo_id}{kind}` removes it"
        )
    with warnings.catch_warnings():
        # The predictions belong to the evaluation that the model carries.
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        # A second commit on the same parent is refused; a second pull request would be opened.
        attempts = 1 if create_pr else hub.ATTEMPTS
        return hub_call(f"committing to {repo_id}", commit, unless_done=again, attempts=attempts)


def _lost_commit(repository: Repository, plan: Plan, files: Mapping[str, Content], parent: str) -> str | None:
    """The head, when it is the commit whose answer was lost."""
    try:
        state = repository.state()
        lost = state is not None and state.head != parent and state.history[0][1] == plan.title
        return state.head if state and lost and repository.holds(state.head, files) else None
    except UserError:
        # The failure of the commit is what the person is told.
        return None


def _open_request(repository: Repository, plan: Plan, files: Mapping[str, Content]) -> str | None:
    """The URL of an open pull request that proposes exactly these files under this title."""
    wanted = {"discussion_type": "pull_request", "discussion_status": "open"}
    found = hub_call(
        f"reading the pull requests of {repository.repo_id}",
        lambda: list(repository.api.get_repo_discussions(**repository.address, **wanted)),
    )
    for request in found:
        if request.title == plan.title and repository.holds(f"refs/pr/{request.num}", files):
            return request.url
    return None


def _tag(repository: Repository, version: str, commit: str) -> None:
    def tag() -> None:
        try:
            repository.api.create_tag(**repository.address, tag=version, revision=commit)
        except HfHubHTTPError as error:
            # A tag whose answer was lost is there at the second attempt; somebody else's is not ours.
            state = repository.state() if error.response.status_code == 409 else None
            if state is None or state.versions.get(version) != commit:
                raise

    hub_call(f"tagging {version}", tag, unless_done=hub.RERUN)


def list_releases(repo_id: str) -> str:
    """The versions of a model as a table for the terminal, newest first; `*` marks what main serves.

    Raises:
        UserError: when there is no such repository or the Hub cannot be reached.
    """
    hub.check_repo_id(repo_id)
    api = hub.connect(write=False)
    state = Repository(api, repo_id).state(required=True)
    if state is None or not state.versions:
        return f"{repo_id} has no releases"
    rows = [["", "version", "kind", "accuracy", "macro_f1", "calibration", "papers", "data", "weights"]]
    for version, commit in reversed(state.versions.items()):
        folder = hub.download_release(api, repo_id, commit, only=[METRICS, RUN_RECORD])
        evaluation, run = read_model_file(folder, METRICS) or {}, read_model_file(folder, RUN_RECORD) or {}
        metrics = evaluation.get("metrics", {})
        numbers = [metrics.get(name) for name in ("accuracy", "macro_f1", "expected_calibration_error")]
        rows.append(
            [
                "*" if version == state.current_version else "",
                version,
                run.get("kind") or "?",
                *("?" if number is None else f"{number:.4f}" for number in numbers),
                str(evaluation.get("papers", "?")),
                (run.get("data", {}).get("md5") or "?")[:8],
                (run.get("weights_sha256") or "?")[:8],
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def rollback(repo_id: str, version: str) -> str:
    """Makes an older version current, by a commit on main with exactly its files; returns the id of the head.

    Raises:
        UserError: the version does not exist, main moves meanwhile, or the Hub cannot be reached.
    """
    repository, state = begin_release(repo_id, version, required=True)
    if state is None or version not in state.versions:
        known = ", ".join(state.versions if state else ()) or "none"
        raise UserError(f"{repo_id} has no version {version}", hint=f"versions there: {known}")
    wanted, present = repository.files(version), repository.files(state.head)
    operations: list[Any] = [
        CommitOperationCopy(path, path, src_revision=version)
        for path, identity in wanted.items()
        if present.get(path) != identity
    ]
    operations += [CommitOperationDelete(path) for path in present if path not in wanted]
    if not operations:
        return state.head

    commit = {"commit_message": f"Roll back to {version}", "parent_commit": state.head}
    return hub_call(
        f"rolling {repo_id} back to {version}",
        lambda: repository.api.create_commit(repo_id, operations, **commit).oid,
        unless_done=hub.RERUN,
        attempts=1,
    )
