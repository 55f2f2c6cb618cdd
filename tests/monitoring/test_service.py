"""`arxiv-cls monitor serve`: routes, schedule, results that outlive it, alerts; `make monitor` starts it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import threading
import time
from datetime import timedelta

import pytest
from fuzzing import fuzz
from local_servers import TOKEN, Webhook, start_process, storage_emulator
from monitoring.conftest import LABELS, START, VERSION, Traffic, lines_of
from starlette.testclient import TestClient

from arxiv_cls.errors import UserError
from arxiv_cls.monitoring import alerts, service
from arxiv_cls.monitoring.service import create_app
from arxiv_cls.monitoring.settings import MonitorSettings

ALLOWED = {"Authorization": f"Bearer {TOKEN}"}
OPERATIONS = {
    "GET /", "GET /health", "GET /health/live", "GET /metrics", "GET /drift/report", "GET /drift/history",
    "POST /drift/run",
}  # fmt: skip


def shifted(number: int) -> list[str]:
    """A window out of scope, later than those before."""
    start = START + timedelta(hours=number)
    return lines_of(Traffic(300, 90 + number, outside=0.5), start=start, request=f"shifted{number}-")


def quiet(number: int) -> list[str]:
    """A window like the reference."""
    start = START + timedelta(hours=number)
    return lines_of(Traffic(300, 30 + number), start=start, request=f"quiet{number}-")


@pytest.fixture
def open_monitor(released, tmp_path):
    """The service on a model, its log and the folder `out`; its first run starts at once."""
    opened = []

    def make(**options) -> TestClient:
        given = {"model": str(released), "log": str(tmp_path / "log"), "out": str(tmp_path / "out")}
        settings = MonitorSettings(**given | {"since": "2026-01-01", "token": TOKEN} | options)
        opened.append(TestClient(create_app(settings), raise_server_exceptions=False))
        return opened[-1].__enter__()

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def wait_for(condition) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def state_of(client: TestClient) -> str:
    return "".join(re.findall(r'monitor_state\{state="(\w+)"\} 1\.0', client.get("/metrics").text))


def run_now(client: TestClient) -> dict:
    """The reply to a run on request, once the schedule's own has ended."""
    wait_for(lambda: not client.app.state.endpoint.running)
    reply = client.post("/drift/run", headers=ALLOWED)
    assert reply.status_code == 200, reply.text
    return reply.json()


