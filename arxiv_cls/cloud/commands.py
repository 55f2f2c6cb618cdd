"""`arxiv-cls deploy` and `arxiv-cls api-url` (`make deploy` and `make api-url` call them)."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from arxiv_cls.errors import UserError

app = typer.Typer()

ProjectOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Google Cloud project. Default: the credentials'.")
]
RegionOption = Annotated[str, typer.Option(help="Google Cloud region.")]
ServiceOption = Annotated[str, typer.Option(metavar="NAME", help="Name of the Cloud Run service.")]


@app.command()
def deploy(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="What it serves, from the Hub: user/name[@v1.2.0].")
    ],
    image: Annotated[str, typer.Option(help="The `serve` image in a registry.")],
    project: ProjectOption = None,
    region: RegionOption = "us-central1",
    service: ServiceOption = "arxiv-cls",
    serve_args: Annotated[
        str,
        typer.Option(
            metavar="ARGS", help='Options of `arxiv-cls serve` as one word: --serve-args="--engine int8".'
        ),
    ] = "",
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable (repeatable).")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Anybody may call it, without a token.")] = False,
) -> None:
    """Run the endpoint on Google Cloud Run.

    Creates or replaces the service, waits until it answers, prints its address.
    """
    from arxiv_cls.cloud.cloud_run import check_model
    from arxiv_cls.cloud.cloud_run import deploy as start

    arguments, variables = [check_model(model), *shlex.split(serve_args)], dict(map(_variable, env or []))
    place = {"project": project, "region": region, "service": service}
    print(start(image, arguments, environment=variables, public=public, **place))


@app.command()
def api_url(
    project: ProjectOption = None, region: RegionOption = "us-central1", service: ServiceOption = "arxiv-cls"
) -> None:
    """Print the address of the deployed endpoint."""
    from arxiv_cls.cloud.cloud_run import api_url as address

    print(address(project=project, region=region, service=service))


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--env {word}: not a variable", hint="write --env NAME=VALUE")
    return name, value
