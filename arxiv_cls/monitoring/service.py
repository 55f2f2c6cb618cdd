"""The monitoring service: runs the drift check on a schedule of its own and shows the newest results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from functools import partial
from threading import Thread
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from pydantic import BaseModel, Field

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import locate_model
from arxiv_cls.monitoring import alerts, check, feedback, metrics
from arxiv_cls.monitoring.results import Results
from arxiv_cls.monitoring.settings import MonitorSettings
from arxiv_cls.scoring.reference import load_references
from arxiv_cls.serving.http_requests import Refused, documented, ending, without_paths
from arxiv_cls.serving.monitoring import report_reply, report_reply_of
from arxiv_cls.serving.observability import ServerMetrics
from arxiv_cls.serving.service import Credentials, Service, check_token, in_thread, make_app

logger = logging.getLogger(__name__)

DESCRIPTION = "Compares the request log of a model with its test split."
# After a run that failed: the log may not be there yet.
SECONDS_TO_NEXT_TRY = 60.0
LINKS = {
    "run": "POST /drift/run", "report": "/drift/report", "history": "/drift/history", "health": "/health",
    "live": "/health/live", "metrics": "/metrics", "openapi": "/openapi.json",
}  # fmt: skip


class MonitorService(Service):
    """The state of the service.

    Attributes:
        record: what drift.json holds; None before the first run.
        measured: what feedback.json holds; None without labels.
        problem: why the newest run failed; None where it did not.
        reference: whether the newest run found the model's reference; None before the first run.

    Raises:
        UserError: the results cannot be read or written, or a period is none.
    """

    settings: MonitorSettings

    def __init__(self, settings: MonitorSettings) -> None:
        super().__init__(settings, ServerMetrics())
        check.parse_time(settings.since, "--since")
        self.results = Results(settings.out)
        self.record = self._of_this_model(check.DRIFT, check.SCHEMA_VERSION)
        self.measured = self._of_this_model(feedback.FEEDBACK, feedback.SCHEMA_VERSION)
        self.problem: str | None = None
        self.reference: bool | None = True if self.record else None
        self.seconds: float | None = None
        registry = self.metrics.registry
        registry.register(self)
        self.runs = Counter("arxiv_cls_monitor_runs", "Runs of the check", ("outcome",), registry=registry)
        about = "Messages to the webhook"
        told = Counter("arxiv_cls_monitor_alerts", about, ("outcome",), registry=registry)
        for counter, outcomes in ((self.runs, ("finished", "failed")), (told, ("delivered", "failed"))):
            for outcome in outcomes:
                counter.labels(outcome)
        kept = self._of_this_model(alerts.ALERT, alerts.SCHEMA_VERSION)
        save = partial(self.results.write, alerts.ALERT)
        self.alerts = alerts.Alerts(kept, save, settings.webhook, told)
        age = metrics.seconds_since(self.record["created"]) if self.record else settings.interval
        self._next = time.monotonic() + min(settings.interval, max(0.0, settings.interval - age))
        self._run: asyncio.Task[dict[str, Any]] | None = None
        self._thread: Thread | None = None
        self._schedule: asyncio.Task[None] | None = None

    def _of_this_model(self, name: str, schema_version: int) -> dict[str, Any] | None:
        record = self.results.read(name, schema_version)
        return record if record and record.get("model") == self.settings.model else None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, as Prometheus' client asks a collector for them."""
        for name, about, value in (
            ("alert", "1 from an alarm until the next ok", float(self.alerts.on)),
            ("interval_seconds", "From run to run", self.settings.interval),
            ("running", "1 during a run", float(self.running)),
        ):
            yield metrics.gauge(name, about, [({}, value)])
        if self.seconds is not None:
            yield metrics.gauge("run_seconds", "Duration of the newest run", [({}, self.seconds)])
        if self.record:
            yield from metrics.of_run(self.record)
        if self.measured:
            yield from metrics.of_feedback(self.measured)

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._run is not None and not self._run.done()

    @property
    def busy(self) -> bool:  # type: ignore[override]
        """Whether a thread still reads the log."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Delivers what was not delivered, and starts the schedule."""
        self.alerts.start()
        self._schedule = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Ends the schedule; a run that is under way leaves whole files behind."""
        self.ending = True
        self.alerts.close()
        self.results.close()
        if self._schedule:
            self._schedule.cancel()

    async def _keep_running(self) -> None:
        while not self.ending:
            if self.running:
                assert self._run
                await asyncio.wait([self._run])
            elif (wait := self._next - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            else:
                # It has logged why, and set the time of the next try.
                with contextlib.suppress(Exception):
                    await self.run()

    async def run(self) -> dict[str, Any]:
        """Runs the check now, and returns what drift.json holds.

        Raises:
            Refused: 409 while a run is under way, 404 without a reference, 424 when the log cannot be read.
        """
        if self.ending:
            raise ending()
        if self.running:
            raise Refused(409, "a run is under way")
        self._run = asyncio.create_task(self._run_once())
        # The client may hang up; the run goes on, and has logged what it raises.
        self._run.add_done_callback(lambda run: run.cancelled() or run.exception())
        await asyncio.wait({self._run})
        if self._run.cancelled():
            raise ending()
        return self._run.result()

    def refuse_accepted(self) -> None:
        """Whoever waits for a run is answered 503; the run's thread goes on."""
        if self._run:
            self._run.cancel()

    async def _run_once(self) -> dict[str, Any]:
        before = time.monotonic()
        self._thread, working = in_thread(self._check, "drift")
        pause = min(SECONDS_TO_NEXT_TRY, self.settings.interval)
        try:
            record = await working
        except Exception as error:
            self.runs.labels("failed").inc()
            known = isinstance(error, Refused | UserError)
            reason = str(getattr(error, "detail", None) or error) if known else "the server's log says why"
            self.problem = without_paths(reason.splitlines()[0])
            shown = {"reason": reason, "next_try_in_seconds": pause}
            logger.warning("the run failed", extra=shown, exc_info=None if known else error)
            if isinstance(error, UserError):
                raise Refused(424, self.problem) from None
            raise
        else:
            pause = self.settings.interval
            self.problem, self.seconds = None, time.monotonic() - before
            self.runs.labels("finished").inc()
            shown = {"verdict": record["verdict"], "action": record["action"]}
            logger.info("run finished", extra=shown | {"seconds": round(self.seconds, 2)})
            return record
        finally:
            self._next = time.monotonic() + pause

    def _check(self) -> dict[str, Any]:
        """In a thread: compares, measures, keeps the results, tells of a change."""
        settings, out = self.settings, self.results.directory
        try:
            load_references(locate_model(settings.model))
        except UserError as error:
            self.reference = False
            raise Refused(404, without_paths(error.message)) from None
        self.reference = True
        about: dict[str, Any] = {"versions": settings.version, "out": out}
        record = check.check_drift(
            settings.model, settings.log, since=settings.since, window=settings.window, **about
        )
        # It does not depend on where the results can be kept.
        self.alerts.note(record)
        measured = self.measured if settings.labels else None
        if settings.labels:
            try:
                measured = feedback.measure_feedback(
                    settings.model, settings.log, settings.labels, since=settings.since, **about
                )
            except UserError as error:
                # Labels come when they come: without them the last measurement stays.
                logger.info("nothing measured", extra={"reason": error.message})
        # Where the record is new, the report is too.
        self.results.send(feedback.FEEDBACK, check.HISTORY, check.REPORT, check.DRIFT)
        self.record, self.measured = record, measured
        return record