class TestRoutes:
    """What people, Prometheus and probes ask for."""

    def test_from_the_first_run_to_a_restart(self, open_monitor, write_log, tmp_path):
        """The schedule's first run makes all of it; after a restart it is there without another one."""
        write_log(quiet(1))
        client = open_monitor()
        assert client.get("/health").json()["status"] in ("waiting", "ready")
        wait_for(lambda: state_of(client) == "ok")
        assert client.get("/").json()["status"] == "ok"
        health = client.get("/health").json()
        assert (health["reference"], health["log"], health["report_age_seconds"] < 60) == (True, True, True)
        page = client.get("/drift/report")
        assert page.text == (tmp_path / "out/report.html").read_text()
        assert "default-src 'none'" in page.headers["content-security-policy"]
        (window,) = client.get("/drift/history").json()["windows"]
        assert (window["verdict"], window["distinct"]) == ("ok", 300)
        told = client.get("/metrics").text
        group = f'{{answered_by="baseline",model_version="{VERSION}"}}'
        for line in (
            f"arxiv_cls_monitor_distinct_rows{group} 300.0",
            f"arxiv_cls_monitor_consecutive_windows{group} 0.0",
            f"arxiv_cls_monitor_p{group} {window['p']}",
            f"arxiv_cls_monitor_estimated_accuracy_low{group} {window['accuracy']['low']}",
            f"arxiv_cls_monitor_released_accuracy{group} {window['accuracy']['released']}",
            f"arxiv_cls_monitor_out_of_scope_share{group} {window['out_of_scope']}",
            'arxiv_cls_monitor_dropped_rows{reason="repeated"} 0.0',
            "arxiv_cls_monitor_interval_seconds 3600.0",
            'arxiv_cls_monitor_runs_total{outcome="finished"} 1.0',
        ):
            assert line in told, line
        client.__exit__(None, None, None)
        again = open_monitor()
        assert (state_of(again), again.get("/drift/report").text) == ("ok", page.text)
        assert 'arxiv_cls_monitor_runs_total{outcome="finished"} 0.0' in again.get("/metrics").text

    def test_run_on_request(self, open_monitor, write_log, monkeypatch, tmp_path):
        """A summary with the token; 401 without, 403 without a token of its own, 409 during a run.

        A second service on one directory does not start.
        """
        write_log(quiet(1))
        client = open_monitor()
        reply = run_now(client)
        assert (reply["verdict"], reply["rows_read"], reply["alert"]) == ("ok", 300, False)
        assert client.post("/drift/run").status_code == 401
        with pytest.raises(UserError, match="out: another monitoring service writes there"):
            open_monitor()
        tokenless = open_monitor(token=None, out=str(tmp_path / "other"))
        assert tokenless.post("/drift/run", headers=ALLOWED).status_code == 403
        go_on, check = threading.Event(), service.check.check_drift
        monkeypatch.setattr(service.check, "check_drift", lambda *a, **k: go_on.wait(30) and check(*a, **k))
        waiting = threading.Thread(target=run_now, args=(client,))
        waiting.start()
        wait_for(lambda: client.app.state.endpoint.running)
        refused = client.post("/drift/run", headers=ALLOWED)
        assert (refused.status_code, refused.json()["error"]) == (409, "a run is under way")
        assert client.get("/health").json()["running"]
        go_on.set()
        waiting.join(30)

    def test_without_a_log_or_a_reference(self, open_monitor, write_log, released):
        """Each is said, where it is asked and in /health; the next run finds what has come."""
        client = open_monitor()
        wait_for(lambda: client.get("/health").status_code == 503)
        assert client.post("/drift/run", headers=ALLOWED).status_code == 424
        assert client.get("/drift/report").status_code == client.get("/drift/history").status_code == 404
        write_log(quiet(1))
        assert run_now(client)["verdict"] == "ok"
        assert client.get("/health").status_code == 200
        (released / "monitoring/reference.parquet").unlink()
        refused = client.post("/drift/run", headers=ALLOWED)
        assert refused.status_code == 404
        assert "has no reference" in refused.json()["error"]
        # What was found before is still shown.
        assert (client.get("/health").status_code, client.get("/drift/report").status_code) == (503, 200)

    def test_schedule(self, open_monitor, write_log, monkeypatch):
        """The next run comes by itself; one that failed is tried again before its time."""
        monkeypatch.setattr(service, "SECONDS_TO_NEXT_TRY", 0.1)
        monkeypatch.setattr(MonitorSettings, "interval", 0.2)
        client = open_monitor()
        runs = client.app.state.endpoint.runs.labels
        wait_for(lambda: runs("failed")._value.get() >= 2)
        write_log(quiet(1))
        wait_for(lambda: runs("finished")._value.get() >= 2)

    def test_labels(self, open_monitor, write_log, tmp_path):
        """What the endpoint's POST /feedback has written becomes a measured accuracy."""
        write_log(quiet(1))
        write_log(lines_of(Traffic(1, 5), start=START - timedelta(days=365), request="before-since-"))
        (tmp_path / "labels").mkdir()
        with (tmp_path / "labels/feedback-1.jsonl").open("w") as file:
            requests = ["before-since-0", *(f"quiet1-{at}" for at in range(200))]
            for request, true in zip(requests, [0, *Traffic(300, 31).truth], strict=False):
                row = {"request_id": request, "index": 0, "categories": [LABELS[true]]}
                print(json.dumps(row), file=file)
        client = open_monitor(labels=str(tmp_path / "labels"))
        # A measurement stays when the labels cannot be read once.
        for _ in range(2):
            run_now(client)
            told = client.get("/metrics").text
            assert f'arxiv_cls_monitor_measured_labels{{model_version="{VERSION}"}} 200.0' in told
            assert 0.6 < float(re.search(r"measured_accuracy\{.*\} (.*)", told)[1]) < 0.9
            (tmp_path / "labels/feedback-1.jsonl").unlink(missing_ok=True)

    def test_the_schedule_ends_with_the_service(self, released, tmp_path, monkeypatch):
        """A run that falls due while the server ends is not tried, again and again."""
        settings = MonitorSettings(model=str(released), log=str(tmp_path), out=str(tmp_path / "out"))
        monitor = create_app(settings).state.endpoint
        monkeypatch.setattr(monitor, "run", lambda: pytest.fail("a run while the server ends"))
        monitor.ending = True
        asyncio.run(monitor._keep_running())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"every": "often"}, "--every often: a time such as"),
            ({"since": "lately"}, "--since lately"),
            ({"out": "s3://x"}, "--out s3://x: a directory or gs://"),
            ({"webhook": "file:///SECRET"}, "--webhook: an address"),
        ],
    )
    def test_refused_at_the_start(self, open_monitor, options, message):
        """One line, which holds no secret."""
        with pytest.raises(UserError, match=message) as refused:
            open_monitor(**options)
        assert "SECRET" not in str(refused.value)


