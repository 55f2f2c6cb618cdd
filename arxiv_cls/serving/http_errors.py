"""Errors of the endpoint: each has the shape of Text Embeddings Inference, `{"error", "error_type"}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from arxiv_cls.errors import UserError

logger = logging.getLogger(__name__)

# Status: kind (Text Embeddings Inference's, where it has one), description in the documentation.
ERRORS = {
    400: ("Empty", "A text is empty"),
    401: ("Unauthorized", "No token or a wrong one"),
    403: ("Forbidden", "Not allowed"),
    404: ("NotFound", "Not there"),
    405: ("MethodNotAllowed", "Another method is used at this address"),
    408: ("Timeout", "The request arrived too slowly"),
    409: ("Conflict", "Another switch is under way"),
    413: ("Validation", "The request is too large"),
    415: ("Validation", "The body is compressed, but not with gzip"),
    422: ("Validation", "The request does not fit the schema, or a limit"),
    424: ("Backend", "The model cannot be loaded"),
    429: ("Overloaded", "The queue is full: try again after `Retry-After` seconds"),
    500: ("Backend", "The server failed"),
    503: ("Unhealthy", "No model is loaded yet, or the server is ending"),
}
MAX_PROBLEMS = 5
MAX_LOOKED_AT = 100
# Type of pydantic's error for a text without content: it is answered 400, as Text Embeddings Inference does.
EMPTY_TEXT = "empty_text"


class ErrorReply(BaseModel):
    """The body of every reply that is not a success."""

    error: str = Field(description="What was wrong and what to do.")
    error_type: str = Field(description="Validation, Empty, Overloaded, Unhealthy, ...")


class Refused(Exception):
    """A request that is answered with an error, which never holds its text; counted where it has a reason."""

    def __init__(
        self, status: int, error: str, headers: Mapping[str, str] | None = None, reason: str | None = None
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.headers, self.reason = status, error, headers, reason


class ClientGone(Exception):
    """The client hung up before its answer was there."""


def ending() -> Refused:
    """The refusal of a request while the server ends."""
    headers = {"Connection": "close", "Retry-After": "1"}
    return Refused(503, "the server is ending", headers, reason="ending")


def error_reply(
    status: int, error: str, headers: Mapping[str, str] | None = None, kind: str | None = None
) -> JSONResponse:
    """A response in the shape of errors; its kind is the one of its status, unless another is named."""
    # The name of a file may hold bytes that are no text.
    error = error.encode("utf-8", "replace").decode()
    content = {"error": error, "error_type": kind or ERRORS.get(status, ERRORS[500])[0]}
    return JSONResponse(content, status, dict(headers or {}))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for its errors."""
    return {status: {"model": ErrorReply, "description": ERRORS[status][1]} for status in statuses}


def explain(problems: Sequence[Mapping[str, Any]]) -> str:
    """Pydantic's problems in one line: the place and the reason, without the values that were sent."""
    lines: dict[str, None] = {}
    # Not all of them: the time must not grow with the body.
    for problem in problems[:MAX_LOOKED_AT]:
        if problem["type"] == "json_invalid":
            return "the body is not JSON"
        # A union's place names the branches that were tried (`str`, `list[...]`): of no use to a reader.
        parts = [_shortened(str(part)) for part in problem["loc"] if part != "body" and "[" not in str(part)]
        place = ".".join(part for part, before in zip(parts, ["", *parts], strict=False) if part != before)
        reason = _shortened(str(problem["msg"]), 200)
        lines[f"{place}: {reason}" if place else reason] = None
    more = len(lines) - MAX_PROBLEMS + max(0, len(problems) - MAX_LOOKED_AT)
    return "; ".join(list(lines)[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _shortened(text: str, characters: int = 60) -> str:
    return text if len(text) <= characters else text[:characters] + "..."


def install_error_handlers(app: FastAPI) -> None:
    """Makes the app answer every error in the one shape, and count those that have a reason."""

    def count(reason: str) -> None:
        app.state.endpoint.metrics.refused.labels(reason).inc()

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        if error.reason:
            count(error.reason)
        return error_reply(error.status, error.error, error.headers)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        count("disconnected")
        # Nobody reads this; the log and the metrics see the status.
        return Response(status_code=499)

    @app.exception_handler(UserError)
    async def unusable(request: Request, error: UserError) -> JSONResponse:
        return error_reply(422, error.message)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = error.errors()
        empty = [problem for problem in problems if problem["type"] == EMPTY_TEXT]
        if empty:
            return error_reply(400, explain(empty))
        content_type = request.headers.get("content-type", "")
        if "json" not in content_type.lower():
            needed = "send JSON with the header Content-Type: application/json"
            return error_reply(422, f"{needed}, not {content_type[:80]!r}")
        return error_reply(422, explain(problems))

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404:
            message = "there is nothing at this address; GET / lists what there is"
        status = 422 if error.status_code == 400 else error.status_code
        return error_reply(status, message, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # What an exception says may hold the text of a request: its type is enough for the client.
        logger.error("unexpected %s", type(error).__name__, exc_info=error)
        # This reply is made outside of the middleware that gives all others their id.
        headers = {"X-Request-Id": request.scope["state"]["request_id"]}
        return error_reply(500, "the server failed on this request; its log says why", headers)
