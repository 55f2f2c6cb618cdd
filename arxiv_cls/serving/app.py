"""The application: routes for texts and for operators, and the limits, counters and logs around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.serving import monitoring, schemas
from arxiv_cls.serving.endpoint import Endpoint, allowed_model, load_model
from arxiv_cls.serving.http_requests import BoundedRoute, Refused, documented, read_json, without_paths
from arxiv_cls.serving.service import Credentials, check_token, make_app
from arxiv_cls.serving.settings import ServingSettings

WHAT = "Names the arXiv category of a paper from its title and abstract."
DESCRIPTION = f"""{WHAT}

`POST /predict` answers in the schema that the keys of the request name; `POST /` has Hugging Face's
inference schema. Every error has the shape `{{"error", "error_type"}}`."""
# The script and the style of /docs are inline; it may call this server and no other.
SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
DOCS_PAGE = Path(__file__).parent / "templates" / "docs.html"
LINKS = {
    "predict": "POST /predict", "hugging_face": "POST /", "health": "/health", "live": "/health/live",
    "info": "/info", "metrics": "/metrics", "monitoring": "/monitoring", "feedback": "POST /feedback",
    "docs": "/docs", "openapi": "/openapi.json",
}  # fmt: skip


class LoadRequest(BaseModel):
    """Which model shall answer from now on: a name in the models directory, or an allowed Hub id."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(min_length=1, max_length=256)


LOAD_SCHEMA = {"schema": LoadRequest.model_json_schema()}


class LoadReply(BaseModel):
    """What answers now, the seconds that loading took, and the name of the model before."""

    model: str
    model_version: str
    engine: str
    seconds: float
    previous: str | None


class Welcome(BaseModel):
    """What this server is."""

    name: str = "arxiv_cls"
    version: str = Field(default=__version__, description="of the program")
    what: str = WHAT
    model: str | None = Field(description="name of the model; null before it is loaded")
    links: dict[str, str]


class Health(BaseModel):
    """The server can answer."""

    status: str
    model: str
    model_version: str


classify = APIRouter(tags=["classify"], route_class=BoundedRoute)
operate = APIRouter(tags=["operate"])


def _replies(model: Any) -> dict[str, Any]:
    errors = documented(400, 408, 413, 415, 422, 429, 503)
    return {"response_class": JSONResponse, "responses": {200: {"model": model}, **errors}}


def _endpoint(request: Request) -> Endpoint:
    return request.app.state.endpoint


@classify.post(
    "/predict", summary="Classify texts", **_replies(schemas.Paper | schemas.TeiReply | schemas.VertexReply)
)
async def predict(request: Request, body: schemas.PredictRequest) -> Response:
    """The reply follows the request: `text` or `title` and `abstract`, `inputs`, `instances`."""
    return await _endpoint(request).answer(request, body)


@classify.post(
    "/", summary="Classify texts, Hugging Face's inference schema", **_replies(schemas.HuggingFaceReply)
)
async def hugging_face(request: Request, body: schemas.HuggingFaceRequest) -> Response:
    """What `InferenceClient(model=url).text_classification(text)` calls."""
    return await _endpoint(request).answer(request, body)


async def vertex(request: Request, body: schemas.VertexRequest) -> Response:
    """The address that `AIP_PREDICT_ROUTE` names."""
    return await _endpoint(request).answer(request, body)


@operate.post(
    "/load",
    summary="Switch the model",
    responses=documented(401, 403, 404, 408, 409, 413, 415, 422, 424),
    # The body is read by hand, so that a client without the token learns nothing from how it is judged.
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": LOAD_SCHEMA}}},
)
async def load(request: Request, credentials: Credentials) -> LoadReply:
    """Requests that came before are answered by the old model, later ones by the new; none is dropped."""
    endpoint = _endpoint(request)
    settings = endpoint.settings
    check_token(settings, credentials, "switching")
    name = (await read_json(request, LoadRequest, max_texts=1)).model
    model = allowed_model(name, settings.models_directory, settings.allow_hub)
    previous = endpoint.model.name if endpoint.model else None
    try:
        loaded = await endpoint.switch(model)
    except UserError as error:
        reason = without_paths(error.message.replace(model, name), settings.models_directory)
        raise Refused(424, f"not loaded, the old model stays: {reason}") from None
    if loaded is None:
        raise Refused(409, "another model is being loaded")
    about = {"model": loaded.name, "model_version": loaded.version, "engine": loaded.predictor.engine}
    return LoadReply(**about, seconds=round(loaded.loaded_in, 3), previous=previous)


@operate.get("/", summary="What this is")
async def welcome(request: Request) -> Welcome:
    """Name, model and links."""
    model, prefix = _endpoint(request).model, request.scope["root_path"]
    links = {name: address.replace("/", f"{prefix}/", 1) for name, address in LINKS.items()}
    return Welcome(model=model.name if model else None, links=links)


HEALTH: dict[str, Any] = {"summary": "Ready", "responses": documented(503)}


@operate.get("/health", **HEALTH)
async def health(request: Request) -> Health:
    """200 when a request would be answered; 503 before the model is loaded and while the server ends."""
    model = _endpoint(request).ready_model()
    _check_thread(request)
    return Health(status="ready", model=model.name, model_version=model.version)


@operate.get("/health/live", summary="Alive", responses=documented(503))
async def live(request: Request) -> dict[str, str]:
    """200 as long as the process should not be started anew."""
    _check_thread(request)
    return {"status": "alive"}


def _check_thread(request: Request) -> None:
    endpoint = _endpoint(request)
    if not endpoint.batcher.alive and not endpoint.ending:
        raise Refused(503, "the thread that computes has ended")


@operate.get("/info", summary="Model and limits", responses=documented(503))
async def info(request: Request) -> schemas.Info:
    """The model, its data and the limits of requests."""
    return schemas.describe(_endpoint(request).ready_model(), _endpoint(request).settings)


@operate.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The documentation, without anything from another server."""
    page = DOCS_PAGE.read_text(encoding="utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": SECURITY_POLICY})


def create_app(
    settings: ServingSettings, load: Callable[[str, ServingSettings], schemas.ServedModel] = load_model
) -> FastAPI:
    """Makes the application; its model is loaded in the background when it starts.

    Raises:
        UserError: the request log cannot be written.
    """
    endpoint = Endpoint(settings, load)

    routers = (classify, operate, monitoring.router)
    about: dict[str, Any] = {"title": "arxiv_cls", "description": DESCRIPTION}
    app = make_app(endpoint, **about, routers=routers, quiet=[settings.health_route])
    if settings.predict_route != "/predict":
        summary, replies = "Classify texts, Vertex AI's schema", _replies(schemas.VertexReply)
        app.post(settings.predict_route, tags=["classify"], summary=summary, **replies)(vertex)
    if settings.health_route != "/health":
        app.get(settings.health_route, tags=["operate"], **HEALTH)(health)
    return app
