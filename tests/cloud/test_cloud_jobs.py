"""`arxiv-cls cloud` as a user runs it, against the services' published interfaces on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import google.auth
import httpx2
import pytest
import yaml
from factories import ROOT, change_json, make_model_dir, record_again
from google.auth.exceptions import DefaultCredentialsError
from google.oauth2.credentials import Credentials
from local_google import Refused
from local_hub_jobs import COMMIT
from local_servers import free_port

from arxiv_cls.cloud import machine
from arxiv_cls.cloud.google_api import Google, ServiceError
from arxiv_cls.cloud.jobs import SPEC_VARIABLE, JobSpec, load_cloud_recipe
from arxiv_cls.cloud.preflight import find_image, quota_metric
from arxiv_cls.errors import UserError
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.storage import file_system

CANARY = "canary-0123456789abcdef"
HUB_TOKEN = "hf_" + "a" * 30
BACKENDS = ["vertex", "hf"]
LONG_ID = "projects/papers/locations/us-central1/customJobs/1000"
SHORT_ID = "user/000000000000000000000000"
IDS = {"vertex": LONG_ID, "hf": SHORT_ID}


@pytest.fixture
def services(google_cloud, hub_jobs, tmp_path, sample_csv) -> dict[str, object]:
    """Both, each with the data where the cloud recipes expect it."""
    google_cloud.objects[("bucket", "data/arxiv.csv")] = hub_jobs.csv = sample_csv.read_bytes()
    return {"vertex": google_cloud, "hf": hub_jobs}


@pytest.fixture
def submitted(services, write_cloud_recipe, run) -> Callable[[str], JobSpec]:
    """Submits a job of the backend, whose id is in `IDS`, and returns what it was told."""

    def submit(backend: str) -> JobSpec:
        status, told = run(
            "cloud", "submit", write_cloud_recipe(backend), "--backend", backend, "--name", "first"
        )
        assert status == 0, told
        assert told.startswith(f"{IDS[backend]}\n"), told
        return JobSpec.from_json(variables(services[backend], backend)[SPEC_VARIABLE])

    return submit


def variables(service, backend: str) -> dict[str, str]:
    """The plain environment of the last job that a service was given."""
    job = list(service.jobs.values())[-1]
    if backend == "hf":
        return job["environment"]
    container = job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
    return {item["name"]: item["value"] for item in container["env"]}


def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs everybody out."""

    def default(scopes: list[str]) -> None:
        raise DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", default)
    monkeypatch.delenv("HF_TOKEN")


def entry(second: object, **content: object) -> dict[str, object]:
    """A line of a log of Vertex AI."""
    return {"insertId": f"at-{second}", "timestamp": f"2026-01-02T03:04:0{second}Z", **content}


class TestRecipe:
    """The files of `recipes/cloud/`."""

    @pytest.mark.parametrize(
        "path", sorted((ROOT / "recipes/cloud").glob("*.yaml")), ids=lambda path: path.stem
    )
    def test_the_project_s_own(self, path):
        """Each is read, and names a recipe that is there."""
        read = load_cloud_recipe(path, yaml.safe_load(path.read_text())["backend"])
        assert (ROOT / read.recipe).is_file()
        assert (ROOT / read.program).is_file()

    def test_every_problem_at_once(self, write_cloud_recipe):
        """Keys, types, what is missing, with the nearest key; then what does not go together."""
        path = write_cloud_recipe("vertex", machina="x", max_hours="long", spot="perhaps")
        text = path.read_text().replace("data: gs", "dta: gs")
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            load_cloud_recipe(path, "vertex")
        told = str(caught.value)
        assert "5 problems" in told
        for part in (
            "machina: unknown key; did you mean machine?",
            "'long' should be a decimal number",
            "spot: 'perhaps' should be",
            "dta: unknown key; did you mean data?",
            "data: missing",
        ):
            assert part in told

    @pytest.mark.parametrize(
        ("backend", "changes", "told"),
        [
            ("vertex", {"accelerator": "NVIDIA_L5"}, "did you mean NVIDIA_L4?"),
            ("vertex", {"accelerators": 0}, "at least 1"),
            ("vertex", {"region": None}, "region: missing"),
            ("vertex", {"data": "/local/arxiv.csv"}, "should be gs://BUCKET/FILE"),
            ("vertex", {"output": "gs://bucket/a/../b"}, "output: "),
            ("vertex", {"secrets": {"KEY": CANARY}}, "never the secret itself"),
            ("vertex", {"max_hours": 0.0001}, "greater than or equal to 0.02"),
            ("vertex", {"image": "Not An Image"}, "no image"),
            ("hf", {"spot": True, "region": "x"}, "only with backend: vertex"),
            ("hf", {"secrets": {"KEY": CANARY}}, "never the secret itself"),
            ("hf", {"secrets": {"A-B": "C"}}, "no name of a variable"),
            ("hf", {"secrets": CANARY}, "should be names to references"),
            ("hf", {"file": "vertex"}, "but the command says --backend hf"),
        ],
    )
    def test_values(self, write_cloud_recipe, backend, changes, told):
        """What is allowed is said; a secret that was written into the file is not repeated."""
        with pytest.raises(UserError) as caught:
            load_cloud_recipe(write_cloud_recipe(changes.pop("file", backend), **changes), backend)
        assert told in str(caught.value)
        assert CANARY not in str(caught.value)