class TestAlerts:
    """A change of state is told once, to whoever listens."""

    def test_once_and_until_it_is_taken(self, open_monitor, write_log, tmp_path, monkeypatch, caplog):
        """Tried again after refusals and a redirect, repeated by no run or restart; its end is told too."""
        monkeypatch.setattr(alerts, "FIRST_PAUSE", 0.01)
        hook = Webhook(statuses=[500, 302, 429])
        with hook.open() as url, caplog.at_level(logging.INFO, "arxiv_cls"):
            write_log(quiet(1))
            client = open_monitor(webhook=url)
            assert not run_now(client)["alert"]
            write_log(shifted(2))
            assert run_now(client)["alert"]
            wait_for(lambda: hook.taken)
            run_now(client)
            client.__exit__(None, None, None)
            client = open_monitor(webhook=url)
            assert "arxiv_cls_monitor_alert 1.0" in client.get("/metrics").text
            run_now(client)
            write_log(quiet(3))
            assert not run_now(client)["alert"]
            wait_for(lambda: len(hook.taken) == 2)
        assert [body["status"] for body in hook.taken] == ["firing", "resolved"]
        begins = hook.taken[0]
        assert "out-of-scope share" in begins["alerts"][0]["annotations"]["description"]
        assert begins["alerts"][0]["startsAt"] == hook.taken[1]["alerts"][0]["startsAt"]
        assert [message for message in caplog.messages if "alarm" in message] == [
            "drift alarm begins", "drift alarm ends",
        ]  # fmt: skip
        kept = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
        assert kept.keys() - {".lock"} == {"alert.json", "drift.json", "history.json", "report.html"}
        assert "SECRET" not in "".join(kept.values())
        assert "SECRET" not in caplog.text

    def test_what_was_not_delivered_comes_after_a_restart(self, open_monitor, write_log, tmp_path):
        """A receiver that is away loses nothing; a delivery that was not recorded comes again, same `id`."""
        write_log(shifted(1))
        client = open_monitor(webhook="http://127.0.0.1:9/x")
        assert run_now(client)["alert"]
        client.__exit__(None, None, None)
        alert, hook = tmp_path / "out/alert.json", Webhook()
        undelivered = alert.read_text()
        with hook.open() as url:
            for _ in range(2):
                alert.write_text(undelivered)
                client = open_monitor(webhook=url)
                wait_for(lambda: json.loads(alert.read_text())["delivered"])
                client.__exit__(None, None, None)
        first, second = hook.taken
        assert first == second
        assert first["id"] == f"{first['commonLabels']['model']} firing {first['alerts'][0]['startsAt']}"

    def test_another_model_begins_without_it(self, open_monitor, write_log, released, tmp_path, caplog):
        """The alarm of the version before is none of the next one, whose own is told."""
        write_log(shifted(1))
        for model in (released, shutil.copytree(released, tmp_path / "next")):
            client = open_monitor(model=str(model))
            assert run_now(client)["alert"]
            client.__exit__(None, None, None)
        assert caplog.messages.count("drift alarm begins") == 2

    def test_results_that_cannot_be_kept(self, open_monitor, write_log, monkeypatch):
        """The run fails, the alarm is told."""

        def refuse(*_: object) -> None:
            raise UserError("--out gs://logs/out: cannot be written")

        monkeypatch.setattr(service.Results, "send", refuse)
        write_log(shifted(1))
        hook = Webhook()
        with hook.open() as url:
            client = open_monitor(webhook=url)
            wait_for(lambda: hook.taken)
            wait_for(lambda: client.get("/health").status_code == 503)
        assert "arxiv_cls_monitor_alert 1.0" in client.get("/metrics").text

    def test_a_slow_bucket_delays_no_end(self):
        """The state is kept by whoever has changed it, and nobody else waits for that."""
        go_on = threading.Event()
        told = alerts.Alerts(None, lambda state: go_on.wait(30), None, None)
        record = {"model": "m", "verdict": "alarm", "action": "look", "created": "now", "groups": []}
        threads = [threading.Thread(target=told.note, args=(record,)), threading.Thread(target=told.close)]
        threads[0].start()
        wait_for(lambda: told.on)
        threads[1].start()
        threads[1].join(10)
        closed = not threads[1].is_alive()
        go_on.set()
        threads[0].join(10)
        assert closed

    def test_one_body_for_all(self):
        """Slack's `text`, Teams' card and Alertmanager's alerts, without what is private."""
        record = {"model": "m", "verdict": "alarm", "action": "look", "created": "2026-05-01T00:00:00+00:00",
                  "groups": [{"severity": "high"}]}  # fmt: skip
        body = alerts.message(record, True, record["created"])
        (attachment,), (alert,) = body["attachments"], body["alerts"]
        assert (body["text"], attachment["fallback"]) == ("Drift of m: alarm", "look")
        assert attachment["content"]["type"] == "AdaptiveCard"
        assert (body["version"], body["status"], alert["labels"]["severity"]) == ("4", "firing", "critical")


@pytest.mark.slow
def test_bucket(open_monitor, write_log, monkeypatch, tmp_path):
    """Results in gs:// are there for the next instance, which need not run for them."""
    write_log(quiet(1))
    with storage_emulator(monkeypatch):
        client = open_monitor(out="gs://logs/out")
        run_now(client)
        client.__exit__(None, None, None)
        again = open_monitor(out="gs://logs/out")
        assert (state_of(again), again.get("/drift/report").status_code) == ("ok", 200)
        assert 'runs_total{outcome="finished"} 0.0' in again.get("/metrics").text


def test_fuzz(released, write_log, tmp_path):
    """As the endpoint: no 5xx, no reply that the document does not promise; it ends when it is told to."""
    options = ("--log", write_log(quiet(1)), "--out", tmp_path / "out", "--since", "2026-01-01")
    output = tmp_path / "output.txt"
    service = start_process(released, *options, output=output, words=("monitor", "serve"))
    try:
        service.wait_until_ready()
        assert fuzz(service.url, 3) == OPERATIONS
    finally:
        status = service.stop(seconds=20)
    assert status == 0, output.read_text()
