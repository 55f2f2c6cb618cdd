"""A cascade: the cheap baseline answers where it is sure, the transformer does the rest.

The score from which the baseline counts as sure, and how much of a text the transformer reads, are chosen on
the validation split by `arxiv-cls cascade` and stand in `eval/cascade.json` of the transformer, with the
sha256 of both weights: a pair that nobody fitted does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import (
    ONNX_FILES,
    EncodedText,
    Prediction,
    Predictor,
    check_texts,
    load_predictor,
    locate_model,
    prediction_set,
    to_predictions,
)
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.model_files import read_model_file

RULE_FILE = "eval/cascade.json"
SCHEMA_VERSION = 1
DEFAULT_ENGINE = "int8"


@dataclass(frozen=True)
class CascadeRule:
    """When the baseline answers, and how the transformer reads.

    Attributes:
        threshold: top score of the baseline from which it answers alone; above 1 it never does.
        max_tokens: tokens that the transformer reads of a text.
        set_threshold: score from which a label is in the 90% prediction set of the cascade's own scores.
    """

    threshold: float
    max_tokens: int
    set_threshold: float


class CascadePredictor(Predictor):
    """Two predictors as one.

    The baseline scores a text when it is encoded, so that a queue knows before the computation which texts
    the transformer will have to read.

    Args:
        baseline: scores every text; the engine "tfidf".
        transformer: scores those that the baseline is not sure of; an ONNX engine.
        rule: fitted for these two.

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
            UserError: an empty or blank text.
        """
        check_texts(texts)
        scores = self._baseline_scores(texts)
        sure = self._sure(scores)
        read = iter(
            self.transformer.encode([text for text, is_sure in zip(texts, sure, strict=True) if not is_sure])
        )
        encoded = []
        for text, row, is_sure in zip(texts, scores, sure, strict=True):
            if is_sure:
                words = len(text.split())
                encoded.append(EncodedText(text, words, truncated=False, payload=row, answered=True))
            else:
                item = next(read)
                encoded.append(replace(item, payload=item))
        return encoded

    def predict_encoded(self, encoded: Sequence[EncodedText], top_k: int | None = None) -> list[Prediction]:
        """One prediction per encoded text, in the same order; `answered_by` says whose it is."""
        predictions: dict[int, Prediction] = {}
        sure = [position for position, item in enumerate(encoded) if item.answered]
        rest = [position for position in range(len(encoded)) if position not in set(sure)]
        if sure:
            said = to_predictions(
                np.stack([encoded[position].payload for position in sure]),
                self.labels,
                [encoded[position] for position in sure],
                top_k,
                answered_by=self.baseline.engine,
                set_threshold=self.set_threshold,
                scope_rule=self.scope_rule,
            )
            predictions.update(zip(sure, said, strict=True))
        said = self.transformer.predict_encoded([encoded[position].payload for position in rest])
        for position, prediction in zip(rest, said, strict=True):
            predictions[position] = replace(
                prediction,
                scores=dict(list(prediction.scores.items())[:top_k]),
                prediction_set=tuple(prediction_set(prediction.scores, self.rule.set_threshold)),
            )
        return [predictions[position] for position in range(len(encoded))]

    def _encoded_proba(self, encoded: Sequence[EncodedText]) -> np.ndarray:
        answers = self.predict_encoded(encoded)
        return np.array([[answer.scores[label] for label in self.labels] for answer in answers])

    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities, (texts, labels) float64; rows sum to 1."""
        scores = self._baseline_scores(texts)
        rest = np.flatnonzero(~self._sure(scores))
        scores[rest] = self.transformer.predict_proba([texts[int(row)] for row in rest], progress=progress)
        return scores

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """The transformer's features of each text.

        Raises:
            UserError: the engine gives none.
        """
        return self.transformer.embed(texts, progress=progress)

    def _baseline_scores(self, texts: Sequence[str]) -> np.ndarray:
        return self.baseline.predict_proba(texts)[:, self._columns]

    def _sure(self, scores: np.ndarray) -> np.ndarray:
        return scores.max(axis=1, initial=0.0) >= self.rule.threshold


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
    """The baseline and the transformer of a cascade, not yet joined.

    Args:
        model: transformer; directory or Hub id.
        baseline: TF-IDF baseline; directory or Hub id.
        engine: an ONNX engine, since the cascade is there for speed.
        threads: of the transformer; None for all cores.

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
    return first, second


def load_cascade(
    model: str | Path,
    baseline: str | Path,
    *,
    engine: str = DEFAULT_ENGINE,
    threads: int | None = None,
) -> CascadePredictor:
    """Loads a pair that `arxiv-cls cascade` fitted.

    Args:
        model: transformer; directory or Hub id.
        baseline: TF-IDF baseline; directory or Hub id.
        engine: of the transformer, the one that the cascade was fitted with.
        threads: of the transformer; None for all cores.

    Raises:
        UserError: a model cannot be loaded, or the cascade was not fitted for these weights and this engine.
    """
    first, second = load_pair(model, baseline, engine, threads)
    return CascadePredictor(first, second, load_rule(first, second, f"{model} {baseline}"))


def fitted_engine(model: str | Path) -> str:
    """The engine that the cascade of a transformer was fitted with; the default where no record names one.

    Args:
        model: directory or Hub id.

    Raises:
        UserError: no such model, or its record is damaged.
    """
    record = read_model_file(locate_model(model, engine=DEFAULT_ENGINE), RULE_FILE) or {}
    return record["engine"] if record.get("engine") in ONNX_FILES else DEFAULT_ENGINE


def load_rule(baseline: Predictor, transformer: Predictor, named: str) -> CascadeRule:
    """The rule in the transformer's directory, if it was fitted for these two.

    Args:
        baseline: loaded.
        transformer: loaded.
        named: "MODEL BASELINE" as the person named them, for the message.

    Raises:
        UserError: there is none, it is damaged, or it belongs to other weights or another engine.
    """
    path = transformer.directory / RULE_FILE
    command = f"arxiv-cls cascade {named} --engine {transformer.engine}"
    hint = f"`{command}` fits it on the validation split"
    record = read_model_file(transformer.directory, RULE_FILE)
    if record is None:
        raise UserError(f"{transformer.directory} has no cascade: {RULE_FILE} is missing", hint=hint)
    if record["schema_version"] != SCHEMA_VERSION:
        version = record["schema_version"]
        raise UserError(f"{path} is of version {version}, this program reads version {SCHEMA_VERSION}")
    fitted_for = [record["engine"], record["transformer_sha256"], record["baseline_sha256"]]
    rule = CascadeRule(float(record["threshold"]), record["max_tokens"], float(record["set_threshold"]))
    if fitted_for[0] != transformer.engine:
        raise UserError(
            f"the cascade of {transformer.directory} was fitted for the engine {fitted_for[0]}, "
            f"not {transformer.engine}",
            hint=f"use --engine {fitted_for[0]} (make: ENGINE={fitted_for[0]}), or {hint}",
        )
    found = [file_sha256(transformer.weights_path), file_sha256(baseline.weights_path)]
    if fitted_for[1:] != found:
        other = transformer if fitted_for[1] != found[0] else baseline
        raise UserError(
            f"the cascade of {transformer.directory} was fitted for other weights than {other.weights_path}",
            hint=hint,
        )
    return rule
