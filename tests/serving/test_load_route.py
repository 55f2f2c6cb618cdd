"""POST /load on the real server process: who may switch, to what; the old model stays when it fails."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from factories import write_onnx_model
from local_servers import TOKEN

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def switching(start_server, tmp_path_factory):
    """A server of the model `first`, with good and bad models beside it."""
    root = tmp_path_factory.mktemp("switching")
    write_onnx_model(root / "first")
    write_onnx_model(root / "second", turned=1)
    write_onnx_model(root / "broken")
    (root / "broken" / "onnx" / "model.onnx").write_bytes(b"this is no model")
    write_onnx_model(root / "unlabelled")
    (root / "unlabelled" / "config.json").write_text("{}")
    write_onnx_model(root / "pickled")
    (root / "pickled" / "extra.bin").write_bytes(pickle.dumps(print))
    (root / "empty").mkdir()
    (root / "cut-off").mkdir()
    baseline = RELEASES / "tiny-tfidf"
    shutil.copy(baseline / "config.json", root / "cut-off")
    whole = (baseline / "model.skops").read_bytes()
    (root / "cut-off" / "model.skops").write_bytes(whole[: len(whole) // 2])
    shutil.copytree(root / "second", root.parent / f"{root.name}-outside")
    (root / "linked").symlink_to(root.parent / f"{root.name}-outside")
    server = start_server(root / "first", "--threads", 1)
    server.models = root
    return server


def answers_as(server) -> str:
    """What the server's model says of `vision`: cs.CV for `first`, cs.LG for `second`."""
    status, reply, _ = server.call("/predict", {"text": "vision"})
    assert status == 200
    return reply["code"]


class TestWho:
    """Only who has the token."""

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer "},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
        ],
    )
    def test_without_the_token(self, switching, headers):
        """401, before the body is judged."""
        for body in ({"model": "second"}, b"not even JSON"):
            status, reply, answered = switching.call("/load", body, headers)
            assert (status, reply["error_type"]) == (401, "Unauthorized")
            assert answered["www-authenticate"] == "Bearer"
        assert answers_as(switching) == "cs.CV"


class TestWhat:
    """Refused: whatever is outside, holds a pickle, or is broken; and the old model still answers."""

    @pytest.mark.parametrize(
        ("model", "status"),
        [
            ("../switching-outside", 403),
            ("..", 403),
            ("/etc", 403),
            ("linked", 403),
            ("pickled", 403),
            ("user/name", 403),
            ("missing", 404),
            ("broken", 424),
            ("empty", 424),
            ("unlabelled", 424),
            ("cut-off", 424),
            ("", 422),
        ],
    )
    def test_refused(self, switching, model, status):
        """With a status that tells which it was."""
        answered, reply, _ = switching.call("/load", {"model": model}, BEARER)
        assert answered == status, reply
        assert set(reply) == {"error", "error_type"}
        assert str(switching.models) not in reply["error"]
        assert answers_as(switching) == "cs.CV"
        assert switching.call("/health")[1]["model"] == "first"

    def test_an_absolute_path(self, switching):
        """403 also when it leads to a good model."""
        path = str(switching.models / "second")
        assert switching.call("/load", {"model": path}, BEARER)[0] == 403

    @pytest.mark.parametrize("body", [{}, {"model": 1}, {"model": "second", "x": 1}, [], b"{", b"\xff"])
    def test_bodies(self, switching, body):
        """422 for what is no request."""
        assert switching.call("/load", body, BEARER)[0] == 422


class TestSwitch:
    """A good model takes the place of the old one, and nobody notices but by the answers."""

    def test_under_load(self, switching):
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
                for name in ("second", "first") * 3:
                    status, reply, _ = switching.call("/load", {"model": name}, BEARER)
                    assert (status, reply["model"]) == (200, name)
                    # What comes after the switch is answered by the new model.
                    assert switching.call("/predict", {"text": "vision"})[1]["model"] == name
            finally:
                ended.set()
            seen = {one for client in asking for one in client.result(120)}
        assert seen == {(200, "first", "cs.CV"), (200, "second", "cs.LG")}
        assert switching.call("/info")[1] == before
        weights = (switching.models / "first" / "onnx" / "model.onnx").read_bytes()
        assert before["model_sha"] == hashlib.sha256(weights).hexdigest()

    def test_metrics(self, switching):
        """The loads are counted, and only the model that answers has a 1."""
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
