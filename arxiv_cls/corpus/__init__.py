"""From the CSV of arXiv metadata to Arrow splits: `from arxiv_cls.corpus import load_arxiv`."""

from __future__ import annotations

import importlib
from typing import Any

# Loaded on first use: ids and taxonomy, which serving imports, need no third-party package.
_HOMES = {
    "build_corpus": "arxiv_cls.corpus.builder",
    "load_arxiv": "arxiv_cls.corpus.builder",
    "Corpus": "arxiv_cls.corpus.builder",
    "read_papers": "arxiv_cls.corpus.papers",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a public name's module when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