class TestSubmit:
    """The request of a job: pinned, limited, labelled, without secrets."""

    def test_vertex(self, services, submitted, registry, sample_csv):
        """Image by digest, data by checksum, a timeout, labels."""
        spec = submitted("vertex")
        job = services["vertex"].jobs[LONG_ID]
        pool = job["jobSpec"]["workerPoolSpecs"][0]
        assert pool["containerSpec"]["imageUri"] == registry.image.rpartition(":")[0] + f"@{registry.digest}"
        accelerator = {"acceleratorType": "NVIDIA_L4", "acceleratorCount": 1}
        assert pool["machineSpec"] == {"machineType": "g2-standard-8", **accelerator}
        assert job["jobSpec"]["scheduling"] == {
            "timeout": "7200s", "restartJobOnWorkerRestart": True, "strategy": "STANDARD"
        }  # fmt: skip
        assert job["jobSpec"]["baseOutputDirectory"] == {"outputUriPrefix": "gs://bucket/models/first"}
        assert job["labels"]["app"] == "arxiv-cls"
        assert job["labels"]["data-sha256"] == file_sha256(sample_csv)[:16]
        assert all(len(value) <= 63 for value in job["labels"].values())
        assert (spec.data, spec.data_sha256) == ("/gcs/bucket/data/arxiv.csv", file_sha256(sample_csv))
        assert spec.recipe == Path("recipes/small.yaml").read_text()
        assert spec.secrets == {"WANDB_API_KEY": "projects/papers/secrets/wandb/versions/3"}
        assert "projects.secrets.versions.access" not in services["vertex"].methods()
        assert CANARY not in json.dumps(services["vertex"].requests)

    def test_hf(self, services, submitted, registry):
        """Data at a commit, output in a bucket; a secret is only in the service's own store."""
        spec = submitted("hf")
        job = services["hf"].jobs[SHORT_ID.split("/")[1]]
        assert job["dockerImage"].endswith(f"@{registry.digest}")
        assert job["timeoutSeconds"] == 7200
        data = {"source": "user/csv", "mountPath": "/data", "revision": COMMIT, "readOnly": True}
        output = {"source": "user/models", "mountPath": "/output"}
        assert job["volumes"] == [{"type": "dataset"} | data, {"type": "bucket"} | output]
        assert job["environment"]["AIP_MODEL_DIR"] == "/output/runs/first/model/"
        assert job["environment"]["AIP_CHECKPOINT_DIR"] == "/output/runs/first/checkpoints/"
        assert job["labels"]["app"] == "arxiv-cls"
        assert spec.output == "hf://buckets/user/models/runs/first"
        assert (spec.processes, spec.secrets) == (4, {})
        assert services["hf"].secrets == {"WANDB_API_KEY": CANARY}
        bodies = [json.loads(body) for path, body in services["hf"].requests if path == "POST /api/jobs/user"]
        assert [CANARY in json.dumps(body | {"secrets": {}}) for body in bodies] == [False]

    def test_options(self, services, write_cloud_recipe, run):
        """--spot and --max-hours win over the file."""
        recipe = write_cloud_recipe("vertex", price_per_hour=0.5, service_account="train@papers.example")
        words = ["--backend", "vertex", "--spot", "--max-hours", "1.5", "--max-cost", "0.75"]
        status, told = run("cloud", "submit", recipe, *words)
        assert status == 0
        assert "0.50 USD per hour, at most 0.75" in told
        assert "console.cloud.google.com/vertex-ai/locations/us-central1/training/1000?project=papers" in told
        job = services["vertex"].jobs[LONG_ID]["jobSpec"]
        assert (job["scheduling"]["timeout"], job["scheduling"]["strategy"]) == ("5400s", "SPOT")
        assert job["serviceAccount"] == "train@papers.example"

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_dry_run_sends_nothing(self, services, write_cloud_recipe, run, backend):
        """What would be sent is printed, the secret by its reference."""
        status, told = run("cloud", "submit", write_cloud_recipe(backend), "--backend", backend, "--dry-run")
        assert status == 0
        assert not services[backend].jobs
        reference = {"vertex": "projects/papers/secrets/wandb/versions/3", "hf": "<value of $WANDB_KEY_HERE>"}
        assert reference[backend] in json.dumps(json.loads(told))

    @pytest.mark.parametrize(
        ("backend", "changes", "words", "told"),
        [
            ("vertex", {}, ["--max-cost", "5"], "price of the machine is not known"),
            ("vertex", {"price_per_hour": 3}, ["--max-cost", "5"], "3.00 USD x 2 hours = 6.00 USD"),
            ("hf", {}, ["--max-cost", "5"], "3.80 USD x 2 hours"),
            ("hf", {"machine": "l4x5"}, [], "did you mean l4x4?"),
            ("hf", {"secrets": {"A": "NOT_SET_HERE"}}, [], "not set on this machine: NOT_SET_HERE"),
            ("vertex", {}, ["--name", "No Name"], "no name for a job"),
            ("vertex", {"recipe": "/etc/recipe.yaml"}, [], "no such recipe"),
            ("vertex", {"overrides": ["--trainer.sed=7"]}, [], "did you mean seed?"),
            ("vertex", {"overrides": ["--data.csv=data/raw/none.csv"]}, [], "make data"),
            ("vertex", {"image": "us-docker.pkg.invalid/a/b:1"}, [], "cannot be reached"),
            ("vertex", {"overrides": [f"--release.dataset={HUB_TOKEN}"]}, [], "Hugging Face token"),
            (
                "hf",
                {"data": "hf://datasets/user/csv/all/b.csv"},
                [],
                "arxiv.csv all/b.csv --repo-type dataset",
            ),
        ],
    )
    def test_refused_before_it_costs(self, services, write_cloud_recipe, run, backend, changes, words, told):
        """Price, machine, names, the training's own recipe, and what is not here."""
        services["hf"].csv = None if "data" in changes else services["hf"].csv
        status, said = run(
            "cloud", "submit", write_cloud_recipe(backend, **changes), "--backend", backend, *words
        )
        assert status in (2, 3)
        assert told in said
        assert HUB_TOKEN not in said
        assert not services[backend].jobs

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_name_that_is_at_work(self, services, submitted, write_cloud_recipe, run, backend):
        """Two jobs would delete each other's checkpoints; after its end a name may be taken again."""
        submitted(backend)
        words = ["cloud", "submit", write_cloud_recipe(backend), "--backend", backend, "--name", "first"]
        status, told = run(*words)
        assert (status, len(services[backend].jobs)) == (2, 1)
        assert f"--name first: {IDS[backend]} is queued" in told
        run("cloud", "cancel", IDS[backend], "--backend", backend)
        assert run(*words)[0] == 0
        assert len(services[backend].jobs) == 2

    @pytest.mark.parametrize(
        ("backend", "place"), [("vertex", "--region us-central1"), ("hf", "--namespace user")]
    )
    def test_no_answer(self, services, write_cloud_recipe, run, backend, place):
        """The job may have started: where to look before it is submitted again."""
        services["vertex"].refusals["projects.locations.customJobs.create"] = ["drop"]
        services["hf"].refusals["/api/jobs/user"] = 504
        status, told = run("cloud", "submit", write_cloud_recipe(backend), "--backend", backend)
        assert status == 3
        assert f"may have started all the same: arxiv-cls cloud list --backend {backend} {place}" in told


