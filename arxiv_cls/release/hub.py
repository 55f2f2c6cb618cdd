"""The Hub's client and its repositories: calls are repeated where the Hub is busy, a failure is one line.

The token comes from the environment (`HF_TOKEN`) or from the Hub's own login, and is never printed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, errors, get_token, snapshot_download
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from arxiv_cls.errors import UNREACHABLE, UserError
from arxiv_cls.record.directory import redact
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.manifest import RENDERED

logger = logging.getLogger(__name__)

T = TypeVar("T")
Content = Path | bytes
VERSION_PATTERN = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
RELEASE_TITLE = re.compile(r"Release (v\d+\.\d+\.\d+)(?: \(#\d+\))?")
ROLLBACK_TITLE = re.compile(r"Roll back to (v\d+\.\d+\.\d+)(?: \(#\d+\))?")
# What the Hub itself puts into a repository; a release neither writes nor removes it.
HUB_OWN_FILE = ".gitattributes"
DROPPED = (httpx2.TransportError, ConnectionError)
NETWORK_ERRORS = (*DROPPED, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
STATUS_MESSAGES = {
    401: ("the token is not valid", "set HF_TOKEN to a new one of the Hub's settings, or `hf auth login`"),
    403: ("the token may not do this", "use a token that has write access to the repository"),
    409: ("it conflicts with what is there", "look at the repository on the Hub"),
    412: ("somebody else changed the repository meanwhile", ""),
    429: ("too many requests", "wait a few minutes"),
}
CHECK_NAME = "check the name; a private repository needs HF_TOKEN or `hf auth login`"
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
    return int(match[1]), int(match[2]), int(match[3])


def check_repo_id(repo_id: str) -> str:
    """The repository id, when it is one.

    Raises:
        UserError: when it is not of the form user/name.
    """
    try:
        validate_repo_id(repo_id)
        _, _ = repo_id.split("/")
    except ValueError:
        raise UserError(f"{repo_id!r} is not a repository id", hint="it looks like user/name") from None
    return repo_id


def hub_call(doing: str, call: Callable[[], T], *, unless_done: str = AGAIN, attempts: int = ATTEMPTS) -> T:
    """Calls the Hub, and again where it is busy, fails or drops the connection; waits as it asks.

    `doing` is what is going on, as in "reading user/name", `unless_done` what to do next after a failure.

    Raises:
        UserError: exit code 3 when the Hub cannot be reached or fails, 2 when it refuses.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except UserError:
            raise
        except Exception as error:
            failure, wait = _explained(error, doing, unless_done, 2.0 ** (attempt - 1))
            if wait is None or attempt == attempts:
                # `from None`: the client's own exception holds the request with its headers.
                raise failure from None
        logger.info("%s, waiting %.0f s (attempt %d of %d)", failure.args[0], wait, attempt, attempts)
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _explained(error: Exception, doing: str, next_step: str, wait: float) -> tuple[Exception, float | None]:
    """The `UserError` for a failure of Hub or network, any other error as it is; and how long to wait.

    The wait before another attempt is `wait` or what the Hub asks for, in seconds; None where none helps.
    """
    answered = _cause(error, errors.HfHubHTTPError)
    if isinstance(answered, errors.RevisionNotFoundError):
        hint = "run `arxiv-cls releases REPO` to see the versions there are"
        return UserError(f"the Hub knows no such version while {doing}", hint), None
    if isinstance(answered, errors.RepositoryNotFoundError):
        return UserError(f"the Hub knows no such repository while {doing}", CHECK_NAME), None
    if answered:
        status, asked = answered.response.status_code, answered.response.headers.get("Retry-After", "")
        reason = redact(str(answered.server_message or "")) or "no reason given"
        message, hint = STATUS_MESSAGES.get(status, (reason, "wait a little"))
        if asked.isdigit():
            wait, hint = float(asked), f"the Hub asks to wait {asked} s"
        busy = status == 429 or status >= 500
        failure = UserError(
            f"the Hub answered {status} while {doing}: {message}",
            f"{hint}; {next_step}" if hint else next_step,
            UNREACHABLE if busy else 2,
        )
        return failure, wait if busy and wait <= LONGEST_WAIT else None
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return UserError(f"a file arrived incomplete while {doing}", AGAIN, UNREACHABLE), wait
    if _cause(error, NETWORK_ERRORS) is None:
        return error, None
    offline = _cause(error, errors.OfflineModeIsEnabled) is not None
    reason = "HF_HUB_OFFLINE is set" if offline else "no connection"
    message = f"cannot reach the Hub at {constants.ENDPOINT} while {doing} ({reason})"
    # Nobody listens, or no such address: that does not pass in seconds.
    passes = not isinstance(_cause(error, DROPPED), httpx2.ConnectError | None)
    return UserError(message, f"check the network; {next_step}", UNREACHABLE), wait if passes else None


