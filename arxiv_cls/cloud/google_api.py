"""Google's services over REST, with the credentials of the machine (google-auth); waiting for a service.

Addresses and fields are those of Google's discovery documents. The address of each service can be replaced as
gcloud does it: `CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import typer

from arxiv_cls.errors import UNREACHABLE, UserError

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SIGN_IN = "gcloud auth application-default login (a service account: GOOGLE_APPLICATION_CREDENTIALS=key.json)"
GRANT = "gcloud projects add-iam-policy-binding {} --member=user:YOU --role=roles/{}"
# The role that lets the caller do what is asked of a service here.
ROLES = {
    "aiplatform": "aiplatform.user", "artifactregistry": "artifactregistry.reader",
    "cloudquotas": "cloudquotas.viewer", "cloudresourcemanager": "browser", "iam": "iam.serviceAccountUser",
    "logging": "logging.viewer", "run": "run.admin", "secretmanager": "secretmanager.viewer",
    "serviceusage": "serviceusage.serviceUsageViewer", "storage": "storage.objectUser",
}  # fmt: skip
QUOTAS = "https://console.cloud.google.com/iam-admin/quotas?project={}"
REQUEST_TIMEOUT = 30
QUOTA_EXCEEDED = 8  # code of an operation's error
# Seconds between two looks, until it is given up, and failed looks in a row until then.
POLL_SECONDS, TIMEOUT, MOST_FAILURES = 5.0, 2400, 10

T = TypeVar("T")


class ServiceError(UserError):
    """A refusal of a service, with its HTTP status."""

    def __init__(self, message: str, hint: str | None, exit_code: int, status: int) -> None:
        super().__init__(message, hint, exit_code)
        self.status = status


def may_pass(error: UserError) -> bool:
    """Whether the same request may succeed later."""
    return error.exit_code == UNREACHABLE or getattr(error, "status", 0) == 429


def patiently(look: Callable[[], T]) -> T:
    """What `look` returns; a failure that may pass is tried again, `MOST_FAILURES` times."""
    for _ in range(MOST_FAILURES):
        try:
            return look()
        except UserError as error:
            if not may_pass(error):
                raise
        time.sleep(POLL_SECONDS)
    return look()


def wait_for(state: T, look: Callable[[], T], ended: Callable[[T], bool], doing: str) -> T:
    """Looks patiently until the state is an end, with a line of progress each time.

    Raises:
        UserError: a refusal, or no end after `TIMEOUT` seconds.
    """
    started = time.monotonic()
    while not ended(state):
        seconds = time.monotonic() - started
        if seconds > TIMEOUT:
            hint = "it may still end well: look at it in the console before running the command again"
            raise UserError(f"{doing}: not finished after {TIMEOUT} s", hint, UNREACHABLE)
        typer.echo(f"{doing}: {seconds:.0f} s", err=True)
        time.sleep(POLL_SECONDS)
        state = patiently(look)
    return state


def literal(text: str) -> str:
    """A word for a container of Vertex AI, which expands $(NAME): a doubled dollar keeps the text."""
    return text.replace("$(", "$$(")


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
            hint = 'pip install "arxiv_cls[cloud]", to deploy on Cloud Run alone "arxiv_cls[deploy]"'
            raise UserError("Google Cloud needs google-auth, which is not installed", hint) from error
        try:
            self.credentials, self.project = google.auth.default(scopes=[SCOPE])
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise UserError("Google Cloud: there are no credentials on this machine", SIGN_IN) from error
        self.session = AuthorizedSession(self.credentials)

    def parent(self, project: str | None, region: str | None) -> str:
        """The resource name of a region; `project` None for the credentials'.

        Raises:
            UserError: no project or region is named.
        """
        project = project or self.project
        if not project or not region:
            missing = "region" if project else "Google Cloud project"
            hint = "--project ID --region us-central1, or in the cloud recipe (make: PROJECT=ID REGION=...)"
            raise UserError(f"no {missing} is named", hint)
        return f"projects/{project}/locations/{region}"

    def token(self) -> str:
        """An access token; raises `UserError` where the credentials give none."""
        import google.auth.exceptions
        from google.auth.transport.requests import Request

        try:
            if not self.credentials.valid:
                self.credentials.refresh(Request())
        except google.auth.exceptions.GoogleAuthError as error:
            told = f"Google Cloud: the credentials give no token ({type(error).__name__})"
            raise UserError(told, SIGN_IN) from error
        return self.credentials.token

    def call(
        self,
        service: str,
        method: str,
        path: str,
        doing: str,
        body: Any = None,
        hints: Mapping[int, str] | None = None,
        **query: Any,
    ) -> dict[str, Any]:
        """One request; `query` are its parameters, `doing` is told in errors, `hints` by HTTP status.

        Raises:
            ServiceError: a refusal.
            UserError: the service cannot be reached, or the credentials have expired.
        """
        import google.auth.exceptions
        import requests

        variable = f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}"
        # Vertex AI has a host for each region.
        region = re.search(r"/locations/([\w-]+)/", path) if service == "aiplatform" else None
        host = f"{region[1] + '-' if region else ''}{service}.googleapis.com"
        base = os.environ.get(variable) or f"https://{host}"
        url = f"{base.rstrip('/')}/{path}"
        try:
            reply = self.session.request(
                method, url, json=body, params=query or None, timeout=REQUEST_TIMEOUT
            )
        except google.auth.exceptions.RefreshError as error:
            raise UserError(f"{doing}: the credentials are refused or have expired", SIGN_IN) from error
        except (google.auth.exceptions.TransportError, requests.RequestException) as error:
            message = f"{doing}: {url.split('/')[2]} cannot be reached ({type(error).__name__})"
            hint = f"check the network, the region and HTTPS_PROXY; another address: {variable}"
            raise UserError(message, hint, UNREACHABLE) from error
        if reply.ok:
            return reply.json() if reply.content else {}
        raise self._refusal(reply, service, doing, path, hints or {})

    def _refusal(
        self, reply: Any, service: str, doing: str, path: str, hints: Mapping[int, str]
    ) -> ServiceError:
        try:
            error = reply.json()["error"]
            message, details = str(error["message"]), error.get("details", [])
        except (ValueError, KeyError, TypeError):
            message, details = reply.reason, []
        status, match = reply.status_code, re.search(r"projects/([\w:.-]+)", path)
        project = match[1] if match else self.project or "PROJECT"
        hint = {
            401: SIGN_IN,
            403: GRANT.format(project, ROLES[service]),
            404: "look at the project, the region and the name",
            429: f"ask for more: {QUOTAS.format(project)}",
            **hints,
        }.get(status, "run the command again later" if status >= 500 else None)
        for detail in details:
            if detail.get("reason") == "SERVICE_DISABLED":
                disabled = detail.get("metadata", {}).get("service", "SERVICE")
                hint = f"gcloud services enable {disabled} --project {project}"
        code = UNREACHABLE if status >= 500 else 2
        return ServiceError(f"{doing}: {message} (HTTP {status})", hint, code, status)

    def find(self, service: str, path: str, doing: str, **arguments: Any) -> dict[str, Any] | None:
        """A resource, or None where there is none; raises as `call` does."""
        try:
            return self.call(service, "GET", path, doing, **arguments)
        except ServiceError as error:
            if error.status != 404:
                raise
        return None

    def pages(
        self,
        items: str,
        service: str,
        method: str,
        path: str,
        doing: str,
        body: dict[str, Any] | None = None,
        patient: bool = False,
        **query: Any,
    ) -> Iterator[dict[str, Any]]:
        """The `items` of all pages of a list; raises as `call` does, `patient` as `patiently` does."""
        parameters = query if body is None else body

        def look() -> dict[str, Any]:
            return self.call(service, method, path, doing, body, **query)

        while True:
            page = patiently(look) if patient else look()
            yield from page.get(items, [])
            if not page.get("nextPageToken"):
                return
            parameters["pageToken"] = page["nextPageToken"]

    def operate(
        self, service: str, method: str, path: str, doing: str, body: Any, log: str, **arguments: Any
    ) -> dict[str, Any]:
        """Starts a long operation and waits for its end; returns its response.

        Raises:
            UserError: a refusal, its failure with the `log` that tells more, or no end in time.
        """
        operation = self.call(service, method, path, doing, body, **arguments)
        address = f"{path.split('/')[0]}/{operation['name']}"
        done = wait_for(
            operation,
            lambda: self.call(service, "GET", address, doing),
            lambda state: bool(state.get("done")),
            doing,
        )
        if error := done.get("error"):
            from arxiv_cls.record.directory import redact

            hint = f"its log: {log}"
            if error.get("code") == QUOTA_EXCEEDED:
                hint = f"ask for more: {QUOTAS.format(path.split('/')[2])}"
            raise UserError(f"{doing}: {redact(error.get('message', 'failed'))}", hint)
        return done.get("response", {})
