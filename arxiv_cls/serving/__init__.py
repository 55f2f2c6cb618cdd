"""Serving: the HTTP endpoint. It answers four request schemas, batches by tokens and switches models."""

from __future__ import annotations

from typing import Any

__all__ = ["ServingSettings", "create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from arxiv_cls.serving.app import create_app

        return create_app
    if name == "ServingSettings":
        from arxiv_cls.serving.settings import ServingSettings

        return ServingSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
