"""`arxiv-cls deploy --backend vertex-endpoint|hf-endpoint`: endpoints of Vertex AI and of the Hub.

Vertex AI: endpoint and model have the service's name; a deployment is a new version of the model, and the one
before it stays deployed until `arxiv-cls cloud promote` or `rollback` removes one of the two. The Hub: one
Inference Endpoint, which runs one version.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import typer

from arxiv_cls.errors import UNREACHABLE, UserError

Backend = Literal["cloud-run", "vertex-endpoint", "hf-endpoint"]
T = TypeVar("T")
DEFAULT_REGION: dict[Backend, str] = {
    "cloud-run": "us-central1", "vertex-endpoint": "us-central1", "hf-endpoint": "us-east-1",
}  # fmt: skip
ONE_VERSION = "an Inference Endpoint runs one version: there is no traffic to split"
# What a backend has no place for, by the option's name, and why.
REFUSED: dict[Backend, dict[str, str]] = {
    "cloud-run": {"machine": "an instance has 2 CPUs and 2 GiB"},
    "vertex-endpoint": {"public": "Vertex AI always asks for a token"},
    "hf-endpoint": {
        "traffic": ONE_VERSION,
        "log": "it has no account of Google Cloud to write into a bucket with",
        "service-account": "it runs as no account of Google Cloud",
    },
}
PORT, REPLICAS = 8000, (1, 3)
VERTEX_MACHINE, HUB_MACHINE = "n1-standard-2", "aws/intel-spr/x2"
# Where the service mounts the files of the model's repository.
REPOSITORY = "/repository"
# Seconds between two looks, until it is given up, and failed looks in a row until then.
POLL_SECONDS, TIMEOUT, MOST_FAILURES = 15.0, 2400, 10
QUOTA_EXCEEDED = 8
SECRET_NAME = re.compile(r"(?i)(token|secret|password|passwd|key)$")


@dataclass(frozen=True)
class Deployment:
    """What is to run. `image` None: `handler.py` of the repository; `traffic`: percent, None for all."""

    service: str
    model: str
    image: str | None
    arguments: list[str]
    variables: dict[str, str]
    service_account: str | None
    machine: str | None
    traffic: int | None
    public: bool


def check_options(backend: Backend, given: dict[str, object]) -> None:
    """Raises `UserError` for an option that the backend has no place for."""
    for option, reason in REFUSED[backend].items():
        if given.get(option):
            raise UserError(f"--{option}: {reason}", f"leave it out with --backend {backend}")
    if backend == "vertex-endpoint" and given["log"] and not given["service-account"]:
        raise UserError("--log: a container has no account that may write there", "--service-account EMAIL")
    if not given["image"] and backend != "hf-endpoint":
        raise UserError(f"--backend {backend} needs an image", "--image REGISTRY/serve:TAG")


class VertexEndpoint:
    """An endpoint of a project and region; None for the credentials' project.

    Raises:
        UserError: no credentials, or no project.
    """

    def __init__(self, name: str, project: str | None, region: str) -> None:
        from arxiv_cls.cloud.vertex import Google, Vertex

        self.google, self.name, self.region = Google(), name, region
        self.parent = Vertex(self.google, project, region).parent
        self.path = f"{self.parent}/endpoints/{name}"

    def deploy(self, wanted: Deployment) -> str:
        """Uploads the model, deploys it and gives it its traffic; returns the address of predictions.

        Raises:
            UserError: a refusal, a container that does not start, or no version for the rest of the traffic.
        """
        body = self._model(wanted)
        endpoint = self._find("endpoints")
        # The oldest with traffic: of a canary and the version beside it the latter.
        kept = next((one["id"] for one in _deployed(endpoint) if one["percent"]), None)
        split = {"0": 100}
        if wanted.traffic is not None:
            if kept is None:
                raise UserError(
                    f"--traffic {wanted.traffic}: {self.name} runs no version that takes the rest",
                    "deploy the first one without --traffic",
                )
            split = {"0": wanted.traffic, kept: 100 - wanted.traffic}
        if endpoint is None:
            created = {"displayName": self.name, "labels": {"app": "arxiv-cls"}}
            self._run(f"{self.parent}/endpoints", f"creating {self.name}", created, endpointId=self.name)
        model = f"{self.parent}/models/{self.name}"
        named = {"parentModel": model} if self._find("models") else {"modelId": self.name}
        doing = f"uploading {wanted.model}"
        uploaded = self._run(f"{self.parent}/models:upload", doing, {"model": body, **named})
        deployed: dict[str, Any] = {
            "model": f"{model}@{uploaded['modelVersionId']}",
            "displayName": wanted.model,
            "dedicatedResources": {
                "machineSpec": {"machineType": wanted.machine or VERTEX_MACHINE},
                "minReplicaCount": REPLICAS[0],
                "maxReplicaCount": REPLICAS[1],
            },
        }
        if wanted.service_account:
            deployed["serviceAccount"] = wanted.service_account
        body = {"deployedModel": deployed, "trafficSplit": split}
        reply = self._run(f"{self.path}:deployModel", f"deploying {wanted.model}", body)
        self._remove_all_but({reply["deployedModel"]["id"], kept})
        return f"https://{self.region}-aiplatform.googleapis.com/v1/{self.path}:predict"

    def move(self, forward: bool) -> str:
        """All traffic to the newest version or to the one before it; the others are removed.

        Returns:
            What now answers.

        Raises:
            UserError: a refusal, or there are no two versions.
        """
        deployed = _deployed(self._find("endpoints", must=True))
        if len(deployed) < 2:
            running = deployed[0]["displayName"] if deployed else "none"
            hint = "deploy it: arxiv-cls deploy MODEL@VERSION --backend vertex-endpoint ..."
            raise UserError(f"{self.name} runs no second version, only {running}", hint)
        kept = deployed[-1 if forward else -2]
        self._remove_all_but({kept["id"]}, {kept["id"]: 100})
        return str(kept["displayName"])

    def _remove_all_but(self, kept: set[str | None], split: dict[str, int] | None = None) -> None:
        for one in _deployed(self._find("endpoints", must=True)):
            if one["id"] not in kept:
                body = {"deployedModelId": one["id"]} | ({"trafficSplit": split} if split else {})
                self._run(f"{self.path}:undeployModel", f"removing {one['displayName']}", body)

    def _model(self, wanted: Deployment) -> dict[str, Any]:
        from arxiv_cls.record.directory import find_secrets

        for name, value in wanted.variables.items():
            if SECRET_NAME.search(name) or find_secrets(f"{name}={value}", ""):
                raise UserError(
                    f"--env {name}: a model of Vertex AI shows its variables to all who may see it",
                    "leave it out: callers need an identity of Google Cloud, and the model is public",
                )
        return {
            "displayName": self.name,
            "versionDescription": wanted.model,
            "labels": {"app": "arxiv-cls"},
            "containerSpec": {
                "imageUri": wanted.image,
                "args": list(map(_literal, wanted.arguments)),
                "env": [{"name": name, "value": _literal(value)} for name, value in wanted.variables.items()],
                "ports": [{"containerPort": PORT}],
                # It answers {"instances": [...]} with {"predictions": [...]} there.
                "predictRoute": "/predict",
                "healthRoute": "/health",
                "deploymentTimeout": f"{TIMEOUT}s",
            },
        }

    def _find(self, kind: str, must: bool = False) -> dict[str, Any] | None:
        from arxiv_cls.cloud.vertex import GoogleError

        doing = f"looking for {self.name} in {self.parent}"
        try:
            return self._call("GET", f"{self.parent}/{kind}/{self.name}", doing)
        except GoogleError as error:
            if error.status != 404 or must:
                raise
        return None

    def _run(self, path: str, doing: str, body: dict[str, Any], **query: str) -> dict[str, Any]:
        """A long operation, to its end; its response."""
        operation = self._call("POST", path, doing, body, **query)
        done = _wait(
            operation,
            lambda: self._call("GET", operation["name"], doing),
            lambda state: bool(state.get("done")),
            doing,
        )
        if error := done.get("error"):
            from arxiv_cls.record.directory import redact

            project = self.parent.split("/")[1]
            log = "gcloud logging read resource.type=aiplatform.googleapis.com/Endpoint"
            hint = f"its log: {log} --project {project}"
            if error.get("code") == QUOTA_EXCEEDED:
                hint = f"ask for more: https://console.cloud.google.com/iam-admin/quotas?project={project}"
            raise UserError(f"{doing}: {redact(error.get('message', 'failed'))}", hint)
        return done.get("response", {})

    def _call(
        self, method: str, path: str, doing: str, body: dict[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        return self.google.call("aiplatform", method, f"v1/{path}", doing, body, self.region, **query)


def _deployed(endpoint: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The deployed models with their percent of the traffic, oldest first."""
    split = (endpoint or {}).get("trafficSplit", {})
    models = (endpoint or {}).get("deployedModels", [])
    return [
        one | {"percent": split.get(one["id"], 0)}
        for one in sorted(models, key=lambda one: one["createTime"])
    ]


