"""Google's services on loopback, as strict as their published interfaces.

`google_api.json` holds the methods and schemas that are used, from Google's discovery documents (Apache 2.0;
those of Cloud Quotas from google/api/cloudquotas/v1/resources.proto). Another path, parameter, field or type
is a 400 or 404 where the client sends it, and fails the test where this server does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local_servers import JsonHandler, Loopback

API = json.loads((Path(__file__).parent / "google_api.json").read_text())
TYPES = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
    "object": dict,
    "array": list,
}
FORMATS = {"int64": r"-?\d+", "google-duration": r"\d+(\.\d{1,9})?s"}
REQUIRED = {
    "GoogleCloudAiplatformV1CustomJob": ["displayName", "jobSpec"],
    "ListLogEntriesRequest": ["resourceNames"],
    "GoogleCloudAiplatformV1UploadModelRequest": ["model"],
    "GoogleCloudAiplatformV1Model": ["displayName"],
    "GoogleCloudAiplatformV1ModelContainerSpec": ["imageUri"],
    "GoogleCloudAiplatformV1Endpoint": ["displayName"],
    "GoogleCloudAiplatformV1DeployModelRequest": ["deployedModel"],
    "GoogleCloudAiplatformV1DedicatedResources": ["machineSpec", "minReplicaCount"],
    "GoogleCloudAiplatformV1UndeployModelRequest": ["deployedModelId"],
}


class Refused(Exception):
    """An answer of the services' own form."""

    def __init__(self, status: int, message: str, reason: str = "", **metadata: str) -> None:
        super().__init__(message)
        details = [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "metadata": metadata}
        ]
        error = {"code": status, "message": message, "status": "FAKE"} | (
            {"details": details} if reason else {}
        )
        self.status, self.body = status, {"error": error}


def problems(
    schema: dict[str, Any], value: Any, schemas: dict[str, Any], sent: bool, where: str = ""
) -> list[str]:
    """What is not as the schema has it; `sent`: fields that only the service writes are wrong too."""
    if "$ref" in schema:
        name, schema = schema["$ref"], schemas[schema["$ref"]]
        lacking = [key for key in REQUIRED.get(name, []) if sent and key not in value]
        if lacking:
            return [f"{where}: missing {', '.join(lacking)}"]
    kind = schema.get("type", "any")
    if kind == "any":
        return []
    if not isinstance(value, TYPES[kind]) or (kind == "integer" and isinstance(value, bool)):
        return [f"{where}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is not among the values"]
    if not re.fullmatch(FORMATS.get(schema.get("format", ""), r"(?s).*"), str(value)):
        return [f"{where}: {value!r} is no {schema['format']}"]
    if kind == "array":
        return [
            p
            for n, item in enumerate(value)
            for p in problems(schema["items"], item, schemas, sent, f"{where}[{n}]")
        ]
    if kind != "object":
        return []
    found = []
    for key, item in value.items():
        known = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
        if known is None:
            found.append(f'{where}: unknown name "{key}"')
        elif sent and known.get("readOnly"):
            found.append(f"{where}.{key}: only the service writes it")
        else:
            found += problems(known, item, schemas, sent, f"{where}.{key}")
    return found


