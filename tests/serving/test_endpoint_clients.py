"""Clients that exist get right answers from the real server process, each in its own schema."""

from __future__ import annotations

import json
import math
import time

import pytest
from factories import LABELS, SURE
from local_servers import TOKEN

ABSTRACT = "vision vision"


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
        assert reply["prediction_set"] == ["cs.CV"]
        assert reply["in_scope"] is True
        assert reply["scope_score"] == pytest.approx(1 / (1 + math.exp(-2)))
        assert (reply["truncated"], reply["answered_by"]) == (False, "onnx")
        assert reply["model"] == "tiny"
        assert len(reply["model_version"]) == 12
        assert headers["x-request-id"]

    def test_paper(self, server):
        """Title and abstract are one text; all labels come when no number is named."""
        status, reply, _ = server.call("/predict", {"title": "language", "abstract": ABSTRACT})
        assert status == 200
        assert reply["code"] == "cs.CV"
        assert len(reply["top_k"]) == 5
        logits = [0, 4 / 3, 8 / 3, 0, 0]
        assert reply["confidence"] == pytest.approx(math.exp(8 / 3) / sum(map(math.exp, logits)), abs=1e-6)

    def test_a_long_text_is_cut_and_says_so(self, server):
        """What lies beyond the model's length does not count."""
        reply = server.call("/predict", {"text": "bayes " * 32 + "vision " * 99})[1]
        assert (reply["truncated"], reply["code"]) == (True, "stat.ML")
        assert reply["confidence"] == pytest.approx(SURE, abs=1e-6)

    def test_out_of_scope(self, server):
        """A text without any word of the model's categories."""
        assert server.call("/predict", {"text": "frogs in ponds"})[1]["in_scope"] is False


class TestHuggingFace:
    """Hugging Face's inference schema at POST /."""

    def test_inference_client(self, server):
        """The official client reads labels and scores, and passes its top_k on."""
        from huggingface_hub import InferenceClient

        client = InferenceClient(model=server.url)
        answer = client.text_classification("language")
        assert [one.label for one in answer][:1] == ["cs.CL"]
        assert len(answer) == 5
        assert answer[0].score == pytest.approx(SURE, abs=1e-6)
        assert len(client.text_classification("language", top_k=2, function_to_apply="softmax")) == 2

    def test_list(self, server):
        """A list of texts gives a list for each; keys of other clients change nothing."""
        body = {"inputs": ["vision", "bayes"], "parameters": {"top_k": 1}, "options": {"use_cache": False}}
        status, reply, _ = server.call("/", body)
        assert status == 200
        assert [[one["label"] for one in row] for row in reply] == [["cs.CV"], ["stat.ML"]]


class TestTextEmbeddingsInference:
    """TEI's schema at POST /predict."""

    def test_shapes(self, server):
        """One text flat, a pair is one paper, a batch nested; all labels, descending."""
        flat = server.call("/predict", {"inputs": "vision"})[1]
        assert flat[0]["label"] == "cs.CV"
        assert len(flat) == 5
        assert [one["score"] for one in flat] == sorted((one["score"] for one in flat), reverse=True)
        pair = server.call("/predict", {"inputs": ["language", ABSTRACT]})[1]
        assert pair[0]["label"] == "cs.CV"
        assert pair[0]["score"] < flat[0]["score"]
        nested = server.call(
            "/predict", {"inputs": [["vision"], ["language", "language"]], "truncate": True}
        )[1]
        assert [row[0]["label"] for row in nested] == ["cs.CV", "cs.CL"]

    def test_truncation_can_be_refused(self, server):
        """`truncate: false` is 422 for a text that would be cut, and nothing else for one that fits."""
        long = {"inputs": [["vision"], ["word " * 40]], "truncate": False}
        status, reply, _ = server.call("/predict", long)
        assert (status, reply["error_type"]) == (422, "Validation")
        assert "text 2 is longer" in reply["error"]
        assert server.call("/predict", {"inputs": "vision", "truncate": False})[0] == 200


class TestVertex:
    """Vertex AI's schema, at POST /predict and at the route that it names."""

    def test_instances(self, server):
        """Strings, texts and papers, in order."""
        body = {"instances": ["vision", {"text": "bayes"}, {"title": "language", "abstract": "learning"}]}
        status, reply, _ = server.call("/predict", body | {"parameters": {"top_k": 1}})
        assert status == 200
        assert [one["code"] for one in reply["predictions"]] == ["cs.CV", "stat.ML", "cs.CL"]
        assert [len(one["top_k"]) for one in reply["predictions"]] == [1, 1, 1]


class TestOperators:
    """What the person who runs it asks for."""

    def test_health_and_info(self, server):
        """Ready, alive, the model with its data, and the limits."""
        assert server.call("/health")[1]["model"] == "tiny"
        assert server.call("/health/live")[0] == 200
        info = server.call("/info")[1]
        assert (info["model_id"], info["engine"], info["kind"]) == ("tiny", "onnx", "transformer")
        assert info["model_type"]["classifier"]["id2label"]["2"] == "cs.CV"
        assert info["data"]["csv"] == "tiny.csv"
        assert info["test_metrics"] == {"accuracy": 0.5}
        assert info["max_input_length"] == info["limits"]["max_tokens"] == 32

    def test_monitoring(self, server):
        """404 with the reason."""
        status, reply, _ = server.call("/monitoring")
        assert status == 404
        assert "no drift reports" in reply["error"]

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

    def test_cors_is_off(self, server):
        """No page of another origin may read answers."""
        reply = server.call("/health", headers={"Origin": "https://example.org"})
        assert "access-control-allow-origin" not in {name.lower() for name in reply[2]}

    def test_request_log(self, server, request_log_dir):
        """A line per text with its features and without the text."""
        headers = {"X-Request-Id": "log-me"}
        server.call("/predict", {"inputs": [["secret vision"], ["secret bayes"]]}, headers)
        end = time.monotonic() + 60
        mine: list[dict] = []
        while len(mine) < 2 and time.monotonic() < end:
            content = "".join(path.read_text() for path in sorted(request_log_dir.iterdir()))
            lines = [json.loads(line) for line in content.splitlines() if line.endswith("}")]
            mine = [line for line in lines if line["request_id"] == "log-me"]
            time.sleep(0.05)
        assert [(line["label"], line["words"], line["schema"]) for line in mine] == [
            ("cs.CV", 2, "inputs"),
            ("stat.ML", 2, "inputs"),
        ]
        assert "secret" not in content

    def test_the_log_of_the_server(self, server):
        """A JSON line for a request, with neither its text nor the token."""
        server.call("/predict", {"text": "confidential finding"}, {"X-Request-Id": "see-me"})
        lines: list[dict] = []
        while not lines and server.process.poll() is None:
            # The line is written when the reply has gone out.
            lines = [line for line in server.log_lines() if line.get("request_id") == "see-me"]
            time.sleep(0.05)
        line = lines[0]
        assert (line["status"], line["schema"], line["texts"]) == (200, "text", 1)
        whole = server.output.read_text()
        assert "confidential" not in whole
        assert TOKEN not in whole
