"""What `arxiv-cls deploy` makes: a service of Cloud Run, an endpoint of Vertex AI or of the Hub.

Cloud Run: a service is declared whole in one request, so a rerun replaces it. Vertex AI: endpoint and model
have the service's name; a deployment is a new version of the model, and the one before it stays deployed
until `arxiv-cls cloud promote` or `rollback` removes one of the two. The Hub: one Inference Endpoint, which
runs one version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from arxiv_cls.cloud.google_api import TIMEOUT, Google, literal, wait_for
from arxiv_cls.errors import UserError

Backend = Literal["cloud-run", "vertex-endpoint", "hf-endpoint"]
DEFAULT_REGION: dict[Backend, str] = {
    "cloud-run": "us-central1", "vertex-endpoint": "us-central1", "hf-endpoint": "us-east-1",
}  # fmt: skip
ONE_VERSION = "an Inference Endpoint runs one version: there is no traffic to split"
# What a backend has no place for, by the option's name, and why.
REFUSED: dict[Backend, dict[str, str]] = {
    "cloud-run": {"machine": "an instance has 2 CPUs and 2 GiB"},
    "vertex-endpoint": {
        "public": "Vertex AI always asks for a token",
        "secret": "callers need an identity of Google Cloud, and the model is public",
    },
    "hf-endpoint": {
        "secret": "its variables (--env) are secrets of the endpoint",
        "traffic": ONE_VERSION,
        "log": "it has no account of Google Cloud to write into a bucket with",
        "service-account": "it runs as no account of Google Cloud",
    },
}
PORT, MONITOR_PORT = 8000, 8001
# Of Cloud Run: what an instance has, and how long it may take until it answers, since it fetches the model.
CPUS, MEMORY = "2", "2Gi"
STARTUP_SECONDS, PROBE_SECONDS = 240, 5
LATEST, REVISION = (f"TRAFFIC_TARGET_ALLOCATION_TYPE_{kind}" for kind in ("LATEST", "REVISION"))
RUN_ROLES = "the account needs the roles Cloud Run Admin and Service Account User in the project"
RUN_HINTS = {401: RUN_ROLES, 403: RUN_ROLES}
# Of Vertex AI and the Hub.
REPLICAS = (1, 3)
VERTEX_MACHINE, HUB_MACHINE = "n1-standard-2", "aws/intel-spr/x2"
VERTEX_LOG = "gcloud logging read resource.type=aiplatform.googleapis.com/Endpoint --project {}"
# Where the service mounts the files of the model's repository.
REPOSITORY = "/repository"
SECRET_NAME = re.compile(r"(?i)(token|secret|password|passwd|key|webhook)$")


@dataclass(frozen=True)
class Deployment:
    """What is to run. `image` None: `handler.py` of the repository; `traffic`: percent, None for all.

    Of Cloud Run: `instances` at least and at most, `always_on` with a processor between requests too,
    `secrets` from a variable to projects/P/secrets/S/versions/V.
    """

    service: str
    model: str
    image: str | None
    arguments: list[str]
    variables: dict[str, str]
    service_account: str | None
    machine: str | None = None
    traffic: int | None = None
    public: bool = False
    instances: tuple[int, int] = (0, 10)
    always_on: bool = False
    secrets: dict[str, str] = field(default_factory=dict)
    port: int = PORT
    probe: str = "/health"


def check_options(backend: Backend, given: dict[str, object]) -> None:
    """Raises `UserError` for an option that the backend has no place for."""
    for option, reason in REFUSED[backend].items():
        if given.get(option):
            raise UserError(f"--{option}: {reason}", f"leave it out with --backend {backend}")
    if backend == "vertex-endpoint" and given["log"] and not given["service-account"]:
        raise UserError("--log: a container has no account that may write there", "--service-account EMAIL")
    if not given["image"] and backend != "hf-endpoint":
        raise UserError(f"--backend {backend} needs an image", "--image REGISTRY/serve:TAG")


def check_variables(variables: dict[str, str], hint: str) -> None:
    """Raises `UserError` for what looks like a secret: Google Cloud shows variables to all who may look."""
    from arxiv_cls.record.directory import find_secrets

    for name, value in variables.items():
        if SECRET_NAME.search(name) or find_secrets(f"{name}={value}", ""):
            raise UserError(f"--env {name}: Google Cloud shows its variables to all who may see it", hint)


class CloudRun:
    """A service of a project and region; None for the credentials' project.

    Raises:
        UserError: no credentials, or no project.
    """

    def __init__(self, name: str, project: str | None, region: str) -> None:
        self.google, self.name = Google(), name
        parent = self.google.parent(project, region)
        self.project, self.region = parent.split("/")[1], region
        self.path = f"v2/{parent}/services/{name}"

    def service(self, doing: str) -> dict[str, Any]:
        """What is deployed; raises `UserError` where nothing is."""
        found = self.google.find("run", self.path, doing, hints=RUN_HINTS)
        if found is None:
            raise UserError(
                f"{doing}: there is none in {self.project}, {self.region}", "make deploy makes one"
            )
        return found

    def deploy(self, wanted: Deployment) -> str:
        """Declares the service, waits until its new revision answers and returns the address.

        Raises:
            UserError: a refusal, a revision that does not start, or no version for the rest of the traffic.
        """
        check_variables(wanted.variables, "--secret NAME=projects/P/secrets/S/versions/V")
        traffic = []
        if wanted.traffic is not None:
            rest = 100 - wanted.traffic
            found = self.service(f"looking for the version of {self.name} that keeps {rest}% of the traffic")
            traffic = [
                {"type": LATEST, "percent": wanted.traffic},
                {"type": REVISION, "percent": rest, "revision": _serving(found)[0]},
            ]
        declared = {
            "traffic": traffic,
            "ingress": "INGRESS_TRAFFIC_ALL",
            "invokerIamDisabled": wanted.public,
            "template": {
                "containers": [self._container(wanted)],
                "scaling": {
                    "minInstanceCount": wanted.instances[0],
                    "maxInstanceCount": wanted.instances[1],
                },
                "serviceAccount": wanted.service_account or "",
            },
        }
        # allowMissing: one request creates and replaces alike.
        doing = f"deploying {self.name} to {self.project}, {self.region}"
        deployed = self._update(declared, doing, allowMissing="true")
        condition = deployed["terminalCondition"]
        if condition["state"] == "CONDITION_FAILED":
            message = f"the new revision of {self.name} does not start: {condition.get('message')}"
            raise UserError(message, f"its log: {self._log}")
        return deployed["uri"]

    def move(self, forward: bool) -> str:
        """All traffic to the newest revision, or to the one before what serves; returns its name.

        Raises:
            UserError: a refusal, or there is no such revision.
        """
        found = self.service(f"looking for {self.name}")
        serving, kept = _serving(found), _last_part(found["latestReadyRevision"])
        if not forward:
            kept = serving[0] if len(serving) > 1 else self._before(serving[0])
        if set(serving) == {kept}:
            hint = "deploy another one: arxiv-cls deploy MODEL@VERSION --image ..."
            raise UserError(f"{self.name} has no other version: {kept} gets all traffic", hint)
        target = {"type": LATEST} if forward else {"type": REVISION, "revision": kept}
        doing = f"moving the traffic of {self.name}"
        moved = self._update({"traffic": [target | {"percent": 100}]}, doing, updateMask="traffic")
        # Not the service's condition: it also tells of a newer revision that never started.
        if _serving(moved) != [kept]:
            message = f"{self.name}: the traffic has not moved: {moved['terminalCondition'].get('message')}"
            command = f"gcloud run services describe {self.name} --project {self.project}"
            raise UserError(message, f"{command} --region {self.region}")
        return kept

    @property
    def _log(self) -> str:
        command = f"gcloud run services logs read {self.name}"
        return f"{command} --project {self.project} --region {self.region}"

    def _update(self, service: dict[str, Any], doing: str, **query: str) -> dict[str, Any]:
        return self.google.operate(
            "run", "PATCH", self.path, doing, service, self._log, hints=RUN_HINTS, **query
        )

    def _before(self, serving: str) -> str:
        """The ready revision before the one that serves; itself, where there is none."""
        doing = f"listing the revisions of {self.name}"
        # The newest first.
        ready = [
            _last_part(one["name"])
            for one in self.google.pages("revisions", "run", "GET", f"{self.path}/revisions", doing)
            if any(
                c["type"] == "Ready" and c["state"] == "CONDITION_SUCCEEDED"
                for c in one.get("conditions", [])
            )
        ]
        older = ready[ready.index(serving) + 1 :] if serving in ready else []
        return older[0] if older else serving

    def _container(self, wanted: Deployment) -> dict[str, Any]:
        env: list[dict[str, Any]] = [
            {"name": name, "value": value} for name, value in wanted.variables.items()
        ]
        for name, reference in wanted.secrets.items():
            secret, _, version = reference.partition("/versions/")
            env.append(
                {"name": name, "valueSource": {"secretKeyRef": {"secret": secret, "version": version}}}
            )
        return {
            "image": wanted.image,
            "args": wanted.arguments,
            "env": env,
            "ports": [{"containerPort": wanted.port}],
            # Idle: a processor is paid for while a request is answered only, and other threads stand still.
            "resources": {
                "limits": {"cpu": CPUS, "memory": MEMORY},
                "cpuIdle": not wanted.always_on,
                "startupCpuBoost": True,
            },
            "startupProbe": {
                "httpGet": {"path": wanted.probe, "port": wanted.port},
                "periodSeconds": PROBE_SECONDS,
                "timeoutSeconds": PROBE_SECONDS - 1,
                "failureThreshold": STARTUP_SECONDS // PROBE_SECONDS,
            },
        }


def _serving(service: dict[str, Any]) -> list[str]:
    """The revisions that get requests; of a canary and the version beside it the latter first."""
    shares = [one for one in service.get("trafficStatuses", []) if one.get("percent")]
    if not shares:
        hint = "deploy one without --traffic: arxiv-cls deploy MODEL --image ..."
        raise UserError(f"{_last_part(service['name'])} runs no version yet", hint)
    shares.sort(key=lambda one: one["type"] == LATEST)
    newest = _last_part(service.get("latestReadyRevision", ""))
    return [one.get("revision") or newest for one in shares]


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


class VertexEndpoint:
    """An endpoint of a project and region; None for the credentials' project.

    Raises:
        UserError: no credentials, or no project.
    """

    def __init__(self, name: str, project: str | None, region: str) -> None:
        self.google, self.name, self.region = Google(), name, region
        self.parent = self.google.parent(project, region)
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
        deployed = _deployed(self._endpoint())
        if len(deployed) < 2:
            running = deployed[0]["displayName"] if deployed else "none"
            hint = "deploy it: arxiv-cls deploy MODEL@VERSION --backend vertex-endpoint ..."
            raise UserError(f"{self.name} runs no second version, only {running}", hint)
        kept = deployed[-1 if forward else -2]
        self._remove_all_but({kept["id"]}, {kept["id"]: 100})
        return str(kept["displayName"])

    def _remove_all_but(self, kept: set[str | None], split: dict[str, int] | None = None) -> None:
        for one in _deployed(self._endpoint()):
            if one["id"] not in kept:
                body = {"deployedModelId": one["id"]} | ({"trafficSplit": split} if split else {})
                self._run(f"{self.path}:undeployModel", f"removing {one['displayName']}", body)

    def _model(self, wanted: Deployment) -> dict[str, Any]:
        check_variables(wanted.variables, f"leave it out: {REFUSED['vertex-endpoint']['secret']}")
        return {
            "displayName": self.name,
            "versionDescription": wanted.model,
            "labels": {"app": "arxiv-cls"},
            "containerSpec": {
                "imageUri": wanted.image,
                "args": list(map(literal, wanted.arguments)),
                "env": [{"name": name, "value": literal(value)} for name, value in wanted.variables.items()],
                "ports": [{"containerPort": PORT}],
                # It answers {"instances": [...]} with {"predictions": [...]} there.
                "predictRoute": "/predict",
                "healthRoute": "/health",
                "deploymentTimeout": f"{TIMEOUT}s",
            },
        }

    def _find(self, kind: str) -> dict[str, Any] | None:
        return self.google.find("aiplatform", f"v1/{self.parent}/{kind}/{self.name}", self._looking)

    def _endpoint(self) -> dict[str, Any]:
        """The endpoint, which must be there."""
        return self.google.call("aiplatform", "GET", f"v1/{self.path}", self._looking)

    @property
    def _looking(self) -> str:
        return f"looking for {self.name} in {self.parent}"

    def _run(self, path: str, doing: str, body: dict[str, Any], **query: str) -> dict[str, Any]:
        log = VERTEX_LOG.format(self.parent.split("/")[1])
        return self.google.operate("aiplatform", "POST", f"v1/{path}", doing, body, log, **query)


def _deployed(endpoint: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The deployed models with their percent of the traffic, oldest first."""
    split = (endpoint or {}).get("trafficSplit", {})
    models = (endpoint or {}).get("deployedModels", [])
    return [
        one | {"percent": split.get(one["id"], 0)}
        for one in sorted(models, key=lambda one: one["createTime"])
    ]


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

    return str(wait_for(endpoint, look, ended, doing).url)
