"""The server's own log, one JSON object per line on standard error; and the counters for Prometheus.

No line holds the text of a request, a query string, or a header other than the request's id.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator, metrics
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arxiv_cls.models.prediction import Prediction
from arxiv_cls.serving.schemas import ServedModel

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
# Characters of a method or a path that a line shows.
MAX_SHOWN = 500
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
        # ASCII: what ends a line for some reader (U+0085, U+2028) or turns its direction is escaped.
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


def configure_logging(level: str) -> None:
    """Sends all records, Python's warnings and the failures of threads to standard error as JSON lines.

    `level` is of this program's and uvicorn's records: debug, info, warning or error. Others log warnings.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("arxiv_cls", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _log_failure


def _log_failure(failed: threading.ExceptHookArgs) -> None:
    name = failed.thread.name if failed.thread else "unknown"
    info = (failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
    logger.error("the thread %s has ended by an exception", name, exc_info=info)


class RequestLines:
    """ASGI middleware: gives each request an id and writes a line when it is answered.

    A route adds to the line through `scope["state"]["log"]`, a dict. Successes of `quiet` paths are logged at
    debug level, because probes ask for them all the time. A proxy may strip its prefix `root_path` or not.
    """

    def __init__(self, app: ASGIApp, *, quiet: frozenset[str] = frozenset(), root_path: str = "") -> None:
        self.app, self.quiet, self.root_path = app, quiet, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        path = scope["path"]
        if f"{path}/".startswith(f"{self.root_path}/"):
            path = path.removeprefix(self.root_path) or "/"
        scope |= {"root_path": self.root_path, "path": self.root_path + path}
        method, shown = scope["method"][:MAX_SHOWN], path[:MAX_SHOWN]
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
            line = {"request_id": request_id, "method": method, "path": shown}
            # 499 is nginx's number for a client that did not wait for the answer.
            line |= {"status": status or 499, "milliseconds": round((time.monotonic() - before) * 1000, 1)}
            quiet = 0 < status < 400 and path in self.quiet
            logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra=line | extras)


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
REFUSALS = ("queue_full", "ending", "not_loaded", "no_number", "disconnected", "connections", "malformed")
LOG_OUTCOMES = ("written", "queue_full", "write_failed")
# Whatever else a client calls a method is one label: each new label is kept until the process ends.
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class ServerMetrics:
    """The counters of one app, in a registry of its own, so that two apps in one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        about = "Requests that were not answered with a result"
        self.refused = Counter("arxiv_cls_refused", about, ("reason",), registry=self.registry)
        # A counter that is 0 is there from the start, so that a rate over it is 0 and not absent.
        for value in REFUSALS:
            self.refused.labels(value)

    def instrument(self, app: FastAPI) -> None:
        """Counts and times the requests of an app by route, method and status."""
        note = metrics.default(registry=self.registry)

        def note_known(info: metrics.Info) -> None:
            if info.method not in METHODS:
                info.method = "other"
            note(info)  # type: ignore[misc]  # None only for a registry that has these counters already

        Instrumentator(
            registry=self.registry, should_group_status_codes=False, excluded_handlers=["^/metrics$"]
        ).add(note_known).instrument(app)


class Metrics(ServerMetrics):
    """What the endpoint counts besides."""

    def __init__(self, queue_depth: Callable[[], float]) -> None:
        super().__init__()
        ours: dict[str, Any] = {"namespace": "arxiv_cls", "registry": self.registry}
        counter, histogram, gauge = (
            partial(Counter, **ours),
            partial(Histogram, **ours),
            partial(Gauge, **ours),
        )
        self.predictions = counter("predictions", "Texts answered", ("label", "answered_by"))
        self.truncated = counter("truncated", "Texts longer than the model reads")
        self.out_of_scope = counter("out_of_scope", "Texts out of scope")
        about = "Records of the request log: written, or lost and why"
        self.log_records = counter("request_log_records", about, ("outcome",))
        for value in LOG_OUTCOMES:
            self.log_records.labels(value)
        self.feedback = counter("feedback", "Labels that POST /feedback has written")
        self.model_loads = counter("model_loads", "Models loaded", ("outcome",))
        self.batch_texts = histogram("batch_texts", "Texts per batch", buckets=(1, 2, 4, 8, 16, 32, 64))
        self.batch_tokens = histogram("batch_tokens", "Tokens per batch", buckets=TOKENS)
        self.batch_seconds = histogram("batch_seconds", "Computing time of a batch", buckets=SECONDS)
        self.wait_seconds = histogram("wait_seconds", "Time of a request in the queue", buckets=SECONDS)
        gauge("queue_texts", "Texts that wait or are computed").set_function(queue_depth)
        labels = ("model", "version", "engine")
        self.model = gauge("model_info", "1 for the model that answers", labels)

    def note_model(self, model: ServedModel) -> None:
        """Counts a model that has taken its place."""
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
