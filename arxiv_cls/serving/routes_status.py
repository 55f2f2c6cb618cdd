"""The routes that tell about the server: what it is, whether it is ready, its limits, its counters."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from arxiv_cls import __version__
from arxiv_cls.serving.docs_page import SECURITY_POLICY, docs_page
from arxiv_cls.serving.endpoint import Endpoint
from arxiv_cls.serving.http_errors import Refused, documented
from arxiv_cls.serving.model_slot import ServedModel

LINKS = {
    "predict": "POST /predict",
    "hugging_face": "POST /",
    "health": "/health",
    "live": "/health/live",
    "info": "/info",
    "metrics": "/metrics",
    "docs": "/docs",
    "openapi": "/openapi.json",
}


class Welcome(BaseModel):
    """What this server is."""

    name: str
    version: str = Field(description="of the program")
    what: str
    model: str | None = Field(description="name of the model; null before it is loaded")
    links: dict[str, str]


class Health(BaseModel):
    """The server can answer."""

    status: str
    model: str
    model_version: str


class Live(BaseModel):
    """The process works."""

    status: str


class Limits(BaseModel):
    """What a request may ask for."""

    max_texts: int = Field(description="texts in one request")
    max_characters: int = Field(description="characters in one text")
    max_body: int = Field(description="bytes in one request")
    max_tokens: int | None = Field(description="tokens that the model reads of a text; null for no limit")
    max_queue: int = Field(description="texts that wait or are computed")
    max_wait: float = Field(description="longest wait in the queue, seconds")
    max_batch_tokens: int = Field(description="tokens that are computed together")


class CascadeInfo(BaseModel):
    """The baseline that answers first, and when it does."""

    baseline: str
    baseline_version: str
    baseline_sha: str = Field(description="sha256 of its weights")
    threshold: float = Field(description="top score of the baseline from which it answers alone")
    max_tokens: int = Field(description="tokens that the transformer reads of the other texts")


class Info(BaseModel):
    """The model, its data and the limits; the names of Text Embeddings Inference where it has one."""

    model_id: str
    model_sha: str = Field(description="sha256 of the weights that the engine computes with")
    model_version: str
    model_type: dict[str, Any] = Field(description="classifier with id2label and label2id")
    kind: str = Field(description="transformer, tfidf or cascade")
    engine: str
    cascade: CascadeInfo | None = Field(description="null for a model by itself")
    labels: list[str]
    data: dict[str, Any] = Field(description="what the model was trained on, from its run.json")
    test_metrics: dict[str, float] = Field(description="scores on the test split, from its run.json")
    max_input_length: int | None
    max_client_batch_size: int
    auto_truncate: bool
    limits: Limits
    version: str = Field(description="of the program")


def status_router(health_route: str) -> APIRouter:
    """The routes.

    Args:
        health_route: one more address of `/health`; "/health" adds none.
    """
    router = APIRouter(tags=["operate"])

    @router.get("/", summary="What this is", response_model=Welcome)
    async def welcome(request: Request) -> dict[str, Any]:
        """Name, model and links."""
        model = _endpoint(request).slot.current
        return {
            "name": "arxiv_cls",
            "version": __version__,
            "what": "Names the arXiv category of a paper from its title and abstract.",
            "model": model.name if model else None,
            "links": LINKS,
        }

    async def health(request: Request) -> dict[str, Any]:
        """200 when a request would be answered; 503 before the model is loaded and while the server ends."""
        model = _ready(request)
        _check_thread(request)
        return {"status": "ready", "model": model.name, "model_version": model.version}

    for route in dict.fromkeys(("/health", health_route)):
        router.get(route, summary="Ready", response_model=Health, responses=documented(503))(health)

    @router.get("/health/live", summary="Alive", response_model=Live, responses=documented(503))
    async def live(request: Request) -> dict[str, str]:
        """200 as long as the process should not be started anew."""
        _check_thread(request)
        return {"status": "alive"}

    @router.get("/info", summary="Model and limits", response_model=Info, responses=documented(503))
    async def info(request: Request) -> dict[str, Any]:
        """The model, its data and the limits of requests."""
        return describe(_ready(request), _endpoint(request))

    @router.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Prometheus' text format."""
        return Response(generate_latest(_endpoint(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/monitoring", summary="Not here yet", status_code=404, responses=documented(404))
    async def monitoring() -> None:
        """Drift reports are not part of this server; the request log is what they are made from."""
        raise Refused(
            404,
            "this server makes no drift reports yet; start it with --request-log to keep what they need, "
            "and read /metrics for its counters",
        )

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The documentation, without anything from another server."""
        return HTMLResponse(docs_page(), headers={"Content-Security-Policy": SECURITY_POLICY})

    return router


def describe(model: ServedModel, endpoint: Endpoint) -> dict[str, Any]:
    """The fields of `Info`."""
    settings, predictor = endpoint.settings, model.predictor
    labels = {str(number): label for number, label in enumerate(predictor.labels)}
    baseline = model.baseline
    test = model.run.get("metrics", {}).get("test", {})
    return {
        "model_id": model.name,
        "model_sha": model.weights_sha256,
        "model_version": model.version,
        "model_type": {
            "classifier": {
                "id2label": labels,
                "label2id": {label: number for number, label in labels.items()},
            }
        },
        "kind": predictor.kind,
        "engine": predictor.engine,
        "cascade": baseline
        and {
            "baseline": baseline.name,
            "baseline_version": baseline.version,
            "baseline_sha": baseline.weights_sha256,
            "threshold": baseline.threshold,
            "max_tokens": baseline.max_tokens,
        },
        "labels": predictor.labels,
        "data": model.run.get("data", {}),
        "test_metrics": {name: value for name, value in test.items() if isinstance(value, int | float)},
        "max_input_length": predictor.max_length,
        "max_client_batch_size": settings.texts_per_request,
        "auto_truncate": True,
        "limits": {
            "max_texts": settings.texts_per_request,
            "max_characters": settings.max_characters,
            "max_body": settings.max_body,
            "max_tokens": predictor.max_length,
            "max_queue": settings.max_queue,
            "max_wait": settings.max_wait,
            "max_batch_tokens": settings.max_batch_tokens,
        },
        "version": __version__,
    }


def _ready(request: Request) -> ServedModel:
    endpoint = _endpoint(request)
    if endpoint.slot.current is None and endpoint.failure is not None:
        raise Refused(503, "the model could not be loaded; the server's log says why")
    return endpoint.ready_model()


def _check_thread(request: Request) -> None:
    endpoint = _endpoint(request)
    if not endpoint.batcher.alive and not endpoint.ending:
        raise Refused(503, "the thread that computes has ended")


def _endpoint(request: Request) -> Endpoint:
    return request.app.state.endpoint
