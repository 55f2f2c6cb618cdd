"""The page at `/docs`: one file, nothing from another server, so that it works without the internet."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText
from arxiv_cls.serving.endpoint import ClientGone, Endpoint
from arxiv_cls.serving.http_errors import Refused, documented, explain
from arxiv_cls.serving.model_slot import ServedModel, allowed_model
from arxiv_cls.serving.schemas import (
    HuggingFaceReply,
    HuggingFaceRequest,
    Paper,
    PaperRequest,
    TeiReply,
    TeiRequest,
    TextRequest,
    VertexReply,
    VertexRequest,
    client_scores,
    paper_reply,
)

# Its script and style are inline; it may call this server and no other.
SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@cache
def docs_page() -> str:
    """The page's HTML; it reads `openapi.json` of the server it came from."""
    return (Path(__file__).parent / "templates" / "docs.html").read_text(encoding="utf-8")


KEYS = {
    "text": {"text"},
    "paper": {"title", "abstract"},
    "inputs": {"inputs"},
    "instances": {"instances"},
}
ERRORS = documented(400, 408, 413, 422, 429, 503)


def schema_of(body: Any) -> str | None:
    """Which schema a body follows, told by its keys; None when they name none, or two."""
    if not isinstance(body, dict):
        return None
    named = [schema for schema, keys in KEYS.items() if keys & body.keys()]
    return named[0] if len(named) == 1 else None


AnyRequest = Annotated[
    Annotated[TextRequest, Tag("text")]
    | Annotated[PaperRequest, Tag("paper")]
    | Annotated[TeiRequest, Tag("inputs")]
    | Annotated[VertexRequest, Tag("instances")],
    Discriminator(
        schema_of,
        custom_error_type="one_schema",
        custom_error_message=(
            "send a JSON object with exactly one of: text; title and abstract; inputs; instances"
        ),
    ),
]


def predict_router(settings_predict_route: str) -> APIRouter:
    """The routes.

    Args:
        settings_predict_route: one more address of Vertex AI's schema; "/predict" adds none.
    """
    router = APIRouter(tags=["classify"])

    @router.post(
        "/predict",
        summary="Classify texts",
        response_class=JSONResponse,
        responses={200: {"model": Paper | TeiReply | VertexReply}, **ERRORS},
    )
    async def predict(request: Request, body: AnyRequest) -> Response:
        """The reply follows the request: `text` or `title` and `abstract`, `inputs`, `instances`."""
        if isinstance(body, TeiRequest):
            return await _tei(request, body)
        if isinstance(body, VertexRequest):
            return await _vertex(request, body)

        async def one() -> dict[str, Any]:
            model, answer = await _endpoint(request).answer(request, "text", body.texts())
            return paper_reply(answer.predictions[0], model, body.top_k)

        return await _reply(one)

    @router.post(
        "/",
        summary="Classify texts, Hugging Face's inference schema",
        response_class=JSONResponse,
        responses={200: {"model": HuggingFaceReply}, **ERRORS},
    )
    async def hugging_face(request: Request, body: HuggingFaceRequest) -> Response:
        """What `InferenceClient(model=url).text_classification(text)` calls."""
        wanted = body.parameters

        async def scores() -> list[list[dict[str, Any]]]:
            check = _refuse_truncation if wanted and wanted.truncation is False else None
            _, answer = await _endpoint(request).answer(request, "huggingface", body.texts(), check)
            return [client_scores(said, wanted.top_k if wanted else None) for said in answer.predictions]

        return await _reply(scores)

    if settings_predict_route != "/predict":

        @router.post(
            settings_predict_route,
            summary="Classify texts, Vertex AI's schema",
            response_class=JSONResponse,
            responses={200: {"model": VertexReply}, **ERRORS},
        )
        async def vertex(request: Request, body: VertexRequest) -> Response:
            """The address that `AIP_PREDICT_ROUTE` names."""
            return await _vertex(request, body)

    return router


