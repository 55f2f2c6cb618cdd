"""The way to the Hub: one client, checked before any work, and its failures told in one line.

The token comes from the environment (`HF_TOKEN`) or from the Hub's own login, and is never printed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    OIDCError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import HUB_OWN_FILES, RENDERED
from arxiv_cls.release.secret_scan import redact

logger = logging.getLogger(__name__)

T = TypeVar("T")
VERSION_PATTERN = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
UNREACHABLE = 3
NETWORK_ERRORS = (httpx2.TransportError, OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError)
STATUS_MESSAGES = {
    401: (
        "the token is not valid",
        "make a new one at the Hub's settings, then set HF_TOKEN or `hf auth login`",
    ),
    403: ("the token may not do this", "use a token that has write access to the repository"),
    409: ("it conflicts with what is there", "`arxiv-cls releases REPO` shows what is there"),
    412: ("somebody else changed the repository meanwhile", ""),
    429: ("too many requests", "wait a few minutes"),
}
AGAIN = "run the same command again"
# A busy Hub is asked so often in all; it may ask for this many seconds each time, more is left to the person.
ATTEMPTS = 4
LONGEST_WAIT = 60.0


def parse_version(version: str) -> tuple[int, int, int]:
    """The three numbers of a release's tag.

    Raises:
        UserError: when it is not of the form v1.2.0.
    """
    match = VERSION_PATTERN.fullmatch(version)
    if match is None:
        raise UserError(f"{version!r} is not a version", hint="versions look like v1.2.0")
    major, minor, patch = (int(part) for part in match.groups())
    return major, minor, patch


def check_repo_id(repo_id: str) -> str:
    """The repository id, when it is one.

    Raises:
        UserError: when it is not of the form user/name.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is not a repository id", hint="it looks like user/name") from error
    if repo_id.count("/") != 1:
        raise UserError(f"{repo_id!r} is not a repository id", hint="it looks like user/name")
    return repo_id


def _cause(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The error, or what caused it, when it is one of these kinds."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kinds):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def hub_errors(doing: str, *, unless_done: str = "") -> Iterator[None]:
    """Turns a failure of the Hub's client into one `UserError`.

    Args:
        doing: what was going on, as in "reading user/name".
        unless_done: what the state is now and what to do next, added to the hint.

    Raises:
        UserError: exit code 3 when the Hub cannot be reached or fails, 2 when it refuses.
    """
    try:
        yield
    except UserError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, HfHubHTTPError) as error:
        raise _http_error(error, doing, unless_done) from None
    except (*NETWORK_ERRORS, RuntimeError, OSError, ValueError) as error:
        answered = _cause(error, (HfHubHTTPError,))
        if isinstance(answered, HfHubHTTPError):
            raise _http_error(answered, doing, unless_done) from None
        if _arrived_short(error):
            raise UserError(f"a file arrived incomplete while {doing}", AGAIN, UNREACHABLE) from None
        if _cause(error, NETWORK_ERRORS) is None:
            raise
        reason = "HF_HUB_OFFLINE is set" if _cause(error, (OfflineModeIsEnabled,)) else "no connection"
        raise UserError(
            f"cannot reach the Hub at {constants.ENDPOINT} while {doing} ({reason})",
            hint=f"check the network; {unless_done or AGAIN}",
            exit_code=UNREACHABLE,
        ) from None


def _http_error(error: HfHubHTTPError, doing: str, unless_done: str) -> UserError:
    # `from None` where this is raised: the client's own exception holds the request with its headers.
    if isinstance(error, RevisionNotFoundError):
        hint = "run `arxiv-cls releases REPO` to see the versions there are"
        return UserError(f"the Hub knows no such version while {doing}", hint=hint)
    status = error.response.status_code
    if isinstance(error, RepositoryNotFoundError):
        hint = "check the name; a private repository needs HF_TOKEN or `hf auth login`"
        return UserError(f"the Hub knows no such repository while {doing}", hint=hint)
    message, hint = STATUS_MESSAGES.get(status, ("", ""))
    if not message:
        message = redact(str(error.server_message or "")) or "no reason given"
        hint = "wait a little"
    if asked := _retry_after(error):
        hint = f"the Hub asks to wait {asked:.0f} s"
    exit_code = UNREACHABLE if status >= 500 or status == 429 else 2
    hint = f"{hint}; {unless_done or AGAIN}" if hint else unless_done or AGAIN
    return UserError(f"the Hub answered {status} while {doing}: {message}", hint=hint, exit_code=exit_code)


