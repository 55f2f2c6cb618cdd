"""The TF-IDF baseline: linear models on tf-idf terms, and gradient-boosted trees that start from their score.

    terms -> scores of m linear models -> one linear score per label (the margin)
    terms -> latent semantic analysis  -> trees on [scores, analysis], grown on top of the margin
    softmax((margin + trees) / temperature)

Loading one needs neither torch nor datasets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from arxiv_cls.errors import UserError, is_out_of_memory
from arxiv_cls.models.decision_rules import DecisionRules
from arxiv_cls.models.predictor import EncodedText, Prediction, check_texts, to_predictions
from arxiv_cls.models.tfidf_file import CONFIG_FILE, WEIGHTS_FILE, read_state, write_state
from arxiv_cls.models.tfidf_terms import TermFeatures
from arxiv_cls.record.directory import check_directory
from arxiv_cls.record.model_config import TFIDF_MODEL_TYPE, ClassifierConfig, labels_of
from arxiv_cls.record.model_files import read_record

if TYPE_CHECKING:
    import xgboost

FORMAT_VERSION = 1
TEXTS_AT_A_TIME = 4096


@dataclass
class LinearScores:
    """m linear models and how their scores add up to one score per label.

    Attributes:
        weights: (m * k, features) float32, the models one after another.
        bias: (m * k,) float32.
        combination: (m * k, k) float32.
        combination_bias: (k,) float32.
    """

    weights: np.ndarray
    bias: np.ndarray
    combination: np.ndarray
    combination_bias: np.ndarray

    def __post_init__(self) -> None:
        # A product with sparse rows copies a transposed matrix unless its columns lie together: 13 MB for
        # each call, which is most of the time of a single text.
        self.weights = np.asfortranarray(self.weights)

    def scores(self, rows: sp.csr_matrix) -> np.ndarray:
        """(n, m * k) scores of the single models."""
        return rows @ self.weights.T + self.bias

    def margin(self, scores: np.ndarray) -> np.ndarray:
        """(n, k) combined scores."""
        return scores @ self.combination + self.combination_bias


@dataclass
class TfidfModel:
    """Everything that turns texts into probabilities.

    Attributes:
        labels: the k category codes, in the order of the outputs.
        terms: text to sparse rows.
        linear: the linear part.
        component_columns: (c,) int32, the columns of the whole text's terms that the analysis reads.
        components: (d, c) float32; d is 0 when the model has no analysis.
        booster: the trees; None for a linear model.
        temperature: what the logits are divided by.
    """

    labels: list[str]
    terms: TermFeatures
    linear: LinearScores
    component_columns: np.ndarray
    components: np.ndarray
    booster: xgboost.Booster | None = None
    temperature: float = 1.0

    def dense(self, rows: sp.csr_matrix) -> np.ndarray:
        """(n, m * k + d) float32: the scores of the linear models, then the analysis."""
        scores = self.linear.scores(rows)
        if not len(self.components):
            return scores.astype(np.float32)
        analysis = rows[:, self.component_columns] @ self.components.T
        return np.hstack([scores, analysis]).astype(np.float32)

    def logits(self, rows: sp.csr_matrix) -> np.ndarray:
        """(n, k) float64 logits before the temperature."""
        dense = self.dense(rows)
        margin = self.linear.margin(dense[:, : len(self.linear.bias)])
        if self.booster is None:
            return margin.astype(np.float64)
        import xgboost

        matrix = xgboost.DMatrix(dense, base_margin=margin)
        return self.booster.predict(matrix, output_margin=True).astype(np.float64)

    def save(self, directory: Path) -> None:
        """Writes `config.json` and `model.skops` into an existing directory."""
        config = {
            "model_type": TFIDF_MODEL_TYPE,
            "format_version": FORMAT_VERSION,
            "classifier": "linear" if self.booster is None else "xgboost",
            "num_labels": len(self.labels),
            "id2label": {str(number): label for number, label in enumerate(self.labels)},
            "label2id": {label: number for number, label in enumerate(self.labels)},
            "features": int(self.linear.weights.shape[1]),
            "components": len(self.components),
            "temperature": self.temperature,
        }
        trees = None
        if self.booster is not None:
            trees = np.frombuffer(bytes(self.booster.save_raw("ubj")), dtype=np.uint8)
        state = {
            "format_version": FORMAT_VERSION,
            "labels": list(self.labels),
            "terms": self.terms.state(),
            "linear": vars(self.linear) | {"weights": np.ascontiguousarray(self.linear.weights)},
            "component_columns": self.component_columns,
            "components": self.components,
            "trees": trees,
            "temperature": float(self.temperature),
        }
        write_state(state, directory / WEIGHTS_FILE)
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> TfidfModel:
        """Reads what `save` wrote.

        Raises:
            UserError: when the file is missing, damaged, of a later format, holds a type that could run code,
                or contradicts itself or `config.json`.
        """
        path = directory / WEIGHTS_FILE
        state = read_state(path, FORMAT_VERSION)
        config = read_record(directory / CONFIG_FILE, ClassifierConfig)
        try:
            booster = None
            if state["trees"] is not None:
                import xgboost

                booster = xgboost.Booster(model_file=bytearray(state["trees"].tobytes()))
            model = cls(
                labels=state["labels"],
                terms=TermFeatures.from_state(state["terms"]),
                linear=LinearScores(**state["linear"]),
                component_columns=state["component_columns"],
                components=state["components"],
                booster=booster,
                temperature=state["temperature"],
            )
            problems = model._contradictions(config)
        # What a damaged state makes numpy, scikit-learn and xgboost raise is not known beforehand.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{path} does not hold a baseline: {type(error).__name__}: {reason}",
                hint="train the model again, or download it again",
            ) from error
        if problems:
            raise UserError(
                f"{path}: {'; '.join(problems)}", hint="train the model again, or download it again"
            )
        return model

    def _contradictions(self, config: dict[str, Any]) -> list[str]:
        """Where the parts do not fit each other or `config.json`; one sentence each."""
        linear, labels = self.linear, len(self.labels)
        features, scores = linear.weights.shape[1], len(linear.bias)
        trees = self.booster
        read_by_trees = scores + len(self.components)
        expected: dict[str, tuple[Any, Any]] = {
            "labels, and those of config.json": (list(self.labels), labels_of(config)),
            "terms, and features of config.json": (features, config.get("features", features)),
            "components, and those of config.json": (
                len(self.components),
                config.get("components", len(self.components)),
            ),
            "classifier, and that of config.json": (
                "linear" if trees is None else "xgboost",
                config.get("classifier", "linear" if trees is None else "xgboost"),
            ),
            "terms of the vocabulary, and of the weights": (self.terms.width, features),
            "shape of `weights`": (linear.weights.shape, (scores, features)),
            "shape of `bias`": (linear.bias.shape, (scores,)),
            "shape of `combination`": (linear.combination.shape, (scores, labels)),
            "shape of `combination_bias`": (linear.combination_bias.shape, (labels,)),
            "columns of the components": (
                self.components.shape[1:],
                (len(self.component_columns),) if len(self.components) else self.components.shape[1:],
            ),
            "columns that the components read lie among the terms": (
                bool(np.isin(self.component_columns, np.arange(self.terms.text_terms)).all()),
                True,
            ),
            "a temperature above 0": (bool(0 < self.temperature < np.inf), True),
            "columns that the trees read": (
                read_by_trees if trees is None else trees.num_features(),
                read_by_trees,
            ),
            "classes of the trees": (_classes(trees) if trees is not None and labels > 2 else labels, labels),
        }
        return [
            f"{what}: found {str(found)[:80]}, expected {str(wanted)[:80]}"
            for what, (found, wanted) in expected.items()
            if found != wanted
        ]


def _classes(booster: xgboost.Booster) -> int:
    settings = json.loads(booster.save_config())
    return int(settings["learner"]["learner_model_param"]["num_class"])


class TfidfPredictor:
    """A baseline behind the face that every model has.

    Args:
        model: the fitted model.
        directory: the model directory that it was read from.
    """

    kind = "tfidf"
    engine = "tfidf"
    max_length: int | None = None

    def __init__(self, model: TfidfModel, directory: Path) -> None:
        self.model = model
        self.labels = list(model.labels)
        self.directory = directory
        self.weights_path = directory / WEIGHTS_FILE
        self.rules = DecisionRules.load(directory)

    @classmethod
    def load(cls, directory: str | Path) -> TfidfPredictor:
        """Reads a model directory that `train_tfidf.py` wrote.

        Raises:
            UserError: when its weights cannot be read, or something in the directory could run code.
        """
        check_directory(directory)
        return cls(TfidfModel.load(Path(directory)), Path(directory))

    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities.

        Args:
            texts: n texts; a title, a blank line and an abstract do best.
            progress: show a bar.

        Returns:
            (n, k) float64 in the order of `labels`; rows add up to 1.
        """
        logits = self._per_chunk(texts, self.model.logits, len(self.labels), progress)
        return softmax(logits / self.model.temperature, axis=1)

    def predict(self, texts: Sequence[str], top_k: int | None = None) -> list[Prediction]:
        """The label of each text, with the scores of all labels or of the `top_k` highest.

        Raises:
            UserError: when a text is empty or blank.
        """
        return self.predict_encoded(self.encode(texts), top_k)

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text with the number of its words; a baseline reads a text of any length.

        Raises:
            UserError: when a text is empty or blank.
        """
        check_texts(texts)
        return [EncodedText(text, len(text.split()), truncated=False) for text in texts]

    def predict_encoded(self, encoded: Sequence[EncodedText], top_k: int | None = None) -> list[Prediction]:
        """One prediction per text, in the same order."""
        probabilities = self.predict_proba([item.text for item in encoded])
        return to_predictions(
            probabilities, self.labels, encoded, top_k, answered_by=self.engine, rules=self.rules
        )

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """(n, d) float32: what the trees read, the linear scores and the latent semantic analysis."""
        width = len(self.model.linear.bias) + len(self.model.components)
        return self._per_chunk(texts, self.model.dense, width, progress).astype(np.float32)

    def top_terms(self, label: str, n: int = 20) -> list[tuple[str, float]]:
        """The terms that speak most for a category in the linear part.

        A term's number is what it adds to the category's margin, above its mean over the categories, for
        each unit of tf-idf; for a linear model that is the whole of its part in the decision. Terms are
        ranked by that number times the fourth root of the share of training papers that have the term, so
        that neither words met twice nor words met everywhere crowd out the ones that decide. Terms of
        titles start with `title:`.

        Raises:
            UserError: when the model has no such label.
        """
        if label not in self.labels:
            raise UserError(f"no label {label!r}", hint=f"the model knows {', '.join(self.labels)}")
        linear = self.model.linear
        centred = linear.combination - linear.combination.mean(axis=1, keepdims=True)
        effect = centred[:, self.labels.index(label)] @ linear.weights
        # idf = 1 + ln((1 + n) / (1 + df)), scikit-learn's smooth form: exp(1 - idf) is the share.
        rank = effect * np.exp((1 - self._idf()) / 4)
        best = np.argsort(-rank, kind="stable")[:n]
        names = self.model.terms.names()
        return [(names[column], float(effect[column])) for column in best]

    def _idf(self) -> np.ndarray:
        terms = self.model.terms
        vectorizers = [terms.text] if terms.title is None else [terms.text, terms.title]
        return np.concatenate([vectorizer.idf_ for vectorizer in vectorizers])

    def _per_chunk(self, texts: Sequence[str], function: Any, width: int, progress: bool) -> np.ndarray:
        from tqdm import tqdm

        starts = range(0, len(texts), TEXTS_AT_A_TIME)
        results = [np.empty((0, width))]
        for start in tqdm(starts, desc="scoring", disable=not progress, leave=False):
            chunk = list(texts[start : start + TEXTS_AT_A_TIME])
            results.append(function(self.model.terms.transform(chunk)))
        return np.concatenate(results)
