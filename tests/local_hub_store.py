"""The repositories behind the local Hub: commits, branches, tags and pull requests, in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Blob:
    """One file's content; `lfs` files are addressed by sha256, the others by git's blob hash."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's blob id: of the content, or for an LFS file of something that stands for its pointer."""
        content = f"pointer {self.sha256}".encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """One commit: the whole tree, path to blob."""

    oid: str
    parent: str | None
    title: str
    tree: dict[str, Blob]


class ParentMoved(Exception):
    """The commit names a parent that is no longer the head."""


class TagExists(Exception):
    """The tag is there already."""


@dataclass
class Repository:
    """One repository with its branches, tags and pull requests, as ref name to commit id."""

    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[int, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches["main"] = self._store(
            None, "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}
        )

    def _store(self, parent: str | None, title: str, tree: dict[str, Blob]) -> str:
        # The count keeps two equal commits apart, as their dates do in git.
        text = f"{len(self.commits)} {parent} {title} {sorted((p, b.oid) for p, b in tree.items())}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, tree)
        return oid

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, a commit id or `refs/pr/N`; None when there is none."""
        if revision.startswith("refs/pr/"):
            number = int(revision.rsplit("/", 1)[1])
            oid = self.pull_requests[number]["oid"] if number in self.pull_requests else None
        else:
            oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid) if oid else None

    def commit(
        self,
        branch: str,
        title: str,
        changes: dict[str, Blob | None],
        *,
        parent: str | None = None,
        pull_request: bool = False,
    ) -> tuple[str, int | None]:
        """Adds a commit; a None among the changes deletes the file.

        Returns:
            The commit id, and the number of the pull request when one was opened.

        Raises:
            ParentMoved: when `parent` is given and is not the head.
        """
        head = self.branches[branch]
        if parent is not None and parent != head:
            raise ParentMoved(head)
        tree = dict(self.commits[head].tree)
        for path, blob in changes.items():
            if blob is None:
                tree.pop(path)
            else:
                tree[path] = blob
        oid = self._store(head, title, tree)
        if not pull_request:
            self.branches[branch] = oid
            return oid, None
        number = len(self.pull_requests) + 1
        self.pull_requests[number] = {"oid": oid, "title": title, "status": "open"}
        return oid, number

    def merge(self, number: int) -> str:
        """Merges a pull request into main with a commit of its own, as the Hub does."""
        request = self.pull_requests[number]
        request["status"] = "merged"
        head = self.branches["main"]
        self.branches["main"] = self._store(
            head, f"{request['title']} (#{number})", dict(self.commits[request["oid"]].tree)
        )
        return self.branches["main"]

    def tag(self, name: str, revision: str) -> None:
        """Creates a tag.

        Raises:
            TagExists: when there is one of that name.
        """
        if name in self.tags:
            raise TagExists(name)
        commit = self.resolve(revision)
        assert commit is not None
        self.tags[name] = commit.oid

    def history(self, revision: str) -> list[Commit]:
        """Commits from the revision back to the first, newest first."""
        commit = self.resolve(revision)
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path to content at a revision."""
        commit = self.resolve(revision)
        assert commit is not None
        return {path: blob.content for path, blob in commit.tree.items()}

    def state(self) -> tuple[dict[str, str], dict[str, str], int]:
        """What a failed command must leave unchanged: branches, tags, number of pull requests."""
        return dict(self.branches), dict(self.tags), len(self.pull_requests)