def _arrived_short(error: Exception) -> bool:
    """Whether the client found fewer bytes than were announced."""
    return isinstance(error, OSError) and "Consistency check failed" in str(error)


def _retry_after(error: HfHubHTTPError) -> float | None:
    """The seconds that the Hub asks to wait; None where it names none."""
    value = error.response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def hub_call(doing: str, call: Callable[[], T], *, unless_done: str = "", attempts: int = ATTEMPTS) -> T:
    """Calls the Hub, and again where it is busy, fails or drops the connection; waits as it asks.

    Args:
        doing, unless_done: as of `hub_errors`.
        call: something that may be repeated.
        attempts: how often in all.

    Raises:
        UserError: as `hub_errors`.
    """
    with hub_errors(doing, unless_done=unless_done):
        for attempt in range(1, attempts):
            try:
                return call()
            except Exception as error:
                wait, why = _patience(error, attempt)
                if wait is None:
                    raise
            logger.info("%s: %s, waiting %.0f s (attempt %d of %d)", doing, why, wait, attempt, attempts)
            time.sleep(wait)
        return call()


def _patience(error: Exception, attempt: int) -> tuple[float | None, str]:
    """Seconds to wait before the next attempt and why; None where another one would not help."""
    answered = _cause(error, (HfHubHTTPError,))
    wait = 2.0 ** (attempt - 1)
    if isinstance(answered, HfHubHTTPError):
        status = answered.response.status_code
        asked = _retry_after(answered)
        wait = wait if asked is None else asked
        busy = status == 429 or status >= 500
        return (wait if busy and wait <= LONGEST_WAIT else None), f"the Hub answered {status}"
    if _arrived_short(error):
        return wait, "a file arrived incomplete"
    dropped = _cause(error, (httpx2.TransportError, ConnectionError))
    # Nobody listens, or no such address: that does not pass in seconds.
    if dropped is None or isinstance(dropped, httpx2.ConnectError):
        return None, ""
    return wait, "the connection was lost"


def connect(*, write: bool) -> HfApi:
    """A client for the Hub, once it is known that the Hub answers.

    Args:
        write: a token is needed, and is tried.

    Raises:
        UserError: when the Hub cannot be reached, or when the token is missing or refused.
    """
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            "HF_HUB_OFFLINE is set: the Hub is not asked",
            hint="unset HF_HUB_OFFLINE to use the Hub",
            exit_code=UNREACHABLE,
        )
    api = HfApi(library_name="arxiv_cls")
    if not write:
        return api
    try:
        with hub_errors("getting a token"):
            token = get_token()
    except OIDCError as error:
        raise UserError(
            f"no token from trusted publishing: {error}",
            hint="the job needs `permissions: id-token: write`, and the repository on the Hub must trust it",
        ) from None
    if token is None:
        raise UserError("no token for the Hub", hint="set HF_TOKEN, or log in once with `hf auth login`")
    # A token of trusted publishing was made a moment ago for one repository; it stands for no user.
    if not os.environ.get("HF_OIDC_RESOURCE"):
        hub_call("checking the token", api.whoami)
    return api


def download_release(api: HfApi, repo_id: str, revision: str, *, only: list[str] | None = None) -> Path:
    """Downloads a release, or the named files of it, into the Hub's cache.

    Args:
        api: the client of `connect`.
        repo_id: `user/name`.
        revision: tag, branch or commit.
        only: paths to fetch; all when None.

    Returns:
        The folder that holds the files.

    Raises:
        UserError: when the repository or the version does not exist, or the Hub cannot be reached.
    """
    return hub_call(
        f"downloading {repo_id}@{revision}",
        lambda: Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=only, endpoint=api.endpoint)
        ),
    )


FIRST_VERSION = "v0.1.0"
RELEASE_TITLE = re.compile(r"Release (v\d+\.\d+\.\d+)(?: \(#\d+\))?")
ROLLBACK_TITLE = re.compile(r"Roll back to (v\d+\.\d+\.\d+)(?: \(#\d+\))?")

