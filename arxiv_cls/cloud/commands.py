"""`arxiv-cls deploy`, `deploy-monitor` and `api-url`: endpoint and monitoring service on Google Cloud Run.

`deploy --backend` runs the endpoint elsewhere (`endpoints.py`). On Cloud Run a service is declared whole in
one request, so a rerun replaces it. Credentials are those of the machine (`gcloud auth application-default
login`, or workload identity in CI).
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arxiv_cls.cloud.endpoints import (
    DEFAULT_REGION,
    Backend,
    Deployment,
    VertexEndpoint,
    check_options,
    deploy_to_hub,
)
from arxiv_cls.errors import UNREACHABLE, UserError

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
LATEST, REVISION = (f"TRAFFIC_TARGET_ALLOCATION_TYPE_{kind}" for kind in ("LATEST", "REVISION"))

app = typer.Typer()

ProjectOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Google Cloud project. Default: the credentials'.")
]
RegionOption = Annotated[str, typer.Option(help="Google Cloud region.")]
ServiceOption = Annotated[str, typer.Option(metavar="NAME", help="Name of the service or endpoint.")]
AccountOption = Annotated[
    str | None, typer.Option(metavar="EMAIL", help="Service account that it runs as. Default: the project's.")
]
EnvOption = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable (repeatable).")]
ReleaseArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A release on the Hub: user/name[@v1.2.0].")
]
BackendOption = Annotated[Backend, typer.Option(help="Where the endpoint runs.")]
PlaceOption = Annotated[
    str | None,
    typer.Option("--project", metavar="ID", help="Google Cloud project, on the Hub the namespace."),
]
AnyRegionOption = Annotated[
    str | None, typer.Option("--region", help="Default: us-central1; of an hf-endpoint us-east-1.")
]
BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^\s]*)?")


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
        typer.Option(metavar="LOG", help="gs://bucket/prefix that gets the request log. Default: none."),
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
    check_options(backend, given | {"traffic": traffic, "public": public})
    arguments, variables = [model, *shlex.split(serve_args)], dict(map(_variable, env or []))
    if "ARXIV_CLS_REQUEST_LOG" in variables or any(
        re.match("--request-log(=|$)", word) for word in arguments
    ):
        raise UserError("the request log of a deployment has an option of its own", hint="name it with --log")
    if log is not None:
        variables["ARXIV_CLS_REQUEST_LOG"] = _bucket("--log", log)
    region = region or DEFAULT_REGION[backend]
    if backend == "cloud-run":
        assert image
        container = partial(_container, image, arguments, variables, always_on=log is not None)
        instances = {"max_instance_count": MAX_INSTANCES}
        where = service, project, region, model
        _run(*where, container, instances, service_account, public=public, traffic=traffic)
        return
    _check_model(model)
    _check_name(service)
    wanted = Deployment(
        service, model, image, arguments, variables, service_account, machine, traffic, public
    )
    if backend == "hf-endpoint":
        print(deploy_to_hub(wanted, project, region))
    else:
        print(VertexEndpoint(service, project, region).deploy(wanted))


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
    traffic: int | None = None,
) -> None:
    """Declares a service, waits until its new revision answers and prints the address."""
    _check_model(model)
    client, project = _connect(project)
    from google.cloud import run_v2

    name = _service_path(project, region, service)
    targets = []
    if traffic is not None:
        with _explained(f"looking for the version of {service} that keeps {100 - traffic}% of the traffic"):
            kept = _serving(client.get_service(name=name))[0]
        targets = [
            run_v2.TrafficTarget(type_=LATEST, percent=traffic),
            run_v2.TrafficTarget(type_=REVISION, revision=kept, percent=100 - traffic),
        ]
    declared = run_v2.Service(
        name=name,
        traffic=targets,
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


def _serving(service: run_v2.Service) -> list[str]:
    """The revisions that get requests; of a canary and the version beside it the latter first."""
    shares = [one for one in service.traffic_statuses if one.percent]
    if not shares:
        hint = "deploy one without --traffic: arxiv-cls deploy MODEL --image ..."
        raise UserError(f"{service.name} runs no version yet", hint)
    latest = [one.type_.name == LATEST for one in shares]
    names = [one.revision or service.latest_ready_revision.rpartition("/")[2] for one in shares]
    return [name for _, name in sorted(zip(latest, names, strict=True))]


def move_traffic(service: str, project: str | None, region: str, forward: bool) -> str:
    """All traffic of a service to its newest revision, or to the one before what serves; returns its name.

    Raises:
        UserError: a refusal, or there is no such revision.
    """
    client, project = _connect(project)
    from google.cloud import run_v2
    from google.protobuf.field_mask_pb2 import FieldMask

    name = _service_path(project, region, service)
    with _explained(f"looking for {service} in {project}, {region}"):
        found = client.get_service(name=name)
        serving, kept = _serving(found), found.latest_ready_revision.rpartition("/")[2]
        if not forward:
            kept = serving[0]
            if len(serving) == 1:
                kept = _earlier(_connect(project, "RevisionsClient")[0].list_revisions(parent=name), kept)
    if set(serving) == {kept}:
        hint = "deploy another one: arxiv-cls deploy MODEL@VERSION --image ..."
        raise UserError(f"{service} has no other version: {kept} gets all traffic", hint)
    kind = {"type_": LATEST} if forward else {"type_": REVISION, "revision": kept}
    declared = run_v2.Service(name=name, traffic=[run_v2.TrafficTarget(percent=100, **kind)])
    request = run_v2.UpdateServiceRequest(service=declared, update_mask=FieldMask(paths=["traffic"]))
    with _explained(f"moving the traffic of {service}"):
        moved = client.update_service(request).result(timeout=DEPLOY_TIMEOUT)
    # Not the service's condition: it also tells of a newer revision that never started.
    if _serving(moved) != [kept]:
        hint = f"gcloud run services describe {service} --project {project} --region {region}"
        raise UserError(f"{service}: the traffic has not moved: {moved.terminal_condition.message}", hint)
    return kept


def _earlier(revisions: Iterable[run_v2.Revision], serving: str) -> str:
    """The ready revision before the one that serves, of a list newest first; itself, where there is none."""
    ready = [
        one.name.rpartition("/")[2]
        for one in revisions
        if any(c.type_ == "Ready" and c.state.name == "CONDITION_SUCCEEDED" for c in one.conditions)
    ]
    return next(iter(ready[ready.index(serving) + 1 :] if serving in ready else []), serving)


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
    _check_name(service)
    return f"projects/{project}/locations/{region}/services/{service}"


def _check_name(service: str) -> None:
    if not SERVICE_NAME.fullmatch(service):
        raise UserError(
            f"{service!r} is no name for a service",
            hint="lower-case letters, digits and hyphens, a letter first, at most 49",
        )


def _connect(project: str | None, kind: str = "ServicesClient") -> tuple[Any, str]:
    """A client with the machine's credentials, and the project's id: theirs, where none is named."""
    try:
        import google.auth
        from google.api_core.client_options import ClientOptions

        run_v2 = importlib.import_module("google.cloud.run_v2")
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
    client = getattr(run_v2, kind)(credentials=credentials, transport="rest", client_options=options)
    return client, project


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
