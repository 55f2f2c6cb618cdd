"""The ONNX graph of a sequence classifier, in operators that onnxruntime computes fast on a CPU."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError

OPSET = 20
FUSED_ATTENTION = "arxiv_cls_onnx"
# Of a LayerNormalization that names none (ONNX, LayerNormalization-17).
DEFAULT_EPSILON = 1e-5
# How the names of nodes begin that work on the first token only.
FIRST_TOKEN = "first_token"
# Operators that treat each position of a sequence by itself when their other inputs are weights.
POSITION_WISE = {"Add", "Cast", "Div", "Erf", "Gelu", "LayerNormalization", "MatMul", "Mul", "Tanh"}


def write_onnx(model: Any, path: Path) -> None:
    """Writes a sequence classifier as one self-contained ONNX file.

    The inputs are `input_ids` and `attention_mask`, int64 (batch, sequence), the output `logits` float32
    (batch, labels); the file needs onnxruntime (its operators are in the domain com.microsoft).

    Args:
        model: of transformers, on the CPU, in float32; its attention implementation is put back afterwards.
        path: the file to write.

    Raises:
        UserError: torch cannot export this architecture.
    """
    import torch
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    ids = torch.full((2, 7), 1, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    # The fused operator lets every token see the whole text.
    partial = any(
        getattr(module, name, None) for module in model.modules() for name in ("is_causal", "sliding_window")
    )
    attention = nullcontext() if partial else _fused_attention(model)
    with attention, quiet("torch.onnx"), torch.no_grad():
        try:
            program = torch.onnx.export(
                model.eval(),
                kwargs={"input_ids": ids, "attention_mask": mask},
                dynamo=True,
                dynamic_shapes={"input_ids": shape, "attention_mask": shape},
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = re.split(r"[\n\x1b]", str(error))[0].strip()
            raise UserError(
                f"{type(model).__name__} cannot be written as ONNX: {reason}",
                hint="serve it with the engine torch",
            ) from error
    remove_round_trips(program.model.graph)
    RemoveUnusedNodesPass()(program.model)
    keep_first_token(program.model.graph)
    split_layer_norms(program.model.graph)
    program.save(str(path), external_data=False)


@contextmanager
def _fused_attention(model: Any) -> Iterator[None]:
    """Lets the model's attention be traced as one operator of onnxruntime."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **_: Any
    ) -> tuple[Any, None]:
        batch, heads, length, width = query.shape
        flat = [part.transpose(1, 2).reshape(batch, length, heads * width) for part in (query, key, value)]
        output = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (*flat, None, mask.to(torch.int32)),
            {"num_heads": heads, "scale": float(width**-0.5 if scaling is None else scaling)},
            dtype=query.dtype,
            shape=(batch, length, heads * width),
            version=1,
        )
        return output.view(batch, length, heads, width), None

    AttentionInterface.register(FUSED_ATTENTION, attention)
    # The operator takes the mask of the tokenizer as it is.
    AttentionMaskInterface.register(FUSED_ATTENTION, lambda attention_mask=None, **_: attention_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(FUSED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def quiet(name: str | None) -> Iterator[None]:
    """Keeps warnings, and what a logger says below an error, off the terminal; None is the root logger."""
    noisy = logging.getLogger(name)
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)


def remove_round_trips(graph: Any) -> None:
    """Bypasses reshapes that only undo each other, as around attention's heads, in an `onnx_ir.Graph`."""
    for node in list(graph):
        inner = node.inputs[0].producer() if node.op_type == "Reshape" else None
        origin = inner.inputs[0] if inner is not None and inner.op_type == "Reshape" else None
        output = node.outputs[0]
        if origin is None or origin.shape is None or output.is_graph_output():
            continue
        if origin.shape == output.shape:
            output.replace_all_uses_with(origin)


def keep_first_token(graph: Any) -> int:
    """Computes only the first token wherever nothing but the first token is read later on.

    Walks back from the node that takes position 0 of the last hidden states: a node whose only readers want
    the first token, and which treats positions alone, needs only the first token of its own inputs. That
    ends at the last attention, whose keys and values are read whole: a sixth of the layer's work remains.
    Returns how many nodes were narrowed, and named after it; 0 where other tokens are read too.
    """
    import numpy as np
    import onnx_ir as ir

    starts = [
        node
        for node in graph
        if node.op_type == "Gather"
        and node.attributes.get_int("axis", 0) == 1
        and len(node.inputs[0].shape or ()) == 3
        and node.inputs[1].const_value is not None
        # A list would keep the axis.
        and node.inputs[1].const_value.numpy().tolist() == 0
    ]
    if len(starts) != 1:
        return 0
    (start,) = starts
    wanted: dict[Any, tuple[int, ...]] = {start: (0,)}
    pending = [start.inputs[0]]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or node in wanted or value.is_graph_output():
            continue
        # Another reader may still join: the walk comes by here again from it.
        if all(user in wanted for user, _ in value.uses()) and (sources := _position_inputs(node)):
            wanted[node] = sources
            pending.extend(node.inputs[index] for index in sources)
    del wanted[start]
    cut: dict[Any, Any] = {}
    zero = constant(graph, "first_token_index", np.zeros(1, dtype=np.int64))
    for number, (node, sources) in enumerate(wanted.items()):
        node.name = f"{FIRST_TOKEN}_{number}_{node.op_type}"
        for index in sources:
            value = node.inputs[index]
            if value.producer() not in wanted:
                if value not in cut:
                    # (batch, 1, hidden) beside the whole.
                    cut[value] = ir.node("Gather", [value, zero], {"axis": 1}).outputs[0]
                    cut[value].name, cut[value].dtype = f"{value.name}_first", value.dtype
                    graph.insert_after(value.producer(), cut[value].producer())
                node.replace_input_with(index, cut[value])
        for output in node.outputs:
            output.shape = None
    return len(wanted)


def _position_inputs(node: Any) -> tuple[int, ...]:
    """The inputs of which a node needs only those positions that are asked of its output; () when unknown."""
    if node.op_type == "MultiHeadAttention":
        return (0,)
    if node.op_type not in POSITION_WISE:
        return ()
    sources = []
    for index, value in enumerate(node.inputs):
        if value is not None and value.const_value is None:
            if value.shape is None or len(value.shape) != 3:
                return ()
            sources.append(index)
        elif value is not None and value.const_value.shape.rank() > 2:
            return ()
    # A product of two activations mixes positions.
    return () if node.op_type == "MatMul" and sources != [0] else tuple(sources)


def constant(graph: Any, name: str, value: Any) -> Any:
    """The initializer of that name, made where it is not there yet."""
    import onnx_ir as ir

    if name not in graph.initializers:
        tensor = ir.tensor(value)
        graph.register_initializer(
            ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    return graph.initializers[name]


def split_layer_norms(graph: Any) -> int:
    """Replaces each LayerNormalization over the last axis by its formula, from opset 18 on; returns how many.

    (x - mean) / sqrt(variance + epsilon) * scale + bias (Ba, Kiros and Hinton, 2016). onnxruntime's own
    operator adds up each row number by number: an int8 MiniLM scored 60 papers a second on a core of a Zen 5
    with it, 76 without. The variance is a product, not a power, which onnxruntime would recognise and undo.
    """
    import numpy as np
    import onnx_ir as ir

    replaced = 0
    for node in list(graph):
        last_axis = node.op_type == "LayerNormalization" and node.attributes.get_int("axis", -1) == -1
        if not last_axis or len(node.outputs) > 1:
            continue
        output, epsilon = node.outputs[0], node.attributes.get_float("epsilon", DEFAULT_EPSILON)

        def emit(operator: str, *inputs: Any, before: Any = node, prefix: str = output.name) -> Any:
            new = ir.node(operator, inputs=list(inputs))
            new.outputs[0].name = f"{prefix}_{len(graph)}_{operator}"
            new.outputs[0].dtype = before.inputs[1].dtype
            graph.insert_before(before, new)
            return new.outputs[0]

        last = constant(graph, "layer_norm_axes", np.array([-1], dtype=np.int64))
        tiny = constant(graph, f"layer_norm_epsilon_{epsilon:g}", np.array(epsilon, dtype=np.float32))
        centred = emit("Sub", node.inputs[0], emit("ReduceMean", node.inputs[0], last))
        variance = emit("ReduceMean", emit("Mul", centred, centred), last)
        factor = emit("Reciprocal", emit("Sqrt", emit("Add", variance, tiny)))
        result = emit("Mul", emit("Mul", centred, factor), node.inputs[1])
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            result = emit("Add", result, node.inputs[2])
        result.shape = output.shape
        name, output.name = output.name, f"{output.name}_replaced"
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        result.name = name
        graph.remove(node, safe=True)
        replaced += 1
    return replaced
