"""The verb of the web demo: space."""

from __future__ import annotations

import argparse
import os

DEFAULT_PORT = 7860


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    space = subparsers.add_parser(
        "space",
        help="open the web demo on this machine",
        description="Opens the web demo: one paper, a CSV, and what is known of the model.",
    )
    space.add_argument("model", metavar="MODEL", help="model directory or Hub id, also user/name@v0.1.0")
    space.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    space.add_argument(
        "--port", type=int, help=f"port to listen on (default: the variable PORT, else {DEFAULT_PORT})"
    )
    space.add_argument(
        "--engine",
        choices=("onnx", "int8", "torch"),
        help="what computes a transformer (default: onnx where the model has it, else torch)",
    )
    space.set_defaults(run=run_space)


def run_space(arguments: argparse.Namespace) -> None:
    """`arxiv-cls space MODEL`; ends with Ctrl-C or SIGTERM."""
    from arxiv_cls.errors import UserError
    from arxiv_cls.serving.space.opening import open_page

    port = arguments.port
    if port is None:
        # Containers and platforms name the port so.
        named = os.environ.get("PORT") or str(DEFAULT_PORT)
        if not named.isdecimal():
            raise UserError(
                f"space: the variable PORT is {named!r}, not a number", hint="name one with --port"
            )
        port = int(named)
    open_page(arguments.model, host=arguments.host, port=port, engine=arguments.engine)
