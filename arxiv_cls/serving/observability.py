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
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arxiv_cls.models.prediction import Prediction
from arxiv_cls.serving.model_slot import ServedModel

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


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
REFUSALS = ("queue_full", "ending", "not_loaded", "disconnected")


class Metrics:
    """The counters of one app, in a registry of its own, so that two apps in one process stay apart.

    Args:
        queue_depth: texts that wait or are computed now.
    """

    def __init__(self, queue_depth: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.predictions = Counter(
            "arxiv_cls_predictions", "Texts answered", ["label", "answered_by"], registry=registry
        )
        self.truncated = Counter(
            "arxiv_cls_truncated", "Texts longer than the model reads", registry=registry
        )
        self.out_of_scope = Counter("arxiv_cls_out_of_scope", "Texts out of scope", registry=registry)
        self.refused = Counter(
            "arxiv_cls_refused", "Requests that were not computed", ["reason"], registry=registry
        )
        for reason in REFUSALS:
            # A counter that is 0 is there from the start, so that a rate over it is 0 and not absent.
            self.refused.labels(reason)
        self.batch_texts = Histogram(
            "arxiv_cls_batch_texts", "Texts per batch", registry=registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self.batch_tokens = Histogram(
            "arxiv_cls_batch_tokens",
            "Tokens per batch",
            registry=registry,
            buckets=(64, 128, 256, 512, 1024, 2048, 4096, 8192),
        )
        self.batch_seconds = Histogram(
            "arxiv_cls_batch_seconds", "Computing time of a batch", registry=registry, buckets=SECONDS
        )
        self.wait_seconds = Histogram(
            "arxiv_cls_wait_seconds", "Time of a request in the queue", registry=registry, buckets=SECONDS
        )
        Gauge("arxiv_cls_queue_texts", "Texts that wait or are computed", registry=registry).set_function(
            queue_depth
        )
        self.log_records = Counter(
            "arxiv_cls_request_log_records",
            "Records of the request log: written, or lost and why",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("written", "queue_full", "write_failed"):
            self.log_records.labels(outcome)
        self.model_loads = Counter("arxiv_cls_model_loads", "Models loaded", ["outcome"], registry=registry)
        self.model = Gauge(
            "arxiv_cls_model_info",
            "1 for the model that answers",
            ["model", "version", "engine"],
            registry=registry,
        )

    def instrument(self, app: FastAPI) -> None:
        """Counts and times the requests of an app by route, method and status."""
        Instrumentator(
            registry=self.registry, should_group_status_codes=False, excluded_handlers=["^/metrics$"]
        ).instrument(app)

    def note_model(self, model: ServedModel) -> None:
        """A model has taken its place."""
        self.model.clear()
        self.model.labels(model.name, model.version, model.predictor.engine).set(1)
        self.model_loads.labels("loaded").inc()

    def note_batch(self, texts: int, tokens: int, seconds: float) -> None:
        """A batch was computed."""
        self.batch_texts.observe(texts)
        self.batch_tokens.observe(tokens)
        self.batch_seconds.observe(seconds)

    def note_prediction(self, prediction: Prediction) -> None:
        """A text was answered."""
        self.predictions.labels(prediction.label, prediction.answered_by).inc()
        if prediction.truncated:
            self.truncated.inc()
        if prediction.in_scope is False:
            self.out_of_scope.inc()
