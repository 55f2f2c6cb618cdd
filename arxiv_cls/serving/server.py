"""The process: opens the socket, runs the application, and ends without losing a request."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from arxiv_cls.errors import UserError
from arxiv_cls.serving.app import create_app
from arxiv_cls.serving.endpoint import Endpoint
from arxiv_cls.serving.http_errors import error_reply
from arxiv_cls.serving.observability import configure_logging
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

# After the signal, requests that are on their way still get an answer for so long: a 503 that closes the
# connection, where a closed socket would look like a broken server.
LINGER_SECONDS = 0.5
BACKLOG = 2048


def serve(settings: ServingSettings) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        settings: of the endpoint.

    Returns:
        The exit status.

    Raises:
        UserError: the address is taken, the request log cannot be written, or the model cannot be loaded.
    """
    configure_logging(settings.log_level)
    app = create_app(settings)
    endpoint: Endpoint = app.state.endpoint
    listener = _listen(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        http=impatient_protocol(settings.body_timeout, settings.max_connections),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
    )
    shown_host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{shown_host}:{listener.getsockname()[1]}"
    logger.info("listening", extra={"url": url, "settings": settings.public()})
    print(f"Serving {settings.model} at {url} (documentation: {url}/docs)", flush=True)
    _Server(config, endpoint).run(sockets=[listener])
    if isinstance(endpoint.failure, UserError):
        raise endpoint.failure
    if endpoint.failure is not None:
        raise UserError(f"{settings.model}: {endpoint.failure}") from endpoint.failure
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Its connections inherit this. asyncio sets it itself, but not on those of a socket it was given:
        # the body of a reply would wait up to 40 ms for the client's acknowledgement of the head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UserError(
            f"serve: cannot listen on {host}:{port}: {error.strerror or error}", hint="Name another --port."
        ) from None


class _Server(uvicorn.Server):
    """Ends in two steps: first nothing new is accepted, then, when all is answered, the socket closes."""

    def __init__(self, config: uvicorn.Config, endpoint: Endpoint) -> None:
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
        logger.info("ending", extra={"texts_to_answer": self.endpoint.batcher.depth})
        before = time.monotonic()
        limit = self.endpoint.settings.shutdown_timeout
        while not self.force_exit:
            passed = time.monotonic() - before
            if passed > limit or (passed > LINGER_SECONDS and not self.endpoint.batcher.depth):
                break
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
        logger.info("ended", extra={"seconds": round(time.monotonic() - before, 2)})


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    reply = error_reply(503, "too many connections are open", {"Connection": "close", "Retry-After": "1"})
    await reply(scope, receive, send)


def impatient_protocol(seconds: float, max_connections: int) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, but a connection that does not send the head of a request in time is closed.

    Args:
        seconds: from the connection, or from the first byte of a later request, to the end of its head.
        max_connections: that may be open; the requests of more are answered 503. uvicorn's own limit counts
            the same, but answers in plain text.
    """

    class ImpatientProtocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self.app = _crowded
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_request():
                self._stop_waiting()
            elif self.timer is None and not self.transport.is_closing():
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _in_request(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait_for_head(self) -> None:
            self.timer = self.loop.call_later(seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def _give_up(self) -> None:
            self.timer = None
            if not self._in_request():
                self.transport.close()

    return ImpatientProtocol