def _literal(text: str) -> str:
    # The service expands $(NAME); a doubled dollar keeps the text as it is.
    return text.replace("$(", "$$(")


def deploy_to_hub(wanted: Deployment, namespace: str | None, region: str) -> str:
    """Creates or updates an Inference Endpoint and waits for it; returns its address.

    The release is pinned by commit. Variables are sent as its secrets, which it does not show.

    Raises:
        UserError: a refusal, an endpoint that does not start, or a release without `handler.py` and no image.
    """
    from huggingface_hub.errors import HfHubHTTPError

    from arxiv_cls.cloud.hf_jobs import HuggingFaceJobs, hub_errors
    from arxiv_cls.record.directory import redact

    parts = (wanted.machine or HUB_MACHINE).split("/")
    if len(parts) != 3:
        raise UserError(f"--machine {wanted.machine}: not VENDOR/TYPE/SIZE", f"such as {HUB_MACHINE}")
    account = HuggingFaceJobs(namespace)
    place, api = {"name": wanted.service, "namespace": account.namespace}, account.api
    repository, _, version = wanted.model.partition("@")
    hints = {
        403: "the token needs the right to Inference Endpoints of the namespace",
        404: "look at the model's name and version, and at the namespace",
        409: "there is one of that name: --service NAME",
        429: "too many requests, or a quota: https://ui.endpoints.huggingface.co/settings/quotas",
    }
    with hub_errors(f"looking for {wanted.model}", hints):
        release = api.model_info(repository, revision=version or None)
    if wanted.image is None:
        if "handler.py" not in {one.rfilename for one in release.siblings}:
            raise UserError(
                f"{wanted.model} has no handler.py", "name the `serve` image: --image, or export it"
            )
        if wanted.arguments[1:]:
            raise UserError("--serve-args: handler.py takes none", "name the `serve` image: --image")
    image = {"url": wanted.image, "port": PORT, "healthRoute": "/health"}
    settings: dict[str, Any] = {
        "repository": repository,
        "revision": release.sha,
        "framework": "custom",
        "task": "text-classification",
        "custom_image": image if wanted.image else {"huggingface": {}},
        "container_args": [REPOSITORY, *wanted.arguments[1:]] if wanted.image else [],
        "secrets": wanted.variables,
        "accelerator": "cpu",
        "instance_type": parts[1],
        "instance_size": parts[2],
        "min_replica": REPLICAS[0],
        "max_replica": REPLICAS[1],
        **place,
    }
    doing, kind = f"deploying {wanted.model}", "public" if wanted.public else "authenticated"
    with hub_errors(doing, hints):
        try:
            endpoint = api.get_inference_endpoint(**place)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            endpoint = api.create_inference_endpoint(**settings, vendor=parts[0], region=region, type=kind)
        else:
            if endpoint.type != kind:
                hint = "delete it first, or take another name: --service NAME"
                raise UserError(f"{wanted.service} is {endpoint.type}, not {kind}", hint)
            endpoint = api.update_inference_endpoint(**settings)

    def look() -> Any:
        with hub_errors(doing, hints):
            return api.get_inference_endpoint(**place)

    def ended(found: Any) -> bool:
        if found.status in ("failed", "updateFailed", "paused"):
            reason = redact(str(found.raw["status"].get("message") or "no reason is given"))
            hint = f"its log: https://endpoints.huggingface.co/{found.namespace}/endpoints/{found.name}"
            raise UserError(f"{doing}: {found.status}: {reason}", hint)
        return found.status in ("running", "scaledToZero") and bool(found.url)

    return str(_wait(endpoint, look, ended, doing).url)


def _wait(state: T, look: Callable[[], T], ended: Callable[[T], bool], doing: str) -> T:
    """Looks until the state is an end, with a line of progress each time.

    What cannot be read is asked for again; the end of time is a `UserError`.
    """
    started, failures = time.monotonic(), 0
    while not ended(state):
        seconds = time.monotonic() - started
        if seconds > TIMEOUT:
            hint = "it may still end well: look at it in the console before running the command again"
            raise UserError(f"{doing}: not finished after {TIMEOUT} s", hint, UNREACHABLE)
        typer.echo(f"{doing}: {seconds:.0f} s", err=True)
        time.sleep(POLL_SECONDS)
        try:
            state, failures = look(), 0
        except UserError as error:
            passing = error.exit_code == UNREACHABLE or getattr(error, "status", 0) == 429
            failures += 1
            if not passing or failures > MOST_FAILURES:
                raise
    return state
