"""`arxiv-cls deploy`, `deploy-monitor` and `api-url`: endpoint and monitoring service on Google Cloud Run.

A service is declared whole in one request, so a rerun replaces it. Credentials are those of the machine
(`gcloud auth application-default login`, or workload identity in CI).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arxiv_cls.errors import UserError

if TYPE_CHECKING:
    from google.cloud import run_v2

# The address that gcloud itself would use in place of Google's, by the name that gcloud gives it.
ENDPOINT_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# Cloud Run: at most 49 characters, lower case, digits and hyphens, a letter first.
SERVICE_NAME = re.compile(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?")
# One instance: what it has, how many there may be, and how long it may take until `/health` answers, since it
# fetches the model first.
CPUS, MEMORY = "2", "2Gi"
PORT, MONITOR_PORT = 8000, 8001
MAX_INSTANCES = 10
STARTUP_SECONDS, PROBE_SECONDS = 240, 5
# Seconds to wait for a new revision.
DEPLOY_TIMEOUT = 900
UNREACHABLE = 3

app = typer.Typer()

ProjectOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Google Cloud project. Default: the credentials'.")
]
RegionOption = Annotated[str, typer.Option(help="Google Cloud region.")]
ServiceOption = Annotated[str, typer.Option(metavar="NAME", help="Name of the Cloud Run service.")]
AccountOption = Annotated[
    str | None, typer.Option(metavar="EMAIL", help="Service account that it runs as. Default: the project's.")
]
EnvOption = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable (repeatable).")]
ReleaseArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A release on the Hub: user/name[@v1.2.0].")
]
BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^\s]*)?")


@app.command()
def deploy(
    model: ReleaseArgument,
    image: Annotated[str, typer.Option(help="The `serve` image in a registry.")],
    log: Annotated[
        str | None,
        typer.Option(metavar="LOG", help="gs://bucket/prefix that gets the request log. Default: none."),
    ] = None,
    service_account: AccountOption = None,
    project: ProjectOption = None,
    region: RegionOption = "us-central1",
    service: ServiceOption = "arxiv-cls",
    serve_args: Annotated[
        str,
        typer.Option(
            metavar="ARGS", help='Options of `arxiv-cls serve` as one word: --serve-args="--engine int8".'
        ),
    ] = "",
    env: EnvOption = None,
    public: Annotated[bool, typer.Option("--public", help="Anybody may call it, without a token.")] = False,
) -> None:
    """Run the endpoint on Google Cloud Run.

    Creates or replaces the service, waits until it answers, prints its address. With --log its CPU is always
    on: without, Cloud Run gives none between requests to the thread that sends the log.
    """
    arguments, variables = [model, *shlex.split(serve_args)], dict(map(_variable, env or []))
    if "ARXIV_CLS_REQUEST_LOG" in variables or any(
        re.match("--request-log(=|$)", word) for word in arguments
    ):
        raise UserError("the request log of a deployment has an option of its own", hint="name it with --log")
    if log is not None:
        variables["ARXIV_CLS_REQUEST_LOG"] = _bucket("--log", log)
    container = partial(_container, image, arguments, variables, always_on=log is not None)
    instances = {"max_instance_count": MAX_INSTANCES}
    _run(service, project, region, model, container, instances, service_account, public=public)


@app.command()
def deploy_monitor(
    model: ReleaseArgument,
    image: Annotated[str, typer.Option(help="The `monitor` image in a registry.")],
    log: Annotated[str, typer.Option(metavar="LOG", help="The request log: what `deploy --log` was given.")],
    out: Annotated[str, typer.Option(metavar="OUT", help="gs://bucket/prefix that keeps the results.")],
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
) -> None:
    """Run the monitoring service on Google Cloud Run.

    One instance with its CPU always on; callers need an identity token. Creates or replaces the service,
    waits until it answers, prints its address.
    """
    arguments = [model, "--log", _bucket("--log", log), "--out", _bucket("--out", out)]
    arguments += shlex.split(monitor_args)
    variables, where = dict(map(_variable, env or [])), (MONITOR_PORT, "/health/live")
    container = partial(_container, image, arguments, variables, *where, always_on=True)
    # Two would write over each other's results; none would run nothing.
    instances = {"min_instance_count": 1, "max_instance_count": 1}
    _run(service, project, region, model, container, instances, service_account)


def _run(
    service: str,
    project: str | None,
    region: str,
    model: str,
    container: Callable[[], run_v2.Container],
    instances: dict[str, int],
    service_account: str | None,
    *,
    public: bool = False,
) -> None:
    """Declares a service, waits until its new revision answers and prints the address."""
    _check_model(model)
    client, project = _connect(project)
    from google.cloud import run_v2

    declared = run_v2.Service(
        name=_service_path(project, region, service),
        ingress=run_v2.IngressTraffic.INGRESS_TRAFFIC_ALL,
        invoker_iam_disabled=public,
        template=run_v2.RevisionTemplate(
            containers=[container()],
            scaling=run_v2.RevisionScaling(**instances),
            service_account=service_account or "",
        ),
    )
    with _explained(f"deploying {service} to {project}, {region}"):
        # allow_missing: one request creates and replaces alike.
        request = run_v2.UpdateServiceRequest(service=declared, allow_missing=True)
        deployed = client.update_service(request).result(timeout=DEPLOY_TIMEOUT)
    condition = deployed.terminal_condition
    if condition.state == run_v2.Condition.State.CONDITION_FAILED:
        raise UserError(
            f"the new revision of {service} does not start: {condition.message}",
            hint=f"its log: gcloud run services logs read {service} --project {project} --region {region}",
        )
    print(deployed.uri)


@app.command()
def api_url(
    project: ProjectOption = None, region: RegionOption = "us-central1", service: ServiceOption = "arxiv-cls"
) -> None:
    """Print the address of the deployed endpoint."""
    client, project = _connect(project)
    with _explained(f"looking for {service} in {project}, {region}"):
        print(client.get_service(name=_service_path(project, region, service)).uri)


def _check_model(model: str) -> None:
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


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--env {word}: not a variable", hint="write --env NAME=VALUE")
    return name, value


def _bucket(option: str, target: str) -> str:
    if not BUCKET.fullmatch(target):
        hint = "a directory of an instance is lost with it: name gs://bucket/prefix"
        raise UserError(f"{option} {target}: not in a bucket", hint=hint)
    return target


def _container(
    image: str,
    arguments: list[str],
    variables: dict[str, str],
    port: int = PORT,
    probe: str = "/health",
    *,
    always_on: bool,
) -> run_v2.Container:
    from google.cloud import run_v2

    return run_v2.Container(
        image=image,
        args=arguments,
        env=[run_v2.EnvVar(name=name, value=value) for name, value in variables.items()],
        ports=[run_v2.ContainerPort(container_port=port)],
        # Idle: a processor is paid for while a request is answered only, and other threads stand still.
        resources=run_v2.ResourceRequirements(
            limits={"cpu": CPUS, "memory": MEMORY}, cpu_idle=not always_on, startup_cpu_boost=True
        ),
        startup_probe=run_v2.Probe(
            http_get=run_v2.HTTPGetAction(path=probe, port=port),
            period_seconds=PROBE_SECONDS,
            timeout_seconds=PROBE_SECONDS - 1,
            failure_threshold=STARTUP_SECONDS // PROBE_SECONDS,
        ),
    )


def _service_path(project: str, region: str, service: str) -> str:
    if not SERVICE_NAME.fullmatch(service):
        raise UserError(
            f"{service!r} is no name for a service",
            hint="lower-case letters, digits and hyphens, a letter first, at most 49",
        )
    return f"projects/{project}/locations/{region}/services/{service}"


def _connect(project: str | None) -> tuple[Any, str]:
    """A client with the machine's credentials, and the project's id: theirs, where none is named."""
    try:
        import google.auth
        from google.api_core.client_options import ClientOptions
        from google.cloud.run_v2 import ServicesClient
    except ImportError as error:
        message = f"deploying needs {error.name or 'google-cloud-run'}, which is not installed"
        raise UserError(message, 'pip install "arxiv_cls[deploy]"') from error
    with _explained("signing in to Google Cloud"):
        credentials, own_project = google.auth.default(scopes=[SCOPE])
    project = project or own_project
    if not project:
        raise UserError("no Google Cloud project is named", hint="name one: --project ID (make: PROJECT=ID)")
    endpoint = os.environ.get(ENDPOINT_VARIABLE, "").rstrip("/") or None
    # REST passes through proxies that gRPC does not.
    options = ClientOptions(api_endpoint=endpoint)
    return ServicesClient(credentials=credentials, transport="rest", client_options=options), project


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turns the library's exceptions into one line each, with what to do next."""
    from google.api_core import exceptions
    from google.auth import exceptions as auth

    sign_in = "gcloud auth application-default login"
    try:
        yield
    except auth.DefaultCredentialsError as error:
        raise UserError(f"{doing}: there are no credentials on this machine", sign_in) from error
    except auth.RefreshError as error:
        raise UserError(f"{doing}: the credentials are refused or have expired", sign_in) from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        hint = "the account needs the roles Cloud Run Admin and Service Account User in the project"
        raise UserError(f"{doing}: {error.message}", hint) from error
    except exceptions.NotFound as error:
        raise UserError(f"{doing}: there is none ({error.message})", "make deploy makes one") from error
    except (exceptions.RetryError, TimeoutError) as error:
        hint = "look at it in the console, then run the command again"
        raise UserError(f"{doing}: it took too long", hint, UNREACHABLE) from error
    # The HTTP library's own errors are OSErrors.
    except (exceptions.ServerError, auth.TransportError, OSError) as error:
        message = f"{doing}: Google Cloud cannot be reached ({error})"
        raise UserError(message, "run the command again later", UNREACHABLE) from error
    except exceptions.GoogleAPICallError as error:
        raise UserError(f"{doing}: {error.message}") from error
