"""What every HTTP server here shares: its state, the limits and counters around its routes, the token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from threading import Thread
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from arxiv_cls import __version__
from arxiv_cls.serving.http_requests import BodyLimits, BoundedRoute, Refused, install_error_handlers
from arxiv_cls.serving.observability import RequestLines, ServerMetrics
from arxiv_cls.serving.settings import ServerSettings

T = TypeVar("T")
_bearer = HTTPBearer(auto_error=False, description="the value of ARXIV_CLS_TOKEN")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


class Service:
    """One server's state, reached from a route as `request.app.state.endpoint`.

    Attributes:
        ending: whether nothing new is accepted any more.
        failure: why the server has to end.
        seconds_to_stop: how long `stop` may take.
        waiting: texts that were accepted and have no answer yet.
        busy: whether a thread works on what nobody needs once the process ends.
    """

    waiting: int = 0
    busy: bool = False

    def __init__(self, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.ending = False
        self.failure: Exception | None = None
        self.seconds_to_stop = settings.shutdown_timeout

    def start(self) -> None:
        """Starts what runs beside the routes."""

    async def stop(self) -> None:
        """Ends it."""

    def refuse_accepted(self) -> None:
        """Gives up what was accepted and was not answered in time."""


def in_thread(work: Callable[[], T], name: str) -> tuple[Thread, asyncio.Future[T]]:
    """Does something in a thread that the end of the process does not wait for."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # Not a thread of asyncio's: its end would wait for a download, which cannot be interrupted.
    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, asyncio.wrap_future(future)


def check_token(
    settings: ServerSettings, credentials: HTTPAuthorizationCredentials | None, what: str
) -> None:
    """Refuses a request without the token: 401, or 403 when the server has none and `what` is off."""
    if not settings.token:
        raise Refused(403, f"{what} is off: the server was started without ARXIV_CLS_TOKEN")
    given = credentials.credentials if credentials else ""
    # compare_digest takes the same time wherever the first difference is.
    if not hmac.compare_digest(given.encode("utf-8", "replace"), settings.token.encode("utf-8", "replace")):
        raise Refused(401, "send the header Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"})


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    registry = request.app.state.endpoint.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def make_app(
    service: Service, *, title: str, description: str, routers: Iterable[APIRouter], quiet: Iterable[str]
) -> FastAPI:
    """The application of a service: its routes and `GET /metrics` under its limits.

    `quiet` paths are those that probes ask for all the time.
    """
    settings = service.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    # The stock pages load their scripts from a content delivery network.
    texts: dict[str, Any] = {"title": title, "version": __version__, "description": description}
    app = FastAPI(**texts, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.endpoint = service
    app.router.route_class = BoundedRoute
    for router in routers:
        app.include_router(router)
    counters: dict[str, Any] = {"summary": "Counters for Prometheus", "response_class": PlainTextResponse}
    app.get("/metrics", tags=["operate"], **counters)(metrics)
    install_error_handlers(app)
    # The last one that is added sees a request first.
    app.add_middleware(BodyLimits, max_body=settings.max_body, timeout=settings.body_timeout)
    service.metrics.instrument(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "Authorization", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    probes = frozenset({"/health", "/health/live", "/metrics", *quiet})
    app.add_middleware(RequestLines, quiet=probes, root_path=settings.root_path)
    return app
