"""`arxiv-cls serve`, and the options of a command that are made of its settings."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from arxiv_cls.serving.settings import ServerSettings, ServingSettings

app = typer.Typer()


def serve(**options: Any) -> int:
    """Serve a model over HTTP.

    POST /predict, POST / (Hugging Face), GET /docs.

    Each option is also a variable: --max-queue is ARXIV_CLS_MAX_QUEUE, MODEL is ARXIV_CLS_MODEL.
    POST /load and POST /feedback need ARXIV_CLS_TOKEN to be set. PORT (Cloud Run), AIP_HTTP_PORT,
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


def with_settings(function: Callable[..., Any], settings: type[ServerSettings]) -> Callable[..., Any]:
    """Gives a command the fields of its settings as options; typer reads one from each parameter."""
    names = [name for name in settings.model_fields if name not in settings.not_options]
    parameters = [_parameter(name, settings.model_fields[name]) for name in names]
    function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def _parameter(name: str, field: Any) -> Parameter:
    """The option of a setting: a string, so that the settings report every wrong one at once."""
    kind = bool if field.annotation is bool else str
    made: Any = typer.Argument(metavar="MODEL", help=field.description, show_default=False)
    if name != "model":
        default = None if field.is_required() else field.default
        about = f"{field.description} (default {default})" if default else field.description
        option, metavar = "--" + name.replace("_", "-"), None if kind is bool else name.upper()
        made = typer.Option(option, metavar=metavar, help=about)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, made])


app.command()(with_settings(serve, ServingSettings))
