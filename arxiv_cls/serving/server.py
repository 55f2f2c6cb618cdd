"""The process: HTTP/1.1 under limits on a socket, the application behind it, an end that loses no request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from arxiv_cls.errors import UserError
from arxiv_cls.serving.app import create_app
from arxiv_cls.serving.http_requests import error_reply
from arxiv_cls.serving.observability import RequestLines, configure_logging
from arxiv_cls.serving.service import Service
from arxiv_cls.serving.settings import ServerSettings, ServingSettings

logger = logging.getLogger(__name__)

# After the signal, requests that are on their way still get a 503; a closed socket would look like a fault.
LINGER_SECONDS = 0.5
# Of the shutdown timeout.
SHARE_TO_ANSWER = 2 / 3
BACKLOG = 2048
# How often it is checked whether a client that half-closed its connection is still there.
SECONDS_BETWEEN_CHECKS = 0.1
# Bytes around the body of one request: its chunks of one byte would take the parser a hundred times as long.
MAX_FRAMING = 64 * 1024
PIECE = 64 * 1024


def serve(settings: ServingSettings) -> int:
    """Serves until SIGTERM or SIGINT, and returns the exit status.

    Raises:
        UserError: the address is taken, the request log cannot be written, or the model cannot be loaded.
    """
    return run(settings, create_app, "Serving", "/docs")


def run(settings: ServerSettings, create: Callable[..., FastAPI], what: str, page: str) -> int:
    """Runs an application of `make_app` until SIGTERM or SIGINT; `create` makes it of the settings.

    `what` and `page` are for the line that a person sees: what it does, and the address to open.
    """
    configure_logging(settings.log_level)
    app = create(settings)
    service: Service = app.state.endpoint
    listener = _listen(settings.host, settings.port)
    protocol = type("Protocol", (_LimitedProtocol,), {"endpoint": service})
    options: dict[str, Any] = {"ws": "none", "lifespan": "on", "log_config": None, "server_header": False}
    config = uvicorn.Config(app, http=protocol, access_log=False, timeout_keep_alive=30, **options)
    shown_host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{shown_host}:{listener.getsockname()[1]}"
    logger.info("listening", extra={"url": url, "settings": settings.model_dump()})
    print(f"{what} {settings.model} at {url} (open {url}{page})", flush=True)
    _Server(config, service).run(sockets=[listener])
    if service.busy:
        # What a thread still loads or reads, some of it in threads that Python would wait for, is not needed.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    if service.failure:
        raise service.failure
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        message = f"serve: cannot listen on {host}:{port}: {error.strerror or error}"
        raise UserError(message, hint="Name another --port.") from None
    # Its connections inherit this. asyncio sets it itself, but not on those of a socket it was given:
    # the body of a reply would wait up to 40 ms for the client's acknowledgement of the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    """Ends in two steps: first nothing new is accepted, then, when all is answered, the socket closes."""

    def __init__(self, config: uvicorn.Config, endpoint: Service) -> None:
        super().__init__(config)
        self.endpoint = endpoint

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The stock handler raises the signal again at the end: a clean end would look like a kill.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.endpoint.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.endpoint.ending = True
        logger.info("ending", extra={"texts_to_answer": self.endpoint.waiting})
        before = time.monotonic()
        limit = self.endpoint.settings.shutdown_timeout
        while not self.force_exit:
            passed = time.monotonic() - before
            # The rest is for connections that are slow to close, and for the logs.
            if passed > limit * SHARE_TO_ANSWER or (passed > LINGER_SECONDS and not self.endpoint.waiting):
                break
            await asyncio.sleep(0.05)
        # Whatever waits behind the limit, the process ends.
        self.endpoint.refuse_accepted()
        left = max(0.0, limit - (time.monotonic() - before))
        self.config.timeout_graceful_shutdown = max(1, round(left / 3))
        self.endpoint.seconds_to_stop = max(1.0, left - self.config.timeout_graceful_shutdown)
        await super().shutdown(sockets)
        logger.info("ended", extra={"seconds": round(time.monotonic() - before, 2)})


class _LimitedProtocol(H11Protocol):
    """uvicorn's HTTP protocol under limits; `endpoint` is set by a subclass.

    h11 whether httptools is installed or not: one parser, and it limits the head of a request (64 KiB), which
    httptools does not. A connection that does not send the head of a request in time is closed. What is no
    HTTP is answered 400 in JSON. A client that shuts down its sending side after a request gets its answer,
    then the connection closes.
    """

    endpoint: Service
    timer: asyncio.TimerHandle | None = None
    half_closed = False
    framing = 0

    def connection_made(self, transport: Any) -> None:
        # uvicorn's own limit counts the same, but answers in plain text.
        super().connection_made(transport)
        if len(self.connections) > self.endpoint.settings.max_connections:
            self.app = RequestLines(self._refuse_connection)
        self._wait_for_head()

    async def _refuse_connection(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.endpoint.metrics.refused.labels("connections").inc()
        headers = {"Connection": "close", "Retry-After": "1"}
        await error_reply(503, "too many connections are open", headers)(scope, receive, send)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            self._parse(data[start : start + PIECE])
            if self.transport.is_closing():
                return
        if self._in_request():
            self._stop_waiting()
        elif self.timer is None:
            self._wait_for_head()

    def _parse(self, piece: bytes) -> None:
        cycle, before = self.cycle, len(self.cycle.body) if self.cycle else 0
        super().data_received(piece)
        if self.cycle is not cycle:
            self.framing = before = 0
        if self._in_request() and self.cycle.more_body:
            self.framing += len(piece) - (len(self.cycle.body) - before)
            if self.framing > MAX_FRAMING:
                self.logger.warning("The chunks of a request are too small.")
                self.send_400_response("the chunks of the body are too small: send it in larger ones")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        if not self._in_request() or self.cycle.more_body:
            return None
        self.half_closed = True
        # A closed connection and a half-closed one look the same until something is sent: the system of a
        # client that is gone answers with a reset, and a client that is there skips an interim answer.
        if self.cycle.scope["http_version"] == "1.1" and not self.cycle.response_started:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._check_client()
        return True

    def _check_client(self) -> None:
        if self.transport.is_closing() or not self._in_request():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(SECONDS_BETWEEN_CHECKS, self._check_client)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.half_closed and not self._in_request():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self.endpoint.metrics.refused.labels("malformed").inc()
        if not (self._in_request() and self.cycle.response_started):
            body = bytes(error_reply(400, msg, kind="Validation").body)
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is an offer; the request is answered in HTTP/1.1 and logged as every other."""

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self.timer = self.loop.call_later(self.endpoint.settings.body_timeout, self._give_up)

    def _give_up(self) -> None:
        self.timer = None
        if not self._in_request():
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
