"""kill -9 of the endpoint, the service and a run, each at random moments: nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from factories import write_onnx_model
from local_servers import TOKEN, start_process
from monitoring.conftest import START, Traffic, lines_of

from arxiv_cls.monitoring.check import check_drift
from arxiv_cls.monitoring.feedback import read_labels

pytestmark = pytest.mark.slow
KILLS = 10
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}
DRAW = random.Random(12)


def kill(process: subprocess.Popen, after: float, *works: Callable[[], object]) -> None:
    """Kills a process after some seconds, in which threads ask it for something until it is gone."""

    def until_it_is_gone(work: Callable[[], object]) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                work()

    threads = [threading.Thread(target=until_it_is_gone, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    for thread in threads:
        thread.join(30)


def whole(folder) -> dict[str, bytes]:
    """The files that somebody may be served; each is whole."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    for name, content in files.items():
        if name.endswith(".json"):
            json.loads(content)
        else:
            assert content.rstrip().endswith(b"</html>"), name
    return files


def test_endpoint(tmp_path):
    """Lines that /metrics called written, and labels that were answered, are in the logs, whole."""
    model = write_onnx_model(tmp_path / "tiny")
    logs = tmp_path / "log", tmp_path / "feedback"
    written = labels = torn = 0
    for number in range(KILLS):
        options = ("--request-log", logs[0], "--feedback-log", logs[1], "--threads", 1)
        server = start_process(model, *options, output=tmp_path / "output.txt")
        server.wait_until_ready()
        answered, counted, began = [], [0], time.time()

        def send(server=server, answered=answered, number=number) -> None:
            record = {"request_id": f"{number}-{len(answered)}", "index": 0, "categories": ["cs.CL"]}
            server.call("/predict", {"inputs": [["a text"]] * 20}, timeout=5)
            if server.call("/feedback", {"labels": [record]}, ALLOWED, 5)[0] == 200:
                answered.append(record["request_id"])

        def count(server=server, counted=counted) -> None:
            told = server.call("/metrics", timeout=5)[1]
            counted[0] = float(re.search(r'request_log_records_total\{outcome="written"\} (.*)', told)[1])

        kill(server.process, DRAW.uniform(0.1, 1.5), send, count)
        content = "".join(path.read_text() for path in sorted(logs[0].glob("*.jsonl")))
        lines = content.count("\n")
        for file in logs[0].glob("*.jsonl"):
            *whole_lines, last = file.read_text().split("\n")
            assert all(map(json.loads, whole_lines))
            torn += bool(last) and file.stat().st_mtime > began
        assert lines - written >= counted[0]
        assert set(answered) <= {request for request, _ in read_labels(str(logs[1]))[0]}
        written, labels = lines, labels + len(answered)
    print(f"\nendpoint: {written} lines, {labels} labels acknowledged, none lost; {torn} torn lines")
    assert labels > KILLS


@pytest.fixture
def log(write_log):
    """Three windows like the reference, then one out of scope."""
    for number in range(3):
        write_log(lines_of(Traffic(300, 30 + number), request=f"quiet{number}-"))
    return write_log(lines_of(Traffic(300, 99, outside=0.5), start=START, request="shifted-"))


def compared(record: dict) -> dict:
    """What does not depend on the time of the run."""
    return {"verdict": record["verdict"], "groups": record["groups"], "history": record["history"]}


def test_a_run(released, log, tmp_path):
    """Every file that is there is whole, the one after it is right."""
    out = tmp_path / "out"
    words = ["monitor", "drift", str(released), "--log", str(log), "--out", str(out)]
    command = [sys.executable, "-m", "arxiv_cls.cli", *words]
    before = time.monotonic()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 3
    took, expected = time.monotonic() - before, compared(check_drift(released, str(log)))
    seen = set()
    for _ in range(KILLS):
        for path in out.iterdir():
            path.unlink()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        kill(process, DRAW.uniform(0.5, 1.05) * took)
        seen.add(tuple(sorted(whole(out))) if out.exists() else ())
    for _ in range(2):
        assert compared(check_drift(released, str(log), out=out)) == expected
        assert {"drift.json", "report.html", "history.json"} <= set(whole(out))
    print(f"\na run of {took:.1f} s, killed {KILLS} times: left {sorted(seen)}")


def test_service(released, log, tmp_path):
    """What it serves after each kill is whole, also before its next run, which is right."""
    out = tmp_path / "out"
    expected = compared(check_drift(released, str(log)))
    options = ("--log", log, "--out", out, "--since", "2026-01-01")

    def start():
        words = ("monitor", "serve")
        server = start_process(released, *options, output=tmp_path / "output.txt", words=words)
        server.wait_until_ready()
        return server

    def run(server) -> float:
        before = time.monotonic()
        while server.call("/drift/run", {}, ALLOWED)[0] == 409:
            time.sleep(0.05)
        return time.monotonic() - before

    server = start()
    run(server)
    took = run(server)
    server.stop()
    for _ in range(KILLS):
        server = start()
        assert server.call("/drift/report")[1].rstrip().endswith("</html>")
        kill(server.process, DRAW.uniform(0, 2 * took), partial(run, server))
        whole(out)
    server = start()
    run(server)
    assert server.call("/")[1]["status"] == "alarm"
    assert compared(json.loads((out / "drift.json").read_text())) == expected
    assert server.stop() == 0
    print(f"\nservice, runs of {took:.1f} s: killed {KILLS} times")
