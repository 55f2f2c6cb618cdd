"""The application in this process: readiness, refusals, platforms' routes, switches of logging and CORS."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from factories import write_onnx_model
from local_servers import TOKEN
from pydantic import TypeAdapter, ValidationError
from starlette.testclient import TestClient

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import text_problem
from arxiv_cls.serving import schemas, settings
from arxiv_cls.serving.app import create_app, without_paths
from arxiv_cls.serving.endpoint import load_model
from arxiv_cls.serving.server import _listen
from arxiv_cls.serving.settings import ServingSettings


def client(model: Path, load=load_model, wait: bool = True, **options) -> TestClient:
    """The application with its lifespan, once its model is loaded."""
    app = create_app(ServingSettings(model=str(model), threads=1, **options), load)
    opened = TestClient(app, raise_server_exceptions=False)
    opened.__enter__()
    while wait and opened.get("/health").status_code == 503:
        assert app.state.endpoint.failure is None
        time.sleep(0.01)
    return opened


@pytest.fixture(scope="module")
def plain(models_dir):
    """The application as it is by default."""
    opened = client(models_dir / "tiny")
    yield opened
    opened.__exit__(None, None, None)


def test_multi_label(tmp_path):
    """By hand: sigmoids of the logits, the labels at or above their thresholds, perhaps none."""
    thresholds = [0.99, 0.9, 0.8, 0.6, 0.6]
    opened = client(write_onnx_model(tmp_path / "several", thresholds=thresholds))
    sigmoid = {logit: 1 / (1 + math.exp(-logit)) for logit in (0, 2, 4)}
    texts = ["vision learning", "planning"]
    several, none = opened.post("/predict", json={"instances": texts}).json()["predictions"]
    assert several["probabilities"] == pytest.approx([sigmoid[logit] for logit in (0, 0, 2, 2, 0)])
    assert several["prediction_set"] == ["cs.CV", "cs.LG"]
    assert (none["prediction_set"], none["confidence"]) == ([], pytest.approx(sigmoid[4]))
    assert list(none["thresholds"].values()) == thresholds
    assert opened.get("/info").json()["thresholds"] == none["thresholds"]
    for function, status in (("sigmoid", 200), ("softmax", 422)):
        body = {"inputs": texts[1], "parameters": {"function_to_apply": function}}
        assert opened.post("/", json=body).status_code == status
    opened.__exit__(None, None, None)


@pytest.fixture
def application(models_dir):
    """Makes an application with other settings."""
    made = []

    def make(**settings):
        made.append(client(models_dir / "tiny", **settings))
        return made[-1]

    yield make
    for opened in made:
        opened.__exit__(None, None, None)


class TestReadiness:
    """The socket is open before the model is loaded, and says so."""

    def test_before_the_model(self, application):
        """503 with a time to come again from what needs the model; the rest answers."""
        go_on = threading.Event()

        def load_late(model, settings):
            assert go_on.wait(60)
            return load_model(model, settings)

        opened = application(load=load_late, wait=False)
        for reply in (
            opened.get("/health"),
            opened.get("/info"),
            opened.post("/predict", json={"text": "x"}),
            opened.post("/", json={"inputs": "x"}),
        ):
            assert (reply.status_code, reply.json()["error_type"]) == (503, "Unhealthy")
            assert reply.headers["retry-after"] == "1"
        assert opened.get("/health/live").status_code == 200
        assert opened.get("/").json()["model"] is None
        go_on.set()
        while opened.get("/health").status_code != 200:
            assert opened.app.state.endpoint.failure is None
            time.sleep(0.01)
        reply = opened.post("/predict", json={"text": "vision"}).json()
        assert reply["code"] == "cs.CV"
        assert "thresholds" not in reply

    def test_a_model_that_cannot_be_loaded(self, application):
        """Health stays 503, the failure is kept for the process to end with."""

        def fail(model, settings):
            raise UserError("no such thing")

        opened = application(load=fail, wait=False)
        while opened.app.state.endpoint.failure is None:
            time.sleep(0.01)
        assert "could not be loaded" in opened.get("/health").json()["error"]
        assert str(opened.app.state.endpoint.failure) == "no such thing"

    def test_at_the_end(self, application):
        """New requests get 503 and a closed connection; a thread that has died is neither ready nor alive."""
        opened = application()
        opened.app.state.endpoint.ending = True
        reply = opened.post("/predict", json={"text": "x"})
        assert (reply.status_code, reply.headers["connection"]) == (503, "close")
        assert opened.get("/health").status_code == 503
        opened.app.state.endpoint.ending = False
        asyncio.run(opened.app.state.endpoint.batcher.close(30))
        for address in ("/health", "/health/live"):
            reply = opened.get(address)
            assert (reply.status_code, reply.json()["error_type"]) == (503, "Unhealthy")


def test_the_socket():
    """Nagle's algorithm is off on it, as a reply is two packets; a port that is taken is said in words."""
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            _listen("127.0.0.1", port)


