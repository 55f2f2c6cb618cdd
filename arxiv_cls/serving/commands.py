"""`arxiv-cls serve`."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from arxiv_cls.serving.settings import NOT_OPTIONS, ServingSettings

app = typer.Typer()


def serve(**options: Any) -> int:
    """Serve a model over HTTP.

    POST /predict, POST / (Hugging Face), GET /docs.

    Each option is also a variable: --max-queue is ARXIV_CLS_MAX_QUEUE, MODEL is ARXIV_CLS_MODEL.
    POST /load, which switches the model, needs ARXIV_CLS_TOKEN to be set. PORT (Cloud Run), AIP_HTTP_PORT,
    AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE (Vertex AI) are honoured.

    \b
    Examples:
      arxiv-cls serve outputs/minilm --engine int8
      arxiv-cls serve user/name@v1.2.0 --host 0.0.0.0 --port 8080
      ARXIV_CLS_TOKEN=... arxiv-cls serve outputs/minilm --cascade outputs/tfidf_xgboost
    """
    settings = ServingSettings(**{name: value for name, value in options.items() if value is not None})
    from arxiv_cls.serving.server import serve as run

    return run(settings)


def _parameters() -> list[inspect.Parameter]:
    """An option for each setting. All are strings, so that the settings report every wrong one at once."""
    parameters = []
    for name, field in ServingSettings.model_fields.items():
        if name in NOT_OPTIONS:
            continue
        option, kind = "--" + name.replace("_", "-"), bool if field.annotation is bool else str
        shown = "" if field.default in (None, ()) or name == "model" else str(field.default)
        about = f"{field.description} (default {shown})" if shown not in ("", "False") else field.description
        if name == "model":
            made: Any = typer.Argument(metavar="MODEL", help=about, show_default=False)
        else:
            made = typer.Option(option, metavar=None if kind is bool else name.upper(), help=about)
        annotation = Annotated[kind | None, made]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    return parameters


# typer reads an option from each parameter: those of `serve` are the fields of the settings.
serve.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
serve.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
app.command()(serve)
