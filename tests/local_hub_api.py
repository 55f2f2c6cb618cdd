"""What the local Hub answers under `/api/<kind>/<repository>/...`: a mixin of its request handler."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs

import yaml
from local_hub_store import Blob, Commit, ParentMoved, Repository, TagExists

LFS_SUFFIXES = (".safetensors", ".skops", ".parquet", ".onnx", ".png", ".bin", ".whl")
DATE = "2026-01-01T00:00:00.000Z"


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    """A file as `tree` and `paths-info` list it."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return entry


def card_metadata(commit: Commit) -> dict[str, Any]:
    """The front matter of the README, which the Hub reads the task and the library from."""
    readme = commit.tree["README.md"].content.decode() if "README.md" in commit.tree else ""
    return yaml.safe_load(readme.split("---")[1]) if readme.startswith("---") else {}


class RepositoryApi:
    """Answers about one repository; the handler gives `hub`, `query`, `_reply`, `_error` and `_fails`."""

    def _preupload(self, repository: Repository, revision: str, request: dict[str, Any]) -> None:
        commit = repository.resolve(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = []
        for item in request["files"]:
            blob = commit.tree.get(item["path"])
            lfs = item["path"].endswith(LFS_SUFFIXES)
            oid = None if blob is None else blob.sha256 if blob.lfs else blob.oid
            mode = "lfs" if lfs else "regular"
            files.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._reply({"files": files})

    def _commit(self, repo_id: str, repository: Repository, branch: str, body: bytes) -> None:
        header: dict[str, Any] = {}
        changes: dict[str, Blob | None] = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                header = value
            elif item["key"] == "file":
                changes[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.uploads:
                    self._error(400, "BadRequest", f"{value['path']} was not uploaded")
                    return
                changes[value["path"]] = Blob(self.hub.uploads[value["oid"]], True)
            elif item["key"] == "deletedFile":
                changes[value["path"]] = None
        opens_request = self.query.get("create_pr") == ["1"]
        try:
            oid, number = repository.commit(
                branch,
                header["summary"],
                changes,
                parent=header.get("parentCommit"),
                pull_request=opens_request,
            )
        except ParentMoved:
            self._error(
                412, "PreconditionFailed", "A commit has happened since. Please refresh and try again."
            )
            return
        if not self._fails("commit", after=True):
            answer = {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"}
            if number is not None:
                answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{number}"
            self._reply(answer)

    def _tag(self, repository: Repository, revision: str, request: dict[str, Any]) -> None:
        try:
            repository.tag(request["tag"], revision)
        except TagExists:
            self._error(409, "Conflict", "Tag already exists")
            return
        if not self._fails("tag", after=True):
            self._reply({})

    def _refs(self, repository: Repository) -> None:
        def entries(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{prefix}/{n}", "targetCommit": oid} for n, oid in names.items()]

        answer = {"branches": entries(repository.branches, "heads"), "converts": []}
        self._reply(answer | {"tags": entries(repository.tags, "tags")})

    def _discussions(self, repo_id: str, repository: Repository) -> None:
        found = [
            {"title": request["title"], "num": number, "author": {"name": "user"}, "createdAt": DATE}
            | {"status": request["status"], "repo": {"name": repo_id, "type": "model"}, "isPullRequest": True}
            for number, request in repository.pull_requests.items()
            if self.query.get("status", [request["status"]]) == [request["status"]]
        ]
        self._reply({"discussions": found, "count": len(found), "start": 0})

    def _read(
        self, repo_id: str, repository: Repository, commit: Commit, verb: str, sub_path: str, body: bytes
    ) -> None:
        if verb in ("", "revision"):
            self._reply(self._info(repo_id, commit))
        elif verb == "tree":
            self._reply(self._tree(commit, sub_path.rstrip("/")))
        elif verb == "paths-info":
            text = body.decode()
            asked = json.loads(text) if text.startswith("{") else parse_qs(text)
            self._reply([file_entry(p, commit.tree[p]) for p in asked["paths"] if p in commit.tree])
        elif verb == "commits":
            history = repository.history(commit.oid)
            common = {"authors": [{"user": "user"}], "date": DATE, "message": ""}
            self._reply([{"id": entry.oid, "title": entry.title} | common for entry in history])
        else:
            self._error(404, "EntryNotFound", f"the local Hub has no {verb}")

    def _info(self, repo_id: str, commit: Commit) -> dict[str, Any]:
        metadata = card_metadata(commit)
        answer: dict[str, Any] = {
            "id": repo_id,
            "sha": commit.oid,
            "private": False,
            "downloads": 0,
            "likes": 0,
        }
        answer |= {"lastModified": DATE, "createdAt": DATE, "tags": metadata.get("tags", [])}
        answer |= {"siblings": [{"rfilename": path} for path in sorted(commit.tree)], "cardData": metadata}
        for key in ("pipeline_tag", "library_name"):
            if key in metadata:
                answer[key] = metadata[key]
        return answer

    def _tree(self, commit: Commit, folder: str) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(commit.tree.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                parent = prefix + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": commit.oid}
            if recursive or len(parts) == 1:
                entries[path] = file_entry(path, blob)
        return list(entries.values())