def _cause(error: BaseException | None, kinds: Any) -> Any:
    """The error, or what caused it, when it is one of these kinds."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


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
    except errors.OIDCError as error:
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
    """A repository at one moment: release tags to commit ids, oldest version first, and main's commits.

    `history` holds id and title of each commit, newest first.
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
        return next(reversed(self.versions), None)

    @property
    def current_version(self) -> str | None:
        """The version that main serves now: a rollback counts, a commit that was never tagged does not."""
        by_commit = {oid: version for version, oid in self.versions.items()}
        for oid, title in self.history:
            if oid in by_commit:
                return by_commit[oid]
            if (rolled_back := ROLLBACK_TITLE.fullmatch(title)) and rolled_back[1] in self.versions:
                return rolled_back[1]
        return None

    def next_version(self) -> str:
        """v0.1.0 for the first release, then the next minor version."""
        major, minor, _ = parse_version(self.latest_version or "v0.0.0")
        return f"v{major}.{minor + 1}.0"


@dataclass(frozen=True)
class Repository:
    """A repository that releases go to: `user/name`, and "model", "dataset" or "space".

    Its methods raise a `UserError` when the Hub refuses or cannot be reached.
    """

    api: HfApi
    repo_id: str
    repo_type: str = "model"

    @property
    def address(self) -> dict[str, str]:
        """What the client's methods take for the repository."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}

    @property
    def url(self) -> str:
        """Where a person looks at it."""
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{self.api.endpoint}/{prefix}{self.repo_id}"

    def state(self, *, required: bool = False) -> RepositoryState | None:
        """The repository now; None, or an error where it is required, when the token sees none."""

        def read() -> RepositoryState | None:
            try:
                refs = self.api.list_repo_refs(**self.address)
            except errors.RepositoryNotFoundError:
                if required:
                    raise
                return None
            tags = {tag.name: tag.target_commit for tag in refs.tags if VERSION_PATTERN.fullmatch(tag.name)}
            return RepositoryState(
                {version: tags[version] for version in sorted(tags, key=parse_version)},
                [(commit.commit_id, commit.title) for commit in self.api.list_repo_commits(**self.address)],
            )

        return hub_call(f"reading {self.repo_id}", read)

    def files(self, revision: str) -> dict[str, str]:
        """Path to identity of every file at a revision: a large file's sha256, git's blob id of another."""
        entries = hub_call(
            f"reading {self.repo_id}@{revision}",
            lambda: list(self.api.list_repo_tree(**self.address, recursive=True, revision=revision)),
        )
        return {
            entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
            for entry in entries
            if isinstance(entry, RepoFile) and entry.path != HUB_OWN_FILE
        }

    def holds(self, revision: str, files: Mapping[str, Content]) -> bool:
        """Whether a revision has exactly these files, but for those that name the version (`RENDERED`)."""
        remote, paths = self.files(revision), set(files) - RENDERED
        return set(remote) - RENDERED == paths and all(
            same_content(remote[path], files[path]) for path in paths
        )

    def create(self, *, private: bool) -> RepositoryState:
        """Creates it, and returns its state; an error where somebody else was faster."""
        options = {"private": private, "space_sdk": "gradio" if self.repo_type == "space" else None}
        hub_call(
            f"creating {self.repo_id}",
            lambda: self.api.create_repo(**self.address, exist_ok=True, **options),
            unless_done=RERUN,
        )
        if (created := self.state()) is None:
            message = f"{self.repo_id} was created, and the Hub does not show it yet"
            raise UserError(message, RERUN, UNREACHABLE)
        if created.versions or len(created.history) > 1:
            raise UserError(f"somebody else created {self.repo_id} meanwhile and wrote to it", RERUN)
        return created


def same_content(identity: str | None, content: Content) -> bool:
    """Whether a file of `Repository.files` has this content; a file that is not there has none."""
    if identity is not None and len(identity) == 64:
        found = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)
        return found == identity
    data = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == identity
