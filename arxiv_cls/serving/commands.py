"""The verbs of this room: serve, and space from a module of its own."""

from __future__ import annotations

import argparse
import os

from arxiv_cls.serving.settings import ENV_PREFIX, add_options, settings_from
from arxiv_cls.serving.space.commands import register as register_space


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verbs to the parser of `arxiv-cls`."""
    serve = subparsers.add_parser(
        "serve",
        help="answer over HTTP",
        description="Serves a model over HTTP: POST /predict, POST / (Hugging Face), GET /docs.",
        epilog=(
            f"Each option is also a variable: --max-queue is {ENV_PREFIX}MAX_QUEUE, "
            f"MODEL is {ENV_PREFIX}MODEL. "
            f"POST /load, which switches the model, needs {ENV_PREFIX}TOKEN to be set. "
            "AIP_HTTP_PORT, AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE (Vertex AI) and PORT (Cloud Run) "
            "are honoured."
        ),
    )
    add_options(serve)
    serve.set_defaults(run=_serve)
    register_space(subparsers)


def _serve(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, os.environ)
    from arxiv_cls.serving.server import serve

    return serve(settings)