class TestRefusals:
    """Every error has the one shape, and no error repeats what was sent."""

    @pytest.mark.parametrize(
        ("body", "status", "expected"),
        [
            ({"text": "x", "inputs": "x"}, 422, "exactly one of"),
            ({"text": "x", "title": "x", "abstract": "x"}, 422, "exactly one of"),
            ({}, 422, "exactly one of"),
            ([], 422, "exactly one of"),
            ({"title": "x"}, 422, "abstract: Field required"),
            ({"text": "x", "top_k": 0}, 422, "top_k"),
            ({"text": "x", "top_k": True}, 422, "top_k"),
            ({"inputs": "x", "truncate": 1}, 422, "truncate"),
            ({"text": "x", "topk": 1}, 422, "topk: Extra inputs"),
            ({"text": 5}, 422, "text: Input should be a valid string"),
            ({"text": " \n"}, 400, "text: the text is empty"),
            ({"text": "\u200b\u2060\ufeff\x00\x1c"}, 400, "text: the text is empty"),
            ({"title": "x", "abstract": ""}, 400, "abstract: the text is empty"),
            ({"inputs": [["x"], [" "]]}, 400, "inputs.1.0: the text is empty"),
            ({"instances": [{"text": ""}]}, 400, "the text is empty"),
            ({"inputs": ""}, 400, "inputs: the text is empty"),
            ({"inputs": ["a", "b", "c"]}, 422, "at most 2 items"),
            ({"inputs": "x", "raw_scores": True}, 422, "raw_scores: Input should be False"),
            ({"inputs": []}, 422, "at least 1 item"),
            ({"text": "x" * 50_001}, 422, "50001 characters; at most 50000"),
            ({"instances": ["x"] * 65}, 422, "65 texts in one request; at most 64"),
            (b"", 422, ""),
            (b"{", 422, "not JSON"),
            (b"NaN", 422, "not JSON"),
            (b"\xff\xfe", 422, "not JSON"),
            (b"[" * 100_000, 422, "not JSON"),
            (b'{"text": "a \\ud800 b"}', 422, "characters that are not UTF-8"),
            (b'{"text": "a \\udc00"}', 422, "characters that are not UTF-8"),
            (b'{"text": "caf\xe9"}', 422, "characters that are not UTF-8"),
            ({"text": "x" * 3_000_000}, 413, "larger than"),
        ],
    )
    def test_bodies(self, plain, body, status, expected):
        """With the place and the reason."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = plain.post("/predict", content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code == status
        assert set(reply.json()) == {"error", "error_type"}
        assert expected in reply.json()["error"]
        assert reply.json()["error_type"] == ("Empty" if status == 400 else "Validation")

    def test_what_is_empty(self):
        """What the commands and the handler say too, for each character of the basic plane."""
        texts = TypeAdapter(list[schemas.NotBlank])
        characters = [chr(number) for number in range(0xFFFF) if not 0xD800 <= number <= 0xDFFF]
        texts.validate_python([one for one in characters if not text_problem(one)])
        blank = [one for one in characters if text_problem(one)]
        with pytest.raises(ValidationError) as refused:
            texts.validate_python(blank)
        assert refused.value.error_count() == len(blank) > 60

    def test_another_content_type(self, plain):
        """The error names the header, which curl users forget."""
        reply = plain.post("/predict", content=b'{"text": "x"}', headers={"Content-Type": "text/plain"})
        assert reply.status_code == 422
        assert "Content-Type: application/json" in reply.json()["error"]

    @pytest.mark.parametrize(
        ("path", "status", "kind"),
        [
            ("/nothing", 404, "NotFound"),
            ("/monitoring", 404, "NotFound"),
            ("/predict", 405, "MethodNotAllowed"),
        ],
    )
    def test_addresses(self, plain, path, status, kind):
        """What is not there, and what is not done there."""
        reply = plain.get(path)
        assert (reply.status_code, reply.json()["error_type"]) == (status, kind)

    def test_the_unexpected(self, application, monkeypatch, caplog):
        """500 without what the exception says; the log has its traceback, and a line with the reply's id."""
        opened = application()

        def fail(encoded, top_k=None):
            raise RuntimeError("holds the private text")

        monkeypatch.setattr(opened.app.state.endpoint.model.predictor, "predict_encoded", fail)
        with caplog.at_level(logging.INFO, "arxiv_cls.serving"):
            reply = opened.post("/predict", json={"text": "x"}, headers={"X-Request-Id": "mine-1"})
        assert (reply.status_code, reply.json()["error_type"]) == (500, "Backend")
        assert reply.headers["x-request-id"] == "mine-1"
        (line,) = [record for record in caplog.records if record.getMessage() == "request"]
        assert (line.status, line.request_id) == (500, "mine-1")
        assert "private" not in reply.text
        assert any(record.exc_info for record in caplog.records)

    def test_a_model_that_gives_no_number(self, application, monkeypatch):
        """500 with a reason of its own, counted, for that text only; the request log gets no line of it."""
        opened = application()
        predictor = opened.app.state.endpoint.model.predictor
        scores = predictor._encoded_proba

        def some_nan(encoded):
            rows = scores(encoded)
            rows[[item.text == "damaged" for item in encoded]] = math.nan
            return rows

        monkeypatch.setattr(predictor, "_encoded_proba", some_nan)
        reply = opened.post("/predict", json={"instances": ["vision", "damaged"]})
        assert (reply.status_code, reply.json()["error_type"]) == (500, "Backend")
        assert "text 2: the model gives no number for it" in reply.json()["error"]
        assert opened.post("/predict", json={"text": "vision"}).status_code == 200
        text = opened.get("/metrics").text
        assert 'arxiv_cls_refused_total{reason="no_number"} 1.0' in text
        assert 'arxiv_cls_predictions_total{answered_by="onnx",label="cs.CV"} 1.0' in text

    @pytest.mark.parametrize("top_k", [2, 2.0])
    def test_a_whole_number(self, plain, top_k):
        """JSON has one kind of number."""
        assert len(plain.post("/predict", json={"text": "x", "top_k": top_k}).json()["top_k"]) == 2


