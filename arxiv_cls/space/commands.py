"""`arxiv-cls space`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from arxiv_cls.errors import UserError
from arxiv_cls.options import EngineOption, ModelArgument

DEFAULT_PORT = 7860

app = typer.Typer()


@app.command()
def space(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help=f"Port to listen on. Default: the variable PORT, else {DEFAULT_PORT}."),
    ] = None,
    engine: EngineOption = None,
) -> None:
    """Open the web demo on this machine.

    \b
    Example:
      arxiv-cls space outputs/minilm --port 7861
    """
    from arxiv_cls.space.page import open_page

    if port is None:
        # Containers and platforms name the port so.
        named = os.environ.get("PORT") or str(DEFAULT_PORT)
        if not named.isdecimal():
            raise UserError(
                f"space: the variable PORT is {named!r}, not a number", hint="name one with --port"
            )
        port = int(named)
    open_page(model, host=host, port=port, engine=engine)
