"""What a repository on the Hub holds: its head, its versions, the files of a revision, open requests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from arxiv_cls.release.hub_client import VERSION_PATTERN, hub_errors, parse_version
from arxiv_cls.release.manifest import HUB_OWN_FILES, RENDERED

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
    with hub_errors(f"reading {repo_id}"):
        try:
            refs = api.list_repo_refs(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            return None
        commits = api.list_repo_commits(repo_id, repo_type=repo_type)
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
    with hub_errors(f"reading {repo_id}@{revision}"):
        entries = list(api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type))
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
    with hub_errors(f"reading the pull requests of {repo_id}"):
        found = [
            request
            for request in api.get_repo_discussions(
                repo_id, repo_type=repo_type, discussion_type="pull_request", discussion_status="open"
            )
            if request.title == title
        ]
    for request in found:
        if same_release(remote_files(api, repo_id, f"refs/pr/{request.num}", repo_type), files):
            return request.url
    return None


def _sha256(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
