"""Starts the page: `arxiv-cls space` on this machine, `spaces_app/app.py` on the Hub."""

from __future__ import annotations

import importlib.util
import os

from arxiv_cls.errors import UserError
from arxiv_cls.serving.space.answers import load_space_model


def open_page(
    model: str, *, host: str | None = None, port: int | None = None, engine: str | None = None
) -> None:
    """Loads the model and serves the page until the process is ended.

    Args:
        model: directory or Hub id, also `user/name@v0.1.0`.
        host: address to listen on; None for what GRADIO_SERVER_NAME says (the Hub sets it).
        port: port to listen on; None for what GRADIO_SERVER_PORT says.
        engine: of a transformer; None for the best that is there.

    Raises:
        UserError: Gradio is not installed, no such model, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the web demo needs Gradio", hint="make setup EXTRAS=space, or pip install gradio")
    if port is not None and not 0 < port <= 65535:
        raise UserError(f"space: --port {port} is not between 1 and 65535")
    # Nothing of a visitor leaves this process; Gradio reads this when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    space = load_space_model(model, engine=engine)
    from arxiv_cls.serving.space.page import build_page, launch_options

    page = build_page(space)
    try:
        page.launch(server_name=host, server_port=port, **launch_options())
    except OSError as error:
        raise UserError(
            f"space: cannot listen on port {port}: {error}", hint="name another with --port"
        ) from None