class Welcome(BaseModel):
    """What this server is."""

    service: str = "arxiv_cls monitor"
    status: str = Field(description="verdict of the newest run, or `waiting` before the first")
    version: str = __version__
    model: str
    links: dict[str, str] = LINKS


class Health(BaseModel):
    """The newest run could compare the log with the reference."""

    status: str = Field(description="`ready`, or `waiting` before the first run")
    reference: bool | None = Field(description="whether there is one; null before the first run")
    log: bool | None = Field(description="likewise, of the log")
    running: bool
    report_age_seconds: float | None
    window_age_seconds: float | None = Field(description="since the end of the newest window")


class RunReply(BaseModel):
    """What a run has found; GET /drift/report shows it."""

    verdict: str
    action: str
    created: str
    alert: bool = Field(description="whether the alert is on")
    rows_read: int
    distinct: int
    groups: list[dict[str, Any]]


router = APIRouter(tags=["monitor"])


def _service(request: Request) -> MonitorService:
    return request.app.state.endpoint


@router.get("/", summary="What this is")
async def welcome(request: Request) -> Welcome:
    """Service, status, version and links."""
    service = _service(request)
    status = service.record["verdict"] if service.record else "waiting"
    return Welcome(status=status, model=service.settings.model)


@router.get("/health", summary="Ready", responses=documented(503))
async def health(request: Request) -> Health:
    """503 when the newest run failed, with the reason; 200 before the first run has ended."""
    service = _service(request)
    if service.ending:
        raise ending()
    if service.problem:
        raise Refused(503, service.problem)
    record = service.record
    ends = [group["window"]["end"] for group in record["groups"] if group["window"]] if record else []
    return Health(
        status="ready" if record else "waiting",
        reference=service.reference,
        log=True if record else None,
        running=service.running,
        report_age_seconds=metrics.seconds_since(record["created"]) if record else None,
        window_age_seconds=min(map(metrics.seconds_since, ends), default=None),
    )


@router.get("/health/live", summary="Alive")
async def live() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "alive"}


@router.post(
    "/drift/run", summary="Run now", responses=documented(401, 403, 404, 409, 413, 415, 422, 424, 503)
)
async def run(request: Request, credentials: Credentials) -> RunReply:
    """Compares now, not only on the schedule; answers when the run has ended."""
    service = _service(request)
    check_token(service.settings, credentials, "running on request")
    record = await service.run()
    names = ("answered_by", "model_version", "verdict", "action", "windows", "alarms")
    groups = [
        {name: group[name] for name in names} | {"p": group["window"] and group["window"]["p"]}
        for group in record["groups"]
    ]
    return RunReply(
        **{name: record[name] for name in ("verdict", "action", "created")},
        **{name: record["log"][name] for name in ("rows_read", "distinct")},
        alert=service.alerts.on,
        groups=groups,
    )


async def _file(request: Request, name: str) -> bytes:
    service = _service(request)
    try:
        return await asyncio.to_thread((service.results.directory / name).read_bytes)
    except FileNotFoundError:
        raise Refused(404, "no run has ended yet: POST /drift/run starts one, GET /health says why") from None


@router.get("/drift/report", summary="The newest report", **report_reply_of(404))
async def report(request: Request) -> HTMLResponse:
    """One page with everything in it."""
    return report_reply(await _file(request, check.REPORT))


@router.get("/drift/history", summary="The windows of all runs", responses=documented(404))
async def history(request: Request) -> dict[str, Any]:
    """Oldest first: p-values, verdict, label mix, accuracy estimate."""
    return Response(await _file(request, check.HISTORY), media_type="application/json")  # type: ignore[return-value]


def create_app(settings: MonitorSettings) -> FastAPI:
    """Makes the application; errors as of `MonitorService`."""
    about: dict[str, Any] = {"title": "arxiv_cls monitor", "description": DESCRIPTION}
    return make_app(MonitorService(settings), **about, routers=[router], quiet=())
