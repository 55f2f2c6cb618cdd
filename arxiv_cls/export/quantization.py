"""The int8 form of an ONNX file: ways to quantise it, how each compares with fp32, and the choice of one.

One scale serves all activations of a product, so a few channels with large values leave few of the 256 steps
to the others. Smoothing moves that spread into the weights: x W = (x / s) (s W) for any scale s of the
channels; s = max|x|^a / max|w|^(1 - a) (SmoothQuant: Xiao et al., ICML 2023, equation 4).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.export.onnx_graph import FIRST_TOKEN, constant, quiet
from arxiv_cls.models.onnx_engine import OnnxEngine, open_session
from arxiv_cls.scoring.multi_label import label_counts, micro_f1

logger = logging.getLogger(__name__)

# A candidate may lose this much accuracy, and must give this share of fp32's labels.
LARGEST_ACCURACY_FALL = 0.002
LEAST_EQUAL_LABELS = 0.99
# Wanted of the papers that choose it, so that 99% holds on any few hundred others too. Where none keeps it,
# as on some processors without VNNI, the first that keeps 99% is taken.
WANTED_EQUAL_LABELS = 0.995
# Beyond this the graph is broken; rounding to 8 bits moves single scores by up to a fifth.
LARGEST_DIFFERENCE = 0.5
# Of candidates that are about as fast, the one closest to fp32 is taken.
ABOUT_AS_FAST = 1.1
# Papers that a candidate scores in its turn.
SEARCH_BLOCK = 50
# Tokens per batch as the engine int8 has them: each text by itself.
ALONE = 1
# a of the formula. The paper takes 0.5, and 0.75 for models whose activations spread more. Labels of fp32
# that a MiniLM kept on 1,000 test papers: 98.4% at 0.5, 98.5% at 0.6, 99.5% at 0.75 (98.5% without); on 1,500
# papers 99.5% at 0.75 to 0.85, 99.3% at 0.9, 99.1% at 1.
STRENGTH = 0.75
# Texts that tell the largest value of each channel.
TEXTS = 64
SMALLEST = 1e-5


def weighted_products(graph: Any) -> dict[str, list[Any]]:
    """The products with weights by the name of their activation; those of the first token stay in float32."""
    products: dict[str, list[Any]] = {}
    for node in graph:
        weight = node.inputs[1].const_value if node.op_type == "MatMul" else None
        if weight is not None and len(weight.shape) == 2 and not node.name.startswith(FIRST_TOKEN):
            products.setdefault(node.inputs[0].name, []).append(node)
    return products


def largest_values(source: Path, names: Sequence[str], ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The largest absolute value of each channel of the named activations, (channels,) float32 each."""
    import onnx
    import onnxruntime

    model = onnx.load(str(source))
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(model.SerializeToString(), onnxruntime.SessionOptions())
    largest = [np.zeros(1, dtype=np.float32) for _ in names]
    for tokens in ids:
        text = np.asarray([tokens], dtype=np.int64)
        values = session.run(list(names), {"input_ids": text, "attention_mask": np.ones_like(text)})
        largest = [
            np.maximum(before, np.abs(value).reshape(-1, value.shape[-1]).max(axis=0))
            for before, value in zip(largest, values, strict=True)
        ]
    return largest