Content = Path | bytes


@dataclass(frozen=True)
class RemoteFile:
    """Identity of a file on the Hub: git's blob id, and the sha256 for a large file."""

    blob_id: str
    sha256: str | None

    def equals(self, content: Content) -> bool:
        """Whether a local file (or bytes) has the same content."""
        if self.sha256 is not None:
            return _sha256(content) == self.sha256
        data = content.read_bytes() if isinstance(content, Path) else content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == self.blob_id


@dataclass(frozen=True)
class HubCommit:
    """A commit's id and title."""

    oid: str
    title: str


@dataclass(frozen=True)
class RepositoryState:
    """A repository at one moment.

    Attributes:
        head: id of main's newest commit.
        versions: release tags to commit ids, oldest version first.
        history: main's commits, newest first.
    """

    head: str
    versions: dict[str, str]
    history: list[HubCommit]

    @property
    def latest_version(self) -> str | None:
        """The highest version there is."""
        return list(self.versions)[-1] if self.versions else None

    @property
    def current_version(self) -> str | None:
        """The version that main serves now: a rollback counts, a commit that was never tagged does not."""
        by_commit = {oid: version for version, oid in self.versions.items()}
        for commit in self.history:
            if commit.oid in by_commit:
                return by_commit[commit.oid]
            rolled_back = ROLLBACK_TITLE.fullmatch(commit.title)
            if rolled_back and rolled_back[1] in self.versions:
                return rolled_back[1]
        return None

    def next_version(self) -> str:
        """v0.1.0 for the first release, then the next minor version."""
        if self.latest_version is None:
            return FIRST_VERSION
        major, minor, _ = parse_version(self.latest_version)
        return f"v{major}.{minor + 1}.0"


def read_state(api: HfApi, repo_id: str, repo_type: str = "model") -> RepositoryState | None:
    """The repository's state; None when there is no such repository (or none that the token may see).

    Raises:
        UserError: when the Hub cannot be reached or refuses.
    """

    def read() -> tuple[Any, Any] | None:
        try:
            refs = api.list_repo_refs(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            return None
        return refs, api.list_repo_commits(repo_id, repo_type=repo_type)

    found = hub_call(f"reading {repo_id}", read)
    if found is None:
        return None
    refs, commits = found
    tags = {tag.name: tag.target_commit for tag in refs.tags if VERSION_PATTERN.fullmatch(tag.name)}
    return RepositoryState(
        head=commits[0].commit_id,
        versions={version: tags[version] for version in sorted(tags, key=parse_version)},
        history=[HubCommit(commit.commit_id, commit.title) for commit in commits],
    )


def remote_files(api: HfApi, repo_id: str, revision: str, repo_type: str = "model") -> dict[str, RemoteFile]:
    """Path to identity of every file at a revision, without the Hub's own `.gitattributes`.

    Raises:
        UserError: when the revision does not exist or the Hub cannot be reached.
    """
    entries = hub_call(
        f"reading {repo_id}@{revision}",
        lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)),
    )
    return {
        entry.path: RemoteFile(entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
        for entry in entries
        if isinstance(entry, RepoFile) and entry.path not in HUB_OWN_FILES
    }


def same_release(remote: Mapping[str, RemoteFile], files: Mapping[str, Content]) -> bool:
    """Whether a revision holds exactly these files; what was rendered for one release may differ.

    Card and gate record are left out because they name the version and the overrides.
    """
    paths = set(files) - RENDERED
    return set(remote) - RENDERED == paths and all(remote[path].equals(files[path]) for path in paths)


def open_request(
    api: HfApi, repo_id: str, title: str, files: Mapping[str, Content], repo_type: str = "model"
) -> str | None:
    """The URL of an open pull request that proposes exactly these files under this title.

    Raises:
        UserError: when the Hub cannot be reached or refuses.
    """
    found = hub_call(
        f"reading the pull requests of {repo_id}",
        lambda: list(
            api.get_repo_discussions(
                repo_id, repo_type=repo_type, discussion_type="pull_request", discussion_status="open"
            )
        ),
    )
    for request in found:
        if request.title == title and same_release(
            remote_files(api, repo_id, f"refs/pr/{request.num}", repo_type), files
        ):
            return request.url
    return None


def _sha256(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
