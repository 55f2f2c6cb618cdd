"""How requests are read and refused: bodies under limits, JSON in bounded work, errors in one shape.

The shape of errors is that of Text Embeddings Inference, `{"error", "error_type"}`.
"""

from __future__ import annotations

import asyncio
import codecs
import gc
import logging
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arxiv_cls.errors import UserError

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

# Status: kind (Text Embeddings Inference's, where it has one), description in the documentation.
ERRORS = {
    400: ("Empty", "A text is empty"),
    401: ("Unauthorized", "No token or a wrong one"),
    403: ("Forbidden", "Not allowed"),
    404: ("NotFound", "Not there"),
    405: ("MethodNotAllowed", "Another method is used at this address"),
    408: ("Timeout", "The request arrived too slowly"),
    409: ("Conflict", "The same is under way"),
    413: ("Validation", "The request is too large"),
    415: ("Validation", "The body is compressed, but not with gzip"),
    422: ("Validation", "The request does not fit the schema, or a limit"),
    424: ("Backend", "The model cannot be loaded, or the log cannot be read"),
    429: ("Overloaded", "The queue is full: try again after `Retry-After` seconds"),
    500: ("Backend", "The server failed"),
    503: ("Unhealthy", "Not ready yet, or the server is ending"),
}
MAX_PROBLEMS = 5
MAX_LOOKED_AT = 100
METHODS_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
# So many times the limit is read of a body that is too large: a client that is cut off does not see its 413.
DISCARD = 8
# Keys of one JSON object: more than any schema knows, and few enough to name each that is not known.
MAX_KEYS = 32
# Lists and objects besides one for each text.
SPARE_CONTAINERS = 64
# A larger body is parsed in a thread; of a smaller one the change of threads costs more than the parsing.
PARSED_AT_ONCE = 16 * 1024
# The directories of an absolute path; no part of an address.
_DIRECTORIES = re.compile(r"(?<![\w.:/~-])/(?:[^\s/:'\",;()]+/)+")
# One thread for all: parsing holds the interpreter's lock, so that several would only hinder each other.
_PARSER = ThreadPoolExecutor(1, thread_name_prefix="json")


class ErrorReply(BaseModel):
    """The body of every reply that is not a success."""

    error: str = Field(description="What was wrong and what to do.")
    error_type: str = Field(description="Validation, Empty, Overloaded, Unhealthy, ...")


