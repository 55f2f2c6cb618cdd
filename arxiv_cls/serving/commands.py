"""`arxiv-cls serve`."""

from __future__ import annotations

from inspect import Parameter, Signature
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


def _parameter(name: str) -> Parameter:
    """The option of a setting: a string, so that the settings report every wrong one at once."""
    field = ServingSettings.model_fields[name]
    kind = bool if field.annotation is bool else str
    made: Any = typer.Argument(metavar="MODEL", help=field.description, show_default=False)
    if name != "model":
        about = f"{field.description} (default {field.default})" if field.default else field.description
        option, metavar = "--" + name.replace("_", "-"), None if kind is bool else name.upper()
        made = typer.Option(option, metavar=metavar, help=about)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, made])


# typer reads an option from each parameter: those of `serve` are the fields of the settings.
_PARAMETERS = [_parameter(name) for name in ServingSettings.model_fields if name not in NOT_OPTIONS]
serve.__signature__ = Signature(_PARAMETERS)  # type: ignore[attr-defined]
serve.__annotations__ = {parameter.name: parameter.annotation for parameter in _PARAMETERS}
app.command()(serve)
