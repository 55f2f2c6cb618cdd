"""Clients that exist get right answers from the real server process, each in its own schema."""

from __future__ import annotations

import json
import math
import time

import pytest
from factories import LABELS, SURE
from local_servers import TOKEN


class TestOwnSchema:
    """`text`, or `title` and `abstract`."""

    def test_text(self, server):
        """Every field, against the softmax worked out by hand."""
        status, reply, headers = server.call("/predict", {"text": "Vision", "top_k": 2})
        assert status == 200
        other = (1 - SURE) / 4
        assert reply["predicted_class"] == 2
        assert reply["predicted_class_name"] == reply["code"] == "cs.CV"
        assert reply["name"] == "Computer Vision and Pattern Recognition"
        assert reply["confidence"] == pytest.approx(SURE, abs=1e-6)
        assert reply["probabilities"] == pytest.approx([other, other, SURE, other, other], abs=1e-6)
        assert list(reply["class_probabilities"]) == LABELS
        assert reply["class_probabilities"]["cs.CV"] == reply["confidence"]
        assert [one["label"] for one in reply["top_k"]] == ["cs.CV", "cs.AI"]
        assert reply["top_k"][0]["name"] == reply["name"]
        assert (reply["prediction_set"], reply["in_scope"]) == (["cs.CV"], True)
        assert reply["scope_score"] == pytest.approx(1 / (1 + math.exp(-2)))
        assert (reply["truncated"], reply["answered_by"], reply["model"]) == (False, "onnx", "tiny")
        assert len(reply["model_version"]) == 12
        assert headers["x-request-id"]

    def test_paper(self, server):
        """Title and abstract are one text; all labels come when no number is named."""
        reply = server.call("/predict", {"title": "language", "abstract": "vision vision"})[1]
        assert (reply["code"], len(reply["top_k"])) == ("cs.CV", 5)
        logits = [0, 4 / 3, 8 / 3, 0, 0]
        assert reply["confidence"] == pytest.approx(math.exp(8 / 3) / sum(map(math.exp, logits)), abs=1e-6)

    def test_long_and_out_of_scope(self, server):
        """What lies beyond the model's length does not count, and is told; so are words of no category."""
        reply = server.call("/predict", {"text": "bayes " * 32 + "vision " * 99})[1]
        assert (reply["truncated"], reply["code"]) == (True, "stat.ML")
        assert server.call("/predict", {"text": "frogs in ponds"})[1]["in_scope"] is False


def test_inference_client(server):
    """Hugging Face's official client reads labels and scores, and passes its top_k on."""
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=server.url)
    answer = client.text_classification("language")
    assert (answer[0].label, len(answer)) == ("cs.CL", 5)
    assert answer[0].score == pytest.approx(SURE, abs=1e-6)
    assert len(client.text_classification("language", top_k=2, function_to_apply="softmax")) == 2


def labels_in(reply):
    """A reply with each score replaced by its label."""
    if isinstance(reply, list):
        return [labels_in(one) for one in reply]
    return labels_in(reply["predictions"]) if "predictions" in reply else reply.get("code") or reply["label"]


def ranked(*first: str) -> list[str]:
    """All labels: the named ones, then the rest, whose scores are equal, in the model's order."""
    return [*first, *(label for label in LABELS if label not in first)]


VISION, BAYES, LANGUAGE = ranked("cs.CV"), ranked("stat.ML"), ranked("cs.CL")


