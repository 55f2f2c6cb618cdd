"""Refusals: every error has the shape of Text Embeddings Inference, `{"error", "error_type"}`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

# The kinds of Text Embeddings Inference, and below them those that it has no word for.
KINDS = {
    400: "Empty",
    413: "Validation",
    422: "Validation",
    424: "Backend",
    429: "Overloaded",
    500: "Backend",
    503: "Unhealthy",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "Timeout",
    409: "Conflict",
}
MAX_PROBLEMS = 5
# Type of pydantic's error for a text without content: it is answered 400, as Text Embeddings Inference does.
EMPTY_TEXT = "empty_text"


class ErrorReply(BaseModel):
    """The body of every reply that is not a success."""

    error: str = Field(description="What was wrong and what to do.")
    error_type: str = Field(description="Validation, Empty, Overloaded, Unhealthy, ...")


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status, a key of `KINDS`.
        error: what was wrong and what to do; never holds the text of the request.
        headers: of the reply.
    """

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, dict(headers or {})

    def reply(self) -> JSONResponse:
        """The error as a response."""
        return error_reply(self.status, self.error, self.headers)


def error_reply(status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A response in the shape of errors."""
    content = {"error": error, "error_type": KINDS.get(status, "Backend")}
    return JSONResponse(content, status, dict(headers or {}))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for its errors."""
    what = {
        400: "A text is empty",
        401: "No token or a wrong one",
        403: "Not allowed",
        404: "Not there",
        408: "The request arrived too slowly",
        409: "Another switch is under way",
        413: "The request is too large",
        422: "The request does not fit the schema, or a limit",
        424: "The model cannot be loaded",
        429: "The queue is full: try again after `Retry-After` seconds",
        503: "No model is loaded yet, or the server is ending",
    }
    return {status: {"model": ErrorReply, "description": what[status]} for status in statuses}


def explain(problems: Sequence[Mapping[str, Any]]) -> str:
    """Pydantic's problems in one line: the place and the reason, without the values that were sent."""
    told: list[str] = []
    for problem in problems:
        if problem["type"] == "json_invalid":
            return "the body is not JSON"
        # A union's place names the branches that were tried (`str`, `list[...]`): of no use to a reader.
        parts = [str(part) for part in problem["loc"] if part != "body" and "[" not in str(part)]
        place = ".".join(part for part, before in zip(parts, ["", *parts], strict=False) if part != before)
        reason = str(problem["msg"]).removeprefix("Value error, ")
        line = f"{place}: {reason}" if place else reason
        if line not in told:
            told.append(line)
    more = len(told) - MAX_PROBLEMS
    return "; ".join(told[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def install_error_handlers(app: FastAPI) -> None:
    """Makes the app answer every error in the one shape."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return error.reply()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        content_type = request.headers.get("content-type", "")
        problems = error.errors()
        empty = [problem for problem in problems if problem["type"] == EMPTY_TEXT]
        if empty:
            return error_reply(400, explain(empty))
        told = explain(problems)
        if "json" not in content_type.lower():
            told = f"send JSON with the header Content-Type: application/json, not {content_type[:80]!r}"
        return error_reply(422, told)

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> JSONResponse:
        told = str(error.detail)
        if error.status_code == 404:
            told = "there is nothing at this address; GET / lists what there is"
        status = 422 if error.status_code == 400 else error.status_code
        return error_reply(status, told, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # What an exception says may hold the text of a request: its type is enough for the client.
        logger.error("unexpected %s", type(error).__name__, exc_info=error)
        # This reply is made outside of the middleware that gives all others their id.
        headers = {"X-Request-Id": request.scope["state"]["request_id"]}
        return error_reply(500, "the server failed on this request; its log says why", headers)


METHODS_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
# What is thrown away of a body that is too large, as a multiple of the limit: a client that gets to the end
# of its sending reads the 413, one that is cut off sees a broken connection.
DISCARD = 8


class BodyLimits:
    """Reads bodies under a limit of size and of time.

    Args:
        app: what is called with the request.
        max_body: bytes; more is answered 413.
        timeout: seconds from the headers to the end of the body; more is answered 408.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, timeout: float) -> None:
        self.app, self.max_body, self.timeout = app, max_body, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or scope["method"] not in METHODS_WITH_BODY:
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._read(scope, receive)
        except TimeoutError:
            told = f"the request did not arrive within {self.timeout:g} s"
            await error_reply(408, told, {"Connection": "close"})(scope, receive, send)
            return
        if body is None:
            told = f"the request is larger than {self.max_body} bytes"
            await error_reply(413, told, {"Connection": "close"})(scope, receive, send)
            return
        if isinstance(body, Disconnected):
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Disconnected | None:
        """The body; None when it is too large."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_body * DISCARD:
            return None
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return Disconnected()
            piece = message.get("body", b"")
            size += len(piece)
            if size <= self.max_body:
                pieces.append(piece)
            elif size > self.max_body * DISCARD:
                return None
            else:
                pieces.clear()
            if not message.get("more_body", False):
                return None if size > self.max_body else b"".join(pieces)


class Disconnected:
    """The client went away before its body was whole."""
