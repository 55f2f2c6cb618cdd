"""arXiv's API as a server on loopback: ids, replies, and what is said when it does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlencode

import pytest
from local_servers import serving

from arxiv_cls.errors import UserError
from arxiv_cls.space.predictions import MAX_REPLY_BYTES, fetch_paper

ENTRY = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom"><title>ArXiv Query</title>
<entry xmlns:arxiv="http://arxiv.org/schemas/atom"><id>http://arxiv.org/abs/2301.00001v2</id>
<title>Frogs &amp; nets:
  a made-up title</title><summary>  A made-up
abstract.  </summary><arxiv:primary_category term="cs.CV"/></entry></feed>"""
EMPTY = '<feed xmlns="http://www.w3.org/2005/Atom"></feed>'
REFUSED = ENTRY.replace("http://arxiv.org/abs/2301.00001v2", "http://arxiv.org/api/errors#incorrect_id")


class Api:
    """Answers every request with `status` and `body`; keeps the queries."""

    def __init__(self) -> None:
        self.status, self.body, self.queries, self.url = 200, ENTRY.encode(), [], ""


@pytest.fixture
def api() -> Iterator[Api]:
    """A server for one test."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.queries.append(self.path)
            self.send_response(api.status)
            self.end_headers()
            self.wfile.write(api.body)

        def log_message(self, *_: object) -> None:
            """Keeps the test output clean."""

    with serving(Handler) as host:
        api.url = f"{host}/api/query"
        yield api


@pytest.mark.parametrize(
    ("entered", "arxiv_id"),
    [
        ("2301.00001", "2301.00001"),
        (" arXiv:2301.00001v3 ", "2301.00001v3"),
        ("https://arxiv.org/abs/2301.00001", "2301.00001"),
        ("http://www.arxiv.org/pdf/2301.00001v1.pdf?download=1", "2301.00001v1"),
        ("arxiv.org/abs/hep-th/9901001", "hep-th/9901001"),
        ("math.GT/0309136v2", "math/0309136v2"),
        ("https://doi.org/10.48550/arXiv.2301.00001", "2301.00001"),
    ],
)
def test_paper(entered: str, arxiv_id: str, api: Api) -> None:
    """The version asked for is asked for; entities are read, line breaks are blanks."""
    paper = fetch_paper(entered, endpoint=api.url)
    assert paper == (arxiv_id, "Frogs & nets: a made-up title", "A made-up abstract.", "cs.CV")
    assert api.queries == [f"/api/query?{urlencode({'id_list': arxiv_id, 'max_results': 1})}"]


@pytest.mark.parametrize(
    "entered", ["", "frogs", "9901.1", "https://example.org/abs/2301.00001", "2301.00001&max=9", "../etc"]
)
def test_no_id(entered: str, api: Api) -> None:
    """Is refused before anything is sent."""
    with pytest.raises(UserError, match="is not an arXiv id"):
        fetch_paper(entered, endpoint=api.url)
    assert api.queries == []


@pytest.mark.parametrize(("status", "body"), [(200, EMPTY), (200, REFUSED), (400, REFUSED)])
def test_no_such_paper(api: Api, status: int, body: str) -> None:
    """An empty feed, and both ways in which the API says no."""
    api.status, api.body = status, body.encode()
    with pytest.raises(UserError, match=r"arXiv has no paper 2301\.00001"):
        fetch_paper("2301.00001", endpoint=api.url)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b"busy"),
        (200, b"<html>a portal"),
        (200, b'<!DOCTYPE feed [<!ENTITY a "b">]>' + ENTRY.encode()),
        (200, b" " * (MAX_REPLY_BYTES + 1)),
    ],
)
def test_answer_that_is_no_paper(api: Api, status: int, body: bytes) -> None:
    """An error, a captive portal, a document type, too much: all mean that arXiv is not there."""
    api.status, api.body = status, body
    with pytest.raises(UserError, match="cannot be reached from here") as refusal:
        fetch_paper("2301.00001", endpoint=api.url)
    assert refusal.value.exit_code == 3
    assert "Paste" in refusal.value.hint


def test_nobody_answers() -> None:
    """No network."""
    with serving(BaseHTTPRequestHandler) as gone:
        pass
    with pytest.raises(UserError, match="cannot be reached from here"):
        fetch_paper("2301.00001", endpoint=gone, timeout=1)
