"""From the CSV of arXiv metadata to Arrow splits: `from arxiv_cls.corpus import load_arxiv`."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Corpus", "build_corpus", "load_arxiv"]


def __getattr__(name: str) -> Any:
    """Loaded on first use: ids and taxonomy, which serving imports, need no third-party package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("arxiv_cls.corpus.builder"), name)