@pytest.mark.parametrize(
    ("path", "body", "labels"),
    [
        ("/predict", {"inputs": "vision"}, VISION),
        ("/predict", {"inputs": "vision", "truncate": False}, VISION),
        ("/predict", {"inputs": ["language", "vision vision"]}, ranked("cs.CV", "cs.CL")),
        ("/predict", {"inputs": [["vision"], ["language", "x"]], "truncate": True}, [VISION, LANGUAGE]),
        ("/predict", {"instances": ["vision", {"text": "bayes"}, {"title": "language", "abstract": "x"}]},
         ["cs.CV", "stat.ML", "cs.CL"]),
        ("/", {"inputs": "vision"}, [VISION]),
        ("/", {"inputs": ["vision", "bayes"], "options": {"use_cache": False}}, [VISION, BAYES]),
        ("/", {"inputs": ["vision", "bayes"], "parameters": {"top_k": 1}}, [VISION[:1], BAYES[:1]]),
    ],
)  # fmt: skip
def test_shapes(server, path, body, labels):
    """Text Embeddings Inference: one text or a pair flat, a batch nested; Hugging Face nested; Vertex AI."""
    status, reply, _ = server.call(path, body)
    assert (status, labels_in(reply)) == (200, labels)


def test_parameters_of_vertex(server):
    """The number of labels of each answer."""
    reply = server.call("/predict", {"instances": ["vision", "bayes"], "parameters": {"top_k": 2}})[1]
    assert [labels_in(one["top_k"]) for one in reply["predictions"]] == [VISION[:2], BAYES[:2]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"inputs": [["vision"], ["word " * 40]], "truncate": False}),
        ("/", {"inputs": ["vision", "word " * 40], "parameters": {"truncation": False}}),
    ],
)
def test_truncation_can_be_refused(server, path, body):
    """422 for a text that would be cut."""
    status, reply, _ = server.call(path, body)
    assert (status, reply["error_type"]) == (422, "Validation")
    assert "text 2 is longer" in reply["error"]


class TestOperators:
    """What the person who runs it asks for."""

    def test_info(self, server):
        """The model with its data, and the limits."""
        info = server.call("/info")[1]
        assert (info["model_id"], info["engine"], info["kind"]) == ("tiny", "onnx", "transformer")
        labels = info["model_type"]["classifier"]
        assert (labels["id2label"]["2"], labels["label2id"]["cs.CV"]) == ("cs.CV", 2)
        assert info["data"]["csv"] == "tiny.csv"
        assert info["test_metrics"] == {"accuracy": 0.5}
        assert info["max_input_length"] == info["limits"]["max_tokens"] == 32

    def test_metrics(self, server):
        """Predictions, batches, statuses and the model, in Prometheus' format."""
        server.call("/predict", {"text": "vision"})
        text = server.call("/metrics")[1]
        assert 'arxiv_cls_predictions_total{answered_by="onnx",label="cs.CV"}' in text
        assert 'http_requests_total{handler="/predict",method="POST",status="200"}' in text
        assert 'arxiv_cls_model_info{engine="onnx",model="tiny"' in text
        assert "arxiv_cls_batch_texts_bucket" in text

    def test_docs_need_no_other_server(self, server):
        """The page names no other host, and its policy allows none."""
        status, page, headers = server.call("/docs")
        assert status == 200
        assert "http://" not in page
        assert "https://" not in page
        assert "default-src 'none'" in headers["content-security-policy"]

    def test_logs(self, server, request_log_dir):
        """A line per text in the request log and one per request in the server's; no text, no token."""
        body = {"inputs": [["secret vision"], ["secret bayes"]]}
        server.call("/predict", body, {"X-Request-Id": "log-me"})
        end = time.monotonic() + 60
        scored: list[dict] = []
        asked: list[dict] = []
        # Both are written when the reply has gone out.
        while (len(scored) < 2 or not asked) and time.monotonic() < end:
            content = "".join(path.read_text() for path in sorted(request_log_dir.iterdir()))
            lines = [json.loads(line) for line in content.splitlines() if line.endswith("}")]
            scored = [line for line in lines if line["request_id"] == "log-me"]
            asked = [line for line in server.log_lines() if line.get("request_id") == "log-me"]
            time.sleep(0.05)
        assert [(line["label"], line["words"], line["schema"]) for line in scored] == [
            ("cs.CV", 2, "inputs"),
            ("stat.ML", 2, "inputs"),
        ]
        assert (asked[0]["status"], asked[0]["schema"], asked[0]["texts"]) == (200, "inputs", 2)
        assert "secret" not in content + server.output.read_text()
        assert TOKEN not in server.output.read_text()
