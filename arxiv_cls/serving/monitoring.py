"""The two routes of the endpoint that monitoring needs: labels come in, the newest report goes out."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from arxiv_cls.serving import schemas
from arxiv_cls.serving.http_requests import Refused, documented, read_json
from arxiv_cls.serving.request_log import LogFiles, Objects
from arxiv_cls.serving.service import Credentials, check_token
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
PREFIX = "feedback-"
REPORT = "report.html"
# Of one request.
MAX_LABELS = 64
# Requests that wait for the disk or the bucket; each has its own answer to wait for.
MAX_WAITING = 16
# A report in a bucket is not fetched anew for every reader.
SECONDS_KEPT = 10.0
# The report's images are inside the page, and it runs nothing.
SECURITY_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

Category = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Label(BaseModel):
    """What a text that was answered is, as someone who knows says."""

    model_config = ConfigDict(extra="forbid")
    request_id: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$", description="X-Request-Id of the answer")
    index: schemas.Whole = Field(0, ge=0, le=999_999, description="of the text in its request, from 0")
    categories: list[Category] = Field(
        min_length=1, max_length=20, description="the true category, or all of them, the primary one first"
    )


class FeedbackRequest(BaseModel):
    """Labels that came later."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"labels": [{"request_id": "4f1c", "categories": ["cs.CL"]}]}]},
    )
    labels: list[Label] = Field(min_length=1, max_length=MAX_LABELS)


class FeedbackReply(BaseModel):
    """So many labels are on the disk, or in the bucket."""

    written: int


class Monitoring:
    """Where labels are appended and where the newest report lies, as the settings say.

    Raises:
        UserError: the directory cannot be written, or Google's client is not installed.
    """

    def __init__(self, settings: ServingSettings) -> None:
        self._labels = LogFiles(settings, "feedback_log", PREFIX) if settings.feedback_log else None
        self._lock, self._waiting = threading.Lock(), threading.BoundedSemaphore(MAX_WAITING)
        self._reading = threading.Lock()
        target = self._target = settings.monitoring or ""
        shown = f"serve: --monitoring {target}"
        self._objects = Objects(target, shown) if target.startswith("gs://") else None
        self._kept: tuple[float, bytes] | None = None

    def append(self, labels: list[Label]) -> None:
        """Writes labels; they are safe when this returns.

        Raises:
            Refused: 429 when too many requests wait for it, 503 when the disk or the bucket takes nothing.
        """
        assert self._labels
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        about = {"schema_version": SCHEMA_VERSION, "time": now}
        lines = [json.dumps(about | label.model_dump()) + "\n" for label in labels]
        if not self._waiting.acquire(blocking=False):
            raise Refused(429, "too many labels are being written", {"Retry-After": "1"}, reason="queue_full")
        try:
            with self._lock:
                self._write(self._labels, "".join(lines).encode("ascii"))
        except Exception as error:
            # Whatever a disk or a storage client raises.
            logger.warning("labels cannot be written: %s: %s", type(error).__name__, error)
            raise Refused(503, "the labels were not written; the server's log says why") from None
        finally:
            self._waiting.release()

    def _write(self, files: LogFiles, lines: bytes) -> None:
        if files.objects:
            files.objects.send(files.new_name(), lines)
        else:
            files.write(lines)
            files.rotate_if_due()

    def report(self) -> bytes:
        """The newest report; FileNotFoundError where there is none."""
        if not self._objects:
            return (Path(self._target).expanduser() / REPORT).read_bytes()
        with self._reading:
            if not self._kept or time.monotonic() - self._kept[0] > SECONDS_KEPT:
                self._kept = time.monotonic(), self._objects.read(REPORT)
            return self._kept[1]


router = APIRouter(tags=["monitor"])


def report_reply_of(*errors: int) -> dict[str, Any]:
    """How a route that answers with `report_reply`, or with errors, is documented."""
    page = {"content": {"text/html": {"schema": {"type": "string"}}}}
    return {"response_class": Response, "responses": {200: page, **documented(*errors)}}


def report_reply(content: bytes) -> HTMLResponse:
    """A report as a page that loads nothing."""
    headers = {"Content-Security-Policy": SECURITY_POLICY, "Cache-Control": "no-cache"}
    return HTMLResponse(content, headers=headers)


@router.get("/monitoring", summary="The newest drift report", **report_reply_of(404, 503))
async def monitoring(request: Request) -> HTMLResponse:
    """The report that `arxiv-cls monitor serve` or `arxiv-cls monitor drift` has written."""
    service = request.app.state.endpoint
    if not service.settings.monitoring:
        hint = "`arxiv-cls monitor serve MODEL --log LOG --out OUT` makes one; start this server with"
        raise Refused(404, f"no report: {hint} --request-log LOG --monitoring OUT")
    try:
        return report_reply(await asyncio.to_thread(service.monitoring.report))
    except FileNotFoundError:
        raise Refused(404, "no report yet: `arxiv-cls monitor serve MODEL --log LOG` makes it") from None
    except Exception as error:
        logger.warning("the report cannot be read: %s: %s", type(error).__name__, error)
        raise Refused(503, "the report cannot be read; the server's log says why") from None


BODY: dict[str, Any] = {"application/json": {"schema": FeedbackRequest.model_json_schema()}}
for _schema in BODY["application/json"]["schema"].pop("$defs").values():
    BODY["application/json"]["schema"]["properties"]["labels"]["items"] = _schema


@router.post(
    "/feedback",
    summary="Labels that came later",
    responses=documented(401, 403, 408, 413, 415, 422, 429, 503),
    # The body is read by hand, so that a client without the token learns nothing from how it is judged.
    openapi_extra={"requestBody": {"required": True, "content": BODY}},
)
async def feedback(request: Request, credentials: Credentials) -> FeedbackReply:
    """Appends labels to the feedback log, which `arxiv-cls monitor feedback` reads."""
    service = request.app.state.endpoint
    check_token(service.settings, credentials, "feedback")
    if not service.settings.feedback_log:
        raise Refused(403, "feedback is off: the server was started without --feedback-log")
    labels = (await read_json(request, FeedbackRequest, max_texts=2 * MAX_LABELS)).labels
    await asyncio.to_thread(service.monitoring.append, labels)
    service.metrics.feedback.inc(len(labels))
    return FeedbackReply(written=len(labels))
