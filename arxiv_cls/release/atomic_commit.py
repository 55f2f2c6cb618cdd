"""One release: one commit with exactly the given files, guarded by its parent, then one tag.

What makes it safe to run twice: before anything is sent the repository is compared with the files, so
that a commit whose answer was lost, or whose tag is missing, is recognised and only finished.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from arxiv_cls.errors import UserError
from arxiv_cls.release.hub_client import NETWORK_ERRORS, hub_errors, parse_version
from arxiv_cls.release.hub_state import (
    RELEASE_TITLE,
    ROLLBACK_TITLE,
    Content,
    RepositoryState,
    open_request,
    read_state,
    remote_files,
    same_release,
)

logger = logging.getLogger(__name__)

RERUN = "run the same command again: it finishes what was begun, and nothing is sent twice"
TAG_ATTEMPTS = 3


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
        request = request or _commit(api, repo_id, title, files, parent, repo_type, description, True)
        return ReleaseResult(repo_id, plan.version, None, "proposed", request)
    if commit is None:
        commit = _commit(api, repo_id, title, files, parent, repo_type, description, False)
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
) -> str:
    """Sends the commit; returns its id, or the URL of the pull request."""
    present = remote_files(api, repo_id, parent, repo_type)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, content) for path, content in files.items()
    ]
    operations += [CommitOperationDelete(path) for path in present if path not in files]
    with hub_errors(f"committing to {repo_id}", unless_done=RERUN), warnings.catch_warnings():
        # The predictions belong to the evaluation that the model carries.
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
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
    with hub_errors(f"tagging {version}", unless_done=RERUN):
        try:
            retry(lambda: api.create_tag(repo_id, tag=version, revision=commit, repo_type=repo_type))
        except HfHubHTTPError as error:
            # A tag whose answer was lost is there at the second attempt; somebody else's is not ours.
            if error.response.status_code != 409:
                raise
            state = read_state(api, repo_id, repo_type)
            if state is None or state.versions.get(version) != commit:
                raise


def retry(call: Callable[[], None], *, attempts: int = TAG_ATTEMPTS, wait: float = 1.0) -> None:
    """Calls again after a server error or a lost connection, with doubling waits.

    Args:
        call: something that may be repeated.
        attempts: how often in all.
        wait: seconds before the second attempt.
    """
    for attempt in range(attempts):
        try:
            call()
            return
        except HfHubHTTPError as error:
            if error.response.status_code < 500 or attempt == attempts - 1:
                raise
        except NETWORK_ERRORS:
            if attempt == attempts - 1:
                raise
        time.sleep(wait * 2**attempt)
