"""An HTTP server on the loopback address, in a thread, for as long as a test needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Quiet: the clients that tests kill in the middle of an answer are no error."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves on a free port.

    Args:
        handler: answers the requests.

    Yields:
        `http://127.0.0.1:PORT`.
    """
    with _Server(("127.0.0.1", 0), handler) as server:
        # The interval is how long `shutdown` waits at most.
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
