"""The Hub's client: checked before any work, repeated where the Hub is busy, one line for each failure.

The token comes from the environment (`HF_TOKEN`) or from the Hub's own login, and is never printed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
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
from arxiv_cls.record.directory import redact
from arxiv_cls.record.files import file_sha256

logger = logging.getLogger(__name__)

T = TypeVar("T")
Content = Path | bytes
VERSION_PATTERN = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
RELEASE_TITLE = re.compile(r"Release (v\d+\.\d+\.\d+)(?: \(#\d+\))?")
ROLLBACK_TITLE = re.compile(r"Roll back to (v\d+\.\d+\.\d+)(?: \(#\d+\))?")
# What the Hub itself puts into a repository; a release neither writes nor removes it.
HUB_OWN_FILE = ".gitattributes"
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
RERUN = f"{AGAIN}: it finishes what was begun, and nothing is sent twice"
# Attempts in all at a busy Hub, and the longest wait in seconds that it may ask for between two.
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
        valid = repo_id.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError(f"{repo_id!r} is not a repository id", hint="it looks like user/name")
    return repo_id


def hub_call(doing: str, call: Callable[[], T], *, unless_done: str = "", attempts: int = ATTEMPTS) -> T:
    """Calls the Hub, and again where it is busy, fails or drops the connection; waits as it asks.

    Args:
        doing: what is going on, as in "reading user/name".
        call: something that may be repeated.
        unless_done: what the state is after a failure and what to do next, added to the hint.
        attempts: how often in all.

    Raises:
        UserError: exit code 3 when the Hub cannot be reached or fails, 2 when it refuses.
    """
    attempt = 1
    while True:
        try:
            return call()
        except UserError:
            raise
        except Exception as error:
            wait, why = _wait_before_retry(error, attempt)
            if wait is None or attempt >= attempts:
                # `from None`: the client's own exception holds the request with its headers.
                raise _explained(error, doing, unless_done or AGAIN) from None
        logger.info("%s: %s, waiting %.0f s (attempt %d of %d)", doing, why, wait, attempt, attempts)
        time.sleep(wait)
        attempt += 1


def _wait_before_retry(error: Exception, attempt: int) -> tuple[float | None, str]:
    """Seconds to wait before the next attempt and why; None where another one would not help."""
    answered = _cause(error, (HfHubHTTPError,))
    wait = 2.0 ** (attempt - 1)
    if isinstance(answered, HfHubHTTPError):
        status, asked = answered.response.status_code, _retry_after(answered)
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


def _explained(error: Exception, doing: str, next_step: str) -> Exception:
    """The `UserError` for a failure of the Hub or the network; any other error as it is."""
    answered = _cause(error, (HfHubHTTPError,))
    if isinstance(answered, RevisionNotFoundError):
        hint = "run `arxiv-cls releases REPO` to see the versions there are"
        return UserError(f"the Hub knows no such version while {doing}", hint)
    if isinstance(answered, RepositoryNotFoundError):
        hint = "check the name; a private repository needs HF_TOKEN or `hf auth login`"
        return UserError(f"the Hub knows no such repository while {doing}", hint)
    if isinstance(answered, HfHubHTTPError):
        status = answered.response.status_code
        reason = redact(str(answered.server_message or "")) or "no reason given"
        message, hint = STATUS_MESSAGES.get(status, (reason, "wait a little"))
        if asked := _retry_after(answered):
            hint = f"the Hub asks to wait {asked:.0f} s"
        exit_code = UNREACHABLE if status >= 500 or status == 429 else 2
        hint = f"{hint}; {next_step}" if hint else next_step
        return UserError(f"the Hub answered {status} while {doing}: {message}", hint, exit_code)
    if _arrived_short(error):
        return UserError(f"a file arrived incomplete while {doing}", AGAIN, UNREACHABLE)
    if _cause(error, NETWORK_ERRORS) is None:
        return error
    reason = "HF_HUB_OFFLINE is set" if _cause(error, (OfflineModeIsEnabled,)) else "no connection"
    message = f"cannot reach the Hub at {constants.ENDPOINT} while {doing} ({reason})"
    return UserError(message, f"check the network; {next_step}", UNREACHABLE)


def _cause(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The error, or what caused it, when it is one of these kinds."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, kinds):
        seen = seen.__cause__ or seen.__context__
    return seen


def _arrived_short(error: Exception) -> bool:
    """Whether the client found fewer bytes than were announced."""
    return isinstance(error, OSError) and "Consistency check failed" in str(error)


def _retry_after(error: HfHubHTTPError) -> float | None:
    """The seconds that the Hub asks to wait; None where it names none."""
    value = error.response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def connect(*, write: bool) -> HfApi:
    """A client for the Hub; `write` needs a token, which is tried.

    Raises:
        UserError: when the Hub cannot be reached, or when the token is missing or refused.
    """
    if constants.HF_HUB_OFFLINE:
        hint = "unset HF_HUB_OFFLINE to use the Hub"
        raise UserError("HF_HUB_OFFLINE is set: the Hub is not asked", hint, UNREACHABLE)
    api = HfApi(library_name="arxiv_cls")
    if not write:
        return api
    try:
        token = hub_call("getting a token", get_token, attempts=1)
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
    """Downloads a release, or the paths of it in `only`, into the Hub's cache, and returns its folder.

    Raises:
        UserError: when the repository or the version does not exist, or the Hub cannot be reached.
    """
    options = {"revision": revision, "allow_patterns": only, "endpoint": api.endpoint}
    return Path(hub_call(f"downloading {repo_id}@{revision}", lambda: snapshot_download(repo_id, **options)))


@dataclass(frozen=True)
class RepositoryState:
    """A repository at one moment.

    Attributes:
        versions: release tags to commit ids, oldest version first.
        history: main's commits (id and title), newest first.
    """

    versions: dict[str, str]
    history: list[tuple[str, str]]

    @property
    def head(self) -> str:
        """The id of main's newest commit."""
        return self.history[0][0]

    @property
    def latest_version(self) -> str | None:
        """The highest version there is."""
        return list(self.versions)[-1] if self.versions else None

    @property
    def current_version(self) -> str | None:
        """The version that main serves now: a rollback counts, a commit that was never tagged does not."""
        by_commit = {oid: version for version, oid in self.versions.items()}
        for oid, title in self.history:
            if oid in by_commit:
                return by_commit[oid]
            rolled_back = ROLLBACK_TITLE.fullmatch(title)
            if rolled_back and rolled_back[1] in self.versions:
                return rolled_back[1]
        return None

    def next_version(self) -> str:
        """v0.1.0 for the first release, then the next minor version."""
        major, minor, _ = parse_version(self.latest_version or "v0.0.0")
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
    tags = {tag.name: tag.target_commit for tag in found[0].tags if VERSION_PATTERN.fullmatch(tag.name)}
    versions = {version: tags[version] for version in sorted(tags, key=parse_version)}
    return RepositoryState(versions, [(commit.commit_id, commit.title) for commit in found[1]])


def remote_files(api: HfApi, repo_id: str, revision: str, repo_type: str = "model") -> dict[str, str]:
    """Path to identity of every file at a revision: the sha256 of a large file, git's blob id of another.

    Raises:
        UserError: when the revision does not exist or the Hub cannot be reached.
    """
    entries = hub_call(
        f"reading {repo_id}@{revision}",
        lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)),
    )
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in entries
        if isinstance(entry, RepoFile) and entry.path != HUB_OWN_FILE
    }


def same_content(identity: str | None, content: Content) -> bool:
    """Whether a file of `remote_files` has this content; a file that is not there has none."""
    if identity is not None and len(identity) == 64:
        found = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)
        return found == identity
    data = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == identity
