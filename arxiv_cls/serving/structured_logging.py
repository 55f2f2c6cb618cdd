"""The server's own log: one JSON object per line on standard error, and one such line per request.

No line holds the text of a request, a query string, or a header other than the request's id.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
# Attributes that every record has; what else is on one was passed as `extra`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, the extras, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            # The name that Google Cloud Logging reads.
            "severity": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Sends this program's and uvicorn's records to standard error as JSON lines.

    Args:
        level: debug, info, warning or error.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("arxiv_cls", "uvicorn"):
        source = logging.getLogger(name)
        source.handlers, source.propagate = [handler], False
        source.setLevel(level.upper())


class RequestLines:
    """ASGI middleware: gives each request an id and writes a line when it is answered.

    A route adds to the line through `scope["state"]["log"]`, a dict.

    Args:
        app: what is called with the request.
        quiet: paths whose successes are logged at debug level, because probes ask for them all the time.
    """

    def __init__(self, app: ASGIApp, *, quiet: frozenset[str]) -> None:
        self.app, self.quiet = app, quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex[:16]
        extras: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, log=extras)
        before, status = time.monotonic(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        except (ConnectionError, ClientDisconnect):
            raise
        except Exception:
            # Whoever stands around this middleware answers it, with the id from the state.
            status = status or 500
            raise
        finally:
            fine = status and status < 400
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"],
                # 499 is nginx's number for a client that did not wait for the answer.
                "status": status or 499,
                "milliseconds": round((time.monotonic() - before) * 1000, 1),
                **extras,
            }
            level = logging.DEBUG if fine and scope["path"] in self.quiet else logging.INFO
            logger.log(level, "request", extra=line)
