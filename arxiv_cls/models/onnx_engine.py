"""Texts to probabilities with onnxruntime and tokenizers alone: neither torch nor transformers.

This file and `cpu_cores.py` are also the body of the `handler.py` that `arxiv-cls export` writes beside a
model, so they import nothing of the package but each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from arxiv_cls.models.hardware import available_cores

# Tokens of one forward pass, padding included: about one abstract. Larger batches are slower on a CPU, since
# their activations fall out of the cache: MiniLM on two cores of a Zen 5 scored 80 papers a second in fp32
# with 256 tokens, 63 with 2,048 (benchmarks/bench_predict.py, onnx and onnx-batches).
TOKENS_PER_BATCH = 256


class OnnxEngine:
    """A sequence classifier exported to ONNX, with its tokenizer.

    Args:
        directory: model directory with `config.json`, `tokenizer.json`, `tokenizer_config.json`.
        file: the ONNX file's path in it.
        threads: texts that are computed at a time; None for as many as this process may use cores.

    Raises:
        OSError: a file is missing.
        ValueError: `config.json` or `tokenizer_config.json` is damaged, or contradicts the graph.
        Exception: onnxruntime and tokenizers raise their own for a file that they cannot read.
    """

    def __init__(self, directory: Path, file: str = "onnx/model.onnx", threads: int | None = None) -> None:
        config = _read_object(directory / "config.json")
        settings = _read_object(directory / "tokenizer_config.json")
        if not (directory / file).is_file():
            raise FileNotFoundError(f"{directory / file} is not there")
        self.labels = _labels(config.get("id2label"))
        self.pad_token_id = config.get("pad_token_id") or 0
        self.max_length = _max_length(settings.get("model_max_length"), config.get("max_position_embeddings"))
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        vocabulary = config.get("vocab_size")
        if isinstance(vocabulary, int) and self.tokenizer.get_vocab_size() > vocabulary:
            raise ValueError(f"tokenizer.json has more tokens than config.json says: {vocabulary}")
        # The file may carry the truncation and padding of whoever saved it.
        self.tokenizer.no_padding()
        self._truncation_side = settings.get("truncation_side", "right")
        self.tokenizer.enable_truncation(self.max_length, direction=self._truncation_side)
        self.threads = threads or available_cores()
        options = onnxruntime.SessionOptions()
        # Many texts: a caller on each core. One text: two cores share it. MiniLM in int8 on two cores of a
        # Zen 5: 185 papers a second so, 181 with one thread to a text, 166 with one text at a time; a text
        # by itself takes 7.8, 10.6 and 6.0 ms. A thread that waits must not spin: it takes the core of
        # another text, and where the cores have other work spinning costs half of the speed.
        options.intra_op_num_threads = min(2, self.threads)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = open_session((directory / file).read_bytes(), options)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="onnx")
        self._inputs = [entry.name for entry in self.session.get_inputs()]
        if not {"input_ids"} <= set(self._inputs) <= {"input_ids", "attention_mask", "token_type_ids"}:
            raise ValueError(f"the graph asks for {self._inputs}, not for input_ids and attention_mask")
        shapes = {output.name: output.shape for output in self.session.get_outputs()}
        width = shapes["logits"][-1] if shapes.get("logits") else None
        if width is None or (isinstance(width, int) and width != len(self.labels)):
            raise ValueError(f"the graph gives {width} logits, config.json names {len(self.labels)} labels")

    def limit_tokens(self, max_length: int) -> None:
        """Reads at most so many tokens of a text from now on, and never more than before."""
        self.max_length = min(max_length, self.max_length)
        self.tokenizer.enable_truncation(self.max_length, direction=self._truncation_side)

    def tokenize(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Token ids of each text, cut at `max_length`, and whether it was cut."""
        encodings = self.tokenizer.encode_batch(list(texts))
        return [(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]

    def probabilities(
        self,
        ids: Sequence[Sequence[int]],
        tokens_per_batch: int = TOKENS_PER_BATCH,
        on_batch: Callable[[int], object] = lambda rows: None,
    ) -> np.ndarray:
        """Softmax of `logits`, (texts, labels) float64; rows sum to 1."""
        logits = self.logits(ids, tokens_per_batch, on_batch)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def logits(
        self,
        ids: Sequence[Sequence[int]],
        tokens_per_batch: int = TOKENS_PER_BATCH,
        on_batch: Callable[[int], object] = lambda rows: None,
    ) -> np.ndarray:
        """What the network gives for each text, (texts, labels) float64.

        Texts of one length go together, longest first, so that little is padded and a batch that is too
        large fails at once.

        Args:
            ids: token ids of each text.
            tokens_per_batch: bounds rows times longest row; 1 computes each text by itself.
            on_batch: gets the number of rows after each batch.
        """
        logits = np.empty((len(ids), len(self.labels)), dtype=np.float64)
        batches = list(_batches(ids, tokens_per_batch))
        # onnxruntime computes without the interpreter's lock; one batch needs no other thread.
        run = map if len(batches) == 1 or self.threads == 1 else self._pool.map
        for rows, values in zip(batches, run(lambda rows: self._run(ids, rows), batches), strict=True):
            logits[rows] = values
            on_batch(len(rows))
        return logits

    def _run(self, ids: Sequence[Sequence[int]], rows: Sequence[int]) -> np.ndarray:
        shape = (len(rows), max(len(ids[row]) for row in rows))
        given = {
            "input_ids": np.full(shape, self.pad_token_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }
        for position, row in enumerate(rows):
            given["input_ids"][position, : len(ids[row])] = ids[row]
            given["attention_mask"][position, : len(ids[row])] = 1
        (logits,) = self.session.run(["logits"], {name: given[name] for name in self._inputs})
        return logits


def open_session(model: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session of a graph that holds all of its weights, on the CPU.

    Args:
        model: the content of an ONNX file. Read from bytes, it has no folder to find other files in.
        options: of the session.

    Raises:
        Exception: onnxruntime's own, for a graph that it cannot read or that names files outside of itself.
    """
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/nonexistent")
    # What is wrong is raised; printed as well it would be said twice.
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _read_object(path: Path) -> dict:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _labels(id2label: object) -> list[str]:
    if not isinstance(id2label, dict) or set(id2label) != {str(number) for number in range(len(id2label))}:
        raise ValueError('config.json: id2label must map "0", "1", ... to labels')
    labels = [id2label[str(number)] for number in range(len(id2label))]
    if not labels or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        raise ValueError("config.json: the labels in id2label must be strings, each of them once")
    return labels


def _max_length(limit: object, positions: object) -> int:
    """Tokens that a text may have; a tokenizer without a limit of its own writes 1e30."""
    table = positions if isinstance(positions, int) else 512
    if limit is None or (isinstance(limit, int | float) and limit >= 1e6):
        return table
    # Two special tokens and one of the text.
    if not isinstance(limit, int | float) or limit < 3 or (positions is not None and limit > table):
        raise ValueError(f"tokenizer_config.json: model_max_length {limit}, the model has {table} positions")
    return int(limit)


def _batches(ids: Sequence[Sequence[int]], tokens_per_batch: int) -> Iterator[list[int]]:
    """Row numbers of each batch, longest first."""
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, tokens_per_batch // len(ids[order[start]]))]
        start += len(rows)
        yield rows
