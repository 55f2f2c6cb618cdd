"""Vertex AI custom jobs over REST, with the credentials of the machine (google-auth) and no other client.

Addresses and fields are those of Google's discovery documents. The address of each service can be replaced as
gcloud does it: `CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM`.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

from arxiv_cls.cloud.jobs import (
    COMMAND,
    GCS,
    LABEL,
    SPEC_VARIABLE,
    CloudRecipe,
    Job,
    JobSpec,
    State,
    make_spec,
)
from arxiv_cls.errors import UNREACHABLE, UserError

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SIGN_IN = "gcloud auth application-default login (a service account: GOOGLE_APPLICATION_CREDENTIALS=key.json)"
GRANT = "gcloud projects add-iam-policy-binding {} --member=user:YOU --role=roles/aiplatform.user"
JOB_NAME = re.compile(
    r"projects/(?P<project>[\w:.-]+)/locations/(?P<region>[\w-]+)/customJobs/(?P<number>\d+)"
)
STATES: dict[str, State] = {
    "JOB_STATE_UNSPECIFIED": "queued", "JOB_STATE_QUEUED": "queued", "JOB_STATE_PENDING": "queued",
    "JOB_STATE_RUNNING": "running", "JOB_STATE_CANCELLING": "running", "JOB_STATE_PAUSED": "running",
    "JOB_STATE_UPDATING": "running", "JOB_STATE_SUCCEEDED": "succeeded", "JOB_STATE_FAILED": "failed",
    "JOB_STATE_CANCELLED": "cancelled", "JOB_STATE_EXPIRED": "expired",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "failed",
}  # fmt: skip
TIMEOUT = 30
# Seconds between two looks at a log, how late an entry may come, and failures in a row until it is given up.
POLL_SECONDS, LATE_SECONDS, MOST_FAILURES = 10.0, 60, 10


class GoogleError(UserError):
    """A refusal of a Google service, with its HTTP status."""

    def __init__(self, message: str, hint: str | None, exit_code: int, status: int) -> None:
        super().__init__(message, hint, exit_code)
        self.status = status


class Google:
    """Authorised requests to Google's services.

    Raises:
        UserError: google-auth is not installed, or nobody is signed in.
    """

    def __init__(self) -> None:
        try:
            import google.auth
            from google.auth.transport.requests import AuthorizedSession
        except ImportError as error:
            raise UserError("Vertex AI needs google-auth", 'pip install "arxiv_cls[cloud]"') from error
        try:
            self.credentials, self.project = google.auth.default(scopes=[SCOPE])
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise UserError("Google Cloud: there are no credentials on this machine", SIGN_IN) from error
        self.session = AuthorizedSession(self.credentials)

    def token(self) -> str:
        """An access token; raises `UserError` where the credentials give none."""
        import google.auth.exceptions
        from google.auth.transport.requests import Request

        try:
            if not self.credentials.valid:
                self.credentials.refresh(Request())
        except google.auth.exceptions.GoogleAuthError as error:
            raise UserError("Google Cloud: the credentials give no token", SIGN_IN) from error
        return self.credentials.token

    def call(
        self,
        service: str,
        method: str,
        path: str,
        doing: str,
        body: Any = None,
        region: str | None = None,
        **query: Any,
    ) -> dict[str, Any]:
        """One request; `query` are its parameters, `doing` is told in errors.

        Raises:
            GoogleError: a refusal.
            UserError: the service cannot be reached, or the credentials have expired.
        """
        import google.auth.exceptions
        import requests

        variable = f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}"
        prefix = f"{region}-" if region else ""
        base = os.environ.get(variable) or f"https://{prefix}{service}.googleapis.com"
        url = f"{base.rstrip('/')}/{path}"
        try:
            reply = self.session.request(method, url, json=body, params=query or None, timeout=TIMEOUT)
        except google.auth.exceptions.RefreshError as error:
            raise UserError(f"{doing}: the credentials are refused or have expired", SIGN_IN) from error
        except (google.auth.exceptions.TransportError, requests.RequestException) as error:
            host = url.split("/")[2]
            hint = f"check the network, the region and HTTPS_PROXY; another address: {variable}"
            raise UserError(
                f"{doing}: {host} cannot be reached ({type(error).__name__})", hint, UNREACHABLE
            ) from error
        if reply.ok:
            return reply.json() if reply.content else {}
        raise self._refusal(reply, doing, path)

    def _refusal(self, reply: Any, doing: str, path: str) -> GoogleError:
        try:
            error = reply.json()["error"]
            message, details = str(error["message"]), error.get("details", [])
        except (ValueError, KeyError, TypeError):
            message, details = reply.reason, []
        reasons = {detail.get("reason"): detail.get("metadata", {}) for detail in details}
        match = re.search(r"projects/([\w:.-]+)", path)
        project = match[1] if match else self.project or "PROJECT"
        if "SERVICE_DISABLED" in reasons:
            service = reasons["SERVICE_DISABLED"].get("service", "SERVICE")
            hint: str | None = f"gcloud services enable {service} --project {project}"
        else:
            hint = {
                401: SIGN_IN,
                403: GRANT.format(project),
                404: "look at the project, the region and the name",
                429: f"ask for more: https://console.cloud.google.com/iam-admin/quotas?project={project}",
            }.get(reply.status_code)
        code = UNREACHABLE if reply.status_code >= 500 else 2
        return GoogleError(f"{doing}: {message} (HTTP {reply.status_code})", hint, code, reply.status_code)


class Vertex:
    """Custom jobs of a project and region; None where every job is given by its whole name."""

    def __init__(self, google: Google, project: str | None = None, region: str | None = None) -> None:
        self.google = google
        self.project, self.region = project or google.project, region

    @property
    def parent(self) -> str:
        """Of all jobs.

        Raises:
            UserError: no project or region is named.
        """
        if not self.project or not self.region:
            missing = "region" if self.project else "Google Cloud project"
            raise UserError(
                f"no {missing} is named", "--project ID --region us-central1, or in the cloud recipe"
            )
        return f"projects/{self.project}/locations/{self.region}"

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
        # The service expands $(NAME); a doubled dollar keeps the text as it is.
        variable = {"name": SPEC_VARIABLE, "value": spec.to_json().replace("$(", "$$(")}
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
        return self._job(self._call("POST", f"{self.parent}/customJobs", f"starting {spec.name}", body))

    def status(self, job: str) -> Job:
        """One job, by its whole name."""
        return self._job(self._call("GET", self._name(job), f"looking for {job}"))

    def list(self) -> Iterator[Job]:
        """The jobs of this program in the region."""
        query = {"filter": f"labels.app={LABEL}", "pageSize": 100}
        while True:
            page = self._call(
                "GET", f"{self.parent}/customJobs", f"listing the jobs of {self.parent}", **query
            )
            yield from map(self._job, page.get("customJobs", []))
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = page["nextPageToken"]

    def cancel(self, job: str) -> None:
        """Asks for a job's end."""
        self._call("POST", f"{self._name(job)}:cancel", f"cancelling {job}", {})

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """Lines from Cloud Logging, each once; what cannot be read is asked for again."""
        name = self._name(job)
        match = JOB_NAME.fullmatch(name)
        assert match
        seen: set[str] = set()
        newest, failures, ended = "", 0, False
        while True:
            try:
                # Looked at before the log is read: what a job writes at its end is read once more.
                ended = self.status(name).state not in ("queued", "running")
                for entry in self._entries(match, newest):
                    key = entry.get("insertId") or json.dumps(entry, sort_keys=True)
                    newest = max(newest, entry.get("timestamp", ""))
                    if key not in seen:
                        seen.add(key)
                        yield from _lines(entry)
                failures = 0
            except UserError as error:
                passing = error.exit_code == UNREACHABLE or getattr(error, "status", 0) == 429
                failures += 1
                if not follow or not passing or failures > MOST_FAILURES:
                    raise
                ended = False
            if ended or not follow:
                return
            time.sleep(POLL_SECONDS)

    def _entries(self, job: re.Match[str], newest: str) -> Iterator[dict[str, Any]]:
        parts = ['resource.type="ml_job"', f'resource.labels.job_id="{job["number"]}"']
        if newest:
            parts.append(f'timestamp>="{_earlier(newest)}"')
        body: dict[str, Any] = {
            "resourceNames": [f"projects/{job['project']}"],
            "filter": " ".join(parts),
            "orderBy": "timestamp asc",
            "pageSize": 1000,
        }
        while True:
            page = self.google.call(
                "logging", "POST", "v2/entries:list", f"reading the log of {job['number']}", body
            )
            yield from page.get("entries", [])
            if not page.get("nextPageToken"):
                return
            body["pageToken"] = page["nextPageToken"]

    def _call(self, method: str, path: str, doing: str, body: Any = None, **query: Any) -> dict[str, Any]:
        region = path.split("/")[3]
        return self.google.call("aiplatform", method, f"v1/{path}", doing, body, region, **query)

    def _name(self, job: str) -> str:
        if not JOB_NAME.fullmatch(job):
            raise UserError(f"{job!r} is no job", "its whole name: projects/P/locations/R/customJobs/NUMBER")
        return job

    def _job(self, reply: dict[str, Any]) -> Job:
        match = JOB_NAME.fullmatch(reply["name"])
        assert match
        raw = reply.get("state", "JOB_STATE_UNSPECIFIED")
        reason = reply.get("error", {}).get("message")
        pools = reply.get("jobSpec", {}).get("workerPoolSpecs", [])
        variables = pools[0].get("containerSpec", {}).get("env", []) if pools else []
        spec = next((item["value"] for item in variables if item["name"] == SPEC_VARIABLE), None)
        return Job(
            id=reply["name"], name=reply["displayName"], state=STATES.get(raw, "running"),
            detail=f"{raw}: {reason}" if reason else raw, created=reply.get("createTime", ""),
            address="https://console.cloud.google.com/vertex-ai/locations/"
            f"{match['region']}/training/{match['number']}?project={match['project']}",
            spec=spec and spec.replace("$$(", "$("),
        )  # fmt: skip


def read_secret(reference: str) -> str:
    """A version of a secret, on the machine of a job, whose account may read it (role Secret Accessor)."""
    name = reference.split("/")[3]
    reply = Google().call("secretmanager", "GET", f"v1/{reference}:access", f"reading the secret {name}")
    return base64.b64decode(reply["payload"]["data"]).decode()


def _lines(entry: dict[str, Any]) -> list[str]:
    text = entry.get("textPayload") or entry.get("jsonPayload", {}).get("message", "")
    return str(text).splitlines()


def _earlier(timestamp: str) -> str:
    moment = datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
    return (moment - datetime.timedelta(seconds=LATE_SECONDS)).isoformat()