class TestOverload:
    """A full queue, and a client that hangs up."""

    @pytest.fixture
    def held(self, application, monkeypatch):
        """An application with one place in its queue whose model waits: (client, computing, go_on)."""
        opened = application(max_queue=1)
        predictor = opened.app.state.endpoint.model.predictor
        computing, go_on = threading.Event(), threading.Event()
        predict = predictor.predict_encoded

        def slow(encoded, top_k=None):
            computing.set()
            assert go_on.wait(60)
            return predict(encoded)

        monkeypatch.setattr(predictor, "predict_encoded", slow)
        yield opened, computing, go_on
        go_on.set()

    def test_full(self, held):
        """429 with Retry-After, counted."""
        opened, computing, go_on = held
        with ThreadPoolExecutor(1) as client:
            first = client.submit(opened.post, "/predict", json={"text": "vision"})
            assert computing.wait(60)
            refused = opened.post("/", json={"inputs": "vision"})
            go_on.set()
        assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert first.result().json()["code"] == "cs.CV"
        assert 'arxiv_cls_refused_total{reason="queue_full"} 1.0' in opened.get("/metrics").text

    def test_a_client_that_hangs_up_frees_its_place(self, held):
        """While its text is still in the queue; the reply that nobody reads is 499."""
        opened, _, go_on = held
        messages = iter(
            [
                {"type": "http.request", "body": b'{"text": "vision"}', "more_body": False},
                {"type": "http.disconnect"},
            ]
        )
        sent = []

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict"}
        scope |= {"headers": headers, "query_string": b"", "http_version": "1.1", "scheme": "http"}
        asyncio.run(asyncio.wait_for(opened.app(scope, receive, send), 60))
        assert sent[0]["status"] == 499
        assert opened.app.state.endpoint.batcher.depth == 0
        go_on.set()
        assert opened.post("/predict", json={"text": "vision"}).status_code == 200


