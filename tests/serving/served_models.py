"""Tiny models that onnxruntime really computes and whose answers can be worked out by hand.

A text's logits are the mean of its words' rows: the word `vision` gives cs.CV a 4, `language` gives it to
cs.CL, and so on; any other word gives nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

LABELS = ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]
WORDS = {"planning": "cs.AI", "language": "cs.CL", "vision": "cs.CV", "learning": "cs.LG", "bayes": "stat.ML"}
MAX_LENGTH = 32
WEIGHT = 4.0
# Softmax of one 4 among five logits.
SURE = math.exp(WEIGHT) / (math.exp(WEIGHT) + 4)


def write_onnx_model(
    directory: Path, *, turned: int = 0, busy: int = 0, max_length: int = MAX_LENGTH, seed: int = 0
) -> Path:
    """Writes a model directory as `arxiv-cls export` leaves it, less the torch weights.

    Args:
        directory: a new directory.
        turned: by how many labels the answers are shifted, to tell two models apart.
        busy: products with a 256 x 256 matrix per token that change nothing but the time an answer takes.
        max_length: tokens that the model reads.
        seed: changes the bytes of the weights and nothing else.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {word: 2 + at for at, word in enumerate(WORDS)}
    rows = np.zeros((len(vocabulary), len(LABELS)), dtype=np.float32)
    for word, label in WORDS.items():
        rows[vocabulary[word], (LABELS.index(label) + turned) % len(LABELS)] = WEIGHT
    constants = {
        "rows": rows,
        "one": np.array([1], dtype=np.int64),
        "two": np.array([2], dtype=np.int64),
        "seed": np.array([seed], dtype=np.float32),
        "nothing": np.array([0], dtype=np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["scores"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["wide_mask"]),
        helper.make_node("Mul", ["scores", "wide_mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Mul", ["seed", "nothing"], ["no_seed"]),
    ]
    last = "no_seed"
    if busy:
        constants["wide"] = np.full((len(vocabulary), 256), 0.01, dtype=np.float32)
        constants["product"] = np.eye(256, dtype=np.float32)
        nodes.append(helper.make_node("Gather", ["wide", "input_ids"], ["hidden_0"]))
        nodes += [
            helper.make_node("MatMul", [f"hidden_{at}", "product"], [f"hidden_{at + 1}"])
            for at in range(busy)
        ]
        nodes += [
            helper.make_node("ReduceMax", [f"hidden_{busy}"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["largest", "nothing"], ["no_work"]),
            helper.make_node("Add", ["no_seed", "no_work"], ["no_change"]),
        ]
        last = "no_change"
    nodes.append(helper.make_node("Add", ["mean", last], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
         for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    (directory / "onnx").mkdir(parents=True)
    (directory / "eval").mkdir()
    onnx.save(model, str(directory / "onnx" / "model.onnx"))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    _write(directory / "tokenizer_config.json", {"model_max_length": max_length})
    _write(
        directory / "config.json",
        {
            "model_type": "bert",
            "id2label": {str(number): label for number, label in enumerate(LABELS)},
            "pad_token_id": 0,
        },
    )
    data = {"csv": "tiny.csv", "config": "top5", "md5": "0" * 32}
    _write(directory / "run.json", {"data": data, "metrics": {"test": {"accuracy": 0.5, "per_class": {}}}})
    _write(
        directory / "eval" / "prediction_sets.json",
        {"schema_version": 1, "levels": {"0.9": {"threshold": 0.3}}},
    )
    # Known words score 1 / (1 + exp(-2)) and more, texts without any 1 / (1 + exp(2)).
    _write(
        directory / "eval" / "scope.json",
        {"schema_version": 1, "weights": dict.fromkeys(WORDS, 4.0), "intercept": -2.0, "threshold": 0.5},
    )
    return directory


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
