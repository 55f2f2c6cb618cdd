"""`arxiv-cls deploy`, `deploy-monitor` and `api-url`: the endpoint and its monitoring in a cloud.

Credentials are those of the machine (`gcloud auth application-default login`, or workload identity in CI).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from arxiv_cls.cloud.endpoints import (
    DEFAULT_REGION,
    MONITOR_PORT,
    Backend,
    CloudRun,
    Deployment,
    VertexEndpoint,
    check_options,
    deploy_to_hub,
)
from arxiv_cls.errors import UserError

# Cloud Run: at most 49 characters, lower case, digits and hyphens, a letter first.
SERVICE_NAME = re.compile(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?")
BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^\s]*)?")

app = typer.Typer()


def _release(model: str) -> str:
    from arxiv_cls.release.hub import check_repo_id, parse_version

    if Path(model).exists():
        raise UserError(
            f"{model} is a directory of this machine, which the service cannot see",
            hint=f"release it first: make push-model MODEL={model} REPO=user/name",
        )
    repo_id, _, version = model.partition("@")
    check_repo_id(repo_id)
    if version:
        parse_version(version)
    return model


def service_name(name: str) -> str:
    """The name of a service or endpoint, checked."""
    if not SERVICE_NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name for a service",
            hint="lower-case letters, digits and hyphens, a letter first, at most 49",
        )
    return name


def _bucket(param: typer.CallbackParam, target: str | None) -> str | None:
    if target is not None and not BUCKET.fullmatch(target):
        hint = "a directory of an instance is lost with it: name gs://bucket/prefix"
        raise UserError(f"--{param.name} {target}: not in a bucket", hint=hint)
    return target


def _variables(words: list[str] | None) -> dict[str, str]:
    variables = {}
    for word in words or []:
        name, equals, variables[name] = word.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--env {word}: not a variable", hint="write --env NAME=VALUE")
    return variables


def _secrets(words: list[str] | None) -> dict[str, str]:
    from arxiv_cls.cloud.jobs import SECRET_VERSION

    secrets = {}
    for word in words or []:
        name, _, secrets[name] = word.partition("=")
        # A value that was written there by mistake must not be repeated.
        if not name.isidentifier() or not SECRET_VERSION.fullmatch(secrets[name]):
            hint = "write --secret NAME=projects/P/secrets/S/versions/V"
            raise UserError("--secret: not a variable and the version of a secret", hint)
    return secrets


ProjectOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Google Cloud project. Default: the credentials'.")
]
RegionOption = Annotated[str, typer.Option(help="Google Cloud region.")]
ServiceOption = Annotated[
    str, typer.Option(metavar="NAME", callback=service_name, help="Name of the service or endpoint.")
]
AccountOption = Annotated[
    str | None, typer.Option(metavar="EMAIL", help="Service account that it runs as. Default: the project's.")
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SECRET",
        help="A variable that is a secret: projects/P/secrets/S/versions/V (repeatable; cloud-run).",
    ),
]
EnvOption = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable (repeatable).")]
ReleaseArgument = Annotated[
    str, typer.Argument(metavar="MODEL", callback=_release, help="A release on the Hub: user/name[@v1.2.0].")
]
BackendOption = Annotated[Backend, typer.Option(help="Where the endpoint runs.")]
PlaceOption = Annotated[
    str | None,
    typer.Option("--project", metavar="ID", help="Google Cloud project, on the Hub the namespace."),
]
AnyRegionOption = Annotated[
    str | None, typer.Option("--region", help="Default: us-central1; of an hf-endpoint us-east-1.")
]


@app.command()
def deploy(
    model: ReleaseArgument,
    image: Annotated[
        str | None,
        typer.Option(help="The `serve` image in a registry. An hf-endpoint without runs `handler.py`."),
    ] = None,
    backend: BackendOption = "cloud-run",
    log: Annotated[
        str | None,
        typer.Option(
            metavar="LOG",
            callback=_bucket,
            help="gs://bucket/prefix that gets the request log. Default: none.",
        ),
    ] = None,
    service_account: AccountOption = None,
    project: PlaceOption = None,
    region: AnyRegionOption = None,
    service: ServiceOption = "arxiv-cls",
    serve_args: Annotated[
        str,
        typer.Option(
            metavar="ARGS", help='Options of `arxiv-cls serve` as one word: --serve-args="--engine int8".'
        ),
    ] = "",
    env: EnvOption = None,
    secret: SecretOption = None,
    public: Annotated[bool, typer.Option("--public", help="Anybody may call it, without a token.")] = False,
    machine: Annotated[
        str | None,
        typer.Option(help="Of a vertex-endpoint (n1-standard-2) or an hf-endpoint (aws/intel-spr/x2)."),
    ] = None,
    traffic: Annotated[
        int | None,
        typer.Option(
            metavar="PERCENT",
            min=1,
            max=99,
            help="Of the requests for this version; the rest stays. Default: all.",
        ),
    ] = None,
) -> None:
    """Run the endpoint on Google Cloud Run, Vertex AI or Inference Endpoints of the Hub.

    Creates or replaces the service, waits until it answers, prints its address. With --log its CPU is always
    on: without, Cloud Run gives none between requests to the thread that sends the log. After --traffic:
    `arxiv-cls cloud promote` or `rollback`.
    """
    given = {"image": image, "log": log, "service-account": service_account, "machine": machine}
    check_options(backend, given | {"traffic": traffic, "public": public, "secret": secret})
    arguments, variables = [model, *shlex.split(serve_args)], _variables(env)
    logs = [word for word in arguments if re.match("--request-log(=|$)", word)]
    if logs or "ARXIV_CLS_REQUEST_LOG" in variables:
        raise UserError("the request log of a deployment has an option of its own", hint="name it with --log")
    if log is not None:
        variables["ARXIV_CLS_REQUEST_LOG"] = log
    wanted = Deployment(
        service, model, image, arguments, variables, service_account, machine, traffic, public,
        always_on=log is not None, secrets=_secrets(secret),
    )  # fmt: skip
    if backend == "hf-endpoint":
        print(deploy_to_hub(wanted, project, region or DEFAULT_REGION[backend]))
    else:
        print(endpoint_of(backend, service, project, region).deploy(wanted))


def endpoint_of(
    backend: Backend, service: str, project: str | None, region: str | None
) -> CloudRun | VertexEndpoint:
    """An endpoint on Google Cloud."""
    kind = CloudRun if backend == "cloud-run" else VertexEndpoint
    return kind(service, project, region or DEFAULT_REGION[backend])


@app.command()
def deploy_monitor(
    model: ReleaseArgument,
    image: Annotated[str, typer.Option(help="The `monitor` image in a registry.")],
    log: Annotated[
        str,
        typer.Option(metavar="LOG", callback=_bucket, help="The request log: what `deploy --log` was given."),
    ],
    out: Annotated[
        str, typer.Option(metavar="OUT", callback=_bucket, help="gs://bucket/prefix that keeps the results.")
    ],
    service_account: AccountOption = None,
    project: ProjectOption = None,
    region: RegionOption = "us-central1",
    service: ServiceOption = "arxiv-cls-monitor",
    monitor_args: Annotated[
        str,
        typer.Option(
            metavar="ARGS", help='Options of `arxiv-cls monitor serve`: --monitor-args="--every 6h".'
        ),
    ] = "",
    env: EnvOption = None,
    secret: SecretOption = None,
) -> None:
    """Run the monitoring service on Google Cloud Run.

    One instance with its CPU always on; callers need an identity token. Creates or replaces the service,
    waits until it answers, prints its address.
    """
    arguments = [model, "--log", log, "--out", out, *shlex.split(monitor_args)]
    # Two instances would write over each other's results; none would run nothing.
    wanted = Deployment(
        service, model, image, arguments, _variables(env), service_account,
        instances=(1, 1), always_on=True, secrets=_secrets(secret), port=MONITOR_PORT, probe="/health/live",
    )  # fmt: skip
    print(CloudRun(service, project, region).deploy(wanted))


@app.command()
def api_url(
    project: ProjectOption = None, region: RegionOption = "us-central1", service: ServiceOption = "arxiv-cls"
) -> None:
    """Print the address of the deployed endpoint."""
    print(CloudRun(service, project, region).service(f"looking for {service}")["uri"])
