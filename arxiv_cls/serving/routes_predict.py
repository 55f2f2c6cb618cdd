"""The routes that answer: `POST /predict` in the schema its keys name, `POST /` as Hugging Face's API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Discriminator, Tag

from arxiv_cls.models.predictor import EncodedText
from arxiv_cls.serving.client_schemas import (
    HuggingFaceReply,
    HuggingFaceRequest,
    TeiReply,
    TeiRequest,
    client_scores,
)
from arxiv_cls.serving.endpoint import ClientGone, Endpoint
from arxiv_cls.serving.http_errors import Refused, documented
from arxiv_cls.serving.schemas import (
    Paper,
    PaperRequest,
    TextRequest,
    VertexReply,
    VertexRequest,
    paper_reply,
)

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