class TestSettings:
    """What is off unless it is asked for."""

    def test_routes_of_vertex(self, application):
        """The health route and the prediction route that Vertex AI names, in its own schema only."""
        opened = application(predict_route="/v1/predict-it", health_route="/v1/health-it")
        assert opened.get("/v1/health-it").status_code == 200
        reply = opened.post("/v1/predict-it", json={"instances": ["vision"]})
        assert reply.json()["predictions"][0]["code"] == "cs.CV"
        assert opened.post("/v1/predict-it", json={"text": "vision"}).status_code == 422
        assert opened.post("/predict", json={"text": "vision"}).status_code == 200

    def test_no_route_takes_the_place_of_another(self, plain):
        """Whatever the application answers itself is refused as an address of Vertex AI's."""
        paths = plain.get("/openapi.json").json()["paths"]
        posts, gets = ({path for path in paths if method in paths[path]} for method in ("post", "get"))
        assert set(settings.POST_ROUTES) == posts - {"/predict"}
        # The page and the document itself are not in the document.
        assert set(settings.GET_ROUTES) == gets - {"/health"} | {"/docs", "/openapi.json"}

    @pytest.mark.parametrize("prefix", ["", "/papers"])
    def test_behind_a_prefix(self, application, prefix):
        """A proxy may strip its prefix or not; links and document name it, metrics and log do not."""
        opened = application(root_path="/papers/")
        links = opened.get(f"{prefix}/").json()["links"]
        assert (links["predict"], links["hugging_face"]) == ("POST /papers/predict", "POST /papers/")
        assert opened.get(links["health"]).status_code == 200
        assert opened.post(f"{prefix}/predict", json={"text": "vision"}).json()["code"] == "cs.CV"
        assert opened.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/papers"}]
        reply = opened.post(f"{prefix}/predict/", json={"text": "vision"}, follow_redirects=False)
        assert reply.headers["location"].endswith("/papers/predict")
        text = opened.get(f"{prefix}/metrics").text
        assert 'handler="/predict",method="POST",status="200"} 1.0' in text
        assert opened.get("/papersx/health").status_code == 404

    def test_no_token(self, plain):
        """A server without a token switches for nobody, not even for an empty one."""
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}"}):
            reply = plain.post("/load", json={"model": "turned"}, headers=headers)
            assert reply.status_code == 403
            assert "ARXIV_CLS_TOKEN" in reply.json()["error"]

    def test_cross_origin(self, application, plain):
        """Only the origins that were named, and none by default."""
        asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        opened = application(cors_origins=("https://a.example",))
        allowed = opened.options("/predict", headers=asked).headers
        assert allowed["access-control-allow-origin"] == "https://a.example"
        for client_of in (opened, plain):
            other = client_of.get("/health", headers={"Origin": "https://b.example"}).headers
            assert "access-control-allow-origin" not in other
        assert plain.options("/predict", headers=asked).status_code == 405

    def test_texts_in_the_log(self, application, plain, caplog):
        """Only when asked."""
        with caplog.at_level(logging.INFO, "arxiv_cls.serving"):
            plain.post("/predict", json={"text": "first finding"})
            assert "finding" not in json.dumps([vars(record) for record in caplog.records], default=str)
            application(log_texts=True).post("/predict", json={"text": "second finding"})
        contents = [record.content for record in caplog.records if hasattr(record, "content")]
        assert contents == [["second finding"]]


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ("Load model from /srv/models/x/onnx/model.onnx failed", "Load model from model.onnx failed"),
        ("[Errno 13] Permission denied: '/root/.cache/a b/c'", "[Errno 13] Permission denied: 'a b/c'"),
        ("/a/my models/x/config.json: not JSON", "x/config.json: not JSON"),
        ("https://huggingface.co/user/name answers 404", "https://huggingface.co/user/name answers 404"),
        ("user/name: onnx/model.onnx is missing, 3/4", "user/name: onnx/model.onnx is missing, 3/4"),
    ],
)
def test_without_paths(message, left):
    """Of an absolute path the file's name is left; addresses, Hub ids and relative paths stay."""
    assert without_paths(message, Path("/a/my models")) == left


def test_where_the_models_lie_is_hidden(application, monkeypatch, tmp_path):
    """A relative models directory is hidden like an absolute one, wherever the error comes from."""
    write_onnx_model(tmp_path / "my models" / "broken")
    (tmp_path / "my models" / "broken" / "onnx" / "model.onnx").write_bytes(b"no model")
    monkeypatch.chdir(tmp_path)
    opened = application(models_dir="my models", token=TOKEN)
    reply = opened.post("/load", json={"model": "broken"}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert reply.status_code == 424
    assert "broken" in reply.json()["error"]
    assert not [part for part in tmp_path.parts[1:] if part in reply.json()["error"]]
