"""What to say when a library is not installed because its extra was not asked for."""

from __future__ import annotations

import importlib.metadata
import re

# Libraries that are imported under another name than the one they are installed by.
DISTRIBUTIONS = {
    "google": "google-cloud-storage",
    "google.cloud.run_v2": "google-cloud-run",
    "PIL": "gradio",
    "prometheus_client": "prometheus-fastapi-instrumentator",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",
    "umap": "umap-learn",
    "xgboost": "xgboost-cpu",
    "yaml": "pyyaml",
}
# Where several extras bring a library, the first of these that does is the one to name.
PREFERRED = ("train", "baseline", "serve", "export", "space")


def extras_with(module: str) -> list[str]:
    """The project's extras that bring a module, the one to name first; empty when none does.

    Read from the installed project's own metadata, so that it cannot differ from pyproject.toml.
    """
    name = DISTRIBUTIONS.get(module) or DISTRIBUTIONS.get(module.split(".")[0]) or module.split(".")[0]
    if name == "arxiv_cls":
        return []
    found = set()
    for requirement in importlib.metadata.requires("arxiv_cls") or []:
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        required = re.match(r"[\w.-]+", requirement)
        if extra and required and canonical(required.group()) == canonical(name):
            found.add(extra.group(1))
    order = {extra: position for position, extra in enumerate(PREFERRED)}
    return sorted(found - {"dev"}, key=lambda extra: (order.get(extra, len(order)), extra))


def explain(error: ModuleNotFoundError) -> tuple[str, str] | None:
    """The message and the hint for a library that is missing; None when it is none of ours to install."""
    try:
        extras = extras_with(error.name or "")
    except importlib.metadata.PackageNotFoundError:
        return None
    if not extras:
        return None
    return (
        f"this needs {error.name}, which is not installed",
        f'pip install "arxiv_cls[{extras[0]}]", or in a checkout: make setup',
    )


def canonical(name: str) -> str:
    """The normalised form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
