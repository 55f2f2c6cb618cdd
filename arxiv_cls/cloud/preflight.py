"""What a cloud job needs: each check has a verdict, and the command that corrects what is wrong.

Nothing is changed and nothing is left: a bucket is asked for its permissions, a secret for its state.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from arxiv_cls.cloud.hf_jobs import HuggingFaceJobs, hub_errors
from arxiv_cls.cloud.jobs import GCS, HUB_BUCKET, IMAGE, CloudRecipe, load_training_recipe
from arxiv_cls.cloud.vertex import GRANT, Google, GoogleError, Vertex
from arxiv_cls.corpus.fetch import file_md5
from arxiv_cls.errors import UNREACHABLE, UserError
from arxiv_cls.recipe import DataConfig, read_groups
from arxiv_cls.record.files import file_sha256

Verdict = Literal["ok", "FAIL", "unknown"]
SERVICES = {
    "aiplatform.googleapis.com", "artifactregistry.googleapis.com", "logging.googleapis.com",
    "storage.googleapis.com", "cloudresourcemanager.googleapis.com",
}  # fmt: skip
PERMISSIONS = [
    "aiplatform.customJobs.create", "aiplatform.customJobs.get", "aiplatform.customJobs.list",
    "aiplatform.customJobs.cancel", "logging.logEntries.list",
    "artifactregistry.repositories.downloadArtifacts",
]  # fmt: skip
ACT_AS = "iam.serviceAccounts.actAs"
BUCKET_PERMISSIONS = [
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
    "storage.objects.list",
]
# Machine types with Arm processors; all others, and the Hub's, have x86-64 ones.
ARM = re.compile(r"(t2a|c4a|n4a|a4x)-")
MANIFESTS = ", ".join(
    f"application/{kind}"
    for kind in (
        "vnd.oci.image.index.v1+json", "vnd.docker.distribution.manifest.list.v2+json",
        "vnd.oci.image.manifest.v1+json", "vnd.docker.distribution.manifest.v2+json",
    )
)  # fmt: skip
REGISTRY_TIMEOUT = 30
GOOGLE_REGISTRY = re.compile(r"https://([a-z0-9-]+-docker\.pkg\.dev|([a-z]+\.)?gcr\.io)/")


@dataclass(frozen=True)
class Check:
    """One line of the report; `fix` is the command that corrects what is wrong."""

    name: str
    verdict: Verdict
    detail: str
    fix: str | None = None


Outcome = tuple[Verdict, str, str | None]


def preflight(recipe: CloudRecipe, service: Callable[[], Vertex | HuggingFaceJobs]) -> Iterator[Check]:
    """Runs every check, those after a failed one too; without credentials none but that of the recipe.

    Args:
        recipe: has been read.
        service: connects; raises `UserError` without credentials.
    """
    yield _run("recipe", lambda: _recipe(recipe))
    try:
        connected = service()
        if isinstance(connected, HuggingFaceJobs):
            detail = f"signed in as {connected.whoami()['name']}"
        else:
            detail = f"{getattr(connected.google.credentials, 'service_account_email', 'signed in')}"
        yield Check("credentials", "ok", detail)
    except UserError as error:
        yield Check("credentials", "FAIL", error.message, error.hint)
        yield Check("everything else", "unknown", "not asked without credentials")
        return
    checks = (
        _hub_checks(recipe, connected)
        if isinstance(connected, HuggingFaceJobs)
        else _vertex_checks(recipe, connected)
    )
    for name, check in checks:
        yield _run(name, check)


def _run(name: str, check: Callable[[], Outcome]) -> Check:
    try:
        return Check(name, *check())
    except UserError as error:
        # What is not reached, or may not be looked at, may still be right.
        unseen = error.exit_code == UNREACHABLE or getattr(error, "status", 0) in (401, 429)
        return Check(name, "unknown" if unseen else "FAIL", error.message, error.hint)


def _recipe(recipe: CloudRecipe) -> Outcome:
    load_training_recipe(recipe)
    return "ok", f"{recipe.recipe}, {recipe.program}", None


def _local_csv(recipe: CloudRecipe) -> Path:
    words = [word for word in recipe.overrides if word.startswith("--data.")]
    csv = Path(read_groups(recipe.recipe, words, {"data": DataConfig})[0]["data"].csv)
    if not csv.is_file():
        raise UserError(f"{csv}, whose checksum is pinned, is not on this machine", "make data")
    return csv


def _vertex_checks(recipe: CloudRecipe, vertex: Vertex) -> list[tuple[str, Callable[[], Outcome]]]:
    google = vertex.google
    checks: list[tuple[str, Callable[[], Outcome]]] = [
        ("project, region", lambda: _region(vertex)),
        ("APIs", lambda: _apis(recipe, vertex)),
        ("permissions", lambda: _permissions(recipe, vertex)),
        ("image", lambda: _image(recipe, google)),
        ("data", lambda: _object(recipe, google)),
        ("output", lambda: _bucket(recipe, google)),
        ("quota", lambda: _quota(recipe, vertex)),
    ]
    return checks + [
        (f"secret {name}", lambda ref=ref: _secret(ref, google)) for name, ref in recipe.secrets.items()
    ]


def _region(vertex: Vertex) -> Outcome:
    doing = f"asking Vertex AI in {vertex.region}"
    vertex.google.call(
        "aiplatform", "GET", f"v1/{vertex.parent}/customJobs", doing, region=vertex.region, pageSize=1
    )
    return "ok", vertex.parent, None


def _apis(recipe: CloudRecipe, vertex: Vertex) -> Outcome:
    needed = sorted(SERVICES | ({"secretmanager.googleapis.com"} if recipe.secrets else set()))
    parent = f"projects/{vertex.project}"
    names = [f"{parent}/services/{service}" for service in needed]
    reply = vertex.google.call(
        "serviceusage", "GET", f"v1/{parent}/services:batchGet", "asking for the APIs", names=names
    )
    on = {
        item["name"].rsplit("/", 1)[1] for item in reply.get("services", []) if item.get("state") == "ENABLED"
    }
    off = [service for service in needed if service not in on]
    if off:
        return (
            "FAIL",
            f"off: {', '.join(off)}",
            f"gcloud services enable {' '.join(off)} --project {vertex.project}",
        )
    return "ok", f"{len(needed)} on", None


def _permissions(recipe: CloudRecipe, vertex: Vertex) -> Outcome:
    needed = PERMISSIONS + ([ACT_AS] if recipe.service_account else [])
    reply = vertex.google.call(
        "cloudresourcemanager", "POST", f"v1/projects/{vertex.project}:testIamPermissions",
        "asking for permissions", {"permissions": needed},
    )  # fmt: skip
    lacking = [permission for permission in needed if permission not in reply.get("permissions", [])]
    if lacking == [ACT_AS]:
        # It can be granted on the account alone, which the project does not tell.
        fix = (
            f"gcloud iam service-accounts add-iam-policy-binding {recipe.service_account} --member=user:YOU "
        )
        return (
            "unknown",
            f"{ACT_AS} is not granted on the project",
            fix + "--role=roles/iam.serviceAccountUser",
        )
    if lacking:
        return "FAIL", f"lacking: {', '.join(lacking)}", GRANT.format(vertex.project)
    return "ok", f"{len(needed)} granted", None


def _image(recipe: CloudRecipe, google: Google | None) -> Outcome:
    wanted = "arm64" if google and ARM.match(recipe.machine) else "amd64"
    digest, platforms = find_image(recipe.image, google)
    if wanted not in platforms:
        there = ", ".join(sorted(platforms)) or "none"
        fix = f"make push-images REGISTRY={recipe.image.rpartition('/')[0]} VERSION=... (amd64 and arm64)"
        return "FAIL", f"{recipe.image} is for {there}, {recipe.machine} is {wanted}", fix
    return "ok", f"{digest} ({wanted})", None


def _object(recipe: CloudRecipe, google: Google) -> Outcome:
    csv, match = _local_csv(recipe), GCS.fullmatch(recipe.data)
    assert match
    path = f"storage/v1/b/{match['bucket']}/o/{quote(match['path'], safe='')}"
    upload = f"gcloud storage cp {csv} {recipe.data}"
    try:
        found = google.call("storage", "GET", path, f"looking for {recipe.data}")
    except GoogleError as error:
        if error.status == 404:
            return "FAIL", f"{recipe.data} is not there", upload
        raise
    if int(found["size"]) != csv.stat().st_size:
        return "FAIL", f"{recipe.data} has {found['size']} bytes, {csv} has {csv.stat().st_size}", upload
    if "md5Hash" not in found:
        return (
            "unknown",
            f"{recipe.data} is of the right size and has no MD5; the job compares its sha256",
            None,
        )
    if base64.b64decode(found["md5Hash"]).hex() != file_md5(csv):
        return "FAIL", f"{recipe.data} is not {csv}: its MD5 differs", upload
    return "ok", f"{recipe.data} is {csv}", None


def _bucket(recipe: CloudRecipe, google: Google) -> Outcome:
    match = GCS.fullmatch(recipe.output)
    assert match
    path, doing = (
        f"storage/v1/b/{match['bucket']}/iam/testPermissions",
        f"asking for the bucket {match['bucket']}",
    )
    reply = google.call("storage", "GET", path, doing, permissions=BUCKET_PERMISSIONS)
    lacking = [item for item in BUCKET_PERMISSIONS if item not in reply.get("permissions", [])]
    if lacking:
        fix = f"gcloud storage buckets add-iam-policy-binding gs://{match['bucket']} --member=user:YOU "
        return "FAIL", f"lacking: {', '.join(lacking)}", fix + "--role=roles/storage.objectUser"
    return "ok", f"gs://{match['bucket']} can be written to", None


def quota_metric(accelerator: str | None, spot: bool) -> str:
    """The metric of Vertex AI that limits a training on this machine."""
    kind = "preemptible_" if spot else ""
    if not accelerator:
        return f"aiplatform.googleapis.com/custom_model_training_{kind}cpus"
    short = accelerator.lower().replace("tesla_", "")
    short = re.sub(r"(h100|h200)(_\d+gb)?$", r"\1", short)
    return f"aiplatform.googleapis.com/custom_model_training_{kind}{short}_gpus"


def _quota(recipe: CloudRecipe, vertex: Vertex) -> Outcome:
    metric, needed = quota_metric(recipe.accelerator, recipe.spot), recipe.accelerators
    if not recipe.accelerator:
        processors = re.search(r"-(\d+)$", recipe.machine)
        needed = int(processors[1]) if processors else 1
    path = f"v1/projects/{vertex.project}/locations/global/services/aiplatform.googleapis.com/quotaInfos"
    query: dict[str, Any] = {"pageSize": 500}
    limits: list[int] = []
    while True:
        page = vertex.google.call("cloudquotas", "GET", path, "asking for the quota", **query)
        for info in page.get("quotaInfos", []):
            if info.get("metric") == metric:
                limits += _limits(info, vertex.region or "")
        if not page.get("nextPageToken"):
            break
        query["pageToken"] = page["nextPageToken"]
    fix = f"https://console.cloud.google.com/iam-admin/quotas?project={vertex.project}"
    if not limits:
        return "unknown", f"no quota {metric} is listed for {vertex.region}", fix
    # -1 is no limit.
    if any(0 <= limit < needed for limit in limits):
        return "FAIL", f"{metric} in {vertex.region} is {min(limits)}, the job needs {needed}", fix
    return "ok", f"{metric}: {min(limits)}", None


def _limits(info: dict[str, Any], region: str) -> list[int]:
    """The value for the region: more specific ones are listed before less specific ones."""
    for place in info.get("dimensionsInfos", []):
        named = place.get("dimensions", {}).get("region")
        if named == region or (named is None and region in place.get("applicableLocations", [region])):
            return [int(place.get("details", {}).get("value", 0))]
    return []


def _secret(reference: str, google: Google) -> Outcome:
    name = reference.split("/")[3]
    found = google.call("secretmanager", "GET", f"v1/{reference}", f"looking for the secret {name}")
    if found.get("state") != "ENABLED":
        return (
            "FAIL",
            f"{reference} is {found.get('state')}",
            f"gcloud secrets versions add {name} --data-file=-",
        )
    return "ok", f"{reference}; its value was not read", None


def _hub_checks(recipe: CloudRecipe, hub: HuggingFaceJobs) -> list[tuple[str, Callable[[], Outcome]]]:
    checks: list[tuple[str, Callable[[], Outcome]]] = [
        ("namespace", lambda: _namespace(recipe, hub)),
        ("machine", lambda: _machine(recipe, hub)),
        ("image", lambda: _image(recipe, None)),
        ("data", lambda: _dataset(recipe, hub)),
        ("output", lambda: _hub_bucket(recipe, hub)),
    ]
    return checks + [
        (f"secret {name}", lambda variable=variable: _variable(variable))
        for name, variable in recipe.secrets.items()
    ]


def _namespace(recipe: CloudRecipe, hub: HuggingFaceJobs) -> Outcome:
    user = hub.whoami()
    known = [user["name"], *(item["name"] for item in user.get("orgs", []))]
    if recipe.namespace not in known:
        return (
            "FAIL",
            f"{recipe.namespace} is not among {', '.join(known)}",
            "set namespace in the cloud recipe",
        )
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        return (
            "FAIL",
            "the token may only read",
            "https://huggingface.co/settings/tokens: one that may start jobs",
        )
    with hub_errors(f"listing the jobs of {recipe.namespace}"):
        next(iter(hub.api.list_jobs(namespace=recipe.namespace)), None)
    return "ok", f"{recipe.namespace} may list jobs; token: {role or 'role unknown'}", None


def _machine(recipe: CloudRecipe, hub: HuggingFaceJobs) -> Outcome:
    flavor = hub.flavor(recipe)
    price = hub.price_per_hour(recipe)
    return (
        "ok",
        f"{flavor.pretty_name}, " + ("price unknown" if price is None else f"{price:.2f} USD per hour"),
        None,
    )


def _dataset(recipe: CloudRecipe, hub: HuggingFaceJobs) -> Outcome:
    csv = _local_csv(recipe)
    commit, found = hub.data_file(recipe)
    upload = f"hf upload {'/'.join(recipe.data.split('/')[3:5])} {csv} {csv.name} --repo-type dataset"
    if found is None:
        return "FAIL", f"{recipe.data} is not there", upload
    sha256 = found.lfs.sha256 if found.lfs else None
    if found.size != csv.stat().st_size or sha256 not in (None, file_sha256(csv)):
        return "FAIL", f"{recipe.data} is not {csv}", upload
    if sha256 is None:
        return "unknown", f"{recipe.data} is of the right size; the job compares its sha256", None
    return "ok", f"{recipe.data} is {csv}, at commit {commit[:12]}", None


def _hub_bucket(recipe: CloudRecipe, hub: HuggingFaceJobs) -> Outcome:
    match = HUB_BUCKET.fullmatch(recipe.output)
    assert match
    with hub_errors(f"looking for the bucket {match['bucket']}"):
        hub.api.bucket_info(match["bucket"])
    owner = match["bucket"].split("/")[0]
    if owner != recipe.namespace:
        return (
            "unknown",
            f"{match['bucket']} is there; whether {recipe.namespace} may write to it is not told",
            None,
        )
    return "ok", f"{match['bucket']}, of the same namespace", None


def _variable(variable: str) -> Outcome:
    if os.environ.get(variable):
        return "ok", f"${variable} is set; its value was not shown", None
    return "FAIL", f"${variable} is not set on this machine", f"export {variable}=..."


def find_image(image: str, google: Google | None) -> tuple[str, set[str]]:
    """The reference of an image by its digest, and the processors that it is for (amd64, arm64).

    Source: the OCI distribution specification, with the token that the registry names; Google's get the
    token of the credentials.

    Raises:
        UserError: the registry has no such image, or cannot be reached.
    """
    match = IMAGE.fullmatch(image)
    assert match
    host, repository = (match["host"] or "registry-1.docker.io") + (match["port"] or ""), match["repository"]
    if host == "docker.io":
        host = "registry-1.docker.io"
    if host == "registry-1.docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    scheme = "http" if host.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    session = _Registry(f"{scheme}://{host}/v2/{repository}", image, google)
    manifest, digest = session.get(f"manifests/{match['digest'] or match['tag'] or 'latest'}")
    if "manifests" in manifest:
        platforms = {item.get("platform", {}).get("architecture") for item in manifest["manifests"]}
    else:
        platforms = {session.get(f"blobs/{manifest['config']['digest']}")[0].get("architecture")}
    found = match["digest"] or digest
    prefix = f"{match['host']}{match['port'] or ''}/" if match["host"] else ""
    return f"{prefix}{match['repository']}@{found}", platforms - {"unknown", None}


class _Registry:
    """Reads one repository of a registry."""

    def __init__(self, base: str, image: str, google: Google | None) -> None:
        self.base, self.image, self.google = base, image, google
        self.headers = {"Accept": MANIFESTS}

    def get(self, path: str, challenged: bool = False) -> tuple[dict[str, Any], str]:
        """A document, and its digest."""
        reply = self._request(f"{self.base}/{path}", self.headers)
        challenge = reply.headers.get("WWW-Authenticate", "")
        if reply.status_code == 401 and not challenged and challenge.lower().startswith("bearer "):
            self._authorise(dict(re.findall(r'(\w+)="([^"]*)"', challenge)))
            return self.get(path, challenged=True)
        if reply.status_code in (401, 403, 404):
            hint = "look at its name, and whether it is public" if self.google is None else "make push-images"
            raise UserError(
                f"image: {self.image} is not there, or may not be read (HTTP {reply.status_code})", hint
            )
        if not reply.ok:
            message = f"image: {self.base} answers with HTTP {reply.status_code}"
            raise UserError(message, "run the command again later", UNREACHABLE)
        digest = (
            reply.headers.get("Docker-Content-Digest")
            or f"sha256:{hashlib.sha256(reply.content).hexdigest()}"
        )
        try:
            return json.loads(reply.content), digest
        except ValueError:
            raise UserError(
                f"image: {self.base} is no registry of images", "look at the image's name"
            ) from None

    def _authorise(self, challenge: dict[str, str]) -> None:
        query = {key: challenge[key] for key in ("service", "scope") if key in challenge}
        realm, own = challenge.get("realm", self.base), None
        # The credentials go to Google alone, whatever address a registry names.
        if self.google and GOOGLE_REGISTRY.match(realm):
            own = ("oauth2accesstoken", self.google.token())
        reply = self._request(realm, {}, params=query, auth=own)
        if reply.ok:
            found = reply.json()
            self.headers["Authorization"] = f"Bearer {found.get('token') or found.get('access_token')}"

    def _request(self, url: str, headers: dict[str, str], **arguments: Any) -> Any:
        try:
            import requests
        except ImportError as error:
            raise UserError(
                "looking for an image needs requests", 'pip install "arxiv_cls[cloud]"'
            ) from error
        try:
            return requests.get(url, headers=headers, timeout=REGISTRY_TIMEOUT, **arguments)
        except requests.RequestException as error:
            host = url.split("/")[2]
            hint = "check the network and HTTPS_PROXY, and the name of the image"
            message = f"image: {host} cannot be reached ({type(error).__name__})"
            raise UserError(message, hint, UNREACHABLE) from error
