"""Title and abstract of a paper by its arXiv id, from arXiv's public API.

The API and its Atom reply: https://info.arxiv.org/help/api/user-manual.html.
"""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from xml.etree import ElementTree

from arxiv_cls import __version__
from arxiv_cls.corpus.ids import parse_id
from arxiv_cls.errors import UserError

ENDPOINT = "https://export.arxiv.org/api/query"
TIMEOUT = 10.0
MAX_REPLY_BYTES = 1024 * 1024
UNREACHABLE = 3

_NAMESPACES = {"atom": "http://www.w3.org/2005/Atom", "arxiv": "http://arxiv.org/schemas/atom"}


@dataclass(frozen=True)
class FoundPaper:
    """A paper as arXiv has it.

    Attributes:
        arxiv_id: without its version, unless one was asked for.
        title: on one line.
        abstract: on one line.
        category: the code of its primary category; empty when arXiv names none.
    """

    arxiv_id: str
    title: str
    abstract: str
    category: str


def read_id(entered: str) -> str:
    """The id in what a person typed or pasted: `2301.00001`, `arXiv:hep-th/9901001v2`, an address.

    Raises:
        UserError: there is no arXiv id in it.
    """
    try:
        base, version = parse_id(entered)
    except ValueError:
        raise UserError(
            f"{entered.strip()[:80]!r} is not an arXiv id", hint="It looks like 2301.00001 or hep-th/9901001."
        ) from None
    return f"{base}v{version}" if version else base


def fetch_paper(entered: str, *, endpoint: str = ENDPOINT, timeout: float = TIMEOUT) -> FoundPaper:
    """Asks arXiv for a paper.

    Args:
        entered: the id, see `read_id`.
        endpoint: the API's address.
        timeout: seconds without an answer after which it counts as unreachable.

    Raises:
        UserError: not an id, no such paper, or arXiv cannot be reached (exit code 3).
    """
    arxiv_id = read_id(entered)
    query = urllib.parse.urlencode({"id_list": arxiv_id, "max_results": 1})
    request = urllib.request.Request(
        f"{endpoint}?{query}", headers={"User-Agent": f"arxiv_cls/{__version__}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            content = reply.read(MAX_REPLY_BYTES + 1)
    except urllib.error.HTTPError as error:
        if error.code == 400:
            raise _unknown(arxiv_id) from None
        raise _unreachable(f"it answered {error.code}") from None
    except (OSError, ValueError) as error:
        # Time-outs and refused connections are OSErrors; ValueError is a reply that is no HTTP.
        raise _unreachable(type(error).__name__) from None
    return _read_reply(content, arxiv_id)


def _read_reply(content: bytes, arxiv_id: str) -> FoundPaper:
    # A document type is the door to entities that grow without end; arXiv sends none.
    if len(content) > MAX_REPLY_BYTES or b"<!DOCTYPE" in content:
        raise _unreachable("its answer is not a paper")
    try:
        entry = ElementTree.fromstring(content).find("atom:entry", _NAMESPACES)
    except ElementTree.ParseError:
        raise _unreachable("its answer is not a paper") from None
    if entry is None:
        raise _unknown(arxiv_id)
    title, abstract = _line(entry, "atom:title"), _line(entry, "atom:summary")
    if "/api/errors" in _line(entry, "atom:id") or not title or not abstract:
        raise _unknown(arxiv_id)
    primary = entry.find("arxiv:primary_category", _NAMESPACES)
    category = "" if primary is None else primary.get("term", "")
    return FoundPaper(arxiv_id, title, abstract, category)


def _line(entry: ElementTree.Element, path: str) -> str:
    return " ".join((entry.findtext(path, "", _NAMESPACES) or "").split())


def _unknown(arxiv_id: str) -> UserError:
    return UserError(f"arXiv has no paper {arxiv_id}", hint="Check the id, or paste title and abstract.")


def _unreachable(reason: str) -> UserError:
    return UserError(
        f"arXiv cannot be reached from here ({reason})",
        hint="Paste the title and the abstract instead.",
        exit_code=UNREACHABLE,
    )
