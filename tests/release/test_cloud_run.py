"""Deployment to Cloud Run: the real client against its REST calls on loopback."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from factories import write_onnx_model
from local_servers import LocalCloudRun, Server, free_port, start_process

from arxiv_cls.cli import main
from arxiv_cls.cloud import google_api
from arxiv_cls.errors import UserError

IMAGE = "us-central1-docker.pkg.dev/papers/arxiv-cls/serve:1"
ENDPOINT_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN"
PATH = "projects/papers/locations/us-central1/services/arxiv-cls"
DEPLOY = ["deploy", "user/name@v1.2.0", "--image", IMAGE]
PLACES = ["--log", "gs://papers-logs/requests", "--out", "gs://papers-logs/monitoring"]
MONITOR = ["deploy-monitor", "user/name@v1.2.0", "--image", IMAGE, *PLACES]
SECRET = "projects/papers/secrets/token"
BAD_NAMES = ["Papers", "1papers", "papers-", "p" * 50, "a/b"]


@pytest.fixture
def cloud(tmp_path, monkeypatch) -> Iterator[LocalCloudRun]:
    """Cloud Run on loopback, with a made-up account signed in."""
    with LocalCloudRun() as server:
        monkeypatch.setenv(ENDPOINT_VARIABLE, server.url)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(server.credentials(tmp_path / "key.json")))
        monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
        monkeypatch.delenv("GCLOUD_PROJECT", raising=False)
        monkeypatch.setattr(google_api, "POLL_SECONDS", 0.01)
        yield server


@pytest.fixture
def address(capsys) -> Callable[..., str]:
    """Runs a command and returns the one line that it prints."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        main(list(arguments))
        return capsys.readouterr().out.strip()

    return run


class TestDeploy:
    """`arxiv-cls deploy` declares the whole service in one request."""

    def test_the_service_has_the_project_s_size(self, cloud, address):
        """2 CPUs, 2 GiB, port 8000, 0 to 10 instances; the probe waits four minutes for the model."""
        assert address(*DEPLOY) == "https://arxiv-cls.example"
        template = cloud.services[PATH]["template"]
        (container,) = template["containers"]
        assert container["image"] == IMAGE
        assert container["args"] == ["user/name@v1.2.0"]
        assert container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
        assert [port["containerPort"] for port in container["ports"]] == [8000]
        assert template["scaling"]["maxInstanceCount"] == 10
        assert template["scaling"].get("minInstanceCount", 0) == 0
        probe = container["startupProbe"]
        assert (probe["httpGet"]["path"], probe["httpGet"]["port"]) == ("/health", 8000)
        assert probe["periodSeconds"] * probe["failureThreshold"] == 240
        assert probe["timeoutSeconds"] < probe["periodSeconds"]

    def test_deploying_again_replaces(self, cloud, address):
        """The second deployment is the whole truth: nothing of the first one is left."""
        address(*DEPLOY, "--env", "A=1=2", "--public", "--serve-args=--engine int8 --cascade 'my dir'")
        first = cloud.services[PATH]
        assert first["template"]["containers"][0]["args"][1:] == ["--engine", "int8", "--cascade", "my dir"]
        assert first["template"]["containers"][0]["env"] == [{"name": "A", "value": "1=2"}]
        assert first["invokerIamDisabled"] is True
        address("deploy", "user/name@v1.1.0", "--image", IMAGE)
        second = cloud.services[PATH]
        assert second["template"]["containers"][0]["args"] == ["user/name@v1.1.0"]
        assert not second["template"]["containers"][0].get("env")
        assert not second.get("invokerIamDisabled")

    def test_a_log_keeps_the_processor_on(self, cloud, address):
        """The bucket is a variable of the service, which runs as the account; without a log the CPU idles."""
        account = ["--service-account", "endpoint@papers.example"]
        address(*DEPLOY, *account, *PLACES[:2])
        template = cloud.services[PATH]["template"]
        (container,) = template["containers"]
        assert container["env"] == [{"name": "ARXIV_CLS_REQUEST_LOG", "value": "gs://papers-logs/requests"}]
        assert not container["resources"].get("cpuIdle")
        assert template["serviceAccount"] == "endpoint@papers.example"
        address(*DEPLOY)
        template = cloud.services[PATH]["template"]
        assert template["containers"][0]["resources"]["cpuIdle"] is True
        assert not template.get("serviceAccount")

    def test_the_monitoring_service(self, cloud, address):
        """Exactly one instance, its CPU on, its results in the bucket; nobody calls it without a token."""
        words = [*MONITOR, "--monitor-args=--every 6h", "--secret", f"ARXIV_CLS_TOKEN={SECRET}/versions/3"]
        assert address(*words) == "https://arxiv-cls-monitor.example"
        (service,) = cloud.services.values()
        (container,) = service["template"]["containers"]
        assert container["args"] == ["user/name@v1.2.0", *PLACES, "--every", "6h"]
        reference = {"secretKeyRef": {"secret": SECRET, "version": "3"}}
        assert container["env"] == [{"name": "ARXIV_CLS_TOKEN", "valueSource": reference}]
        assert container["ports"][0]["containerPort"] == container["startupProbe"]["httpGet"]["port"] == 8001
        assert not container["resources"].get("cpuIdle")
        assert service["template"]["scaling"] == {"minInstanceCount": 1, "maxInstanceCount": 1}
        assert not service.get("invokerIamDisabled")

    def test_place_is_the_caller_s(self, cloud, address):
        """--project, --region and --service name another service, which `api-url` finds there."""
        place = ["--project", "other", "--region", "europe-west1", "--service", "papers-2"]
        with pytest.raises(UserError, match=r"there is none.*\n.*make deploy"):
            main(["api-url", *place])
        assert address(*DEPLOY, *place) == "https://papers-2.example"
        assert list(cloud.services) == ["projects/other/locations/europe-west1/services/papers-2"]
        assert address("api-url", *place) == "https://papers-2.example"

    def test_a_revision_that_does_not_start_is_an_error(self, cloud):
        """Cloud Run's own reason is told, and where the log is."""
        cloud.failure = "The container failed to listen on PORT=8000"
        with pytest.raises(UserError, match="failed to listen") as caught:
            main(DEPLOY)
        assert "logs read arxiv-cls --project papers" in caught.value.hint