class TestFollow:
    """status, list, logs, cancel."""

    @pytest.mark.parametrize(
        ("backend", "raw", "state", "code"),
        [
            ("vertex", "SUCCEEDED", "succeeded", 0), ("vertex", "FAILED", "failed", 1),
            ("vertex", "CANCELLED", "cancelled", 4), ("vertex", "EXPIRED", "expired", 5),
            ("vertex", "PARTIALLY_SUCCEEDED", "failed", 1), ("vertex", "QUEUED", "queued", None),
            ("vertex", "PENDING", "queued", None), ("vertex", "RUNNING", "running", None),
            ("vertex", "CANCELLING", "running", None), ("vertex", "PAUSED", "running", None),
            ("vertex", "UPDATING", "running", None), ("hf", "COMPLETED", "succeeded", 0),
            ("hf", "ERROR", "failed", 1), ("hf", "CANCELED", "cancelled", 4),
            ("hf", "DELETED", "cancelled", 4), ("hf", "SCHEDULING", "queued", None),
            ("hf", "RUNNING", "running", None),
        ],
    )  # fmt: skip
    def test_states(self, services, submitted, run, backend, raw, state, code):
        """Each is told; one that ends a job is the exit status of `logs --follow`."""
        submitted(backend)
        services["vertex"].error = "Replica 0 exited with a non-zero status of 1."
        services["vertex"].states, services["hf"].stages = [f"JOB_STATE_{raw}"], [raw]
        services["hf"].log = ["line"]
        _, told = run("cloud", "status", IDS[backend], "--backend", backend)
        assert f"  {state}  " in told
        assert ("Replica 0" in told) == (raw == "FAILED")
        if code is not None:
            assert run("cloud", "logs", IDS[backend], "--backend", backend, "--follow")[0] == code

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_list_and_cancel(self, services, submitted, run, backend):
        """Jobs of other programs are not listed; a cancelled job says so."""
        submitted(backend)
        place = ["--region", "us-central1"] if backend == "vertex" else []
        if backend == "vertex":
            other = LONG_ID.replace("1000", "1")
            services[backend].jobs[other] = {"name": other, "displayName": "theirs"}
        _, told = run("cloud", "list", "--backend", backend, *place)
        assert IDS[backend] in told
        assert "theirs" not in told
        _, told = run("cloud", "cancel", IDS[backend], "--backend", backend)
        assert "  cancelled  " in told

    def test_a_log_of_vertex_that_breaks(self, services, submitted, run):
        """Pages, an entry that comes late, a broken connection, 429 and 503: each line once, in order."""
        submitted("vertex")
        cloud = services["vertex"]
        cloud.states = ["JOB_STATE_PENDING", *["JOB_STATE_RUNNING"] * 6, "JOB_STATE_FAILED"]
        cloud.error = "out of memory"
        key = f"WANDB_API_KEY=wandb_v1_{'k' * 30}"
        cloud.entries = [entry(f"{n}.123456789", textPayload=f"step {n}") for n in range(5)]
        cloud.entries.append(entry(6, jsonPayload={"message": "late\nlines"}, after=4))
        cloud.entries.append(entry(7, textPayload=key, after=7))
        # The traceback is taken in after the job's end.
        cloud.entries.append(entry(8, textPayload="Traceback", after=9))
        cloud.refusals["entries.list"] = ["drop", Refused(429, "slow down"), Refused(503, "try later")]
        status, told = run("cloud", "logs", LONG_ID, "--backend", "vertex", "--follow")
        lines = told.splitlines()
        assert lines[:7] == [f"step {n}" for n in range(5)] + ["late", "lines"]
        assert "k" * 30 not in told
        assert lines[-2:] == ["Traceback", "failed: JOB_STATE_FAILED: out of memory"]
        assert status == 1

    def test_a_log_of_the_hub_that_breaks(self, services, submitted, run):
        """A stream that ends in the middle is opened again where it was."""
        submitted("hf")
        hub = services["hf"]
        hub.log, hub.breaks = [f"step {n}" for n in range(6)], [2, 4]
        hub.stages = ["RUNNING", "RUNNING", "RUNNING", "COMPLETED"]
        status, told = run("cloud", "logs", SHORT_ID, "--backend", "hf", "--follow")
        assert [line for line in told.splitlines() if line.startswith("step")] == hub.log
        assert status == 0

    def test_a_stream_of_the_hub_that_ends_early(self, services, submitted, run, monkeypatch):
        """The client ends it while the job goes on, or is refused once with 429: the rest still comes."""
        from huggingface_hub import HfApi

        submitted("hf")
        hub = services["hf"]
        hub.stages = ["SCHEDULING", "RUNNING", "COMPLETED"]
        streams = iter([["one"], 429, ["one", "two"]])

        def fetch(self, **_):
            stream = next(streams)
            if stream == 429:
                hub.refusals["/api/jobs/user"] = stream
                try:
                    self.inspect_job(job_id="0", namespace="user")
                finally:
                    hub.refusals.clear()
            return stream

        monkeypatch.setattr(HfApi, "fetch_job_logs", fetch)
        status, told = run("cloud", "logs", SHORT_ID, "--backend", "hf", "--follow")
        assert (status, told.splitlines()) == (0, ["one", "two", "succeeded: COMPLETED"])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_log_as_it_is(self, services, submitted, run, backend):
        """Without --follow it ends at once, with 0."""
        submitted(backend)
        services[backend].log = ["line"]
        services["vertex"].entries = [entry(5, textPayload="line")]
        status, told = run("cloud", "logs", IDS[backend], "--backend", backend)
        assert (status, told) == (0, "line\n")


class TestRefusals:
    """What a service refuses is one sentence with what to do next."""

    @pytest.mark.parametrize(
        ("backend", "status", "told", "code"),
        [
            ("vertex", 403, "add-iam-policy-binding papers", 2), ("vertex", 404, "look at the project", 2),
            ("vertex", 429, "iam-admin/quotas?project=papers", 2), ("vertex", 500, "HTTP 500", 3),
            ("hf", 401, "hf auth login", 2), ("hf", 402, "no credit", 2), ("hf", 403, "give it the right", 2),
            ("hf", 404, "namespace", 2), ("hf", 429, "wait", 2), ("hf", 500, "HTTP 500", 3),
        ],
    )  # fmt: skip
    def test_statuses(self, services, write_cloud_recipe, run, backend, status, told, code):
        """By the HTTP status."""
        refusal = Refused(status, "because")
        services["vertex"].refusals["projects.locations.customJobs.create"] = [refusal]
        services["hf"].refusals["/api/jobs/user"] = status
        got, said = run("cloud", "submit", write_cloud_recipe(backend), "--backend", backend)
        assert (got, told in said, "because" in said) == (code, True, True), said

    @pytest.mark.parametrize("command", ["status", "logs", "cancel", "download"])
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_no_such_job(self, services, run, command, backend):
        status, told = run("cloud", command, IDS[backend], "--backend", backend)
        assert status == 2
        assert "HTTP 404" in told

    @pytest.mark.parametrize(
        "words", [["status", "JOB"], ["list"], ["logs", "JOB", "--follow"], ["cancel", "JOB"]]
    )
    @pytest.mark.parametrize("problem", ["expired", "none", "unreachable", "silent"])
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_credentials_and_network(self, services, run, monkeypatch, request, backend, words, problem):
        """What was not reached, and what to pass."""
        from huggingface_hub import constants

        # It takes connections and says nothing.
        silent = socket.create_server(("127.0.0.1", 0))
        request.addfinalizer(silent.close)
        dead = f"http://127.0.0.1:{silent.getsockname()[1] if problem == 'silent' else free_port()}"
        if problem == "expired":
            monkeypatch.setattr(google.auth, "default", lambda scopes: (Credentials("old"), "papers"))
            monkeypatch.setenv("HF_TOKEN", "hf_" + "old" * 10)
        elif problem == "none":
            nobody(monkeypatch)
        else:
            monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", dead)
            monkeypatch.setattr(constants, "ENDPOINT", dead)
            monkeypatch.setattr("arxiv_cls.cloud.google_api.MOST_FAILURES", 1)
            monkeypatch.setattr("arxiv_cls.cloud.hf_jobs.MOST_FAILURES", 0)
            monkeypatch.setattr("arxiv_cls.cloud.hf_jobs.REQUEST_TIMEOUT", 0.2)
            monkeypatch.setattr("arxiv_cls.cloud.google_api.REQUEST_TIMEOUT", 0.2)
            monkeypatch.setattr("huggingface_hub.hf_api.time.sleep", lambda seconds: None)
        place = ["--region", "us-central1"] if words == ["list"] and backend == "vertex" else []
        said = [word if word != "JOB" else IDS[backend] for word in words]
        status, told = run("cloud", *said, "--backend", backend, *place)
        hint = {"vertex": "gcloud auth application-default login", "hf": "hf auth login"}
        if problem in ("unreachable", "silent"):
            assert "cannot be reached" in told
            hint = {"vertex": "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", "hf": "HF_ENDPOINT"}
        assert status == (3 if problem in ("unreachable", "silent") else 2), told
        assert hint[backend] in told

    def test_fake_refuses_what_is_not_published(self, google_cloud, monkeypatch):
        """The proof of the proof: an unknown field, a wrong type and an unknown parameter are 400."""
        for body, query in [
            ({"displayName": "a", "jobSpec": {"workerPools": []}}, {}),
            ({"displayName": "a", "jobSpec": {"scheduling": {"timeout": 7200}}}, {}),
            ({"displayName": "a", "jobSpec": {"scheduling": {"strategy": "CHEAP"}}}, {}),
            ({"displayName": "a"}, {}),
            ({"displayName": "a", "jobSpec": {}}, {"dryRun": "true"}),
        ]:
            with pytest.raises(ServiceError, match="HTTP 400"):
                Google().call(
                    "aiplatform", "POST", f"v1/{LONG_ID.rpartition('/')[0]}", "trying", body, **query
                )


UPLOAD = "hf upload user/csv data/raw/here.csv arxiv.csv --repo-type dataset"
DATA, SECRET = ("bucket", "data/arxiv.csv"), "projects/papers/secrets/wandb/versions/3"
QUOTA = "custom_model_training_nvidia_l4_gpus"


def refuse(method: str, status: int, *words: str) -> Callable[..., None]:
    """A fault: a method refuses once."""
    refusal = Refused(status, *(words or ("no",)), service="aiplatform.googleapis.com")
    return lambda cloud, _: cloud.refusals.update({method: [refusal]})


# What is wrong, the line of the report, and what its next line says.
FAULTS = [
    (lambda c, _: c.services_off.add("logging.googleapis.com"), "FAIL    APIs: off: logging", "services ena"),
    (lambda c, _: c.permissions_off.add("aiplatform.customJobs.create"), "FAIL    permissions", "add-iam"),
    (lambda c, _: c.permissions_off.add("storage.objects.create"), "FAIL    output", "storage.objectUser"),
    (lambda c, _: c.permissions_off.add("logging.logEntries.list"),
     "FAIL    permissions", "roles/logging.viewer"),
    (lambda c, _: c.permissions_off.add("artifactregistry.repositories.downloadArtifacts"),
     "FAIL    permissions", "roles/artifactregistry.reader"),
    (lambda c, _: c.objects.clear(), "FAIL    data: gs://bucket/data/arxiv.csv is not there", "storage cp"),
    (lambda c, _: c.objects.update({DATA: b"x" * len(c.objects[DATA])}), "FAIL    data", "storage cp"),
    (lambda c, _: c.quota.update({QUOTA: {"us-central1": 0}}),
     f"FAIL    quota: aiplatform.googleapis.com/{QUOTA} in us-central1 is 0, the job needs 1", "iam-admin"),
    (lambda c, _: c.quota.clear(), "unknown quota", "iam-admin/quotas"),
    (lambda c, _: c.secrets.update({SECRET: ("DISABLED", b"")}), "FAIL    secret", "versions add wandb"),
    (lambda c, _: c.secrets.clear(), "FAIL    secret WANDB_API_KEY", "look at"),
    (lambda _, r: setattr(r, "platforms", ("arm64",)), "FAIL    image", "push-images"),
    (lambda _, r: setattr(r, "status", 404), "FAIL    image", "push-images"),
    (refuse("buckets.testIamPermissions", 403), "FAIL    output", "iam"),
    (refuse("services.batchGet", 503), "unknown APIs", ""),
    (refuse("services.batchGet", 403), "unknown APIs", "roles/serviceusage.serviceUsageViewer"),
    (refuse("projects.locations.services.quotaInfos.list", 403), "unknown quota", "roles/cloudquotas.viewer"),
    (refuse("projects.locations.services.quotaInfos.list", 403, "off", "SERVICE_DISABLED"),
     "unknown quota", "gcloud services enable"),
    (refuse("projects.secrets.versions.get", 403), "unknown secret", "roles/secretmanager.viewer"),
    (refuse("objects.get", 403), "FAIL    data", "roles/storage.objectUser"),
    (refuse("projects.locations.customJobs.list", 403, "off", "SERVICE_DISABLED"),
     "FAIL    project, region", "gcloud services enable aiplatform.googleapis.com --project papers"),
]  # fmt: skip


class TestPreflight:
    """Each check with its verdict and what corrects it; nothing is changed."""

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_all_well(self, services, write_cloud_recipe, run, backend):
        """Only reads are sent; the secret is named, and its value neither read nor shown."""
        status, told = run("cloud", "preflight", write_cloud_recipe(backend), "--backend", backend)
        lines = told.splitlines()
        assert status == 0
        assert all(line.startswith("ok ") for line in lines), told
        assert len(lines) == {"vertex": 10, "hf": 8}[backend]
        assert any("secret WANDB_API_KEY" in line for line in lines)
        if backend == "vertex":
            reads = {"projects.testIamPermissions", "buckets.testIamPermissions"}
            called = set(services["vertex"].methods())
            assert not called & {"projects.locations.customJobs.create", "projects.secrets.versions.access"}
            assert all(m in reads or m.endswith((".get", ".list", ".batchGet")) for m in called)
        else:
            assert all(
                path.startswith("GET ") or path.endswith(f"paths-info/{COMMIT}")
                for path, _ in services["hf"].requests
            )

    @pytest.mark.parametrize(("fault", "line", "fix"), FAULTS)
    def test_faults_of_vertex(self, services, registry, write_cloud_recipe, run, fault, line, fix):
        """Each is one line, and the other checks go on."""
        fault(services["vertex"], registry)
        status, told = run("cloud", "preflight", write_cloud_recipe("vertex"), "--backend", "vertex")
        lines = told.splitlines()
        (found,) = [n for n, text in enumerate(lines) if text.startswith(line)]
        assert fix.lower() in lines[min(found + 1, len(lines) - 1)].lower()
        assert status == int(line.startswith("FAIL"))
        assert sum(text.startswith("ok ") for text in lines) == 9

    @pytest.mark.parametrize(
        ("fault", "line", "fix"),
        [
            (lambda h, r: setattr(h, "role", "read"), "FAIL    namespace", "settings/tokens"),
            (lambda h, r: h.refusals.update({"/api/jobs/user": 403}), "FAIL    namespace", "right to jobs"),
            (lambda h, r: h.refusals.update({"/api/jobs/user": 429}), "unknown namespace", "wait"),
            (lambda h, r: h.buckets.clear(), "FAIL    output", "hf buckets create user/models"),
            (
                lambda h, r: h.refusals.update({"/api/datasets": 404}),
                "FAIL    data",
                "hf repos create user/csv",
            ),
            (lambda h, r: setattr(h, "csv", None), "FAIL    data", UPLOAD),
            (lambda h, r: setattr(h, "csv", b"other"), "FAIL    data", UPLOAD),
            (lambda h, r: setattr(r, "single", True), "ok      image", ""),
            (lambda h, r: setattr(r, "status", 500), "unknown image", "later"),
        ],
    )
    def test_faults_of_the_hub(self, services, registry, write_cloud_recipe, run, fault, line, fix):
        """The same."""
        fault(services["hf"], registry)
        # Here it is named otherwise than there.
        Path("data/raw/arxiv.csv").rename("data/raw/here.csv")
        recipe = write_cloud_recipe("hf", overrides=["--csv=data/raw/here.csv"])
        status, told = run("cloud", "preflight", recipe, "--backend", "hf")
        lines = told.splitlines()
        (found,) = [number for number, text in enumerate(lines) if text.startswith(line)]
        assert fix in lines[found + 1], told
        assert status == int(line.startswith("FAIL"))
        assert sum(text.startswith("ok ") for text in lines) == (8 if line.startswith("ok") else 7)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"recipe": "{here}/recipes/small.yaml"}, "name them relative to this one"),
            ({"recipe": "recipes/2nd.yaml"}, "is no name for a job"),
            ({"overrides": [f"--release.dataset={HUB_TOKEN}"]}, "name it under `secrets`"),
            ({"overrides": ["--csv", "data/raw/none.csv"]}, "make data"),
        ],
    )
    def test_what_submit_refuses(self, services, write_cloud_recipe, run, changes, told):
        """A recipe with which `submit` would end is no good one; another key of `csv` counts as well."""
        shutil.copy("recipes/small.yaml", "recipes/2nd.yaml") if "2nd" in str(changes) else None
        changes = {
            key: value.format(here=Path.cwd()) if key == "recipe" else value for key, value in changes.items()
        }
        status, said = run("cloud", "preflight", write_cloud_recipe("hf", **changes), "--backend", "hf")
        assert (status, said.startswith("FAIL    recipe")) == (1, True)
        assert told in "".join(said.splitlines()[:2])
        assert HUB_TOKEN not in said

    @pytest.mark.parametrize(
        ("overrides", "line"),
        [
            ([], "ok      recipe: recipes/small.yaml, arxiv_cls/train.py; its trainer group was not checked"),
            (["--model.max_length=7"], "FAIL    recipe: recipes/small.yaml: 1 problem"),
        ],
    )
    def test_without_transformers(self, services, write_cloud_recipe, run, monkeypatch, overrides, line):
        """`arxiv_cls[cloud]` alone checks and submits what is trained by another machine."""
        monkeypatch.setitem(sys.modules, "transformers", None)
        monkeypatch.delitem(sys.modules, "arxiv_cls.training.arguments", raising=False)
        overrides = ["--learning_rate=1e-5", *overrides]
        recipe = write_cloud_recipe("vertex", program="arxiv_cls/train.py", overrides=overrides)
        Path("recipes/small.yaml").write_text("data: {csv: data/raw/arxiv.csv}")
        status, told = run("cloud", "preflight", recipe, "--backend", "vertex")
        assert (status, told.startswith(line)) == (int(line.startswith("FAIL")), True), told
        status, told = run("cloud", "submit", recipe, "--backend", "vertex")
        assert (status, len(services["vertex"].jobs)) == ((2, 0) if line.startswith("FAIL") else (0, 1)), told

    @pytest.mark.parametrize(
        ("realm", "sent"),
        [
            ("https://us-central1-docker.pkg.dev/v2/token", ("oauth2accesstoken", "access-token")),
            ("https://gcr.io/v2/token", ("oauth2accesstoken", "access-token")),
            ("https://evilgcr.io/v2/token", None),
            ("https://us-docker.pkg.dev.example/v2/token", None),
            ("http://us-docker.pkg.dev/v2/token", None),
        ],
    )
    def test_who_gets_the_token(self, google_cloud, monkeypatch, realm, sent):
        """A registry names where its tokens come from; Google's credentials go to Google's own only."""
        asked = []

        def get(url, headers, timeout, follow_redirects, **arguments):
            asked.append((url, arguments))
            challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
            return httpx2.Response(401, headers=challenge, content=b"{}")

        monkeypatch.setattr(httpx2, "get", get)
        with pytest.raises(UserError, match="HTTP 401"):
            find_image("us-central1-docker.pkg.dev/papers/arxiv-cls/train:1", Google())
        assert [arguments["auth"] for url, arguments in asked if url == realm] == [sent]
        assert len(asked) == 3

    @pytest.mark.parametrize(("backend", "expired"), [("vertex", False), ("vertex", True), ("hf", False)])
    def test_no_credentials_and_a_wrong_recipe(
        self, services, write_cloud_recipe, run, monkeypatch, backend, expired
    ):
        """What can be checked without an account is, and the rest is named."""
        nobody(monkeypatch)
        if expired:
            monkeypatch.setattr(google.auth, "default", lambda scopes: (Credentials(None), "papers"))
        recipe = write_cloud_recipe(backend, overrides=["--trainer.sed=7"])
        status, told = run("cloud", "preflight", recipe, "--backend", backend)
        assert status == 1
        assert "FAIL    recipe" in told
        assert "did you mean seed?" in told
        assert "FAIL    credentials" in told
        assert "unknown everything else" in told

    @pytest.mark.parametrize(
        ("accelerator", "spot", "metric"),
        [
            (None, False, "cpus"),
            ("NVIDIA_TESLA_T4", False, "nvidia_t4_gpus"),
            ("NVIDIA_L4", True, "preemptible_nvidia_l4_gpus"),
            ("NVIDIA_A100_80GB", False, "nvidia_a100_80gb_gpus"),
            ("NVIDIA_H100_80GB", True, "preemptible_nvidia_h100_gpus"),
        ],
    )
    def test_quota_metrics(self, accelerator, spot, metric):
        """Google's own names for them."""
        assert quota_metric(accelerator, spot) == f"aiplatform.googleapis.com/custom_model_training_{metric}"


class TestDownload:
    """`cloud download`: whole and checked, or not at all."""

    @pytest.fixture
    def bucket(self, services, submitted, tmp_path, monkeypatch, sample_csv) -> Path:
        """A model of the submitted job, where its output is reached as a folder."""
        submitted("vertex")
        services["vertex"].states = ["JOB_STATE_SUCCEEDED"]
        folder = make_model_dir(tmp_path / "bucket/models/first/model", "tfidf")
        run_json = json.loads((folder / "run.json").read_text())
        change_json(
            folder / "run.json",
            recipe="small",
            started="2026-01-02T03:04:05+00:00",
            data=run_json["data"] | {"sha256": file_sha256(sample_csv)},
        )
        record_again(folder)
        mark(folder)
        import fsspec

        def as_folder(address: str, **_: object):
            return fsspec.filesystem("file"), address.replace("gs://", f"{tmp_path}/")

        monkeypatch.setattr(machine, "file_system", as_folder)
        return folder

    def test_whole(self, bucket, run):
        """The folder is as it was; a second download does not overwrite it."""
        status, told = run("cloud", "download", LONG_ID, "--backend", "vertex")
        assert (status, told) == (0, "outputs/first\n")
        there = {path.relative_to(bucket): path.read_bytes() for path in bucket.rglob("*") if path.is_file()}
        here = {
            p.relative_to("outputs/first"): p.read_bytes()
            for p in Path("outputs/first").rglob("*")
            if p.is_file()
        }
        there.pop(Path("complete.json"))
        assert here == there
        assert "--to DIR" in run("cloud", "download", LONG_ID, "--backend", "vertex")[1]

    @pytest.mark.slow
    def test_a_bucket(self, bucket, run, monkeypatch):
        """gs:// itself, on an emulator of Google's storage."""
        import gcsfs
        from gcp_storage_emulator.server import create_server

        port = free_port()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(machine, "file_system", file_system)
        emulator = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
        emulator.start()
        try:
            gcsfs.GCSFileSystem.clear_instance_cache()
            empty = run("cloud", "download", LONG_ID, "--backend", "vertex")
            gcsfs.GCSFileSystem().put(f"{bucket}/", "bucket/models/first/model/", recursive=True)
            whole = run("cloud", "download", LONG_ID, "--backend", "vertex")
        finally:
            emulator.stop()
        assert "there is no whole model" in empty[1]
        # The emulator writes of closed connections too.
        assert (whole[0], whole[1].splitlines()[0]) == (0, "outputs/first")

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            (lambda f: (f / "model.skops").write_bytes(b"other"), "not as it was written: model.skops"),
            (lambda f: mark(f, "model.skops", b"other"), "not as it was written: model.skops"),
            (lambda f: (f / "complete.json").unlink(), "there is no whole model"),
            (lambda f: (f / "config.json").unlink(), "there is no whole model"),
            (lambda f: mark(f, "notes.txt", b"x"), "no model directory has: notes.txt"),
            (lambda f: change_json(f / "complete.json", files={"../../escape": "0"}), "leads out"),
            (lambda f: (change_json(f / "run.json", data={"sha256": "0"}), mark(record_again(f))), "other"),
            (lambda f: (change_json(f / "run.json", started="2026-01-02T03:04:04Z"), mark(record_again(f))),
             "earlier job: small"),
            (lambda f: (change_json(f / "run.json", recipe="other"), mark(record_again(f))), "job: other"),
        ],
    )  # fmt: skip
    def test_faults(self, bucket, run, fault, told):
        """Nothing is left of what is not whole."""
        fault(bucket)
        status, said = run("cloud", "download", LONG_ID, "--backend", "vertex")
        assert status == 2
        assert told in said
        assert not list(Path("outputs").glob("*"))

    def test_too_early(self, services, submitted, run):
        """A running job's model is not whole."""
        submitted("hf")
        services["hf"].stages = ["RUNNING"]
        status, told = run("cloud", "download", SHORT_ID, "--backend", "hf")
        assert status == 2
        assert "is running" in told


def mark(folder: Path, name: str = "", content: bytes = b"") -> None:
    """What the training writes last beside a model; first another content for one of its files."""
    if name:
        (folder / name).write_bytes(content)
    (folder / "complete.json").unlink(missing_ok=True)
    files = {p.relative_to(folder).as_posix(): file_sha256(p) for p in folder.rglob("*") if p.is_file()}
    (folder / "complete.json").write_text(json.dumps({"files": files}))


class TestMachine:
    """`run-job`, which a job's machine starts."""

    def test_other_data(self, submitted, tmp_path):
        """Data that was changed after the job was submitted ends it."""
        spec = json.loads(submitted("vertex").to_json())
        changed = tmp_path / "changed.csv"
        changed.write_bytes(b"other")
        with pytest.raises(UserError, match="not the data"):
            machine.run_on_machine({SPEC_VARIABLE: json.dumps(spec | {"data": str(changed), "secrets": {}})})

    def test_no_job(self):
        """A person who runs it by hand is told what it is."""
        with pytest.raises(UserError, match=SPEC_VARIABLE):
            machine.run_on_machine({})

    def test_what_is_started(self, submitted, sample_csv, monkeypatch):
        """One process is the training itself, with the secrets in its environment; several get a launcher."""
        started = []
        monkeypatch.setattr("os.execvpe", lambda *words: started.append(words) or sys.exit(0))
        spec = json.loads(submitted("vertex").to_json()) | {"data": str(sample_csv)}
        with pytest.raises(SystemExit):
            machine.run_on_machine({SPEC_VARIABLE: json.dumps(spec)})
        _, words, environment = started.pop()
        assert words[1:] == [str(ROOT / "arxiv_cls/train_tfidf.py"), "recipes/small.yaml", "--trainer.seed=7"]
        assert environment["WANDB_API_KEY"] == CANARY
        several = spec | {"processes": 4, "program": "arxiv_cls/train.py"}
        with pytest.raises(SystemExit):
            machine.run_on_machine({SPEC_VARIABLE: json.dumps(several)})
        words = started.pop()[1]
        assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
        assert words[6:9] == ["recipes/small.yaml", "--resume", "--overwrite"]

    @pytest.mark.slow
    def test_a_training(self, submitted, sample_csv, tmp_path, monkeypatch):
        """The recipe runs as it would here, its record names the same data, and no file or line a secret."""
        spec = json.loads(submitted("hf").to_json()) | {"data": str(sample_csv), "processes": 1}
        environment = {**os.environ, SPEC_VARIABLE: json.dumps(spec), "TMPDIR": str(tmp_path)}
        environment |= {"PYTHONPATH": str(ROOT), "A_SECRET_OF_THE_JOB": CANARY}
        words = [sys.executable, "-m", "arxiv_cls.cli", "cloud", "run-job"]
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr[-2000:]
        (record,) = tmp_path.glob("arxiv-cls-*/outputs/small/run.json")
        written = [path for path in record.parents[2].rglob("*") if path.is_file()]
        assert any(path.name == "train.log" for path in written)
        assert not [path for path in written if CANARY.encode() in path.read_bytes()]
        assert CANARY not in ended.stdout + ended.stderr
        assert json.loads(record.read_text())["data"]["sha256"] == file_sha256(sample_csv)
