"""The application: routes, limits, counters and logs around one model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from arxiv_cls import __version__
from arxiv_cls.serving.endpoint import Endpoint
from arxiv_cls.serving.http_errors import BodyLimits, install_error_handlers
from arxiv_cls.serving.model_slot import ServedModel, load_model
from arxiv_cls.serving.observability import RequestLines
from arxiv_cls.serving.routes import load_router, predict_router, status_router
from arxiv_cls.serving.settings import ServingSettings

DESCRIPTION = """Names the arXiv category of a paper from its title and abstract.

`POST /predict` answers in the schema that the keys of the request name; `POST /` speaks Hugging Face's
inference schema. Every error has the shape `{"error", "error_type"}`."""


def create_app(
    settings: ServingSettings, load: Callable[[str, ServingSettings], ServedModel] = load_model
) -> FastAPI:
    """Makes the application; its model is loaded in the background when it starts.

    Args:
        settings: of the endpoint.
        load: makes a model from a directory or a Hub id; a test passes its own.

    Raises:
        UserError: the request log cannot be written.
    """
    endpoint = Endpoint(settings, load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        endpoint.start()
        yield
        await endpoint.stop()

    app = FastAPI(
        title="arxiv_cls",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # The stock pages load their scripts from a content delivery network.
        docs_url=None,
        redoc_url=None,
    )
    app.state.endpoint = endpoint
    app.include_router(predict_router(settings.predict_route))
    app.include_router(status_router(settings.health_route))
    app.include_router(load_router())
    install_error_handlers(app)
    # The last one that is added sees a request first.
    app.add_middleware(BodyLimits, max_body=settings.max_body, timeout=settings.body_timeout)
    endpoint.metrics.instrument(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "Authorization", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    probes = {"/health", "/health/live", "/metrics", settings.health_route}
    app.add_middleware(RequestLines, quiet=frozenset(probes))
    return app
