"""What a cloud job needs: each check has a verdict, and the command that corrects what is wrong.

A check returns what it found, or raises `UserError`: it fails, or could not be asked (`UNREACHABLE`). Nothing
is changed and nothing is left: a bucket is asked for its permissions, a secret for its state.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from arxiv_cls.cloud.google_api import GRANT, QUOTAS, ROLES, Google
from arxiv_cls.cloud.hf_jobs import HuggingFaceJobs, hub_errors, upload_command
from arxiv_cls.cloud.jobs import GCS, HUB_BUCKET, IMAGE, CloudRecipe, make_spec
from arxiv_cls.cloud.vertex import Vertex
from arxiv_cls.corpus.fetch import file_md5
from arxiv_cls.errors import UNREACHABLE, UserError
from arxiv_cls.recipe import DataConfig, read_groups
from arxiv_cls.record.files import file_sha256

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
BUCKET_PERMISSIONS = [f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")]
# Machine types with Arm processors; all others, and the Hub's, have x86-64 ones.
ARM = re.compile(r"(t2a|c4a|n4a|a4x)-")
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)
REGISTRY_TIMEOUT = 30
GOOGLE_REGISTRY = re.compile(r"https://([a-z0-9-]+-docker\.pkg\.dev|([a-z]+\.)?gcr\.io)/")

Checks = dict[str, Callable[[], str]]


@dataclass(frozen=True)
class Check:
    """One line of the report; `fix` is the command that corrects what is wrong."""

    name: str
    verdict: Literal["ok", "FAIL", "unknown"]
    detail: str
    fix: str | None = None


def preflight(recipe: CloudRecipe, service: Callable[[], Vertex | HuggingFaceJobs]) -> Iterator[Check]:
    """Runs every check, those after a failed one too; without credentials none but that of the recipe.

    Args:
        recipe: has been read.
        service: connects; raises `UserError` without credentials.
    """
    yield _run("recipe", partial(_recipe, recipe))
    try:
        connected = service()
        if isinstance(connected, HuggingFaceJobs):
            yield Check("credentials", "ok", f"signed in as {connected.whoami()['name']}")
            checks = _hub_checks(recipe, connected)
        else:
            # Credentials that have expired are found here, before each check fails for them.
            connected.google.token()
            account = getattr(connected.google.credentials, "service_account_email", "signed in")
            yield Check("credentials", "ok", account)
            checks = _vertex_checks(recipe, connected)
    except UserError as error:
        yield Check("credentials", "FAIL", error.message, error.hint)
        yield Check("everything else", "unknown", "not asked without credentials")
        return
    for name, check in checks.items():
        yield _run(name, check)


def _run(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check())
    except UserError as error:
        # What is not reached, or may not be looked at, may still be right.
        unseen_by = (401, 403, 429) if name.startswith(("APIs", "quota", "secret")) else (401, 429)
        unseen = error.exit_code == UNREACHABLE or getattr(error, "status", 0) in unseen_by
        return Check(name, "unknown" if unseen else "FAIL", error.message, error.hint)


def _unknown(detail: str, fix: str | None = None) -> UserError:
    return UserError(detail, fix, UNREACHABLE)


def _recipe(recipe: CloudRecipe) -> str:
    # All that `submit` refuses.
    make_spec(recipe, None, "", 1)
    unread = recipe.program == "arxiv_cls/train.py" and not find_spec("transformers")
    left = "; its trainer group was not checked, for which transformers is needed" if unread else ""
    return f"{recipe.recipe}, {recipe.program}{left}"


def _local_csv(recipe: CloudRecipe) -> Path:
    csv = Path(read_groups(recipe.recipe, recipe.overrides, {"data": DataConfig})[0]["data"].csv)
    if not csv.is_file():
        raise UserError(f"{csv}, whose checksum is pinned, is not on this machine", "make data")
    return csv


def _vertex_checks(recipe: CloudRecipe, vertex: Vertex) -> Checks:
    google = vertex.google
    checks: Checks = {
        "project, region": partial(_region, vertex),
        "APIs": partial(_apis, recipe, vertex),
        "permissions": partial(_permissions, recipe, vertex),
        "image": partial(_image, recipe, google),
        "data": partial(_object, recipe, google),
        "output": partial(_bucket, recipe, google),
        "quota": partial(_quota, recipe, vertex),
    }
    secrets: Checks = {
        f"secret {name}": partial(_secret, ref, google) for name, ref in recipe.secrets.items()
    }
    return checks | secrets


def _region(vertex: Vertex) -> str:
    vertex.google.call("aiplatform", "GET", vertex.jobs, f"asking Vertex AI in {vertex.region}", pageSize=1)
    return vertex.jobs.removeprefix("v1/").removesuffix("/customJobs")


def _apis(recipe: CloudRecipe, vertex: Vertex) -> str:
    needed = sorted(SERVICES | ({"secretmanager.googleapis.com"} if recipe.secrets else set()))
    services = f"projects/{vertex.project}/services"
    names = [f"{services}/{service}" for service in needed]
    reply = vertex.google.call(
        "serviceusage", "GET", f"v1/{services}:batchGet", "asking for the APIs", names=names
    )
    found = {item["name"].rsplit("/", 1)[1]: item.get("state") for item in reply.get("services", [])}
    off = [service for service in needed if found.get(service) != "ENABLED"]
    if off:
        fix = f"gcloud services enable {' '.join(off)} --project {vertex.project}"
        raise UserError(f"off: {', '.join(off)}", fix)
    return f"{len(needed)} on"


def _permissions(recipe: CloudRecipe, vertex: Vertex) -> str:
    needed = PERMISSIONS + ([ACT_AS] if recipe.service_account else [])
    path = f"v1/projects/{vertex.project}:testIamPermissions"
    reply = vertex.google.call(
        "cloudresourcemanager", "POST", path, "asking for permissions", {"permissions": needed}
    )
    lacking = [permission for permission in needed if permission not in reply.get("permissions", [])]
    if lacking == [ACT_AS]:
        # It can be granted on the account alone, which the project does not tell.
        fix = (
            f"gcloud iam service-accounts add-iam-policy-binding {recipe.service_account} --member=user:YOU "
        )
        raise _unknown(f"{ACT_AS} is not granted on the project", fix + "--role=roles/iam.serviceAccountUser")
    if lacking:
        roles = dict.fromkeys(ROLES[permission.partition(".")[0]] for permission in lacking)
        fix = " && ".join(GRANT.format(vertex.project, role) for role in roles)
        raise UserError(f"lacking: {', '.join(lacking)}", fix)
    return f"{len(needed)} granted"


def _image(recipe: CloudRecipe, google: Google | None) -> str:
    wanted = "arm64" if google and ARM.match(recipe.machine) else "amd64"
    digest, platforms = find_image(recipe.image, google)
    if wanted not in platforms:
        there = ", ".join(sorted(platforms)) or "none"
        fix = f"make push-images REGISTRY={recipe.image.rpartition('/')[0]} VERSION=... (amd64 and arm64)"
        raise UserError(f"{recipe.image} is for {there}, {recipe.machine} is {wanted}", fix)
    return f"{digest} ({wanted})"


def _object(recipe: CloudRecipe, google: Google) -> str:
    csv, match = _local_csv(recipe), GCS.fullmatch(recipe.data)
    assert match
    path = f"storage/v1/b/{match['bucket']}/o/{quote(match['path'], safe='')}"
    upload = f"gcloud storage cp {csv} {recipe.data}"
    found = google.find("storage", path, f"looking for {recipe.data}")
    if found is None:
        raise UserError(f"{recipe.data} is not there", upload)
    size = csv.stat().st_size
    if int(found["size"]) != size:
        raise UserError(f"{recipe.data} has {found['size']} bytes, {csv} has {size}", upload)
    if "md5Hash" not in found:
        raise _unknown(f"{recipe.data} is of the right size and has no MD5; the job compares its sha256")
    if base64.b64decode(found["md5Hash"]).hex() != file_md5(csv):
        raise UserError(f"{recipe.data} is not {csv}: its MD5 differs", upload)
    return f"{recipe.data} is {csv}"


def _bucket(recipe: CloudRecipe, google: Google) -> str:
    match = GCS.fullmatch(recipe.output)
    assert match
    bucket = match["bucket"]
    path, doing = f"storage/v1/b/{bucket}/iam/testPermissions", f"asking for the bucket {bucket}"
    reply = google.call("storage", "GET", path, doing, permissions=BUCKET_PERMISSIONS)
    lacking = [item for item in BUCKET_PERMISSIONS if item not in reply.get("permissions", [])]
    if lacking:
        fix = f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=user:YOU "
        raise UserError(f"lacking: {', '.join(lacking)}", fix + "--role=roles/storage.objectUser")
    return f"gs://{bucket} can be written to by you"


def quota_metric(accelerator: str | None, spot: bool) -> str:
    """The metric of Vertex AI that limits a training on this machine."""
    kind = "preemptible_" if spot else ""
    if not accelerator:
        return f"aiplatform.googleapis.com/custom_model_training_{kind}cpus"
    short = re.sub(r"(h100|h200)(_\d+gb)?$", r"\1", accelerator.lower().replace("tesla_", ""))
    return f"aiplatform.googleapis.com/custom_model_training_{kind}{short}_gpus"


def _quota(recipe: CloudRecipe, vertex: Vertex) -> str:
    metric, needed = quota_metric(recipe.accelerator, recipe.spot), recipe.accelerators
    if not recipe.accelerator:
        processors = re.search(r"-(\d+)$", recipe.machine)
        needed = int(processors[1]) if processors else 1
    path = f"v1/projects/{vertex.project}/locations/global/services/aiplatform.googleapis.com/quotaInfos"
    infos = vertex.google.pages(
        "quotaInfos", "cloudquotas", "GET", path, "asking for the quota", pageSize=500
    )
    found = [_limit(info, vertex.region or "") for info in infos if info.get("metric") == metric]
    limits = [limit for limit in found if limit is not None]
    fix = QUOTAS.format(vertex.project)
    if not limits:
        raise _unknown(f"no quota {metric} is listed for {vertex.region}", fix)
    # -1 is no limit.
    if any(0 <= limit < needed for limit in limits):
        raise UserError(f"{metric} in {vertex.region} is {min(limits)}, the job needs {needed}", fix)
    return f"{metric}: {min(limits)}"


def _limit(info: dict[str, Any], region: str) -> int | None:
    """The value for the region: more specific ones are listed before less specific ones."""
    for place in info.get("dimensionsInfos", []):
        named = place.get("dimensions", {}).get("region")
        if named == region or (named is None and region in place.get("applicableLocations", [region])):
            return int(place.get("details", {}).get("value", 0))
    return None


def _secret(reference: str, google: Google) -> str:
    name = reference.split("/")[3]
    found = google.call("secretmanager", "GET", f"v1/{reference}", f"looking for the secret {name}")
    if found.get("state") != "ENABLED":
        fix = f"gcloud secrets versions add {name} --data-file=-"
        raise UserError(f"{reference} is {found.get('state')}", fix)
    return f"{reference}; its value was not read"


def _hub_checks(recipe: CloudRecipe, hub: HuggingFaceJobs) -> Checks:
    checks: Checks = {
        "namespace": partial(_namespace, recipe, hub),
        "machine": partial(_machine, recipe, hub),
        "image": partial(_image, recipe, None),
        "data": partial(_dataset, recipe, hub),
        "output": partial(_hub_bucket, recipe, hub),
    }
    secrets: Checks = {f"secret {name}": partial(_variable, word) for name, word in recipe.secrets.items()}
    return checks | secrets


def _namespace(recipe: CloudRecipe, hub: HuggingFaceJobs) -> str:
    user = hub.whoami()
    known = [user["name"], *(item["name"] for item in user.get("orgs", []))]
    if recipe.namespace not in known:
        detail = f"{recipe.namespace} is not among {', '.join(known)}"
        raise UserError(detail, "set namespace in the cloud recipe")
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        fix = "https://huggingface.co/settings/tokens: one that may start jobs"
        raise UserError("the token may only read", fix)
    with hub_errors(f"listing the jobs of {recipe.namespace}"):
        next(iter(hub.api.list_jobs(namespace=recipe.namespace)), None)
    return f"{recipe.namespace} may list jobs; token: {role or 'role unknown'}"


def _machine(recipe: CloudRecipe, hub: HuggingFaceJobs) -> str:
    price = hub.price_per_hour(recipe)
    shown = "price unknown" if price is None else f"{price:.2f} USD per hour"
    return f"{hub.flavor(recipe).pretty_name}, {shown}"


def _dataset(recipe: CloudRecipe, hub: HuggingFaceJobs) -> str:
    csv = _local_csv(recipe)
    commit, found = hub.data_file(recipe, str(csv))
    sha256 = found.lfs.sha256 if found.lfs else None
    if found.size != csv.stat().st_size or sha256 not in (None, file_sha256(csv)):
        raise UserError(f"{recipe.data} is not {csv}", upload_command(recipe, str(csv)))
    if sha256 is None:
        raise _unknown(f"{recipe.data} is of the right size; the job compares its sha256")
    return f"{recipe.data} is {csv}, at commit {commit[:12]}"


def _hub_bucket(recipe: CloudRecipe, hub: HuggingFaceJobs) -> str:
    match = HUB_BUCKET.fullmatch(recipe.output)
    assert match
    bucket = match["bucket"]
    make = f"look at its name, or make it: hf buckets create {bucket}"
    hints = {403: "the token may not read the bucket", 404: make}
    with hub_errors(f"looking for the bucket {bucket}", hints):
        hub.api.bucket_info(bucket)
    if bucket.split("/")[0] != recipe.namespace:
        raise _unknown(f"{bucket} is there; whether {recipe.namespace} may write to it is not told")
    return f"{bucket}, of the same namespace"


def _variable(variable: str) -> str:
    if not os.environ.get(variable):
        raise UserError(f"${variable} is not set on this machine", f"export {variable}=...")
    return f"${variable} is set; its value was not shown"


def find_image(image: str, google: Google | None) -> tuple[str, set[str]]:
    """The reference of an image by its digest, and the processors that it is for (amd64, arm64).

    Source: the OCI distribution specification, with the token that the registry names; Google's get the
    token of the credentials.

    Raises:
        UserError: the registry has no such image, or cannot be reached.
    """
    match = IMAGE.fullmatch(image)
    assert match
    prefix = f"{match['host']}{match['port'] or ''}/" if match["host"] else ""
    host, repository = prefix.rstrip("/"), match["repository"]
    if host in ("", "docker.io"):
        host = "registry-1.docker.io"
        repository = repository if "/" in repository else f"library/{repository}"
    scheme = "http" if host.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    registry = _Registry(f"{scheme}://{host}/v2/{repository}", image, google)
    manifest, digest = registry.get(f"manifests/{match['digest'] or match['tag'] or 'latest'}")
    if "manifests" in manifest:
        platforms = {item.get("platform", {}).get("architecture") for item in manifest["manifests"]}
    else:
        platforms = {registry.get(f"blobs/{manifest['config']['digest']}")[0].get("architecture")}
    return f"{prefix}{match['repository']}@{match['digest'] or digest}", platforms - {"unknown", None}


class _Registry:
    """Reads one repository of a registry."""

    def __init__(self, base: str, image: str, google: Google | None) -> None:
        self.base, self.image, self.google = base, image, google
        self.headers = {"Accept": MANIFESTS}

    def get(self, path: str) -> tuple[dict[str, Any], str]:
        """A document, and its digest."""
        reply = self._request(f"{self.base}/{path}", self.headers)
        challenge = reply.headers.get("WWW-Authenticate", "")
        if reply.status_code == 401 and challenge.lower().startswith("bearer "):
            self._authorise(dict(re.findall(r'(\w+)="([^"]*)"', challenge)))
            reply = self._request(f"{self.base}/{path}", self.headers)
        if reply.status_code in (401, 403, 404):
            message = f"image: {self.image} is not there, or may not be read (HTTP {reply.status_code})"
            hint = "look at its name, and whether it is public" if self.google is None else "make push-images"
            raise UserError(message, hint)
        if not reply.is_success:
            message = f"image: {self.base} answers with HTTP {reply.status_code}"
            raise UserError(message, "run the command again later", UNREACHABLE)
        digest = f"sha256:{hashlib.sha256(reply.content).hexdigest()}"
        try:
            return json.loads(reply.content), reply.headers.get("Docker-Content-Digest", digest)
        except ValueError:
            message = f"image: {self.base} is no registry of images"
            raise UserError(message, "look at the image's name") from None

    def _authorise(self, challenge: dict[str, str]) -> None:
        query = {key: challenge[key] for key in ("service", "scope") if key in challenge}
        realm, own = challenge.get("realm", self.base), None
        # The credentials go to Google alone, whatever address a registry names.
        if self.google and GOOGLE_REGISTRY.match(realm):
            own = ("oauth2accesstoken", self.google.token())
        reply = self._request(realm, {}, params=query, auth=own)
        if reply.is_success:
            found = reply.json()
            self.headers["Authorization"] = f"Bearer {found.get('token') or found.get('access_token')}"

    def _request(self, url: str, headers: dict[str, str], **arguments: Any) -> Any:
        import httpx2

        try:
            return httpx2.get(
                url, headers=headers, timeout=REGISTRY_TIMEOUT, follow_redirects=True, **arguments
            )
        except httpx2.HTTPError as error:
            message = f"image: {url.split('/')[2]} cannot be reached ({type(error).__name__})"
            hint = "check the network and HTTPS_PROXY, and the name of the image"
            raise UserError(message, hint, UNREACHABLE) from error
