"""`arxiv-cls deploy` and `arxiv-cls api-url`: the endpoint on Google Cloud Run.

A service is declared whole in one request, so a rerun replaces it. Credentials are those of the machine
(`gcloud auth application-default login`, or workload identity in CI).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
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
CPUS, MEMORY, PORT = "2", "2Gi", 8000
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
    _check_model(model)
    arguments, variables = [model, *shlex.split(serve_args)], dict(map(_variable, env or []))
    client, project = _connect(project)
    from google.cloud import run_v2

    declared = run_v2.Service(
        name=_service_path(project, region, service),
        ingress=run_v2.IngressTraffic.INGRESS_TRAFFIC_ALL,
        invoker_iam_disabled=public,
        template=run_v2.RevisionTemplate(
            containers=[_container(image, arguments, variables)],
            scaling=run_v2.RevisionScaling(max_instance_count=MAX_INSTANCES),
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


def _container(image: str, arguments: list[str], variables: dict[str, str]) -> run_v2.Container:
    from google.cloud import run_v2

    return run_v2.Container(
        image=image,
        args=arguments,
        env=[run_v2.EnvVar(name=name, value=value) for name, value in variables.items()],
        ports=[run_v2.ContainerPort(container_port=PORT)],
        # A processor is paid for while a request is answered, and at full speed while the model loads.
        resources=run_v2.ResourceRequirements(
            limits={"cpu": CPUS, "memory": MEMORY}, cpu_idle=True, startup_cpu_boost=True
        ),
        startup_probe=run_v2.Probe(
            http_get=run_v2.HTTPGetAction(path="/health", port=PORT),
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
