"""The process: opens the socket, runs the application, and ends without losing a request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn

from arxiv_cls.errors import UserError
from arxiv_cls.serving.app import create_app
from arxiv_cls.serving.endpoint import Endpoint
from arxiv_cls.serving.http_protocol import limited_protocol
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
        http=limited_protocol(
            seconds=settings.body_timeout,
            max_connections=settings.max_connections,
            on_refused=lambda reason: endpoint.metrics.refused.labels(reason).inc(),
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
    )
    shown_host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{shown_host}:{listener.getsockname()[1]}"
    logger.info("listening", extra={"url": url, "settings": settings.public()})
    print(f"Serving {settings.model} at {url} (documentation: {url}/docs)", flush=True)
    _Server(config, endpoint).run(sockets=[listener])
    if endpoint.slot.loading:
        # A model that is still loaded, or downloaded by threads that Python would wait for, is not needed.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
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
        # Whatever waits behind the limit, the process ends: its requests are told so.
        self.endpoint.batcher.refuse_accepted()
        left = max(1, round(limit - (time.monotonic() - before)))
        self.config.timeout_graceful_shutdown = self.endpoint.seconds_to_stop = left
        await super().shutdown(sockets)
        logger.info("ended", extra={"seconds": round(time.monotonic() - before, 2)})
