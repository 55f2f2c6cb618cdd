"""Cloud Run's REST calls on loopback, for the real `google-cloud-run` client.

It keeps services as the client sent them, answers updates with an operation that ends at the first look, and
takes only requests that carry a bearer token.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback import serving

SERVICE = re.compile(r"^/v2/(projects/[^/]+/locations/[^/]+/services/([^/]+))$")
OPERATION = re.compile(r"^/v2/(projects/[^/]+/locations/[^/]+/operations/[^/]+)$")
SERVICE_TYPE = "type.googleapis.com/google.cloud.run.v2.Service"


@dataclass
class LocalCloudRun:
    """The server; a context manager.

    Attributes:
        services: what is deployed, by full name, in the API's JSON.
        operations: what an operation will say, by full name.
        refuse: (HTTP status, reason) that every request gets; None for none.
        failure: the message that the next revisions fail with; None when they start.
    """

    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    refuse: tuple[int, str] | None = None
    failure: str | None = None

    def __enter__(self) -> LocalCloudRun:
        handler = type("Handler", (_Handler,), {"cloud": self})
        self._server = serving(handler)
        self.url = self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    def credentials(self, path: Path) -> Path:
        """Writes the key of a service account that was made up here, and returns its path."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account",
            "project_id": "papers",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "ci@papers.example",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(account))
        return path

    def update(self, name: str, service: dict[str, Any]) -> dict[str, Any]:
        """Stores a service; returns the operation that tells how it went."""
        short = name.rsplit("/", 1)[1]
        state = "CONDITION_FAILED" if self.failure else "CONDITION_SUCCEEDED"
        condition = {"type": "Ready", "state": state, "message": self.failure or ""}
        deployed = service | {"name": name, "uri": f"https://{short}.example", "terminalCondition": condition}
        self.services[name] = deployed
        operation = name.replace(f"/services/{short}", f"/operations/{len(self.operations) + 1}")
        self.operations[operation] = {
            "name": operation,
            "done": True,
            "response": {"@type": SERVICE_TYPE, **deployed},
        }
        return {"name": operation, "done": False}


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; the class attribute `cloud` is the server's state."""

    cloud: LocalCloudRun
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"code": status, "message": message, "status": "FAKE"}})

    def _serve(self) -> None:
        split = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.cloud.requests.append((self.command, split.path))
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            self._fail(401, "the request has no token")
        elif self.cloud.refuse:
            self._fail(*self.cloud.refuse)
        elif match := SERVICE.match(split.path):
            self._service(match[1], body, parse_qs(split.query))
        elif (match := OPERATION.match(split.path)) and match[1] in self.cloud.operations:
            self._answer(200, self.cloud.operations[match[1]])
        else:
            self._fail(404, f"no {split.path}")

    def _service(self, name: str, body: dict[str, Any], query: dict[str, list[str]]) -> None:
        known = name in self.cloud.services
        if self.command == "PATCH" and (known or query.get("allowMissing") == ["true"]):
            self._answer(200, self.cloud.update(name, body))
        elif self.command == "GET" and known:
            self._answer(200, self.cloud.services[name])
        else:
            self._fail(404, f"Resource {name!r} was not found")

    do_GET = do_PATCH = do_POST = do_DELETE = _serve
