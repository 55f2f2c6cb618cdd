"""What answers a request on Hugging Face Inference Endpoints; `handler_file.py` makes `handler.py` of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arxiv_cls.models.onnx_engine import OnnxEngine


class EndpointHandler:
    """Answers as transformers' text-classification pipeline does, computed from `onnx/model.onnx`.

    Args:
        path: the repository's files; "" for the folder of this file.
    """

    def __init__(self, path: str = "") -> None:
        self.engine = OnnxEngine(Path(path) if path else Path(__file__).resolve().parent)

    def __call__(self, data: dict) -> list:
        """Scores one text or several.

        Args:
            data: {"inputs": text or list of texts, "parameters": {"top_k": labels per text,
                "function_to_apply": "softmax" (default), "sigmoid" or "none"}}.

        Returns:
            [{"label", "score"}, ...]: for one text its labels, for a list the best label of each text; with
            `top_k` a list of labels for each text of a list.

        Raises:
            ValueError: no text, an empty text, or a parameter that is not understood.
        """
        inputs = data.get("inputs")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts:
            raise ValueError('"inputs" must be a text or a list of texts')
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError('every text in "inputs" must be a string that is not empty')
        parameters = data.get("parameters") or {}
        scores = self._scores(texts, parameters.get("function_to_apply") or "softmax")
        if "top_k" not in parameters:
            return [self._labels(row, 1)[0] for row in scores]
        top_k = parameters["top_k"]
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError('"top_k" must be a whole number above 0, or null for all labels')
        answers = [self._labels(row, top_k) for row in scores]
        return answers[0] if isinstance(inputs, str) else answers

    def _scores(self, texts: list, function: str) -> np.ndarray:
        ids = [ids for ids, _ in self.engine.tokenize(texts)]
        if function == "softmax":
            return self.engine.probabilities(ids)
        logits = self.engine.logits(ids)
        if function == "none":
            return logits
        if function == "sigmoid":
            return 1 / (1 + np.exp(-logits))
        raise ValueError('"function_to_apply" must be "softmax", "sigmoid" or "none"')

    def _labels(self, row: np.ndarray, top_k: int | None) -> list:
        order = np.argsort(-row, kind="stable")[:top_k]
        return [{"label": self.engine.labels[column], "score": float(row[column])} for column in order]