class TestTraffic:
    """A canary, `arxiv-cls cloud promote` and `rollback`."""

    def shares(self, cloud: LocalCloudRun) -> dict[str, int]:
        """Percent of the traffic by revision; what is the latest that is ready is named so."""
        return {one.get("revision", "latest"): one["percent"] for one in cloud.services[PATH]["traffic"]}

    @pytest.mark.parametrize(
        ("command", "kept", "traffic"),
        [
            ("promote", "arxiv-cls-00002", {"latest": 100}),
            ("rollback", "arxiv-cls-00001", {"arxiv-cls-00001": 100}),
        ],
    )
    def test_a_canary(self, cloud, address, command, kept, traffic):
        """The first revision keeps the rest; moving the traffic makes no revision and changes no template."""
        address(*DEPLOY)
        assert address(*DEPLOY, "--traffic", "10") == "https://arxiv-cls.example"
        assert self.shares(cloud) == {"latest": 10, "arxiv-cls-00001": 90}
        template = cloud.services[PATH]["template"]
        assert address("cloud", command, "arxiv-cls") == f"{kept} gets all traffic"
        assert self.shares(cloud) == traffic
        assert cloud.services[PATH]["template"] == template
        assert len(cloud.revisions[PATH]) == 2

    def test_rollback_without_a_canary(self, cloud, address):
        """To the revision before, over one that never started; a deployment afterwards takes all again."""
        address(*DEPLOY)
        cloud.failure = "no"
        with pytest.raises(UserError, match="does not start"):
            main([*DEPLOY, "--traffic", "5"])
        with pytest.raises(UserError, match="arxiv-cls-00001 gets all traffic"):
            main(["cloud", "promote", "arxiv-cls"])
        cloud.failure = None
        address(*DEPLOY)
        # A newer revision that never started is no reason to refuse: the service's condition tells of it.
        cloud.failure = "no"
        with pytest.raises(UserError, match="does not start"):
            main(DEPLOY)
        assert address("cloud", "rollback", "arxiv-cls") == "arxiv-cls-00001 gets all traffic"
        with pytest.raises(UserError, match="has no other version"):
            main(["cloud", "rollback", "arxiv-cls"])
        cloud.failure = None
        address(*DEPLOY, "--traffic", "30")
        assert self.shares(cloud) == {"latest": 30, "arxiv-cls-00001": 70}
        address(*DEPLOY)
        assert not cloud.services[PATH].get("traffic")

    def test_nothing_to_split(self, cloud):
        """A canary needs a version that takes the rest: one that is there, and one that started."""
        with pytest.raises(UserError, match="keeps 90% of the traffic: there is none"):
            main([*DEPLOY, "--traffic", "10"])
        cloud.failure = "no"
        with pytest.raises(UserError, match="does not start"):
            main(DEPLOY)
        with pytest.raises(UserError, match="runs no version yet"):
            main([*DEPLOY, "--traffic", "10"])


