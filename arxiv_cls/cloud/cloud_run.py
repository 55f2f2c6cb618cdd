"""The endpoint on Google Cloud Run: `arxiv-cls deploy MODEL --image IMAGE` and `arxiv-cls api-url`.

A service is declared whole in one request, so that deploying again is the same as deploying, and an older
model or image is a roll-back. Credentials are those of the machine (`gcloud auth application-default
login`, or workload identity in CI); none is stored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arxiv_cls.errors import UserError
from arxiv_cls.release.hub import VERSION_PATTERN, check_repo_id

if TYPE_CHECKING:
    from google.cloud import run_v2


UNREACHABLE = 3
# The address that gcloud itself would use in place of Google's, by the name that gcloud gives it.
ENDPOINT_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# Cloud Run: at most 49 characters, lower case, digits and hyphens, a letter first.
SERVICE_NAME = re.compile(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?")


@dataclass(frozen=True)
class Deployment:
    """What runs there.

    Attributes:
        image: the image of the Dockerfile's `serve` target, in a registry that Cloud Run can read.
        arguments: what follows the image's entry point: the model and options of `arxiv-cls serve`.
        environment: variables of the container.
        public: anybody may call it; otherwise callers need an identity token.
        cpus, memory, port, min_instances, max_instances: the size of one instance and how many there may be.
        startup_seconds: how long an instance may take until `/health` answers: it fetches the model first.
    """

    image: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    public: bool = False
    cpus: int = 2
    memory: str = "2Gi"
    port: int = 8000
    min_instances: int = 0
    max_instances: int = 10
    startup_seconds: int = 240


def check_model(model: str) -> str:
    """The model as the service will ask the Hub for it: user/name or user/name@v1.2.0.

    Raises:
        UserError: a local directory, which a service has not, or not a repository id.
    """
    repo_id, _, version = model.partition("@")
    if Path(model).exists():
        raise UserError(
            f"{model} is a directory of this machine, which the service cannot see",
            hint=f"release it first: make push-model MODEL={model} REPO=user/name",
        )
    check_repo_id(repo_id)
    if version and not VERSION_PATTERN.fullmatch(version):
        raise UserError(f"{version!r} is not a version", hint="versions look like v1.2.0")
    return model


def deploy(
    deployment: Deployment, *, project: str | None, region: str, service: str, timeout: float = 900
) -> str:
    """Creates or replaces the service, waits until it answers, and returns its address.

    Args:
        project: the Google Cloud project's id; None for the one that the credentials name.
        timeout: seconds to wait for the new revision.

    Raises:
        UserError: no credentials, no permission, a bad setting, a revision that does not start (status 2);
            Cloud Run cannot be reached or takes too long (status 3).
    """
    client, project = connect(project)
    from google.cloud import run_v2

    path = service_path(project, region, service)
    with explained(f"deploying {service} to {project}, {region}"):
        # allow_missing: one request creates and replaces alike.
        operation = client.update_service(
            run_v2.UpdateServiceRequest(service=declare(deployment, path), allow_missing=True)
        )
        deployed = operation.result(timeout=timeout)
    condition = deployed.terminal_condition
    if condition.state == run_v2.Condition.State.CONDITION_FAILED:
        raise UserError(
            f"the new revision of {service} does not start: {condition.message}",
            hint=f"its log: gcloud run services logs read {service} --project {project} --region {region}",
        )
    return deployed.uri


def api_url(*, project: str | None, region: str, service: str) -> str:
    """The address of a service that runs.

    Raises:
        UserError: there is none of that name, or what `deploy` raises.
    """
    client, project = connect(project)
    with explained(f"looking for {service} in {project}, {region}"):
        return client.get_service(name=service_path(project, region, service)).uri


def declare(deployment: Deployment, path: str) -> run_v2.Service:
    """The service as Cloud Run's API describes one."""
    from google.cloud import run_v2

    period = 5
    container = run_v2.Container(
        image=deployment.image,
        args=list(deployment.arguments),
        env=[run_v2.EnvVar(name=name, value=value) for name, value in deployment.environment.items()],
        ports=[run_v2.ContainerPort(container_port=deployment.port)],
        resources=run_v2.ResourceRequirements(
            limits={"cpu": str(deployment.cpus), "memory": deployment.memory},
            # A processor is paid for while a request is answered, and at full speed while the model loads.
            cpu_idle=True,
            startup_cpu_boost=True,
        ),
        startup_probe=run_v2.Probe(
            http_get=run_v2.HTTPGetAction(path="/health", port=deployment.port),
            period_seconds=period,
            timeout_seconds=period - 1,
            failure_threshold=-(-deployment.startup_seconds // period),
        ),
    )
    return run_v2.Service(
        name=path,
        ingress=run_v2.IngressTraffic.INGRESS_TRAFFIC_ALL,
        invoker_iam_disabled=deployment.public,
        template=run_v2.RevisionTemplate(
            containers=[container],
            scaling=run_v2.RevisionScaling(
                min_instance_count=deployment.min_instances, max_instance_count=deployment.max_instances
            ),
        ),
    )


def service_path(project: str, region: str, service: str) -> str:
    """The service's name in full.

    Raises:
        UserError: Cloud Run takes no service of that name.
    """
    if not SERVICE_NAME.fullmatch(service):
        raise UserError(
            f"{service!r} is no name for a service",
            hint="lower-case letters, digits and hyphens, a letter first, at most 49",
        )
    return f"projects/{project}/locations/{region}/services/{service}"


def connect(project: str | None) -> tuple[Any, str]:
    """A client with the machine's credentials, and the project's id.

    Raises:
        UserError: the library is not installed, there are no credentials, or no project is named.
    """
    try:
        import google.auth
        from google.api_core.client_options import ClientOptions
        from google.cloud.run_v2 import ServicesClient
    except ImportError as error:
        raise UserError(
            f"deploying needs {error.name or 'google-cloud-run'}, which is not installed",
            hint='pip install "arxiv_cls[deploy]"',
        ) from error
    with explained("signing in to Google Cloud"):
        credentials, own_project = google.auth.default(scopes=[SCOPE])
    project = project or own_project
    if not project:
        raise UserError("no Google Cloud project is named", hint="name one: --project ID (make: PROJECT=ID)")
    endpoint = os.environ.get(ENDPOINT_VARIABLE, "").rstrip("/") or None
    # REST passes through proxies that gRPC does not.
    client = ServicesClient(
        credentials=credentials, transport="rest", client_options=ClientOptions(api_endpoint=endpoint)
    )
    return client, project


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns the library's exceptions into one line each, with what to do next."""
    from google.api_core import exceptions
    from google.auth import exceptions as auth

    try:
        yield
    except auth.DefaultCredentialsError as error:
        raise UserError(
            f"{doing}: there are no credentials on this machine",
            hint="gcloud auth application-default login",
        ) from error
    except auth.RefreshError as error:
        raise UserError(
            f"{doing}: the credentials are refused or have expired",
            hint="gcloud auth application-default login",
        ) from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise UserError(
            f"{doing}: {error.message}",
            hint="the account needs the roles Cloud Run Admin and Service Account User in the project",
        ) from error
    except exceptions.NotFound as error:
        raise UserError(f"{doing}: there is none ({error.message})", hint="make deploy makes one") from error
    except (exceptions.RetryError, TimeoutError) as error:
        hint = "look at it in the console, then run the command again"
        raise UserError(f"{doing}: it took too long", hint=hint, exit_code=UNREACHABLE) from error
    # The HTTP library's own errors are OSErrors.
    except (exceptions.ServerError, auth.TransportError, OSError) as error:
        message = f"{doing}: Google Cloud cannot be reached ({error})"
        raise UserError(message, hint="run the command again later", exit_code=UNREACHABLE) from error
    except exceptions.GoogleAPICallError as error:
        raise UserError(f"{doing}: {error.message}") from error
