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

from arxiv_cls.models.cpu_cores import available_cores

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
        ValueError: `config.json` or `tokenizer_config.json` is not JSON.
        Exception: onnxruntime and tokenizers raise their own for a file that they cannot read.
    """

    def __init__(self, directory: Path, file: str = "onnx/model.onnx", threads: int | None = None) -> None:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        if not (directory / file).is_file():
            raise FileNotFoundError(f"{directory / file} is not there")
        self.labels = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
        self.pad_token_id = config.get("pad_token_id") or 0
        # A tokenizer without a limit of its own writes 1e30 here; then the position table is the limit.
        limit = settings.get("model_max_length") or 1e30
        self.max_length = int(limit if limit < 1e6 else config.get("max_position_embeddings", 512))
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
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
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(directory / file), options, providers=["CPUExecutionProvider"]
        )
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="onnx")
        self._inputs = [entry.name for entry in self.session.get_inputs()]

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
            on_batch: is told the number of rows after each batch.
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


def _batches(ids: Sequence[Sequence[int]], tokens_per_batch: int) -> Iterator[list[int]]:
    """Row numbers of each batch, longest first."""
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, tokens_per_batch // len(ids[order[start]]))]
        start += len(rows)
        yield rows