@dataclass
class LocalGoogle(Loopback):
    """The services. `refusals`: what a method answers, once each, before it works."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)  # of a job, one a look; the last stays
    error: str = ""  # why a job failed
    entries: list[dict[str, Any]] = field(
        default_factory=list
    )  # the log; `after` looks at the job they are there
    services_off: set[str] = field(default_factory=set)
    permissions_off: set[str] = field(default_factory=set)
    objects: dict[tuple[str, str], bytes] = field(default_factory=dict)
    quota: dict[str, dict[str, int]] = field(default_factory=dict)  # metric to region to limit
    secrets: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, list[Refused | str]] = field(default_factory=dict)  # "drop" closes the connection
    models: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # versions by the model's name
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)  # ended at the second look
    broken: dict[str, dict[str, Any]] = field(default_factory=dict)  # method to the error it ends with
    page: int = 2  # entries, jobs and quotas of a page
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and body

    def methods(self) -> list[str]:
        """Those that were called, in order."""
        return [method for method, _ in self.requests]

    def answer(self, service: str, http: str, target: str, body: str) -> dict[str, Any]:
        """The reply to a request of this service."""
        split, api = urlsplit(target), API[service]
        for name, method in api["methods"].items():  # noqa: B007
            # A colon is part of a name only inside the organisation's domain, which no test has.
            pattern = re.sub(r"\\{\w+\\}", r"([^/:]+)", re.escape(method["path"]))
            match = re.fullmatch(pattern, split.path.lstrip("/"))
            if match and http == method["http"]:
                break
        else:
            raise Refused(404, f"no method {http} {target} of {service}")
        self.requests.append((name, body))
        query = parse_qs(split.query)
        unknown = set(query) - set(method["query"])
        sent = json.loads(body) if body else None
        wrong = [f"unknown parameter {item}" for item in unknown]
        if ("request" in method) != (sent is not None):
            wrong.append("a body where there is none, or none where there is one")
        elif sent is not None:
            wrong += problems({"$ref": method["request"]}, sent, api["schemas"], sent=True)
        if wrong:
            raise Refused(400, f"Invalid JSON payload received. {'; '.join(wrong)}")
        refused = self.refusals.get(name)
        if refused:
            first = refused.pop(0)
            if first == "drop":
                raise ConnectionAbortedError
            assert isinstance(first, Refused)
            raise first
        parts = [unquote(part) for part in match.groups()]
        reply = (self._vertex if service == "aiplatform" else self._other)(name, parts, query, sent)
        own = problems({"$ref": method["response"]}, reply, api["schemas"], sent=False)
        assert not own, own
        return reply

    def _page(self, items: list[Any], asked: dict[str, Any], key: str) -> dict[str, Any]:
        token = asked.get("pageToken", "0")
        start = int(token[0] if isinstance(token, list) else token)
        end = start + self.page
        more = {"nextPageToken": str(end)} if len(items) > end else {}
        return {key: items[start:end], **more}

    def _found(self, kind: dict[str, Any], name: str) -> Any:
        if name not in kind:
            raise Refused(404, f"The resource {name} is not found.")
        return kind[name]

    def _vertex(self, method: str, path: list[str], query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        """What a method does and answers; `path` are the parts of the address that vary."""
        kind, verb = method.split(".")[-2:]
        parent = f"projects/{path[0]}/locations/{path[1]}"
        name = "/".join([parent, kind, *path[2:]])
        match kind, verb:
            case "customJobs", "create":
                name = f"{name}/{1000 + len(self.jobs)}"
                made = {"state": "JOB_STATE_PENDING", "createTime": "2026-01-02T03:04:05.678901Z"}
                self.jobs[name] = body | made | {"name": name}
                return self.jobs[name]
            case "customJobs", "get":
                job = self._found(self.jobs, name)
                if self.states:
                    job["state"] = self.states.pop(0)
                    if job["state"] == "JOB_STATE_FAILED" and self.error:
                        job["error"] = {"code": 3, "message": self.error}
                return job
            case "customJobs", "list":
                wanted = query.get("filter", [""])[0]
                assert wanted in ("", "labels.app=arxiv-cls")
                jobs = [job for job in self.jobs.values() if not wanted or "app" in job.get("labels", {})]
                return self._page(jobs, query, "customJobs")
            case "customJobs", "cancel":
                self._found(self.jobs, name)["state"] = "JOB_STATE_CANCELLED"
                return {}
            case "operations", "get":
                name = next(one for one in self.operations if one.endswith(f"/operations/{path[-1]}"))
                found = dict(self.operations[name])
                self.operations[name]["done"] = True
                return found
            case "models", "get":
                return self._found(self.models, name)[-1]
            case "models", "upload":
                return self._operation(method, *self._upload(parent, body))
            case "endpoints", "get":
                return self._found(self.endpoints, name)
            case "endpoints", "create":
                name = f"{name}/{query['endpointId'][0]}"
                made = body | {"name": name, "deployedModels": [], "trafficSplit": {}}
                return self._operation(method, parent, lambda: self.endpoints.setdefault(name, made))
            case "endpoints", "deployModel":
                endpoint = self._found(self.endpoints, name)
                return self._operation(method, name, lambda: self._deploy(endpoint, body))
            case "endpoints", "undeployModel":
                endpoint = self._found(self.endpoints, name)
                return self._operation(method, name, self._undeploy(endpoint, body))
        raise AssertionError(method)

    def _other(self, method: str, path: list[str], query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        """The same for the services beside Vertex AI."""
        kind, verb = method.split(".")[-2:]
        match kind, verb:
            case "entries", "list":
                return self._page(self._log(body["filter"]), body, "entries")
            case "projects" | "buckets", "testIamPermissions":
                asked = query["permissions"] if body is None else body["permissions"]
                return {"permissions": [item for item in asked if item not in self.permissions_off]}
            case "services", "batchGet":
                return {"services": [self._state(name) for name in query["names"]]}
            case "objects", "get":
                content = self._found(self.objects, (path[0], path[1]))
                md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
                return {"name": path[1], "bucket": path[0], "size": str(len(content)), "md5Hash": md5}
            case "quotaInfos", "list":
                infos = [_quota(metric, regions) for metric, regions in self.quota.items()]
                return self._page(infos, query, "quotaInfos")
            case "versions", _:
                name = f"projects/{path[0]}/secrets/{path[1]}/versions/{path[2]}"
                state, value = self._found(self.secrets, name)
                if verb == "get":
                    return {"name": name, "state": state}
                return {"payload": {"data": base64.b64encode(value).decode()}}
        raise AssertionError(method)

    def _operation(self, method: str, parent: str, end: Any) -> dict[str, Any]:
        """A long operation, ended at the second look; `end` does the work and gives the response."""
        name = f"{parent}/operations/{len(self.operations)}"
        error = self.broken.get(method.rpartition("locations.")[2])
        self.operations[name] = {"name": name, "error": error} if error else {"name": name, "response": end()}
        return {"name": name}

    def _upload(self, parent: str, body: dict[str, Any]) -> tuple[str, Any]:
        name = body.get("parentModel") or f"{parent}/models/{body['modelId']}"
        if ("parentModel" in body) != (name in self.models):
            raise Refused(409, "a model of that name exists, or the parent does not")

        def end() -> dict[str, Any]:
            versions = self.models.setdefault(name, [])
            versions.append(body["model"] | {"name": name, "versionId": str(len(versions) + 1)})
            return {"model": name, "modelVersionId": versions[-1]["versionId"]}

        return name, end

    def _split(self, endpoint: dict[str, Any], split: dict[str, int], new: str = "") -> None:
        split = {new if key == "0" else key: value for key, value in split.items()}
        known = {one["id"] for one in endpoint["deployedModels"]}
        if sum(split.values()) != 100 or not set(split) <= known:
            raise Refused(400, f"trafficSplit: {split} of {sorted(known)}")
        endpoint["trafficSplit"] = split

    def _deploy(self, endpoint: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        deployed, number = body["deployedModel"], len(self.operations)
        name, _, version = deployed["model"].partition("@")
        assert int(version) <= len(self.models[name])
        made = deployed | {"id": str(100 - number), "createTime": f"2026-01-02T03:04:{number:02}Z"}
        # The newest first: the order is not promised.
        endpoint["deployedModels"].insert(0, made)
        self._split(endpoint, body["trafficSplit"], made["id"])
        return {"deployedModel": made}

    def _undeploy(self, endpoint: dict[str, Any], body: dict[str, Any]) -> Any:
        if "trafficSplit" in body:
            self._split(endpoint, body["trafficSplit"])
        if endpoint["trafficSplit"].get(body["deployedModelId"]):
            raise Refused(400, "the deployed model has traffic")

        def end() -> dict[str, Any]:
            kept = [one for one in endpoint["deployedModels"] if one["id"] != body["deployedModelId"]]
            endpoint["deployedModels"] = kept
            return {}

        return end

    def _log(self, wanted: str) -> list[dict[str, Any]]:
        match = re.fullmatch(
            r'resource.type="ml_job" resource.labels.job_id="(\d+)"(?: timestamp>="([^"]+)")?', wanted
        )
        assert match, wanted
        since = (match[2] or "").replace("+00:00", "Z")
        looks = self.methods().count("projects.locations.customJobs.get")
        kinds = {"textPayload", "jsonPayload", "insertId", "timestamp"}
        return [
            {key: value for key, value in entry.items() if key in kinds}
            for entry in self.entries
            if entry.get("after", 0) <= looks and entry["timestamp"] >= since
        ]

    def _state(self, name: str) -> dict[str, Any]:
        off = name.rsplit("/", 1)[1] in self.services_off
        return {"name": name, "state": "DISABLED" if off else "ENABLED"}


def _quota(metric: str, regions: dict[str, int]) -> dict[str, Any]:
    values = [
        {"dimensions": {"region": one}, "details": {"value": str(value)}, "applicableLocations": [one]}
        for one, value in regions.items()
    ]
    name = f"aiplatform.googleapis.com/{metric}"
    return {"metric": name, "dimensions": ["region"], "dimensionsInfos": values}


class _Handler(JsonHandler):
    def _serve(self) -> None:
        _, service, target = self.path.split("/", 2)
        body = self.body()
        try:
            if self.headers.get("Authorization") != "Bearer access-token":
                raise Refused(401, "Request had invalid authentication credentials.")
            self.answer(200, self.service.answer(service, self.command, target, body))
        except Refused as refused:
            self.answer(refused.status, refused.body)
        except ConnectionAbortedError:
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve


LocalGoogle.handler = _Handler
