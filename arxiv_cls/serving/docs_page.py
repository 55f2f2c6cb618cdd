"""The page at `/docs`: one file, nothing from another server, so that it works without the internet."""

from __future__ import annotations

from functools import cache
from pathlib import Path

# Its script and style are inline; it may call this server and no other.
SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@cache
def docs_page() -> str:
    """The page's HTML; it reads `openapi.json` of the server it came from."""
    return (Path(__file__).parent / "templates" / "docs.html").read_text(encoding="utf-8")
