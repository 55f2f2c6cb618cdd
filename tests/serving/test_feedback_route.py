"""POST /feedback appends what `arxiv-cls monitor feedback` reads; GET /monitoring shows the newest report."""

from __future__ import annotations

import asyncio
import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from local_servers import TOKEN, lines_in, storage_emulator
from starlette.testclient import TestClient

from arxiv_cls.monitoring.feedback import read_labels
from arxiv_cls.serving import monitoring
from arxiv_cls.serving.app import create_app
from arxiv_cls.serving.request_log import LogFiles
from arxiv_cls.serving.settings import ServingSettings

ALLOWED = {"Authorization": f"Bearer {TOKEN}"}


def label(number: int = 0, *categories: str) -> dict:
    return {"request_id": f"r{number}", "index": number, "categories": categories or ["cs.CL"]}


@pytest.fixture
def open_client(models_dir):
    """The application with these settings; its model is never asked."""
    opened = []

    def make(**options) -> TestClient:
        settings = ServingSettings(model=str(models_dir / "tiny"), threads=1, token=TOKEN, **options)
        opened.append(TestClient(create_app(settings), raise_server_exceptions=False))
        return opened[-1].__enter__()

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def test_labels_are_read_again(open_client, tmp_path):
    """64 labels in one request; all are on the disk when it is answered."""
    client = open_client(feedback_log=str(tmp_path))
    sent = [label(number, "cs.CL", "stat.ML") for number in range(64)]
    for _ in range(2):
        reply = client.post("/feedback", json={"labels": sent}, headers=ALLOWED)
        assert (reply.status_code, reply.json()) == (200, {"written": 64})
    assert len(lines_in(tmp_path, "feedback-")) == 128
    labels, counts, _ = read_labels(str(tmp_path))
    assert labels == {(f"r{number}", number): ("cs.CL", "stat.ML") for number in range(64)}
    assert (counts["rows"], counts["repeated"], counts["bad"]) == (128, 64, 0)
    assert "arxiv_cls_feedback_total 128.0" in client.get("/metrics").text


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"labels": [label()]}, {}, 401),
        ({"labels": [label()]}, {"Authorization": "Bearer wrong"}, 401),
        ({"labels": [label()] * 65}, ALLOWED, 422),
        ({"labels": []}, ALLOWED, 422),
        ({"labels": [{"request_id": "r", "category": "cs.CL"}]}, ALLOWED, 422),
        ({"labels": [label() | {"categories": ["a\nb"]}]}, ALLOWED, 422),
        ({"labels": [label() | {"index": True}]}, ALLOWED, 422),
        ({"labels": [label()], "more": "x" * 3_000_000}, ALLOWED, 413),
        ([], ALLOWED, 422),
    ],
)
def test_refused(open_client, tmp_path, body, headers, status):
    """As the other routes refuse: token, size, schema; nothing is written."""
    reply = open_client(feedback_log=str(tmp_path)).post("/feedback", json=body, headers=headers)
    assert (reply.status_code, set(reply.json())) == (status, {"error", "error_type"})
    assert lines_in(tmp_path, "feedback-") == []


def test_off(open_client):
    """Without a place for labels, and without a report, each says what to start the server with."""
    client = open_client()
    reply = client.post("/feedback", json={"labels": [label()]}, headers=ALLOWED)
    assert (reply.status_code, "--feedback-log" in reply.json()["error"]) == (403, True)
    reply = client.get("/monitoring")
    assert (reply.status_code, "monitor serve" in reply.json()["error"]) == (404, True)


def test_a_full_disk_and_a_crowd(open_client, tmp_path, monkeypatch):
    """503 for what was not written, 429 for more than may wait; later labels are taken again."""
    client = open_client(feedback_log=str(tmp_path))

    def full(self, lines: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(LogFiles, "write", full)
        assert client.post("/feedback", json={"labels": [label()]}, headers=ALLOWED).status_code == 503
    waiting = client.app.state.endpoint.monitoring._waiting
    for _ in range(monitoring.MAX_WAITING):
        waiting.acquire()
    reply = client.post("/feedback", json={"labels": [label()]}, headers=ALLOWED)
    assert (reply.status_code, "retry-after" in reply.headers) == (429, True)
    for _ in range(monitoring.MAX_WAITING):
        waiting.release()
    assert client.post("/feedback", json={"labels": [label()]}, headers=ALLOWED).status_code == 200


def test_report(open_client, tmp_path):
    """The page as it is, which may load nothing; 404 before there is one."""
    client = open_client(monitoring=str(tmp_path))
    assert client.get("/monitoring").status_code == 404
    (tmp_path / "report.html").write_text("<!DOCTYPE html>\n<p>drift")
    reply = client.get("/monitoring")
    assert (reply.text, reply.headers["content-type"]) == (
        "<!DOCTYPE html>\n<p>drift", "text/html; charset=utf-8",
    )  # fmt: skip
    assert "default-src 'none'" in reply.headers["content-security-policy"]


def test_a_slow_bucket(open_client, models_dir, tmp_path, monkeypatch):
    """Labels that wait for it delay neither the report nor, at the end, the request log."""
    monkeypatch.setattr(monitoring.Objects, "read", lambda self, name: b"<p>drift")
    client, found = open_client(monitoring="gs://logs/out"), []
    with client.app.state.endpoint.monitoring._lock:
        asking = threading.Thread(target=lambda: found.append(client.get("/monitoring").text))
        asking.start()
        asking.join(30)
        assert found == ["<p>drift"]

    async def stop() -> None:
        settings = ServingSettings(model=str(models_dir / "tiny"), request_log=str(tmp_path))
        endpoint, go_on = create_app(settings).state.endpoint, threading.Event()
        endpoint.start()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        labels = asyncio.create_task(asyncio.to_thread(go_on.wait, 60))
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(endpoint.stop(), 30)
        finally:
            go_on.set()
        await labels

    asyncio.run(stop())


@pytest.mark.slow
def test_bucket(open_client, monkeypatch):
    """Labels are an object once they are acknowledged, which the other client reads; so is the report."""
    from google.cloud import storage

    with storage_emulator(monkeypatch):
        client = open_client(feedback_log="gs://logs/labels", monitoring="gs://logs/out")
        reply = client.post("/feedback", json={"labels": [label(7)]}, headers=ALLOWED)
        assert reply.status_code == 200, reply.text
        assert read_labels("gs://logs/labels")[0] == {("r7", 7): ("cs.CL",)}
        assert client.get("/monitoring").status_code == 404
        storage.Client().bucket("logs").blob("out/report.html").upload_from_string("<p>drift")
        assert client.get("/monitoring").text == "<p>drift"
    assert client.post("/feedback", json={"labels": [label(8)]}, headers=ALLOWED).status_code == 503
