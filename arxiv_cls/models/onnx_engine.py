"""Texts to probabilities with onnxruntime and tokenizers alone: neither torch nor transformers.

This file is also the body of the `handler.py` that `arxiv-cls export` writes beside a model: what it imports
of the package stands in `export/handler.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from arxiv_cls.models.prediction import text_problem
from arxiv_cls.record.model_files import MULTI_LABEL, token_limit
from arxiv_cls.record.run_record import available_cores

# Tokens of one forward pass, padding included: about one abstract. Larger batches are slower on a CPU, since
# their activations fall out of the cache: MiniLM on two cores of a Zen 5 scored 80 papers a second in fp32
# with 256 tokens, 63 with 2,048 (benchmarks/bench_predict.py, onnx and onnx-batches).
TOKENS_PER_BATCH = 256
ENDPOINT_PARAMETERS = {"function_to_apply", "top_k", "truncation"}


class OnnxEngine:
    """A sequence classifier exported to ONNX, with its tokenizer.

    Args:
        directory: model directory with `config.json`, `tokenizer.json`, `tokenizer_config.json`.
        file: the ONNX file's path in it.
        threads: texts that are computed at a time; None for as many as this process may use cores.

    Raises:
        ValueError: `config.json` contradicts the tokenizer or the graph.
        Exception: a file is missing, or onnxruntime or tokenizers cannot read it.
    """

    def __init__(self, directory: Path, file: str = "onnx/model.onnx", threads: int | None = None) -> None:
        names = ("config.json", "tokenizer_config.json")
        config, settings = (json.loads((directory / name).read_text(encoding="utf-8")) for name in names)
        self.labels: list[str] = [config["id2label"][str(at)] for at in range(len(config["id2label"]))]
        # What transformers' pipeline goes by too.
        self.multi_label = config.get("problem_type") == MULTI_LABEL
        self.pad_token_id = config.get("pad_token_id") or 0
        self.max_length = token_limit(config, settings.get("model_max_length"))
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        vocabulary = config.get("vocab_size")
        if isinstance(vocabulary, int) and self.tokenizer.get_vocab_size() > vocabulary:
            raise ValueError(f"tokenizer.json has more tokens than config.json says: {vocabulary}")
        # The token of an unknown word is one of them.
        added = self.tokenizer.get_added_tokens_decoder()
        self.special_ids = {number for number, token in added.items() if token.special}
        # The file may carry the truncation and padding of whoever saved it.
        self.tokenizer.no_padding()
        self._truncation_side = settings.get("truncation_side", "right")
        self.limit_tokens(self.max_length)
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
        """Probabilities of the labels for each text, (texts, labels) float64; single-label rows sum to 1.

        Texts of one length go together, longest first, so that little is padded and a batch that is too
        large fails at once.

        Args:
            ids: token ids of each text.
            tokens_per_batch: bounds rows times longest row; 1 computes each text by itself.
            on_batch: gets the number of rows after each batch.
        """
        logits = np.empty((len(ids), len(self.labels)), dtype=np.float64)
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        batches: list[list[int]] = []
        start = 0
        while start < len(order):
            batches.append(order[start : start + max(1, tokens_per_batch // len(ids[order[start]]))])
            start += len(batches[-1])
        # onnxruntime computes without the interpreter's lock; one batch needs no other thread.
        run = map if len(batches) == 1 or self.threads == 1 else self._pool.map
        for rows, values in zip(batches, run(lambda rows: self._run(ids, rows), batches), strict=True):
            logits[rows] = values
            on_batch(len(rows))
        if self.multi_label:
            # exp of a large number would overflow; tanh gives the same sigmoid.
            return 0.5 + 0.5 * np.tanh(0.5 * logits)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

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


class EndpointHandler:
    """Answers requests of Inference Endpoints as the text-classification pipeline of transformers does.

    Args:
        path: the repository's files; "" for the folder of this file.
    """

    def __init__(self, path: str = "") -> None:
        self.engine = OnnxEngine(Path(path) if path else Path(__file__).resolve().parent)

    def __call__(self, data: dict) -> list:
        """Scores one text or several.

        Args:
            data: {"inputs": text or list of texts, "parameters": {"top_k": labels per text,
                "function_to_apply": "softmax", of a multi-label model "sigmoid", "truncation": false refuses
                a text that is too long}}.

        Returns:
            [{"label", "score"}, ...]: for one text its labels, for a list the best label of each text; with
            `top_k` a list of labels for each text of a list.

        Raises:
            ValueError: no text, a text that cannot be judged, or a parameter that is not understood.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts:
            raise ValueError('"inputs" must be a text or a list of texts')
        for position, text in enumerate(texts, start=1):
            if problem := text_problem(text):
                raise ValueError(f'"inputs": text {position} of {len(texts)} {problem}')
        if not isinstance(parameters, dict) or not set(parameters) <= ENDPOINT_PARAMETERS:
            raise ValueError(f'"parameters" may hold {", ".join(sorted(ENDPOINT_PARAMETERS))} only')
        function = "sigmoid" if self.engine.multi_label else "softmax"
        if parameters.get("function_to_apply") not in (None, function):
            raise ValueError(f'"function_to_apply" must be "{function}": scores are calibrated probabilities')
        top_k, truncation = parameters.get("top_k"), parameters.get("truncation")
        # JSON's true is not a 1, and 5.0 is a whole number.
        if top_k is not None and (isinstance(top_k, bool) or top_k not in range(1, 1001)):
            raise ValueError('"top_k" must be a whole number from 1 to 1000, or null for all labels')
        if truncation is not None and not isinstance(truncation, bool):
            raise ValueError('"truncation" must be true or false')
        tokenized = self.engine.tokenize(texts)
        if truncation is False and any(cut for _, cut in tokenized):
            raise ValueError(f"a text has more than the {self.engine.max_length} tokens that the model reads")
        scores = self.engine.probabilities([ids for ids, _ in tokenized])
        if "top_k" not in parameters:
            return [self._labels(row, 1)[0] for row in scores]
        answers = [self._labels(row, None if top_k is None else int(top_k)) for row in scores]
        return answers[0] if isinstance(inputs, str) else answers

    def _labels(self, row: np.ndarray, top_k: int | None) -> list:
        order = np.argsort(-row, kind="stable")[:top_k]
        return [{"label": self.engine.labels[column], "score": float(row[column])} for column in order]
