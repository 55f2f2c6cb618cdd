"""A cascade: the cheap baseline answers where it is sure, the transformer does the rest.

The score from which the baseline counts as sure, and how much of a text the transformer reads, are chosen on
the validation split by `arxiv-cls cascade` and stand in `eval/cascade.json` of the transformer, with the
sha256 of both weights: a pair that nobody fitted does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ONNX_FILES, EncodedText, Prediction, Predictor
from arxiv_cls.models.predictor import load_predictor, locate_model
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.model_files import read_model_file

RULE_FILE = "eval/cascade.json"
SCHEMA_VERSION = 1
DEFAULT_ENGINE = "int8"


@dataclass(frozen=True)
class CascadeRule:
    """When the baseline answers, and how the transformer reads."""

    threshold: float  # top score of the baseline from which it answers alone; above 1 it never does
    max_tokens: int  # that the transformer reads of a text
    set_threshold: float  # score from which a label is in the 90% set of the cascade's own scores


class CascadePredictor(Predictor):
    """Two predictors as one.

    The baseline scores a text when it is encoded, so that a queue knows before the computation which texts
    the transformer, on an ONNX engine, will have to read.

    Raises:
        UserError: the two know different labels.
    """

    kind = "cascade"

    def __init__(self, baseline: Predictor, transformer: Any, rule: CascadeRule) -> None:
        self.baseline, self.transformer, self.rule = baseline, transformer, rule
        self._columns = baseline_columns(baseline, transformer)
        transformer.limit_tokens(rule.max_tokens)
        super().__init__(
            transformer.labels,
            transformer.directory,
            str(transformer.weights_path.relative_to(transformer.directory)),
            f"{baseline.engine}+{transformer.engine}",
            transformer.max_length,
        )
        self.set_threshold = rule.set_threshold

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text with the baseline's scores, or with the tokens that the transformer will read.

        Raises:
            UserError: as of `check_texts`.
        """
        first, scores, sure = self._ask_baseline(texts)
        read = iter(self.transformer.encode(list(compress(texts, ~sure))))
        return [
            replace(item, payload=row, answered=True)
            if is_sure
            else replace(unsure := next(read), payload=unsure)
            for item, row, is_sure in zip(first, scores, sure, strict=True)
        ]

    def predict_encoded(self, encoded: Sequence[EncodedText], top_k: int | None = None) -> list[Prediction]:
        """One prediction per encoded text, in the same order; `answered_by` says whose it is."""
        engines = [(self.baseline if item.answered else self.transformer).engine for item in encoded]
        predictions = super().predict_encoded(encoded, top_k)
        return [
            replace(prediction, answered_by=engine)
            for prediction, engine in zip(predictions, engines, strict=True)
        ]

    def _encoded_proba(self, encoded: Sequence[EncodedText]) -> np.ndarray:
        sure = np.array([item.answered for item in encoded], dtype=bool)
        scores = np.empty((len(encoded), len(self.labels)))
        if sure.any():
            scores[sure] = np.stack([item.payload for item in encoded if item.answered])
        scores[~sure] = self.transformer._encoded_proba(
            [item.payload for item in encoded if not item.answered]
        )
        return scores

    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities, (texts, labels) float64; rows sum to 1."""
        _, scores, sure = self._ask_baseline(texts)
        scores[~sure] = self.transformer.predict_proba(list(compress(texts, ~sure)), progress=progress)
        return scores

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """The transformer's features of each text, (texts, features) float32."""
        return self.transformer.embed(texts, progress=progress)

    def _ask_baseline(self, texts: Sequence[str]) -> tuple[list[EncodedText], np.ndarray, np.ndarray]:
        """The texts as the baseline reads them, its scores, and where it is sure: not without known words."""
        encoded = self.baseline.encode(texts)
        scores = self.baseline._encoded_proba(encoded)[:, self._columns]
        known = np.array([not item.no_known_words for item in encoded], dtype=bool)
        return encoded, scores, known & (scores.max(axis=1, initial=0.0) >= self.rule.threshold)


