"""Custom jobs of Vertex AI."""

from __future__ import annotations

import base64
import datetime
import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from arxiv_cls.cloud.google_api import POLL_SECONDS, Google, literal, patiently
from arxiv_cls.cloud.jobs import (
    COMMAND,
    GCS,
    LABEL,
    SPEC_VARIABLE,
    UNFINISHED,
    CloudRecipe,
    Job,
    JobSpec,
    State,
    make_spec,
)
from arxiv_cls.errors import UserError

JOB_NAME = re.compile(r"projects/[\w:.-]+/locations/[\w-]+/customJobs/\d+")
STATES: dict[str, State] = {
    "JOB_STATE_UNSPECIFIED": "queued", "JOB_STATE_QUEUED": "queued", "JOB_STATE_PENDING": "queued",
    "JOB_STATE_RUNNING": "running", "JOB_STATE_CANCELLING": "running", "JOB_STATE_PAUSED": "running",
    "JOB_STATE_UPDATING": "running", "JOB_STATE_SUCCEEDED": "succeeded", "JOB_STATE_FAILED": "failed",
    "JOB_STATE_CANCELLED": "cancelled", "JOB_STATE_EXPIRED": "expired",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "failed",
}  # fmt: skip
LATE_SECONDS = 60  # how late an entry of a log may come


class Vertex:
    """Custom jobs of a project and region; None where every job is given by its whole name."""

    def __init__(self, google: Google, project: str | None = None, region: str | None = None) -> None:
        self.google, self.project, self.region = google, project or google.project, region

    @property
    def jobs(self) -> str:
        """The address of all jobs; raises `UserError` where no project or region is named."""
        return f"v1/{self.google.parent(self.project, self.region)}/customJobs"

    def price_per_hour(self, recipe: CloudRecipe) -> float | None:
        """USD, as the file says it: the price list of Google has its own API, which is not asked."""
        return recipe.price_per_hour

    def body(self, recipe: CloudRecipe, name: str | None, image: str) -> tuple[JobSpec, dict[str, Any]]:
        """The request of `customJobs.create`."""
        bucket = GCS.fullmatch(recipe.data)
        assert bucket
        # The service mounts all buckets that the job's account may read.
        spec = make_spec(
            recipe, name, f"/gcs/{bucket['bucket']}/{bucket['path']}", max(1, recipe.accelerators)
        )
        machine: dict[str, Any] = {"machineType": recipe.machine}
        if recipe.accelerator:
            machine |= {"acceleratorType": recipe.accelerator, "acceleratorCount": recipe.accelerators}
        variable = {"name": SPEC_VARIABLE, "value": literal(spec.to_json())}
        job: dict[str, Any] = {
            "workerPoolSpecs": [
                {
                    "machineSpec": machine,
                    "replicaCount": "1",
                    "containerSpec": {"imageUri": image, "command": COMMAND, "env": [variable]},
                }
            ],
            "scheduling": {
                "timeout": f"{round(recipe.max_hours * 3600)}s",
                "restartJobOnWorkerRestart": True,
                "strategy": "SPOT" if recipe.spot else "STANDARD",
            },
            "baseOutputDirectory": {"outputUriPrefix": spec.output},
        }
        if recipe.service_account:
            job["serviceAccount"] = recipe.service_account
        return spec, {"displayName": spec.name, "jobSpec": job, "labels": spec.labels}

    def submit(self, recipe: CloudRecipe, spec: JobSpec, body: dict[str, Any]) -> Job:
        """Starts a job."""
        return _job(self.google.call("aiplatform", "POST", self.jobs, f"starting {spec.name}", body))

    def status(self, job: str) -> Job:
        """One job, by its whole name."""
        return _job(self.google.call("aiplatform", "GET", f"v1/{_name(job)}", f"looking for {job}"))

    def list(self) -> Iterator[Job]:
        """The jobs of this program in the region."""
        doing = f"listing the jobs of {self.region}"
        found = self.google.pages(
            "customJobs", "aiplatform", "GET", self.jobs, doing, filter=f"labels.app={LABEL}", pageSize=100
        )
        yield from map(_job, found)

    def cancel(self, job: str) -> None:
        """Asks for a job's end."""
        self.google.call("aiplatform", "POST", f"v1/{_name(job)}:cancel", f"cancelling {job}", {})

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """Lines from Cloud Logging, each once; to follow, what cannot be read is asked for again."""
        _, project, *_, number = _name(job).split("/")
        look = partial(self.status, job)
        seen: set[str] = set()
        newest, ended = "", False
        while True:
            state = (patiently(look) if follow else look()).state
            body = {
                "resourceNames": [f"projects/{project}"],
                "filter": f'resource.type="ml_job" resource.labels.job_id="{number}"{_since(newest)}',
                "orderBy": "timestamp asc",
                "pageSize": 1000,
            }
            doing = f"reading the log of {number}"
            for entry in self.google.pages(
                "entries", "logging", "POST", "v2/entries:list", doing, body, patient=follow
            ):
                key = entry.get("insertId") or json.dumps(entry, sort_keys=True)
                newest = max(newest, entry.get("timestamp", ""))
                if key not in seen:
                    seen.add(key)
                    text = entry.get("textPayload") or entry.get("jsonPayload", {}).get("message", "")
                    yield from str(text).splitlines()
            if ended or not follow:
                return
            # Cloud Logging takes in a job's last lines seconds after its end: they are read once more.
            ended = state not in UNFINISHED
            time.sleep(3 * POLL_SECONDS if ended else POLL_SECONDS)


def read_secret(reference: str) -> str:
    """A version of a secret, on the machine of a job, whose account may read it (role Secret Accessor)."""
    name = reference.split("/")[3]
    path, doing = f"v1/{reference}:access", f"reading the secret {name}"
    hints = {403: "the job's account needs the role Secret Manager Secret Accessor"}
    reply = Google().call("secretmanager", "GET", path, doing, hints=hints)
    return base64.b64decode(reply["payload"]["data"]).decode()


def _name(job: str) -> str:
    if not JOB_NAME.fullmatch(job):
        raise UserError(f"{job!r} is no job", "its whole name: projects/P/locations/R/customJobs/NUMBER")
    return job


def _job(reply: dict[str, Any]) -> Job:
    _, project, _, region, _, number = reply["name"].split("/")
    raw = reply.get("state", "JOB_STATE_UNSPECIFIED")
    reason = reply.get("error", {}).get("message")
    pools = reply.get("jobSpec", {}).get("workerPoolSpecs", [])
    variables = pools[0].get("containerSpec", {}).get("env", []) if pools else []
    spec = next((item["value"] for item in variables if item["name"] == SPEC_VARIABLE), None)
    console = "https://console.cloud.google.com/vertex-ai/locations"
    return Job(
        id=reply["name"],
        name=reply["displayName"],
        state=STATES.get(raw, "running"),
        detail=f"{raw}: {reason}" if reason else raw,
        created=reply.get("createTime", ""),
        address=f"{console}/{region}/training/{number}?project={project}",
        spec=spec and spec.replace("$$(", "$("),
    )


def _since(newest: str) -> str:
    """The filter of entries that may have come since the newest one; all, where there is none."""
    if not newest:
        return ""
    moment = datetime.datetime.fromisoformat(newest.replace("Z", "+00:00"))
    return f' timestamp>="{(moment - datetime.timedelta(seconds=LATE_SECONDS)).isoformat()}"'
