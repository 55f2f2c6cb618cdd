"""POST /load on the real server process: who may switch, to what; the old model stays when it fails."""

from __future__ import annotations

import hashlib
import math
import pickle
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from factories import write_onnx_model
from local_servers import TOKEN

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"
# A model's name, the file that is damaged, and what it holds then; more of them in test_hostile_models.py.
DAMAGES = {
    "labels-in-a-list": ("config.json", '{"id2label": ["cs.CV"]}'),
    "metrics-are-a-list": ("run.json", '{"metrics": []}'),
    "no-tokenizer": ("tokenizer.json", "{}"),
    "weights-in-a-list": (
        "eval/scope.json",
        '{"schema_version": 1, "weights": ["vision"], "intercept": 0, "threshold": 0.5}',
    ),
}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def switching(start_server, tmp_path_factory):
    """A server of the model `first`, with good and bad models beside it."""
    root = tmp_path_factory.mktemp("switching")
    write_onnx_model(root / "first")
    write_onnx_model(root / "second", turned=1)
    write_onnx_model(root / "broken")
    (root / "broken" / "onnx" / "model.onnx").write_bytes(b"this is no model")
    write_onnx_model(root / "pickled")
    (root / "pickled" / "extra.bin").write_bytes(pickle.dumps(print))
    for name, (file, content) in DAMAGES.items():
        (write_onnx_model(root / name) / file).write_text(content)
    write_onnx_model(root / "no-numbers", seed=math.nan)
    write_onnx_model(root / "short", positions=16)
    (root / "empty").mkdir()
    (root / "cut-off").mkdir()
    baseline = RELEASES / "tiny-tfidf"
    shutil.copy(baseline / "config.json", root / "cut-off")
    whole = (baseline / "model.skops").read_bytes()
    (root / "cut-off" / "model.skops").write_bytes(whole[: len(whole) // 2])
    outside = shutil.copytree(root / "second", root.parent / f"{root.name}-outside")
    (root / "linked").symlink_to(outside)
    (root / "sibling").symlink_to(root / "second")
    shutil.copytree(root / "second", root / "part-linked")
    (root / "part-linked" / "notes.txt").symlink_to(outside / "config.json")
    (root / "model.pkl").write_bytes(pickle.dumps(1))
    server = start_server(root / "first", "--threads", 1)
    server.models = root
    return server


def answers_as(server) -> str:
    """What the server's model says of `vision`: cs.CV for `first`, cs.LG for `second`."""
    status, reply, _ = server.call("/predict", {"text": "vision"})
    assert status == 200
    return reply["code"]


@pytest.mark.parametrize(
    "credentials",
    [None, "Bearer wrong", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"],
)
def test_without_the_token(switching, credentials):
    """401, before the body is judged."""
    headers = {"Authorization": credentials} if credentials is not None else {}
    for body in ({"model": "second"}, b"not even JSON"):
        status, reply, answered = switching.call("/load", body, headers)
        assert (status, reply["error_type"]) == (401, "Unauthorized")
        assert answered["www-authenticate"] == "Bearer"
    assert answers_as(switching) == "cs.CV"


OUTSIDE = [
    "..", ".", "../outside", "good/../../outside", "/etc", "~", "./second", "second/", "second\\..",
    "second\0", "second\n", "linked", "model.pkl", "package:os/x", "-rf", "%2e%2e",
    "user/name",
]  # fmt: skip
BROKEN = ["broken", "empty", "cut-off", "no-numbers", "short", "pickled", "part-linked"]


@pytest.mark.parametrize(
    ("model", "status"),
    [
        *((name, 403) for name in OUTSIDE),
        ("missing", 404),
        *((name, 424) for name in (*BROKEN, *DAMAGES)),
        ("", 422),
    ],
)
def test_refused(switching, model, status):
    """Whatever is outside, holds a pickle, or is broken, by its own status; the old model still answers."""
    answered, reply, _ = switching.call("/load", {"model": model}, BEARER)
    assert answered == status, reply
    assert set(reply) == {"error", "error_type"}
    assert "/tmp" not in reply["error"]
    assert str(switching.models) not in reply["error"]
    assert answers_as(switching) == "cs.CV"
    assert switching.call("/health")[1]["model"] == "first"
    # No library writes between the JSON lines; the one other line is on standard output.
    plain = [line for line in switching.output.read_text().splitlines() if not line.startswith("{")]
    assert [line.partition(" ")[0] for line in plain] == ["Serving"]


@pytest.mark.parametrize("body", [{}, {"model": 1}, {"model": "second", "x": 1}, [], b"{", b"\xff"])
def test_bodies(switching, body):
    """422 for what is no request; 403 for an absolute path, also one that leads to a good model."""
    assert switching.call("/load", body, BEARER)[0] == 422
    assert switching.call("/load", {"model": str(switching.models / "second")}, BEARER)[0] == 403


def test_switch_under_load(switching):
    """Requests from eight clients during six switches: each is answered, by one model or the other."""
    ended = Event()

    def ask_all_the_time() -> list[tuple[int, str, str]]:
        seen = []
        while not ended.is_set():
            status, reply, _ = switching.call("/predict", {"text": "vision"})
            seen.append((status, reply.get("model"), reply.get("code")))
        return seen

    before = switching.call("/info")[1]
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask_all_the_time) for _ in range(8)]
        try:
            for name in ("second", "first") * 2 + ("sibling", "first"):
                status, reply, _ = switching.call("/load", {"model": name}, BEARER)
                assert (status, reply["model"]) == (200, name.replace("sibling", "second"))
                # What comes after the switch is answered by the new model.
                assert switching.call("/predict", {"text": "vision"})[1]["model"] == reply["model"]
        finally:
            ended.set()
        seen = {one for client in asking for one in client.result(120)}
    assert seen == {(200, "first", "cs.CV"), (200, "second", "cs.LG")}
    assert switching.call("/info")[1] == before
    weights = (switching.models / "first" / "onnx" / "model.onnx").read_bytes()
    assert before["model_sha"] == hashlib.sha256(weights).hexdigest()
    # The loads are counted, and only the model that answers has a 1.
    text = switching.call("/metrics")[1]
    assert 'arxiv_cls_model_loads_total{outcome="failed"}' in text
    assert 'model="second"' not in text


class TestFirstModel:
    """A first model that cannot be loaded ends the process with one message."""

    def test_broken(self, start_server, switching):
        """Exit status 2 and the reason; a server without a model is of no use."""
        failed = start_server(switching.models / "broken", ready=False)
        assert failed.process.wait(120) == 2
        last = failed.output.read_text().splitlines()[-2:]
        assert "error: " in last[0]
        assert "arxiv-cls export" in last[1]

    def test_the_signal_while_it_is_loaded(self, start_server, tmp_path):
        """SIGTERM ends a process whose download gets no answer, and cannot be interrupted."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            env = {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
            server = start_server("user/name", env=env, ready=False)
            asked, _ = silent.accept()
            with asked:
                assert server.stop(seconds=15) == 0