def baseline_columns(baseline: Predictor, transformer: Predictor) -> list[int]:
    """The baseline's column of each label of the transformer.

    Raises:
        UserError: the two know different labels.
    """
    if set(baseline.labels) != set(transformer.labels):
        raise UserError(
            f"{baseline.directory} and {transformer.directory} know different labels: "
            f"{', '.join(baseline.labels)} and {', '.join(transformer.labels)}"
        )
    return [baseline.labels.index(label) for label in transformer.labels]


def load_pair(
    model: str | Path, baseline: str | Path, engine: str = DEFAULT_ENGINE, threads: int | None = None
) -> tuple[Predictor, Any]:
    """The baseline and the transformer of a cascade, not yet joined; arguments as of `load_cascade`.

    Raises:
        UserError: one of them cannot be loaded, or is not what its place asks for.
    """
    if engine not in ONNX_FILES:
        raise UserError(
            f"a cascade does not run on the engine {engine!r}", hint=f"name one of {', '.join(ONNX_FILES)}"
        )
    first, second = load_predictor(baseline), load_predictor(model, engine=engine, threads=threads)
    if first.kind != "tfidf":
        raise UserError(
            f"{baseline} is no baseline, which answers first in a cascade",
            hint="`python arxiv_cls/train_tfidf.py recipes/tfidf_linear.yaml` trains one",
        )
    if second.kind != "transformer":
        raise UserError(f"{model} is no transformer: a cascade needs one behind the baseline {baseline}")
    if multi_label := [named for named, one in ((baseline, first), (model, second)) if one.multi_label]:
        raise UserError(
            f"{multi_label[0]} is a multi-label model: a cascade has one label a paper",
            hint="score with the model alone",
        )
    return first, second


def load_cascade(
    model: str | Path, baseline: str | Path, *, engine: str = DEFAULT_ENGINE, threads: int | None = None
) -> CascadePredictor:
    """Loads a pair that `arxiv-cls cascade` fitted.

    Args:
        model: transformer; directory or Hub id.
        baseline: TF-IDF baseline; directory or Hub id.
        engine: an ONNX engine, the one that the cascade was fitted with.
        threads: of the transformer; None for all cores.

    Raises:
        UserError: a model cannot be loaded, or the cascade was not fitted for these weights and this engine.
    """
    first, second = load_pair(model, baseline, engine, threads)
    return CascadePredictor(first, second, load_rule(first, second, f"{model} {baseline}"))


def fitted_engine(model: str | Path) -> str:
    """The engine that the cascade of a transformer was fitted with; the default where no record names one.

    Raises:
        UserError: no such model, or its record is damaged.
    """
    record = read_model_file(locate_model(model, engine=DEFAULT_ENGINE), RULE_FILE) or {}
    return record["engine"] if record.get("engine") in ONNX_FILES else DEFAULT_ENGINE


def load_rule(baseline: Predictor, transformer: Predictor, named: str) -> CascadeRule:
    """The rule in the transformer's directory, if it was fitted for these two, named "MODEL BASELINE".

    Raises:
        UserError: there is none, it is damaged, or it belongs to other weights or another engine.
    """
    directory = transformer.directory
    hint = f"`arxiv-cls cascade {named} --engine {transformer.engine}` fits it on the validation split"
    record = read_model_file(directory, RULE_FILE)
    if record is None:
        raise UserError(f"{directory} has no cascade: {RULE_FILE} is missing", hint=hint)
    if (engine := record["engine"]) != transformer.engine:
        raise UserError(
            f"the cascade of {directory} was fitted for the engine {engine}, not {transformer.engine}",
            hint=f"use --engine {engine} (make: ENGINE={engine}), or {hint}",
        )
    for name, predictor in (("transformer_sha256", transformer), ("baseline_sha256", baseline)):
        if record[name] != file_sha256(predictor.weights_path):
            raise UserError(
                f"the cascade of {directory} was fitted for other weights than {predictor.weights_path}",
                hint=hint,
            )
    return CascadeRule(float(record["threshold"]), record["max_tokens"], float(record["set_threshold"]))