class Refused(HTTPException):
    """A request that is answered with an error, which never holds its text; counted where it has a reason."""

    def __init__(
        self,
        status_code: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(status_code, detail, headers)
        self.reason = reason


def ending() -> Refused:
    """The refusal of a request while the server ends."""
    headers = {"Connection": "close", "Retry-After": "1"}
    return Refused(503, "the server is ending", headers, reason="ending")


def too_many_texts(texts: int, allowed: int) -> Refused:
    """The refusal of a request with more texts than are allowed."""
    return Refused(422, f"{texts} texts in one request; at most {allowed} are allowed")


def error_reply(
    status: int, error: str, headers: Mapping[str, str] | None = None, kind: str | None = None
) -> JSONResponse:
    """A response in the shape of errors; its kind is the one of its status, unless another is named."""
    # The name of a file may hold bytes that are no text.
    error = error.encode("utf-8", "replace").decode()
    content = {"error": error, "error_type": kind or ERRORS.get(status, ERRORS[500])[0]}
    return JSONResponse(content, status, dict(headers or {}))


def without_paths(message: str, directory: Path | None = None) -> str:
    """An error without the directories of this machine; only `directory` may hold white space."""
    if directory:
        for root in (directory.resolve(), directory):
            message = message.replace(f"{root}/", "")
    return _DIRECTORIES.sub("", message)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for its errors."""
    return {status: {"model": ErrorReply, "description": ERRORS[status][1]} for status in statuses}


def explain(problems: Sequence[Mapping[str, Any]]) -> str:
    """Pydantic's problems in one line: the place and the reason, without the values that were sent."""
    lines: dict[str, None] = {}
    # Not all of them: the time must not grow with the body.
    for problem in problems[:MAX_LOOKED_AT]:
        # A union's place names the branches that were tried (`list[...]`): of no use to a reader.
        named = (str(part) for part in problem["loc"] if part not in ("body", "constrained-str"))
        parts = [_shortened(part) for part in named if "[" not in part]
        place = ".".join(part for part, before in zip(parts, ["", *parts], strict=False) if part != before)
        reason = _shortened(str(problem["msg"]), 200)
        lines[f"{place}: {reason}" if place else reason] = None
    more = len(lines) - MAX_PROBLEMS + max(0, len(problems) - MAX_LOOKED_AT)
    return "; ".join(list(lines)[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _shortened(text: str, characters: int = 60) -> str:
    return text if len(text) <= characters else text[:characters] + "..."


def install_error_handlers(app: FastAPI) -> None:
    """Makes the app answer every error in the one shape, and count those that have a reason."""
    for kind in (HTTPException, RequestValidationError, UserError, Exception):
        app.add_exception_handler(kind, _answer_error)


async def _answer_error(request: Request, error: Exception) -> Response:
    match error:
        case RequestValidationError():
            return _answer_invalid(request, error.errors())
        case UserError():
            return error_reply(422, error.message)
        case Refused():
            if error.reason:
                request.app.state.endpoint.metrics.refused.labels(error.reason).inc()
            return error_reply(error.status_code, error.detail, error.headers)
        case HTTPException():
            nothing = "there is nothing at this address; GET / lists what there is"
            message = nothing if error.status_code == 404 else error.detail
            return error_reply(error.status_code, message, error.headers)
    # What an exception says may hold the text of a request: its type is enough for the client.
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    # This reply is made outside of the middleware that gives all others their id.
    headers = {"X-Request-Id": request.scope["state"]["request_id"]}
    return error_reply(500, "the server failed on this request; its log says why", headers)


def _answer_invalid(request: Request, problems: Sequence[Mapping[str, Any]]) -> Response:
    # The only pattern of the schemas is that of a text; Text Embeddings Inference answers 400 too.
    blank = [problem for problem in problems if problem["type"] == "string_pattern_mismatch"]
    empty = [{**problem, "msg": "the text is empty"} for problem in blank[:MAX_LOOKED_AT]]
    content_type = request.headers.get("content-type", "")
    if empty or "json" in content_type.lower():
        return error_reply(400 if empty else 422, explain(empty or problems))
    needed = "send JSON with the header Content-Type: application/json"
    return error_reply(422, f"{needed}, not {content_type[:80]!r}")


class BodyLimits:
    """ASGI middleware: reads bodies under a limit of size and of time.

    More than `max_body` bytes, also of what a gzip body unpacks to, is answered 413; a body that has not come
    within `timeout` seconds after its headers 408.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, timeout: float) -> None:
        self.app, self.max_body, self.timeout = app, max_body, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; HEAD as GET, whose body the server leaves out."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        if scope["type"] != "http" or scope["method"] not in METHODS_WITH_BODY:
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read_in_time(dict(scope["headers"]), receive)
        except Refused as refused:
            await error_reply(refused.status_code, refused.detail, refused.headers)(scope, receive, send)
            return
        if body is None:
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)

    async def _read_in_time(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The body, unpacked; None when the client went away before it was whole."""
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._read(headers.get(b"content-length", b"0"), receive)
        except TimeoutError:
            message = f"the request did not arrive within {self.timeout:g} s"
            raise Refused(408, message, {"Connection": "close"}) from None
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
        if body is None or coding == "identity":
            return body
        if coding not in ("gzip", "x-gzip"):
            raise Refused(415, "of the content codings only gzip is understood", {"Accept-Encoding": "gzip"})
        return await asyncio.get_running_loop().run_in_executor(_PARSER, self._unzipped, body)

    async def _read(self, declared: bytes, receive: Receive) -> bytes | None:
        if declared.isdigit() and int(declared) > self.max_body * DISCARD:
            raise self._too_large()
        body, size, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece, more = message.get("body", b""), message.get("more_body", False)
            size += len(piece)
            if size > self.max_body * DISCARD:
                raise self._too_large()
            if size <= self.max_body:
                body += piece
        if size > self.max_body:
            raise self._too_large()
        return bytes(body)

    def _unzipped(self, body: bytes) -> bytes:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            # Never more than the limit is unpacked, whatever it would become.
            unpacked = unpacker.decompress(body, self.max_body + 1)
        except zlib.error:
            raise Refused(422, "the body is not in the format gzip") from None
        if len(unpacked) > self.max_body:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            raise Refused(422, "the body is not one whole gzip file")
        return unpacked

    def _too_large(self) -> Refused:
        return Refused(413, f"the request is larger than {self.max_body} bytes", {"Connection": "close"})


async def parse_json(body: bytes, max_texts: int) -> Any:
    """The JSON object of a request; an empty list for JSON of another kind, which no schema takes.

    Raises:
        Refused: 422 for what is no JSON, and for more texts, keys or lists than a schema can need.
    """
    if len(body) <= PARSED_AT_ONCE:
        return _parsed(body, max_texts)
    return await asyncio.get_running_loop().run_in_executor(_PARSER, _parsed_uncollected, body, max_texts)


async def read_json(request: Request, model: type[M], max_texts: int) -> M:
    """The body of a request that a route reads by hand; `Refused` 422 when it does not fit."""
    try:
        return model.model_validate(await parse_json(await request.body(), max_texts))
    except ValidationError as error:
        raise Refused(422, explain(error.errors())) from None


def _parsed_uncollected(body: bytes, max_texts: int) -> Any:
    # The collector would go through a million lists again and again: five times as long as the parsing.
    gc.disable()
    try:
        return _parsed(body, max_texts)
    finally:
        gc.enable()


def _parsed(body: bytes, max_texts: int) -> Any:
    try:
        value = from_json(body.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        undecodable = "hex escape" in str(error) or "unicode code point" in str(error)
        problem = "holds characters that are not UTF-8" if undecodable else "is not JSON"
        raise Refused(422, f"the body {problem}") from None
    if not isinstance(value, dict):
        # No schema takes it: nobody should hold on to what may be a million lists.
        return []
    # A pair of title and abstract is one text.
    most = max(2, max_texts)
    for key in ("inputs", "instances"):
        if isinstance(value.get(key), list) and len(value[key]) > most:
            raise too_many_texts(len(value[key]), max_texts)
    waiting: list[Any] = [value]
    containers = 0
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict | list):
            continue
        what, allowed = ("object", MAX_KEYS) if isinstance(item, dict) else ("list", most)
        if len(item) > allowed:
            raise Refused(422, f"a JSON {what} has {len(item)} entries; at most {allowed} are allowed")
        containers += 1
        if containers > most + SPARE_CONTAINERS:
            raise Refused(422, "the JSON has more lists and objects than any schema here")
        waiting.extend(item.values() if isinstance(item, dict) else item)
    return value


class _BoundedRequest(Request):
    async def json(self) -> Any:
        return await parse_json(await self.body(), self.app.state.endpoint.settings.texts_per_request)


class BoundedRoute(APIRoute):
    """A route whose JSON is bounded by `parse_json` before a schema looks at it."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """FastAPI's handler, given the bounded request."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(_BoundedRequest(request.scope, request.receive))

        return bounded
