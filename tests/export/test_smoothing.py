"""Smoothing changes nothing in float32 and levels the activations that int8 must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from arxiv_cls.export.onnx_graph import FIRST_TOKEN
from arxiv_cls.export.quantization import Candidate, largest_values, quantize, smooth, weighted_products

VOCABULARY, HIDDEN, OUTPUTS, LOUD = 40, 8, 6, 3
IDS = [[int(token) for token in np.random.default_rng(row).integers(0, VOCABULARY, 12)] for row in range(20)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One channel is a hundred times as loud as the others, with weights to match; three products."""
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(VOCABULARY, HIDDEN)).astype(np.float32)
    loudness = np.where(np.arange(HIDDEN) == LOUD, 100, 1).astype(np.float32)
    weights = {"a": random.normal(size=(HIDDEN, OUTPUTS)), "b": random.normal(size=(HIDDEN, OUTPUTS))}
    for weight in weights.values():
        weight[LOUD] /= 100
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        products (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
            => (float[batch, sequence, {OUTPUTS}] logits) <int64[1] axis = {{2}}> {{
            embedded = Gather (embeddings, input_ids)
            hidden = Mul (embedded, loudness)
            [query] left = MatMul (hidden, a)
            [key] right = MatMul (hidden, b)
            [{FIRST_TOKEN}_0_MatMul] extra = MatMul (hidden, a)
            mask = Cast <to = 1> (attention_mask)
            mask3 = Unsqueeze (mask, axis)
            both = Add (left, right)
            sum = Add (both, extra)
            logits = Mul (sum, mask3)
        }}""")
    arrays = {"embeddings": embeddings, "loudness": loudness, **weights}
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def run(path: Path) -> np.ndarray:
    """The logits of `IDS`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = np.asarray(IDS, dtype=np.int64)
    return session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]


class TestSmooth:
    """On a graph with one loud channel."""

    def test_largest_values(self, source: Path) -> None:
        """By hand, from the embeddings of the tokens that occur."""
        graph = onnx.load(str(source)).graph
        (embeddings,) = [numpy_helper.to_array(w) for w in graph.initializer if w.name == "embeddings"]
        expected = np.abs(embeddings[sorted({token for row in IDS for token in row})]).max(axis=0)
        expected[LOUD] *= 100
        (found,) = largest_values(source, ["hidden"], IDS)
        assert found == pytest.approx(expected)

    def test_same_in_float32(self, source: Path, tmp_path: Path) -> None:
        """Inputs divided, weights multiplied, also one used twice; the first token's stays as it is."""
        (nodes,) = weighted_products(ir.load(source).graph).values()
        assert [node.name for node in nodes] == ["query", "key"]
        smooth(source, tmp_path / "smooth.onnx", IDS)
        assert run(tmp_path / "smooth.onnx") == pytest.approx(run(source), rel=1e-4, abs=1e-3)
        onnx.checker.check_model(str(tmp_path / "smooth.onnx"))

    def test_closer_in_int8(self, source: Path, tmp_path: Path) -> None:
        """The quiet channels are told apart again."""
        smooth(source, tmp_path / "smooth.onnx", IDS)
        errors = []
        for start in (source, tmp_path / "smooth.onnx"):
            quantize(start, tmp_path / "int8.onnx", Candidate(per_channel=True, reduce_range=False))
            errors.append(np.abs(run(tmp_path / "int8.onnx") - run(source)).mean())
        assert errors[1] < 0.5 * errors[0]
