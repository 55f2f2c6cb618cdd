"""The way to the Hub: one client, checked before any work, and its failures told in one line.

The token comes from the environment (`HF_TOKEN`) or from the Hub's own login, and is never printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
from huggingface_hub.utils import validate_repo_id

from arxiv_cls.errors import UserError
from arxiv_cls.release.secret_scan import redact

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
    412: ("somebody else changed the repository meanwhile", "run the same command again"),
    429: ("too many requests", "wait a few minutes, then run the same command again"),
}


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
        if _cause(error, NETWORK_ERRORS) is None:
            raise
        reason = "HF_HUB_OFFLINE is set" if _cause(error, (OfflineModeIsEnabled,)) else "no connection"
        raise UserError(
            f"cannot reach the Hub at {constants.ENDPOINT} while {doing} ({reason})",
            hint=unless_done or "check the network, then run the same command again",
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
        hint = "wait a little, then run the same command again"
    exit_code = UNREACHABLE if status >= 500 or status == 429 else 2
    hint = f"{hint}; {unless_done}" if unless_done else hint
    return UserError(f"the Hub answered {status} while {doing}: {message}", hint=hint, exit_code=exit_code)


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
        with hub_errors("checking the token"):
            api.whoami()
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
    with hub_errors(f"downloading {repo_id}@{revision}"):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=only, endpoint=api.endpoint))
