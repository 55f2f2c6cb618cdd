"""Records that are damaged or contradict each other: file and field are named, nothing is computed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from factories import write_onnx_model

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.model_directory import read_model_directory
from arxiv_cls.serving.model_slot import load_model
from arxiv_cls.serving.settings import ServingSettings

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"


def change(path: Path, **changes: Any) -> None:
    """Replaces keys of a JSON file; None takes a key away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def labels(*names: Any) -> dict[str, Any]:
    """A map of labels, as the changes of `config.json` that it needs."""
    return {"id2label": {str(at): name for at, name in enumerate(names)}, "label2id": None}


CONFIG, TOKENIZER, RUN, METRICS = "config.json", "tokenizer_config.json", "run.json", "eval/metrics.json"
SETS, SCOPE = "eval/prediction_sets.json", "eval/scope.json"
RECORDS = [
    *((CONFIG, whole, "expected an object, found") for whole in ("[]", "null", '"a"')),
    (TOKENIZER, "[]", "expected an object, found"),
    (CONFIG, "{", "not JSON"),
    (CONFIG, "[" * 100_000, "not JSON"),
    (CONFIG, b"\xff\xfe{}", "not JSON"),
    (CONFIG, {"id2label": None}, "id2label: Field required"),
    (CONFIG, {"id2label": ["a", "b"]}, "id2label: Input should be a valid dictionary"),
    (CONFIG, {"id2label": {"0": "a", "2": "b"}}, 'expected the keys "0" to "1"'),
    (CONFIG, labels(1, 2), "id2label.0: Input should be a valid string"),
    (CONFIG, labels("a", "a"), "every label once"),
    (CONFIG, labels("a", "../../x"), "a label is 1 to 64 letters"),
    (CONFIG, labels("a", "<b>x</b>"), "a label is 1 to 64 letters"),
    (CONFIG, labels("a", "=1+1"), "a label is 1 to 64 letters"),
    (CONFIG, labels("a", "x" * 65), "a label is 1 to 64 letters"),
    (CONFIG, labels("a", "b\n"), "a label is 1 to 64 letters"),
    (CONFIG, {"label2id": {"cs.AI": 4}}, "the inverse of id2label"),
    (CONFIG, {"num_labels": 1_000_000_000}, "num_labels: Input should be less than or equal to 5000"),
    (CONFIG, labels(*map(str, range(5001))), "id2label: Dictionary should have at most 5000"),
    (CONFIG, {"num_labels": 4}, "num_labels: expected 5"),
    (CONFIG, {"hidden_size": "abc"}, "hidden_size: Input should be a valid integer"),
    (CONFIG, {"hidden_size": 0}, "hidden_size: Input should be greater"),
    (CONFIG, {"hidden_size": -16}, "hidden_size: Input should be greater"),
    (CONFIG, {"num_hidden_layers": 100_000}, "num_hidden_layers: Input should be less"),
    (CONFIG, {"vocab_size": 10**12}, "vocab_size: Input should be less"),
    (CONFIG, {"vocab_size": 100}, "not a text classifier|tokens"),
    (CONFIG, {"num_hidden_layers": 2}, "its weights lack"),
    (CONFIG, {"hidden_size": 65_536}, "config.json describes [0-9,]+ parameters"),
    (CONFIG, {"intermediate_size": 64}, "not a text classifier"),
    (CONFIG, {"quantization_config": {"quant_method": "x"}}, "only plain safetensors"),
    (TOKENIZER, {"model_max_length": 1}, "model_max_length: Input should be greater than or equal to 3"),
    (TOKENIZER, {"model_max_length": 900_000}, "model_max_length: expected at most 64"),
    (TOKENIZER, {"model_max_length": "long"}, "model_max_length: Input should be a valid number"),
    ("tokenizer.json", "{}", "its tokenizer cannot be loaded"),
    ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "not a text classifier"),
    (SETS, {"levels": []}, "levels: Input should be a valid dictionary"),
    (SETS, {"levels": {"0.9": {"threshold": "low"}}}, "threshold: Input should be a valid number"),
    (SCOPE, '{"schema_version": 1, "threshold": 0.5}', "expected `weights` and `intercept`"),
    (SCOPE, '{"schema_version": 1, "threshold": NaN}', "threshold: Input should be a finite number"),
]  # fmt: skip
RELEASE_RECORDS = [
    (RUN, {"data": []}, "data: Input should be a valid dictionary"),
    (RUN, {"metrics": []}, "metrics: Input should be a valid dictionary"),
    (RUN, "[]", "expected an object"),
    (METRICS, {"metrics": []}, "metrics: Input should be a valid dictionary"),
    (METRICS, {"papers": -1}, "papers: Input should be greater"),
    (METRICS, {"resamples": 10**12}, "resamples: Input should be less"),
    (METRICS, {"intervals": {"accuracy": [0.1]}}, "intervals.accuracy: List should have at least 2"),
    ("recipe.yaml", "- a", "expected an object"),
    ("recipe.yaml", "data: [", "not YAML"),
    ("recipe.yaml", "data: 3", "data: Input should be a valid dictionary"),
    ("release.yaml", "tags: x", "tags: Input should be a valid list"),
]


def damaged(folder: Path, file: str, content: dict[str, Any] | str | bytes) -> Path:
    """A copy of a released model with one other file."""
    shutil.copytree(RELEASES / "tiny-transformer", folder)
    if isinstance(content, dict):
        change(folder / file, **content)
    else:
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


class TestRecords:
    """Damaged or contradicting records: the file and the field are named, nothing is computed."""

    @pytest.mark.parametrize(("file", "content", "expected"), RECORDS, ids=range(len(RECORDS)))
    def test_of_a_model_that_is_loaded(
        self, tmp_path: Path, file: str, content: dict[str, Any] | str | bytes, expected: str
    ) -> None:
        """Said when it is loaded, not when it is asked."""
        with pytest.raises(UserError, match=expected) as said:
            load_predictor(damaged(tmp_path / "m", file, content))
        assert str(tmp_path / "m") in said.value.message
        assert len(said.value.message) < 1000

    @pytest.mark.parametrize(
        ("file", "content", "expected"), RELEASE_RECORDS, ids=range(len(RELEASE_RECORDS))
    )
    def test_of_a_release(
        self, tmp_path: Path, file: str, content: dict[str, Any] | str, expected: str
    ) -> None:
        """Said by card, gate, push and verify, which read them first."""
        with pytest.raises(UserError, match=f"{re.escape(file)}: .*{expected}"):
            read_model_directory(damaged(tmp_path / "m", file, content))

    @pytest.mark.parametrize("changes", [{"data": []}, {"metrics": []}])
    def test_of_the_endpoint(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        """`run.json` is read when the model is loaded, so no request meets a broken one."""
        model = write_onnx_model(tmp_path / "m")
        change(model / RUN, **changes)
        with pytest.raises(UserError, match=r"run\.json: "):
            load_model(str(model), ServingSettings(model="x", threads=1, engine="onnx"))

    def test_labels_that_are_no_categories(self, tmp_path: Path) -> None:
        """Any plain name is a label."""
        names = ["LABEL_0", "physics", "cond-mat.mes-hall", "Physik_für.alle", "0"]
        model = damaged(tmp_path / "m", CONFIG, labels(*names))
        assert load_predictor(model).labels == names
