"""`handler.py`, downloaded from the Hub as an endpoint does, answers as the pipeline does, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import LABELS as TOP5
from factories import TEXTS, change_json, make_model_dir, record_again, scored_papers
from local_hub import LocalHub

from arxiv_cls.export.handler import handler_source
from arxiv_cls.models.onnx_engine import EndpointHandler
from arxiv_cls.models.predictor import load_predictor, locate_model
from arxiv_cls.release.push_model import push_model

REPO = "user/arxiv-tiny"
CALL = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "arxiv_cls", "onnx", "tqdm", "yaml"}:
            raise ImportError(f"{name} is imported")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
from handler import EndpointHandler
handler = EndpointHandler(sys.argv[1])
answers = []
for request in json.loads(sys.argv[2]):
    try:
        answers.append(handler(request))
    except ValueError as error:
        answers.append(f"refused: {error}")
print(json.dumps(answers))
"""


@pytest.fixture
def snapshot(hub: LocalHub, exported: Path, tmp_path: Path) -> Path:
    """The files that an ONNX user of a released model downloads, and the handler's."""
    from huggingface_hub import snapshot_download

    weights = (exported / "model.safetensors").read_bytes()
    scored = scored_papers()
    labels = np.arange(len(scored)) % len(TOP5)
    guesses = (labels + (np.arange(len(scored)) % 7 == 0)) % len(TOP5)
    probabilities = np.eye(len(TOP5))[guesses] * 0.75 + 0.05
    scored = replace(scored, label_names=TOP5, labels=labels, probabilities=probabilities)
    folder = make_model_dir(tmp_path / "model", weights=weights, scored=scored)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "handler.py", "requirements.txt"):
        shutil.copy(exported / name, folder / name)
    shutil.copytree(exported / "onnx", folder / "onnx")
    # The tiny model's record was made with wider limits than a release has.
    content = json.loads((folder / "onnx/parity.json").read_text())
    content["exports"]["onnx/model_int8.onnx"] |= {"least_equal_labels": 0.5, "largest_accuracy_fall": 0.5}
    change_json(folder / "onnx/parity.json", exports=content["exports"])
    push_model(record_again(folder), REPO)
    files = ["config.json", "tokenizer*", "onnx/model.onnx", "handler.py", "requirements.txt"]
    return Path(snapshot_download(REPO, allow_patterns=files, cache_dir=tmp_path / "endpoint"))


def called(snapshot: Path, requests: list[dict]) -> list:
    """The answers of a process of its own, which has only the snapshot."""
    command = [sys.executable, "-c", CALL, str(snapshot), json.dumps(requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=snapshot)
    return json.loads(done.stdout)


class TestHandler:
    """The repository's own answers."""

    def test_answers_as_the_pipeline_does(self, snapshot: Path, exported: Path) -> None:
        """One text and several, with and without parameters: same shape, same scores."""
        from transformers import pipeline

        requests = [
            {"inputs": TEXTS[0]},
            {"inputs": TEXTS},
            {"inputs": TEXTS[0], "parameters": {"top_k": 2}},
            {"inputs": TEXTS, "parameters": {"top_k": None}},
            {"inputs": TEXTS, "parameters": {"top_k": 1, "function_to_apply": "softmax", "truncation": True}},
        ]
        classify = pipeline("text-classification", model=str(exported), device="cpu")
        for request, answer in zip(requests, called(snapshot, requests), strict=True):
            expected = classify(request["inputs"], **{"truncation": True, **request.get("parameters", {})})
            assert labels_of(answer) == labels_of(expected), request
            assert np.allclose(scores_of(answer), scores_of(expected), atol=1e-4), request

    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            ({}, '"inputs" must be'),
            ({"inputs": []}, '"inputs" must be'),
            ({"inputs": ["a", " \u200b"]}, "text 2 of 2 is empty"),
            ({"inputs": "\ud83d"}, "not UTF-8"),
            ({"inputs": ["a", 5]}, "is not a string"),
            ({"inputs": "a", "parameters": [1]}, '"parameters" may hold'),
            ({"inputs": "a", "parameters": {"topk": 1}}, '"parameters" may hold'),
            *[({"inputs": "a", "parameters": {"top_k": k}}, "top_k") for k in (0, 1001, True, "1", 1.5, [1])],
            ({"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}}, "function_to_apply"),
            ({"inputs": "a", "parameters": {"truncation": 1}}, "truncation"),
            ({"inputs": "a " * 500, "parameters": {"truncation": False}}, "more than the 64 tokens"),
        ],
    )
    def test_refused(self, exported: Path, request_: dict, expected: str) -> None:
        """What the server refuses too is said; nothing is guessed."""
        with pytest.raises(ValueError, match=expected):
            EndpointHandler(str(exported))(request_)

    def test_copy_is_the_source(self, exported: Path) -> None:
        """The file is what the sources give today, and needs only what its requirements name."""
        source = (exported / "handler.py").read_text()
        assert source == handler_source()
        assert "import arxiv_cls" not in source
        assert "from arxiv_cls" not in source
        wanted = [line.split(">")[0] for line in (exported / "requirements.txt").read_text().split()]
        assert wanted == ["numpy", "onnxruntime", "tokenizers"]

    def test_an_onnx_engine_leaves_the_weights(self, snapshot: Path) -> None:
        """The ONNX file that was asked for and no safetensors; torch the other way round."""
        assert load_predictor(REPO, engine="onnx").predict(TEXTS)[0].label in TOP5
        found = locate_model(REPO, engine="onnx")
        files = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
        assert {"onnx/model.onnx", "onnx/parity.json", "eval/metrics.json"} <= files
        assert not {"model.safetensors", "onnx/model_int8.onnx"} & files
        torch = locate_model(REPO)
        files = {path.relative_to(torch).as_posix() for path in torch.rglob("*") if path.is_file()}
        assert "model.safetensors" in files
        assert "onnx/model_int8.onnx" not in files


def labels_of(answer: list) -> list:
    """The labels, nested as they came."""
    return [entry["label"] if isinstance(entry, dict) else labels_of(entry) for entry in answer]


def scores_of(answer: list) -> list[float]:
    """The scores, flat."""
    parts = [[entry["score"]] if isinstance(entry, dict) else scores_of(entry) for entry in answer]
    return [score for part in parts for score in part]
