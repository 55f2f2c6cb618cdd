"""Layer normalisation in plain operators computes what the operator computes, and stays plain."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from arxiv_cls.export.onnx_graph import split_layer_norms


def normalising_model(attributes: str = "") -> onnx.ModelProto:
    """y = LayerNormalization(x) over rows of 6 numbers, then a second one without bias."""
    attributes = f"<{attributes}>" if attributes else ""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        norms (float[batch, sequence, 6] x) => (float[batch, sequence, 6] y) {{
            middle = LayerNormalization{attributes} (x, scale, bias)
            y = LayerNormalization{attributes} (middle, scale2)
        }}""")
    generator = np.random.default_rng(0)
    model.graph.initializer.extend(
        numpy_helper.from_array(generator.normal(1, 0.5, 6).astype(np.float32), name)
        for name in ("scale", "bias", "scale2")
    )
    return model


def computed(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of the rows."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": rows})[0]


class TestSplit:
    """The replacement."""

    @pytest.mark.parametrize("attributes", ["", "epsilon=0.5", "axis=-1, epsilon=1e-12"])
    def test_same_numbers(self, attributes):
        """Also with an epsilon large enough to be seen, and for a row far from zero."""
        rows = np.random.default_rng(1).normal(size=(2, 3, 6)).astype(np.float32)
        rows[0, 0] += 100
        before = normalising_model(attributes)
        model = ir.from_proto(before)
        assert split_layer_norms(model.graph) == 2
        after = ir.to_proto(model)
        onnx.checker.check_model(after, full_check=True)
        assert "LayerNormalization" not in {node.op_type for node in after.graph.node}
        assert np.allclose(computed(after, rows), computed(before, rows), atol=2e-5)

    def test_onnxruntime_does_not_put_it_back(self, tmp_path):
        """Its own optimiser would undo the work if it recognised the pattern."""
        model = ir.from_proto(normalising_model())
        split_layer_norms(model.graph)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        operators = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
        assert "ReduceMean" in operators
        assert not any("LayerNormalization" in operator for operator in operators)

    def test_other_axes_are_left(self):
        """Over the whole text at once is another formula."""
        model = ir.from_proto(normalising_model("axis=1"))
        assert split_layer_norms(model.graph) == 0