async def _tei(request: Request, body: TeiRequest) -> Response:
    async def scores() -> list[Any]:
        check = _refuse_truncation if body.truncate is False else None
        _, answer = await _endpoint(request).answer(request, "inputs", body.texts(), check)
        told = [client_scores(said) for said in answer.predictions]
        return told if body.is_batch() else told[0]

    return await _reply(scores)


async def _vertex(request: Request, body: VertexRequest) -> Response:
    async def predictions() -> dict[str, Any]:
        model, answer = await _endpoint(request).answer(request, "instances", body.texts())
        top_k = body.parameters.top_k if body.parameters else None
        return {"predictions": [paper_reply(said, model, top_k) for said in answer.predictions]}

    return await _reply(predictions)


async def _reply(make: Callable[[], Any]) -> Response:
    try:
        return JSONResponse(await make())
    except ClientGone:
        # Nobody reads this; the log and the metrics see the status.
        return Response(status_code=499)


def _endpoint(request: Request) -> Endpoint:
    return request.app.state.endpoint


def _refuse_truncation(encoded: Sequence[EncodedText]) -> None:
    for position, text in enumerate(encoded):
        if text.truncated:
            raise Refused(
                422, f"text {position + 1} is longer than the model reads, and truncation was refused"
            )


logger = logging.getLogger(__name__)


class LoadRequest(BaseModel):
    """Which model shall answer from now on."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(
        min_length=1, max_length=256, description="a name in the models directory, or an allowed Hub id"
    )


class LoadReply(BaseModel):
    """What answers now."""

    model: str
    model_version: str
    engine: str
    seconds: float = Field(description="that loading took")
    previous: str | None = Field(description="name of the model before")


bearer = HTTPBearer(auto_error=False, description="the value of ARXIV_CLS_TOKEN")


def load_router() -> APIRouter:
    """The route."""
    router = APIRouter(tags=["operate"])
    schema = LoadRequest.model_json_schema()

    @router.post(
        "/load",
        summary="Switch the model",
        response_model=LoadReply,
        responses=documented(401, 403, 404, 408, 409, 413, 422, 424),
        # The body is read by hand, so that who has no token learns nothing from how it is judged.
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    )
    async def load(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> dict[str, Any]:
        """Requests that came before are answered by the old model, later ones by the new; none is dropped."""
        endpoint = request.app.state.endpoint
        _check_token(credentials, endpoint.settings.token)
        try:
            wanted = LoadRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise Refused(422, explain(error.errors())) from None
        settings = endpoint.settings
        # In a thread: it reads the head of every file of the model.
        model = await asyncio.to_thread(
            allowed_model, wanted.model, settings.models_directory, settings.allow_hub
        )
        previous = endpoint.slot.current
        try:
            loaded = await endpoint.switch(model)
        except UserError as error:
            # Where the models lie on this machine is nobody's business, not even that of who has the token.
            told = error.message.replace(f"{settings.models_directory}/", "").replace(model, wanted.model)
            raise Refused(424, f"not loaded, the old model stays: {told}") from None
        except Exception as error:
            logger.exception("a model could not be loaded")
            told = f"not loaded, the old model stays: {type(error).__name__} while reading its files"
            raise Refused(424, told) from None
        if loaded is None:
            raise Refused(409, "another model is being loaded")
        return {
            "model": loaded.name,
            "model_version": loaded.version,
            "engine": loaded.predictor.engine,
            "seconds": round(loaded.loaded_in, 3),
            "previous": previous.name if previous else None,
        }

    return router


def _check_token(credentials: HTTPAuthorizationCredentials | None, token: str | None) -> None:
    if not token:
        raise Refused(403, "switching is off: the server was started without ARXIV_CLS_TOKEN")
    given = credentials.credentials if credentials else ""
    # compare_digest takes the same time wherever the first difference is.
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode("utf-8", "replace")):
        raise Refused(401, "send the header Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"})


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