@pytest.mark.slow
@pytest.mark.parametrize("away", [0.0, 2.0])
def test_sigterm_loses_no_line(cloud, address, tmp_path, monkeypatch, away):
    """What `deploy` declares, stopped under traffic as Cloud Run does: each answer's line is in the bucket.

    It has ten seconds; in the second run the bucket cannot be reached for the first two.
    """
    from gcp_storage_emulator.server import create_server
    from google.cloud import storage

    address(*DEPLOY, *PLACES[:2])
    (container,) = cloud.services[PATH]["template"]["containers"]
    port = free_port()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    bucket = create_server("127.0.0.1", port, in_memory=True, default_bucket="papers-logs")
    variables = {one["name"]: one["value"] for one in container["env"]}
    write_onnx_model(tmp_path / "tiny")
    options = [*container["args"][1:], "--threads", 1]
    server = start_process(tmp_path / "tiny", *options, output=tmp_path / "output.txt", env=variables)
    try:
        if not away:
            bucket.start()
        server.wait_until_ready()
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(_answered, server, f"client-{number}") for number in range(8)]
            time.sleep(3)
            before = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            if away:
                time.sleep(away)
                bucket.start()
            assert server.process.wait(30) == 0
            seconds = time.monotonic() - before
            answered = {one for client in clients for one in client.result()}
        blobs = list(storage.Client().list_blobs("papers-logs", prefix="requests/"))
        lines = [json.loads(line) for blob in blobs for line in blob.download_as_text().splitlines()]
    finally:
        server.process.kill()
        bucket.stop()
    print(f"{len(answered)} answers, {len(lines)} lines, ended {seconds:.1f} s after SIGTERM")
    assert len(answered) > 100
    assert {line["request_id"] for line in lines} == answered
    assert len(lines) == len(answered)
    assert seconds < 10


def _answered(server: Server, name: str) -> list[str]:
    """Asks until the server ends; the ids of the requests that it answered."""
    answered = []
    with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
        for number in range(100_000):
            request_id = f"{name}-{number}"
            status, _, _ = server.call("/predict", {"text": "graph vision"}, {"X-Request-Id": request_id})
            if status == 200:
                answered.append(request_id)
    return answered


class TestErrors:
    """Nobody reads a traceback."""

    @pytest.mark.parametrize(
        ("status", "words", "exit_code"),
        [
            (403, "Cloud Run Admin", 2),
            (401, "Cloud Run Admin", 2),
            (400, "because", 2),
            (500, "run the command again later", 3),
        ],
    )
    def test_refusals(self, cloud, status, words, exit_code):
        """A refusal carries Google's reason; a broken server is told apart by its status."""
        cloud.refuse = (status, "because")
        with pytest.raises(UserError) as caught:
            main(DEPLOY)
        assert "because" in str(caught.value)
        assert words in str(caught.value)
        assert caught.value.exit_code == exit_code

    def test_no_credentials(self, tmp_path, monkeypatch):
        """A machine that is signed in nowhere is told how to sign in; nothing is asked of the network."""
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        with pytest.raises(UserError, match="no credentials") as caught:
            main(DEPLOY)
        assert "gcloud auth application-default login" in caught.value.hint

    def test_unreachable(self, cloud, monkeypatch):
        """No server at the address: status 3."""
        monkeypatch.setenv(ENDPOINT_VARIABLE, "http://127.0.0.1:9")
        with pytest.raises(UserError, match="cannot be reached") as caught:
            main(["api-url"])
        assert caught.value.exit_code == 3

    def test_library_is_an_extra(self, monkeypatch):
        """Without google-auth the extra is named."""
        monkeypatch.setitem(sys.modules, "google.auth", None)
        with pytest.raises(UserError, match="not installed") as caught:
            main(["api-url"])
        assert "arxiv_cls[deploy]" in caught.value.hint

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["deploy", "name", "--image", IMAGE], "not a repository id"),
            (["deploy", "user/name@latest", "--image", IMAGE], "not a version"),
            (["deploy", "tests", "--image", IMAGE], "cannot see.*\n.*make push-model MODEL=tests"),
            ([*DEPLOY, "--env", "NAME"], "not a variable"),
            ([*DEPLOY, "--env", "=value"], "not a variable"),
            ([*DEPLOY, "--env", "a b=1"], "not a variable"),
            ([*DEPLOY, "--env", "ARXIV_CLS_TOKEN=t"], "--env ARXIV_CLS_TOKEN: .*\n.*--secret"),
            ([*MONITOR, "--env", "ARXIV_CLS_MONITOR_WEBHOOK=https://x.example"], "WEBHOOK: .*\n.*--secret"),
            ([*MONITOR, "--secret", "ARXIV_CLS_TOKEN=t"], "--secret: not a variable and the version"),
            (
                [*DEPLOY, "--backend", "hf-endpoint", "--secret", f"A={SECRET}/versions/1"],
                "--secret: its var",
            ),
            ([*DEPLOY, "--log", "requests"], "not in a bucket"),
            ([*MONITOR, "--out", "/app/monitoring"], "not in a bucket"),
            (DEPLOY[:2], "needs an image"),
            ([*DEPLOY, "--machine", "e2-standard-2"], "2 CPUs"),
            ([*DEPLOY, "--serve-args=--request-log gs://b/c"], "--log"),
            ([*DEPLOY, "--env", "ARXIV_CLS_REQUEST_LOG=gs://b"], "--log"),
            *(([*DEPLOY, "--service", name], "no name for a service") for name in BAD_NAMES),
        ],
    )
    def test_bad_input(self, cloud, monkeypatch, words, told):
        """A model is a repository's id, also with a version, no directory; names, variables are checked."""
        monkeypatch.chdir(Path(__file__).resolve().parents[2])
        with pytest.raises(UserError, match=told):
            main(words)
        assert not cloud.services
