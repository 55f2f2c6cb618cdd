"""Asks the server in this container whether it answers; the exit status is the reply.

Run as: python -m arxiv_cls.healthcheck /health        (the Dockerfile's HEALTHCHECK does)
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Mapping

# The variables that `arxiv-cls serve` takes its port from, in its order.
PORT_VARIABLES = ("ARXIV_CLS_PORT", "AIP_HTTP_PORT", "PORT")


def check(route: str, environ: Mapping[str, str], timeout: float = 4.0) -> str | None:
    """What is wrong with the server, in a line; None when it answers with a status below 400.

    Args:
        route: the path to ask for, such as /health.
        environ: names the port; 8000 where it does not.
        timeout: seconds to wait.
    """
    port = next((environ[name] for name in PORT_VARIABLES if environ.get(name)), "8000")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{route}", timeout=timeout):
            return None
    except (OSError, ValueError) as error:
        # HTTPError, URLError and a timeout are all OSErrors.
        return f"port {port}{route}: {error}"


def main() -> int:
    """Checks the route of the command line; returns the exit status."""
    problem = check(sys.argv[1] if len(sys.argv) > 1 else "/health", os.environ)
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
