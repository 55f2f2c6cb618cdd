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
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local_servers import serving

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
class LocalGoogle:
    """The services; a context manager. `refusals`: what a method answers, once each, before it works."""

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
    url: str = ""

    def __enter__(self) -> LocalGoogle:
        self._server = serving(type("Handler", (_Handler,), {"cloud": self}))
        self.url = self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

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
        handler = getattr(self, "_" + name.replace(".", "_"))
        reply = handler([unquote(part) for part in match.groups()], query, sent)
        own = problems({"$ref": method["response"]}, reply, api["schemas"], sent=False)
        assert not own, own
        return reply

    def _page(self, items: list[Any], token: str | None, key: str) -> dict[str, Any]:
        start = int(token or 0)
        reply: dict[str, Any] = {key: items[start : start + self.page]}
        return reply | ({"nextPageToken": str(start + self.page)} if len(items) > start + self.page else {})

    def _projects_locations_customJobs_create(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        name = f"projects/{path[0]}/locations/{path[1]}/customJobs/{1000 + len(self.jobs)}"
        made = {"name": name, "state": "JOB_STATE_PENDING", "createTime": "2026-01-02T03:04:05.678901Z"}
        self.jobs[name] = body | made
        return self.jobs[name]

    def _job(self, path: list[str]) -> dict[str, Any]:
        name = f"projects/{path[0]}/locations/{path[1]}/customJobs/{path[2]}"
        if name not in self.jobs:
            raise Refused(404, f"The resource {name} is not found.")
        return self.jobs[name]

    def _projects_locations_customJobs_get(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        job = self._job(path)
        if self.states:
            job["state"] = self.states.pop(0)
            if job["state"] == "JOB_STATE_FAILED" and self.error:
                job["error"] = {"code": 3, "message": self.error}
        return job

    def _projects_locations_customJobs_list(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        wanted = query.get("filter", [""])[0]
        assert wanted in ("", "labels.app=arxiv-cls")
        found = [
            job for job in self.jobs.values() if not wanted or job.get("labels", {}).get("app") == "arxiv-cls"
        ]
        return self._page(found, query.get("pageToken", [None])[0], "customJobs")

    def _projects_locations_customJobs_cancel(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        self._job(path)["state"] = "JOB_STATE_CANCELLED"
        return {}

    def _operation(self, method: str, parent: str, end: Any) -> dict[str, Any]:
        """A long operation; `end` does the work and gives the response."""
        name = f"{parent}/operations/{len(self.operations)}"
        error = self.broken.get(method)
        self.operations[name] = {"name": name, "error": error} if error else {"name": name, "response": end()}
        return {"name": name}

    def _look(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        name = next(one for one in self.operations if one.endswith(f"/operations/{path[-1]}"))
        found = dict(self.operations[name])
        self.operations[name]["done"] = True
        return found

    _projects_locations_operations_get = _projects_locations_models_operations_get = _look
    _projects_locations_endpoints_operations_get = _look

    def _found(self, kind: str, path: list[str]) -> Any:
        name = f"projects/{path[0]}/locations/{path[1]}/{kind}/{path[2]}"
        if name not in getattr(self, kind):
            raise Refused(404, f"The resource {name} is not found.")
        return getattr(self, kind)[name]

    def _projects_locations_models_get(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        return self._found("models", path)[-1]

    def _projects_locations_models_upload(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        name = body.get("parentModel") or f"projects/{path[0]}/locations/{path[1]}/models/{body['modelId']}"
        if ("parentModel" in body) != (name in self.models):
            raise Refused(409, "a model of that name exists, or the parent does not")

        def end() -> dict[str, Any]:
            versions = self.models.setdefault(name, [])
            versions.append(body["model"] | {"name": name, "versionId": str(len(versions) + 1)})
            return {"model": name, "modelVersionId": versions[-1]["versionId"]}

        return self._operation("models.upload", name, end)

    def _projects_locations_endpoints_get(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        return self._found("endpoints", path)

    def _projects_locations_endpoints_create(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        name = f"projects/{path[0]}/locations/{path[1]}/endpoints/{query['endpointId'][0]}"

        def end() -> dict[str, Any]:
            self.endpoints[name] = body | {"name": name, "deployedModels": [], "trafficSplit": {}}
            return {"name": name}

        return self._operation("endpoints.create", "/".join(name.split("/")[:4]), end)

    def _split(self, endpoint: dict[str, Any], split: dict[str, int], new: str = "") -> None:
        split = {new if key == "0" else key: value for key, value in split.items()}
        known = {one["id"] for one in endpoint["deployedModels"]}
        if sum(split.values()) != 100 or not set(split) <= known:
            raise Refused(400, f"trafficSplit: {split} of {sorted(known)}")
        endpoint["trafficSplit"] = split

    def _projects_locations_endpoints_deployModel(
        self, path: list[str], query: Any, body: Any
    ) -> dict[str, Any]:
        endpoint, deployed = self._found("endpoints", path), body["deployedModel"]
        name, _, version = deployed["model"].partition("@")
        assert int(version) <= len(self.models[name])

        def end() -> dict[str, Any]:
            number = len(self.operations)
            made = deployed | {"id": str(100 - number), "createTime": f"2026-01-02T03:04:{number:02}Z"}
            # The newest first: the order is not promised.
            endpoint["deployedModels"].insert(0, made)
            self._split(endpoint, body["trafficSplit"], made["id"])
            return {"deployedModel": made}

        return self._operation("endpoints.deployModel", endpoint["name"], end)

    def _projects_locations_endpoints_undeployModel(
        self, path: list[str], query: Any, body: Any
    ) -> dict[str, Any]:
        endpoint = self._found("endpoints", path)
        if "trafficSplit" in body:
            self._split(endpoint, body["trafficSplit"])
        if endpoint["trafficSplit"].get(body["deployedModelId"]):
            raise Refused(400, "the deployed model has traffic")

        def end() -> dict[str, Any]:
            kept = [one for one in endpoint["deployedModels"] if one["id"] != body["deployedModelId"]]
            endpoint["deployedModels"] = kept
            return {}

        return self._operation("endpoints.undeployModel", endpoint["name"], end)

    def _entries_list(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        match = re.fullmatch(
            r'resource.type="ml_job" resource.labels.job_id="(\d+)"(?: timestamp>="([^"]+)")?', body["filter"]
        )
        assert match, body["filter"]
        since = (match[2] or "").replace("+00:00", "Z")
        looks = self.methods().count("projects.locations.customJobs.get")
        kinds = {"textPayload", "jsonPayload", "insertId", "timestamp"}
        shown = [
            {key: value for key, value in entry.items() if key in kinds}
            for entry in self.entries
            if entry.get("after", 0) <= looks and entry["timestamp"] >= since
        ]
        return self._page(shown, body.get("pageToken"), "entries")

    def _projects_testIamPermissions(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        return {"permissions": [item for item in body["permissions"] if item not in self.permissions_off]}

    def _services_batchGet(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        names = query["names"]
        off = [name for name in names if name.rsplit("/", 1)[1] in self.services_off]
        return {
            "services": [{"name": name, "state": "DISABLED" if name in off else "ENABLED"} for name in names]
        }

    def _buckets_testIamPermissions(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        return {"permissions": [item for item in query["permissions"] if item not in self.permissions_off]}

    def _objects_get(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        content = self.objects.get((path[0], path[1]))
        if content is None:
            raise Refused(404, f"No such object: {'/'.join(path)}")
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        return {"name": path[1], "bucket": path[0], "size": str(len(content)), "md5Hash": md5}

    def _projects_locations_services_quotaInfos_list(
        self, path: list[str], query: Any, body: Any
    ) -> dict[str, Any]:
        infos = [
            {
                "metric": f"aiplatform.googleapis.com/{metric}",
                "dimensions": ["region"],
                "dimensionsInfos": [
                    {
                        "dimensions": {"region": region},
                        "details": {"value": str(value)},
                        "applicableLocations": [region],
                    }
                    for region, value in regions.items()
                ],
            }
            for metric, regions in self.quota.items()
        ]
        return self._page(infos, query.get("pageToken", [None])[0], "quotaInfos")

    def _secret(self, path: list[str]) -> tuple[str, bytes]:
        name = f"projects/{path[0]}/secrets/{path[1]}/versions/{path[2]}"
        if name not in self.secrets:
            raise Refused(404, f"Secret [{name}] not found or has no versions.")
        return self.secrets[name]

    def _projects_secrets_versions_get(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        return {"name": "/".join(path), "state": self._secret(path)[0]}

    def _projects_secrets_versions_access(self, path: list[str], query: Any, body: Any) -> dict[str, Any]:
        return {"payload": {"data": base64.b64encode(self._secret(path)[1]).decode()}}


class _Handler(BaseHTTPRequestHandler):
    cloud: LocalGoogle
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        _, service, target = self.path.split("/", 2)
        try:
            if self.headers.get("Authorization") != "Bearer access-token":
                raise Refused(401, "Request had invalid authentication credentials.")
            status, reply = 200, self.cloud.answer(service, self.command, target, body)
        except Refused as refused:
            status, reply = refused.status, refused.body
        except ConnectionAbortedError:
            self.close_connection = True
            return
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _serve
