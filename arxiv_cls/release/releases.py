"""Releases of a repository on the Hub: one commit with exactly the given files, then one tag.

What makes it safe to run twice: before anything is sent the repository is compared with the files, so
that a commit whose answer was lost, or whose tag is missing, is recognised and only finished.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import METRICS, RENDERED, RUN_RECORD
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.release.hub import (
    ATTEMPTS,
    RELEASE_TITLE,
    RERUN,
    ROLLBACK_TITLE,
    Content,
    RepositoryState,
    check_repo_id,
    connect,
    download_release,
    hub_call,
    parse_version,
    read_state,
    remote_files,
    same_content,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repository:
    """A repository that releases go to: `user/name`, and "model", "dataset" or "space"."""

    api: HfApi
    repo_id: str
    repo_type: str = "model"

    @property
    def url(self) -> str:
        """Where a person looks at it."""
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{self.api.endpoint}/{prefix}{self.repo_id}"

    def state(self) -> RepositoryState | None:
        """As `read_state`."""
        return read_state(self.api, self.repo_id, self.repo_type)

    def files(self, revision: str) -> dict[str, str]:
        """As `remote_files`."""
        return remote_files(self.api, self.repo_id, revision, self.repo_type)

    def holds(self, revision: str, files: Mapping[str, Content]) -> bool:
        """Whether a revision has exactly these files, but for those that name the version (`RENDERED`)."""
        remote, paths = self.files(revision), set(files) - RENDERED
        return set(remote) - RENDERED == paths and all(
            same_content(remote[path], files[path]) for path in paths
        )

    def create(self, *, private: bool, space_sdk: str | None = None) -> RepositoryState:
        """Creates it, and returns its state; a Space needs its SDK for that.

        Raises:
            UserError: when the Hub refuses or cannot be reached, or somebody else was faster.
        """
        options = {"repo_type": self.repo_type, "private": private, "space_sdk": space_sdk}
        hub_call(
            f"creating {self.repo_id}",
            lambda: self.api.create_repo(self.repo_id, exist_ok=True, **options),
            unless_done=RERUN,
        )
        created = self.state()
        if created is None:
            raise UserError(f"{self.repo_id} was created, and the Hub does not show it yet", RERUN, 3)
        if created.versions or len(created.history) > 1:
            raise UserError(f"somebody else created {self.repo_id} meanwhile and wrote to it", RERUN)
        return created


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
    """What is to be done: a version, and the commit that already holds it when there is one."""

    version: str
    commit: str | None
    tagged: bool


def plan_release(
    repository: Repository, state: RepositoryState | None, version: str | None, files: Mapping[str, Content]
) -> Plan:
    """Decides the version, and whether these files are on the Hub already.

    Args:
        repository: where the release goes.
        state: of the repository; None when it does not exist yet.
        version: the version asked for; None for the next one.
        files: path to content of everything but what the release itself writes.

    Raises:
        UserError: when the version exists and holds something else.
    """
    if version is not None:
        parse_version(version)
    if state is None:
        return Plan(version or "v0.1.0", None, False)
    existing = version if version in state.versions else state.latest_version if version is None else None
    if existing is not None and repository.holds(state.versions[existing], files):
        return Plan(existing, state.versions[existing], True)
    if version in state.versions:
        raise UserError(
            f"{repository.repo_id} has a release {version} with other files; a version is never overwritten",
            hint=f"leave VERSION out for {state.next_version()}, or name a new one",
        )
    wanted = version or state.next_version()
    begun = next((oid for oid in _untagged(state, wanted) if repository.holds(oid, files)), None)
    return Plan(wanted, begun, False)


def _untagged(state: RepositoryState, version: str) -> Iterator[str]:
    """Commits that are titled as a version and are not tagged, newest first.

    Not only the head: others may have changed main since the request was merged or the tag failed. What lies
    below a tag or a roll-back was superseded, and is no longer to be finished.
    """
    tagged = set(state.versions.values())
    for oid, title in state.history:
        if oid in tagged or ROLLBACK_TITLE.fullmatch(title):
            return
        release = RELEASE_TITLE.fullmatch(title)
        if release and release[1] == version:
            yield oid


def publish(
    repository: Repository,
    plan: Plan,
    files: Mapping[str, Content],
    *,
    parent: str,
    create_pr: bool = False,
    description: str = "",
    created: bool = False,
) -> ReleaseResult:
    """Makes the commit and the tag that the plan still lacks.

    Args:
        repository: where the release goes; it exists.
        plan: from `plan_release`.
        files: path to content of the whole release, the card too.
        parent: main's head as it was when the plan was made.
        create_pr: open a pull request instead; the same command tags it once it is merged.
        description: the commit's body.
        created: the repository was made for this release and holds nothing yet.

    Raises:
        UserError: when the Hub refuses, fails or cannot be reached, or main has moved since.
    """
    commit, url = plan.commit, f"{repository.url}/tree/{plan.version}"
    title = f"Release {plan.version}"
    state = "present" if plan.tagged else "finished"
    if commit is None and create_pr:
        request = _open_request(repository, title, files)
        request = request or _commit(repository, title, files, parent, True, description, created)
        return ReleaseResult(repository.repo_id, plan.version, None, "proposed", request)
    if commit is None:
        commit = _commit(repository, title, files, parent, False, description, created)
        state = "released"
    if not plan.tagged:
        _tag(repository, plan.version, commit)
    return ReleaseResult(repository.repo_id, plan.version, commit, state, url)


def _commit(
    repository: Repository,
    title: str,
    files: Mapping[str, Content],
    parent: str,
    create_pr: bool,
    description: str,
    created: bool,
) -> str:
    """Sends the commit; returns its id, or the URL of the pull request."""
    operations: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
    operations += [CommitOperationDelete(path) for path in repository.files(parent) if path not in files]

    def commit() -> str:
        try:
            info = repository.api.create_commit(
                repository.repo_id,
                operations,
                commit_message=title,
                commit_description=description,
                repo_type=repository.repo_type,
                parent_commit=parent,
                create_pr=create_pr,
            )
        except Exception as error:
            committed = None if create_pr else _lost_commit(repository, title, files, parent)
            if committed is None:
                raise
            logger.info("the commit is on the Hub although its answer was lost (%s)", type(error).__name__)
            return committed
        return info.pr_url if create_pr else info.oid

    repo_id, again = repository.repo_id, RERUN
    if created:
        kind = "" if repository.repo_type == "model" else f" --type {repository.repo_type}"
        again += (
            f"\n  {repo_id} was created for it and is empty: `hf repos delete {repo_id}{kind}` removes it"
        )
    with warnings.catch_warnings():
        # The predictions belong to the evaluation that the model carries.
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        # A second commit on the same parent is refused; a second pull request would be opened.
        attempts = 1 if create_pr else ATTEMPTS
        return hub_call(f"committing to {repo_id}", commit, unless_done=again, attempts=attempts)


def _lost_commit(repository: Repository, title: str, files: Mapping[str, Content], parent: str) -> str | None:
    """The head, when it is the commit whose answer was lost."""
    try:
        state = repository.state()
        if state is None or state.head == parent or state.history[0][1] != title:
            return None
        return state.head if repository.holds(state.head, files) else None
    except UserError:
        return None


def _open_request(repository: Repository, title: str, files: Mapping[str, Content]) -> str | None:
    """The URL of an open pull request that proposes exactly these files under this title."""
    wanted = {"discussion_type": "pull_request", "discussion_status": "open"}
    found = hub_call(
        f"reading the pull requests of {repository.repo_id}",
        lambda: list(
            repository.api.get_repo_discussions(repository.repo_id, repo_type=repository.repo_type, **wanted)
        ),
    )
    for request in found:
        if request.title == title and repository.holds(f"refs/pr/{request.num}", files):
            return request.url
    return None


def _tag(repository: Repository, version: str, commit: str) -> None:
    def tag() -> None:
        try:
            repository.api.create_tag(
                repository.repo_id, tag=version, revision=commit, repo_type=repository.repo_type
            )
        except HfHubHTTPError as error:
            # A tag whose answer was lost is there at the second attempt; somebody else's is not ours.
            if error.response.status_code != 409:
                raise
            state = repository.state()
            if state is None or state.versions.get(version) != commit:
                raise

    hub_call(f"tagging {version}", tag, unless_done=RERUN)


def _existing(repository: Repository) -> RepositoryState:
    state = repository.state()
    if state is None:
        raise UserError(
            f"the Hub knows no repository {repository.repo_id}",
            hint="check the name; a private repository needs HF_TOKEN or `hf auth login`",
        )
    return state


def list_releases(repo_id: str) -> str:
    """The versions of a model as a table for the terminal, newest first; `*` marks what main serves.

    Raises:
        UserError: when there is no such repository or the Hub cannot be reached.
    """
    api = connect(write=False)
    state = _existing(Repository(api, check_repo_id(repo_id)))
    if not state.versions:
        return f"{repo_id} has no releases"
    rows = [("", "version", "kind", "accuracy", "macro_f1", "calibration", "papers", "data", "weights")]
    for version, commit in reversed(state.versions.items()):
        folder = download_release(api, repo_id, commit, only=[METRICS, RUN_RECORD])
        evaluation, run = read_model_file(folder, METRICS) or {}, read_model_file(folder, RUN_RECORD) or {}
        metrics = evaluation.get("metrics", {})
        numbers = [metrics.get(name) for name in ("accuracy", "macro_f1", "expected_calibration_error")]
        rows.append(
            (
                "*" if version == state.current_version else "",
                version,
                run.get("kind") or "?",
                *("?" if number is None else f"{number:.4f}" for number in numbers),
                "?" if evaluation.get("papers") is None else str(evaluation["papers"]),
                (run.get("data", {}).get("md5") or "?")[:8],
                (run.get("weights_sha256") or "?")[:8],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def rollback(repo_id: str, version: str) -> str:
    """Makes an older version current: a new commit on main with exactly that version's files.

    Returns:
        The id of main's head afterwards; the same as before when main held these files already.

    Raises:
        UserError: when the version does not exist, main moves meanwhile, or the Hub cannot be reached.
    """
    check_repo_id(repo_id)
    parse_version(version)
    repository = Repository(connect(write=True), repo_id)
    state = _existing(repository)
    if version not in state.versions:
        known = ", ".join(state.versions) or "none"
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

    def commit() -> str:
        return repository.api.create_commit(
            repo_id, operations, commit_message=f"Roll back to {version}", parent_commit=state.head
        ).oid

    return hub_call(f"rolling {repo_id} back to {version}", commit, unless_done=RERUN, attempts=1)
