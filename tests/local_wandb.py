"""W&B's server on loopback: the GraphQL and the file contents that a download of an artifact asks for."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LocalWandb(ThreadingHTTPServer):
    """Serves one artifact, `entity/project/NAME:v0`, with these files and this metadata."""

    def __init__(self, name: str, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.asked = dict(files), []
        contents = {
            path: {"digest": base64.b64encode(hashlib.md5(content).digest()).decode(), "size": len(content)}
            for path, content in files.items()
        }
        manifest = {"version": 1, "storagePolicy": "wandb-storage-policy-v1", "contents": contents}
        manifest["storagePolicyConfig"] = {"storageLayout": "V2"}
        self.manifest = json.dumps(manifest).encode()
        project = {"id": "UHJvamVjdDox", "internalId": "UHJvamVjdDox", "name": "project"}
        project["entity"] = {"name": "entity"}
        collection = {"__typename": "ArtifactSequence", "name": name, "project": project}
        artifact = {
            "__typename": "Artifact", "id": "QXJ0aWZhY3Q6MQ==", "artifactSequence": collection,
            "versionIndex": 0, "artifactType": {"name": "model"}, "description": None,
            "metadata": json.dumps(metadata), "ttlDurationSeconds": -2, "ttlIsInherited": True, "tags": [],
            "historyStep": None, "state": "COMMITTED", "size": sum(map(len, files.values())),
            "digest": "0" * 32, "digestAlgorithm": "MANIFEST_MD5", "commitHash": "0" * 20,
            "fileCount": len(files), "createdAt": "2026-01-01T00:00:00", "updatedAt": None, "aliases": [],
        }  # fmt: skip
        membership = {
            "__typename": "ArtifactCollectionMembership", "id": "TWVtYmVyOjE=", "versionIndex": 0,
            "aliases": [], "createdAt": "2026-01-01T00:00:00",
            "artifactCollection": collection, "artifact": artifact,
        }  # fmt: skip
        nodes = [{"node": {"name": path, "directUrl": f"{self.url}/files/{path}"}} for path in sorted(files)]
        pages = {"pageInfo": {"hasNextPage": False, "endCursor": None}, "edges": nodes}
        person = {"id": "1", "entity": "entity", "username": "entity", "email": "a@b.c", "flags": "{}"}
        viewer = {"viewer": person | {"teams": {"edges": []}}}
        membership_files = {"__typename": "ArtifactSequence", "artifactMembership": {"files": pages}}
        self.replies = {
            "Viewer": viewer, "GetDefaultEntity": viewer,
            "ArtifactMembershipByName": {"project": {"artifactCollectionMembership": membership}},
            "FetchArtifactManifest": {
                "artifact": {"currentManifest": {"file": {"directUrl": f"{self.url}/manifest"}}}
            },
            "GetArtifactMembershipFileUrls": {"project": {"artifactCollection": membership_files}},
        }  # fmt: skip

    def __enter__(self) -> LocalWandb:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: LocalWandb

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        named = re.search(r"(?:query|mutation)\s+(\w+)", json.loads(body)["query"])
        self.server.asked.append(named[1])
        self._reply(json.dumps({"data": self.server.replies.get(named[1], {})}).encode())

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.removeprefix("/files/")
        content = self.server.manifest if path == "/manifest" else self.server.files.get(name)
        self._reply(content or b"", 200 if content is not None else 404)

    def _reply(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass
