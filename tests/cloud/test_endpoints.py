"""`arxiv-cls deploy --backend vertex-endpoint|hf-endpoint` as a user runs it, against fakes on loopback."""

from __future__ import annotations

import json

import pytest
from factories import write_onnx_model
from local_google import Refused
from local_hub_jobs import COMMIT
from local_servers import start_process

from arxiv_cls.cloud import google_api

IMAGE = "us-central1-docker.pkg.dev/papers/arxiv-cls/serve:1"
PARENT = "projects/papers/locations/us-central1"
ENDPOINT, MODEL = f"{PARENT}/endpoints/arxiv-cls", f"{PARENT}/models/arxiv-cls"
DEPLOY = ["deploy", "user/name@v1.2.0", "--image", IMAGE, "--backend", "vertex-endpoint"]
SECOND = ["deploy", "user/name@v1.3.0", *DEPLOY[2:]]
HUB = ["deploy", "user/name@v1.2.0", "--backend", "hf-endpoint"]
CANARY = "canary-0123456789abcdef"


def traffic(cloud) -> dict[str, int]:
    """Percent by release, of all that is deployed."""
    endpoint = cloud.endpoints[ENDPOINT]
    return {
        one["displayName"]: endpoint["trafficSplit"].get(one["id"], 0) for one in endpoint["deployedModels"]
    }


class TestVertex:
    """An endpoint of Vertex AI."""

    def test_the_first_and_the_second(self, google_cloud, run):
        """Model, endpoint and address have the service's name; the second is a version of the same model."""
        options = ["--serve-args=--engine int8", "--env", "A=$(B)", "--machine", "e2-standard-2"]
        account = ["--log", "gs://papers-logs/requests", "--service-account", "a@papers.example"]
        status, told = run(*DEPLOY, *options, *account)
        assert status == 0, told
        assert f"https://us-central1-aiplatform.googleapis.com/v1/{ENDPOINT}:predict\n" in told
        assert "deploying user/name@v1.2.0: 0 s" in told
        (model,) = google_cloud.models[MODEL]
        assert model["containerSpec"] == {
            "imageUri": IMAGE,
            "args": ["user/name@v1.2.0", "--engine", "int8"],
            "env": [
                {"name": "A", "value": "$$(B)"},
                {"name": "ARXIV_CLS_REQUEST_LOG", "value": "gs://papers-logs/requests"},
            ],
            "ports": [{"containerPort": 8000}],
            "predictRoute": "/predict",
            "healthRoute": "/health",
            "deploymentTimeout": "2400s",
        }
        (deployed,) = google_cloud.endpoints[ENDPOINT]["deployedModels"]
        assert deployed["model"] == f"{MODEL}@1"
        assert deployed["serviceAccount"] == "a@papers.example"
        assert deployed["dedicatedResources"]["machineSpec"] == {"machineType": "e2-standard-2"}
        assert run(*SECOND)[0] == 0
        assert [one["versionDescription"] for one in google_cloud.models[MODEL]] == [DEPLOY[1], SECOND[1]]
        assert traffic(google_cloud) == {DEPLOY[1]: 0, SECOND[1]: 100}
        # Of the versions without traffic only the last one stays, for a rollback.
        assert run("deploy", "user/name@v1.4.0", *DEPLOY[2:])[0] == 0
        assert traffic(google_cloud) == {SECOND[1]: 0, "user/name@v1.4.0": 100}

    @pytest.mark.parametrize(("command", "kept"), [("promote", SECOND[1]), ("rollback", DEPLOY[1])])
    @pytest.mark.parametrize("split", [["--traffic", "10"], []])
    def test_one_version_stays(self, google_cloud, run, command, kept, split):
        """After a canary, and after a whole deployment; the other one is not paid for any more."""
        assert run(*DEPLOY)[0] == 0
        assert run(*SECOND, *split)[0] == 0
        assert traffic(google_cloud) == (
            {DEPLOY[1]: 90, SECOND[1]: 10} if split else {DEPLOY[1]: 0, SECOND[1]: 100}
        )
        move = ["cloud", command, "arxiv-cls", "--backend", "vertex-endpoint"]
        status, told = run(*move)
        assert (status, f"{kept} gets all traffic" in told) == (0, True)
        assert traffic(google_cloud) == {kept: 100}
        status, told = run(*move)
        assert status == 2
        assert f"runs no second version, only {kept}" in told

    def test_a_container_that_does_not_start(self, google_cloud, run):
        """The traffic stays as it was; for a quota the error says where to ask for more."""
        assert run(*DEPLOY)[0] == 0
        for error, hint in (
            ({"code": 3, "message": "Model server exited unexpectedly."}, "gcloud logging read"),
            (
                {"code": 8, "message": "The following quotas are exceeded: CPUs"},
                "iam-admin/quotas?project=papers",
            ),
        ):
            google_cloud.broken = {"endpoints.deployModel": error}
            status, told = run(*SECOND, "--traffic", "10")
            assert status == 2
            assert f"deploying user/name@v1.3.0: {error['message']}" in told
            assert hint in told
        assert traffic(google_cloud) == {DEPLOY[1]: 100}

    def test_a_look_that_fails_is_repeated(self, google_cloud, run):
        """A deployment takes minutes: a broken connection, a busy server and a limit of requests pass."""
        google_cloud.refusals["projects.locations.endpoints.operations.get"] = [
            "drop", Refused(503, "busy"), Refused(429, "too many"),
        ]  # fmt: skip
        assert run(*DEPLOY)[0] == 0
        google_cloud.refusals["projects.locations.endpoints.operations.get"] = [Refused(403, "no longer")]
        status, told = run(*SECOND)
        assert (status, "no longer (HTTP 403)" in told) == (2, True)

    def test_it_takes_too_long(self, google_cloud, run, monkeypatch):
        """Status 3, and that it may still go on."""
        monkeypatch.setattr(google_api, "TIMEOUT", 0)
        status, told = run(*DEPLOY)
        assert status == 3
        assert "not finished after 0 s" in told

    @pytest.mark.parametrize(
        ("status", "hint", "code"),
        [
            (401, "have expired\n  gcloud auth application-default login", 2),
            (403, "roles/aiplatform.user", 2),
            (404, "look at the project, the region and the name", 2),
            (429, "iam-admin/quotas?project=papers", 2),
            (500, "because (HTTP 500)", 3),
        ],
    )
    def test_refusals(self, google_cloud, run, status, hint, code):
        """Google's reason and what to do next."""
        google_cloud.refusals["projects.locations.models.upload"] = [Refused(status, "because")]
        exit_code, told = run(*DEPLOY)
        assert exit_code == code
        assert told.startswith("uploading user/name@v1.2.0: ")
        assert status == 401 or f"because (HTTP {status})" in told
        assert hint in told

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([*DEPLOY, "--traffic", "10"], "runs no version that takes the rest"),
            ([*DEPLOY, "--public"], "always asks for a token"),
            ([*DEPLOY, "--env", f"ARXIV_CLS_TOKEN={CANARY}"], "shows its variables"),
            ([*DEPLOY, "--log", "gs://papers-logs/requests"], "--service-account"),
            ([*DEPLOY[:2], *DEPLOY[4:]], "needs an image"),
            ([*DEPLOY, "--service", "Papers"], "no name for a service"),
            (["cloud", "promote", "arxiv-cls", "--backend", "vertex-endpoint"], "is not found"),
        ],
    )
    def test_bad_input(self, google_cloud, run, words, told):
        """Nothing is made."""
        status, printed = run(*words)
        assert status == 2
        assert told in printed
        assert not google_cloud.models
        assert not google_cloud.endpoints

    def test_the_container_answers_as_the_service_asks(self, google_cloud, run, tmp_path):
        """What was uploaded, started with the service's variables: `instances` gives `predictions`."""
        assert run(*DEPLOY)[0] == 0
        (model,) = google_cloud.models[MODEL]
        spec = model["containerSpec"]
        write_onnx_model(tmp_path / "tiny")
        routes = {"AIP_PREDICT_ROUTE": spec["predictRoute"], "AIP_HEALTH_ROUTE": spec["healthRoute"]}
        options = [*spec["args"][1:], "--threads", 1]
        server = start_process(tmp_path / "tiny", *options, output=tmp_path / "output.txt", env=routes)
        try:
            server.wait_until_ready()
            body = {"instances": ["graph vision", {"text": "graph vision"}], "parameters": {"top_k": 1}}
            status, reply, _ = server.call(spec["predictRoute"], body)
            assert status == 200
            assert list(reply) == ["predictions"]
            assert [len(one["top_k"]) for one in reply["predictions"]] == [1, 1]
        finally:
            server.process.kill()
            server.process.wait(10)


class TestHub:
    """An Inference Endpoint of the Hub."""

    def test_an_image(self, hub_jobs, run):
        """It serves the files that the service mounts, of the release's commit; variables are secrets."""
        hub_jobs.endpoint_states = ["pending", "initializing", "running"]
        options = ["--image", IMAGE, "--serve-args=--engine int8", "--env", f"ARXIV_CLS_TOKEN={CANARY}"]
        status, told = run(*HUB, *options, "--machine", "gcp/intel-spr/x4", "--region", "us-east4")
        assert status == 0, told
        assert "https://x1.endpoints.example\n" in told
        assert told.count("deploying user/name@v1.2.0: 0 s") == 2
        body = json.loads(next(body for what, body in hub_jobs.requests if what == "POST /v2/endpoint/user"))
        assert body["model"] == {
            "repository": "user/name",
            "revision": COMMIT,
            "framework": "custom",
            "task": "text-classification",
            "image": {"custom": {"url": IMAGE, "port": 8000, "healthRoute": "/health"}},
            "args": ["/repository", "--engine", "int8"],
            "secrets": {"ARXIV_CLS_TOKEN": CANARY},
        }
        assert body["provider"] == {"vendor": "gcp", "region": "us-east4"}
        assert (body["compute"]["instanceType"], body["compute"]["instanceSize"]) == ("intel-spr", "x4")
        assert body["type"] == "authenticated"

    def test_the_handler_in_its_place(self, hub_jobs, run):
        """Without an image `handler.py` runs; what is there is updated, unless it would become public."""
        assert run(*HUB, "--image", IMAGE)[0] == 0
        assert run(*HUB)[0] == 0
        assert hub_jobs.requests[-1][0] == "PUT /v2/endpoint/user/arxiv-cls"
        model = json.loads(hub_jobs.requests[-1][1])["model"]
        assert (model["image"], model["args"], model["revision"]) == ({"huggingface": {}}, [], COMMIT)
        status, told = run(*HUB, "--public")
        assert (status, "is authenticated, not public" in told) == (2, True)

    @pytest.mark.parametrize("state", ["failed", "updateFailed", "paused"])
    def test_one_that_does_not_start(self, hub_jobs, run, state):
        """The service's reason and where its log is."""
        hub_jobs.endpoint_states = ["pending", state]
        status, told = run(*HUB)
        assert status == 2
        assert f"deploying user/name@v1.2.0: {state}: because" in told
        assert "https://endpoints.huggingface.co/user/endpoints/arxiv-cls" in told

    @pytest.mark.parametrize(
        ("start", "status", "hint", "code"),
        [
            ("/v2/endpoint", 401, "hf auth login", 2),
            ("/v2/endpoint", 403, "the right to Inference Endpoints", 2),
            ("/api/models", 404, "the model's name and version", 2),
            ("/v2/endpoint", 429, "settings/quotas", 2),
            ("/v2/endpoint", 500, "because (HTTP 500)", 3),
        ],
    )
    def test_refusals(self, hub_jobs, run, start, status, hint, code):
        """The Hub's reason and what to do next."""
        hub_jobs.refusals[start] = status
        exit_code, told = run(*HUB)
        assert exit_code == code
        assert f"(HTTP {status})" in told
        assert hint in told

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([*HUB, "--traffic", "10"], "runs one version"),
            (["cloud", "promote", "arxiv-cls", "--backend", "hf-endpoint"], "runs one version"),
            (
                ["cloud", "rollback", "arxiv-cls", "--backend", "hf-endpoint"],
                "deploy the version that you want",
            ),
            ([*HUB, "--log", "gs://papers-logs/requests"], "no account of Google Cloud"),
            ([*HUB, "--serve-args=--engine int8"], "handler.py takes none"),
            ([*HUB, "--machine", "intel-spr"], "not VENDOR/TYPE/SIZE"),
            (HUB, "has no handler.py"),
        ],
    )
    def test_bad_input(self, hub_jobs, run, words, told):
        """Nothing is made."""
        if words == HUB:
            hub_jobs.model_files = ("config.json",)
        status, printed = run(*words)
        assert status == 2
        assert told in printed
        assert not hub_jobs.endpoints
