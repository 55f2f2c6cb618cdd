"""`arxiv-cls space`."""

from __future__ import annotations

from typing import Annotated

import typer

from arxiv_cls.options import EngineOption, ModelArgument

app = typer.Typer()


@app.command()
def space(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    # Containers and platforms name the port in this variable.
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65535, help="Port to listen on.")] = 7860,
    engine: EngineOption = None,
) -> None:
    """Open the web demo on this machine.

    \b
    Example:
      arxiv-cls space outputs/minilm --port 7861
    """
    from arxiv_cls.space.page import open_page

    open_page(model, host=host, port=port, engine=engine)