def smooth(source: Path, target: Path, ids: Sequence[Sequence[int]]) -> None:
    """Writes a graph that computes the same in float32, and loses less in int8; `ids` are tokens of texts."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = ir.load(source)
    products = weighted_products(model.graph)
    values = largest_values(source, list(products), ids[:TEXTS])
    for (name, nodes), largest in zip(products.items(), values, strict=True):
        matrices = [node.inputs[1].const_value.numpy() for node in nodes]
        strongest = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
        scales = np.maximum(largest, SMALLEST) ** STRENGTH / np.maximum(strongest, SMALLEST) ** (1 - STRENGTH)
        divisor = constant(model.graph, f"{name}_divisor", (1 / scales).astype(np.float32))
        smoothed = ir.node("Mul", [nodes[0].inputs[0], divisor], name=f"{name}_smooth")
        smoothed.outputs[0].name = f"{name}_smooth"
        model.graph.insert_before(nodes[0], smoothed)
        for node, matrix in zip(nodes, matrices, strict=True):
            # A weight of its own name: another product may share the old one.
            scaled = (matrix * scales[:, None]).astype(np.float32)
            node.replace_input_with(0, smoothed.outputs[0])
            node.replace_input_with(1, constant(model.graph, f"{node.name}_scaled", scaled))
    RemoveUnusedNodesPass()(model)
    ir.save(model, target)


@dataclass(frozen=True)
class Candidate:
    """One way to quantise.

    `float32` names the weights that are left alone: "" (none), "down" (the products that bring the
    feed-forward width back to the hidden size, whose inputs spread most) or "early down" (those of the first
    half of the layers, whose error all later layers see).
    """

    per_channel: bool  # a scale for each output channel of a weight instead of one for all of it
    reduce_range: bool  # 7 bits
    smooth: bool = False  # the spread of the activations is moved into the weights before
    float32: str = ""

    def __str__(self) -> str:
        parts = ["per channel" if self.per_channel else "per tensor", f"{8 - self.reduce_range} bits"]
        parts += ["smoothed"] * self.smooth + [f"{self.float32} in float32"] * bool(self.float32)
        return ", ".join(parts)


CANDIDATES = (
    Candidate(per_channel=False, reduce_range=False),
    Candidate(per_channel=True, reduce_range=False),
    Candidate(per_channel=True, reduce_range=False, smooth=True),
    Candidate(per_channel=True, reduce_range=True, smooth=True),
    Candidate(per_channel=True, reduce_range=False, smooth=True, float32="early down"),
    Candidate(per_channel=True, reduce_range=True, smooth=True, float32="early down"),
    Candidate(per_channel=True, reduce_range=False, smooth=True, float32="down"),
)


@dataclass(frozen=True)
class Agreement:
    """How an export compares with a reference on some papers; differences are absolute ones of scores.

    Shares are micro F1: where a model gives each paper one label, the share of papers with the same one.
    """

    papers: int
    equal_labels: float  # of the labels given, with those of the reference
    max_difference: float
    mean_difference: float
    accuracy: float | None  # with the papers' own labels; None where these are not known
    accuracy_fall: float | None  # below the reference's


def agreement(
    found: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray | None,
    thresholds: np.ndarray | None = None,
) -> Agreement:
    """Compares (n, k) probabilities with (n, k) others.

    `labels` are the true columns, (n,), or with the (k,) `thresholds` of a multi-label model (n, k) bool.
    """

    def share_equal(a: np.ndarray, b: np.ndarray) -> float:
        return float(micro_f1(label_counts(a, b)))

    difference = np.abs(found - reference)
    accuracy = fall = None
    one_label = np.eye(found.shape[1], dtype=bool)
    said, expected = (
        one_label[scores.argmax(axis=1)] if thresholds is None else scores >= thresholds
        for scores in (found, reference)
    )
    if labels is not None:
        true = one_label[labels] if labels.ndim == 1 else labels
        accuracy = share_equal(said, true)
        fall = share_equal(expected, true) - accuracy
    return Agreement(
        papers=len(found),
        equal_labels=share_equal(said, expected),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        accuracy=accuracy,
        accuracy_fall=fall,
    )


def quantize(source: Path, target: Path, candidate: Candidate) -> None:
    """Writes the int8 form of an fp32 ONNX file."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(source)).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    products = {node.name: shapes.get(node.input[1], ()) for node in graph.node if node.op_type == "MatMul"}
    # One row a text: quantised they are no faster, and their error goes straight into the scores.
    left_alone = [name for name in products if name.startswith(FIRST_TOKEN)]
    left_alone += in_float32(products, candidate.float32)
    # It advises a preprocessing of graphs from older exporters through the root logger.
    with quiet(None):
        quantize_dynamic(
            str(source), str(target), weight_type=QuantType.QInt8, nodes_to_exclude=left_alone,
            per_channel=candidate.per_channel, reduce_range=candidate.reduce_range,
        )  # fmt: skip


def in_float32(products: Mapping[str, tuple[int, ...]], which: str) -> list[str]:
    """The names of the products that a candidate leaves alone, given the shape of each one's weight."""
    down = [name for name, shape in products.items() if len(shape) == 2 and shape[0] > shape[1]]
    return {"": [], "early down": down[: len(down) // 2], "down": down}[which]


def choose(
    source: Path,
    target: Path,
    engine_of: Callable[[Path], OnnxEngine],
    ids: Sequence[Sequence[int]],
    reference: np.ndarray,
    labels: np.ndarray,
    *,
    thresholds: np.ndarray | None = None,
    search_papers: int,
    progress: bool = False,
) -> tuple[Candidate | None, Agreement | None, list[dict[str, Any]]]:
    """Quantises with every candidate, measures each, and leaves the best at `target`.

    Every candidate is measured on the first `search_papers`. The fastest, or a closer one that is about as
    fast, is measured on all papers; when it loses too much there, the next slower one that was closer.

    Args:
        source: the fp32 file.
        target: gets the int8 file; intermediate files lie beside it.
        engine_of: makes an engine of an ONNX file.
        ids: token ids of n papers.
        reference: (n, k) probabilities of fp32 for them.
        labels: what they are, as of `agreement`.
        thresholds: (k,) of a multi-label model.

    Returns:
        The candidate and how it compares with fp32 on all papers: the first with what is wanted, else the
        first within the limits, else None and None without a file. And a record of each measurement.
    """
    from tqdm.auto import tqdm

    few = min(search_papers, len(ids))
    smoothed = target.with_name(f"{target.name}.smooth")
    if any(candidate.smooth for candidate in CANDIDATES):
        smooth(source, smoothed, ids)
    files = [target.with_name(f"{target.name}.{number}") for number in range(len(CANDIDATES))]
    engines: list[OnnxEngine] = []
    for candidate, file in zip(CANDIDATES, files, strict=True):
        quantize(smoothed if candidate.smooth else source, file, candidate)
        engines.append(engine_of(file))
        engines[-1].probabilities(ids[:8], ALONE)
    found: list[list[np.ndarray]] = [[] for _ in CANDIDATES]
    seconds = [0.0] * len(CANDIDATES)
    with tqdm(total=len(CANDIDATES) * few, desc="int8 search", unit="paper", disable=not progress) as bar:
        # In turn, so that a machine that gets busier slows all of them alike; processor time, so that what
        # else it does counts little.
        for start in range(0, few, SEARCH_BLOCK):
            block = ids[start : min(start + SEARCH_BLOCK, few)]
            for number, engine in enumerate(engines):
                started = time.process_time()
                found[number].append(engine.probabilities(block, ALONE, bar.update))
                seconds[number] += (time.process_time() - started) / few
    measured = [
        agreement(np.concatenate(parts), reference[:few], labels[:few], thresholds) for parts in found
    ]
    records = [
        {**asdict(candidate), **asdict(compared), "bytes": file.stat().st_size}
        | {"milliseconds_per_paper": round(1000 * second, 3)}
        for candidate, compared, file, second in zip(CANDIDATES, measured, files, seconds, strict=True)
    ]
    # The closest of those about as fast as the fastest, then the slower ones, the fastest first.
    fast_enough, closeness = min(seconds) * ABOUT_AS_FAST, [part.mean_difference for part in measured]
    order = [(max(second, fast_enough), closeness[n], second, n) for n, second in enumerate(seconds)]
    failed = float("inf")
    second_best: tuple[int, Agreement] | None = None
    for *_, number in sorted(order):
        if closeness[number] >= failed:
            continue
        candidate, failed = CANDIDATES[number], closeness[number]
        with tqdm(total=len(ids), desc=f"int8: {candidate}", unit="paper", disable=not progress) as bar:
            scores = engines[number].probabilities(ids, ALONE, bar.update)
        compared = agreement(scores, reference, labels, thresholds)
        if within_limits(compared, WANTED_EQUAL_LABELS):
            files[number].replace(target)
            return candidate, compared, records
        if second_best is None and within_limits(compared):
            second_best = number, compared
        logger.warning(
            "int8, %s: %.2f%% of the labels and %.2f points of accuracy lost on %d papers, not wanted",
            candidate, 100 * compared.equal_labels, 100 * (compared.accuracy_fall or 0.0), compared.papers,
        )  # fmt: skip
    if second_best is None:
        return None, None, records
    number, compared = second_best
    files[number].replace(target)
    return CANDIDATES[number], compared, records


def limits(papers: int, least_equal_labels: float | None = None) -> dict[str, float]:
    """What a quantisation must keep on so many papers; one paper more or less is always allowed."""
    return {
        "least_equal_labels": min(least_equal_labels or LEAST_EQUAL_LABELS, 1 - 1 / papers),
        "largest_accuracy_fall": max(LARGEST_ACCURACY_FALL, 1 / papers),
    }


def within_limits(compared: Agreement, least_equal_labels: float | None = None) -> bool:
    """Whether a quantisation may be released."""
    allowed = limits(compared.papers, least_equal_labels)
    return (
        compared.equal_labels >= allowed["least_equal_labels"]
        and compared.max_difference <= LARGEST_DIFFERENCE
        and (compared.accuracy_fall is None or compared.accuracy_fall <= allowed["largest_accuracy_fall"])
    )
