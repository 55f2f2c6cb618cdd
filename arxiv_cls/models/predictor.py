"""One face for every kind of model and every engine: `load_predictor(model).predict(texts)`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.decision_rules import DecisionRules
from arxiv_cls.record.model_config import TFIDF_MODEL_TYPE, ClassifierConfig
from arxiv_cls.record.model_files import read_record

# What can compute a transformer; the baseline is its own engine, "tfidf".
ENGINES = ("torch", "onnx", "int8")
ONNX_FILES = {"onnx": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}


@dataclass(frozen=True)
class Prediction:
    """What a model says of one text.

    Attributes:
        label: category code with the highest score.
        score: its calibrated probability, 0 to 1.
        scores: every label (or the top k) with its probability, descending.
        truncated: whether the text was longer than the model reads.
        prediction_set: labels that hold the right one with 90% probability, highest score first; None when
            the model has no `eval/prediction_sets.json`.
        in_scope: whether the text belongs to the model's categories; None without `eval/scope.json`.
        scope_score: 0 (outside) to 1 (inside), what `in_scope` was decided by; None without the rule.
        answered_by: "torch", "onnx", "int8" or "tfidf".
    """

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool
    prediction_set: tuple[str, ...] | None
    in_scope: bool | None
    scope_score: float | None
    answered_by: str


@dataclass(frozen=True)
class EncodedText:
    """A text as one engine reads it, so that a queue can weigh it before it is scored.

    Attributes:
        text: as it was given.
        tokens: how many the model will read, after truncation; words for a baseline.
        truncated: whether the text was longer than the model reads.
        payload: the engine's own: token ids of a transformer; None for a baseline.
        answered: whether it was scored when it was encoded, by the baseline of a cascade: computing the
            answer costs nothing any more, however many tokens it has.
    """

    text: str
    tokens: int
    truncated: bool
    payload: Any = None
    answered: bool = False


class Predictor(Protocol):
    """What every kind of model can do on every engine.

    Attributes:
        kind: "transformer", "tfidf" or "cascade".
        engine: "torch", "onnx", "int8", "tfidf", or two of them, "tfidf+int8".
        labels: category codes, in the order of the columns of `predict_proba`.
        directory: the model directory.
        weights_path: the file that holds the weights this engine computes with.
        max_length: tokens that the model reads of a text; None when there is no limit.
    """

    kind: str
    engine: str
    labels: list[str]
    directory: Path
    weights_path: Path
    max_length: int | None

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text as the engine reads it.

        Raises:
            UserError: an empty or blank text.
        """

    def predict_encoded(self, encoded: Sequence[EncodedText], top_k: int | None = None) -> list[Prediction]:
        """One prediction per encoded text of this predictor, in the same order."""

    def predict(self, texts: Sequence[str], top_k: int | None = None) -> list[Prediction]:
        """One prediction per text, in the same order: `predict_encoded(encode(texts))`.

        Raises:
            UserError: an empty or blank text.
        """

    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities, (texts, labels) float64; rows sum to 1."""

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """The model's own features of each text, (texts, features) float32.

        Raises:
            UserError: the engine gives none.
        """


def check_texts(texts: Sequence[str]) -> None:
    """Refuses what no model should guess about.

    Raises:
        UserError: a text that is empty or is not a string, with its position.
    """
    for position, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"text {position + 1} of {len(texts)} is empty", hint="Pass a title and an abstract."
            )


def to_predictions(
    probabilities: np.ndarray,
    labels: Sequence[str],
    encoded: Sequence[EncodedText],
    top_k: int | None = None,
    *,
    answered_by: str,
    rules: DecisionRules | None = None,
) -> list[Prediction]:
    """Rows of probabilities as `Prediction`s.

    Args:
        probabilities: (texts, labels).
        labels: codes in the order of the columns.
        encoded: the texts, in the order of the rows.
        top_k: how many labels to keep in `scores`; None keeps all.
        answered_by: the engine.
        rules: prediction sets and scope; None for a model without.
    """
    rules = rules or DecisionRules()
    # A stable sort of the negated scores: of equal ones the first label wins, as argmax has it.
    orders = np.argsort(-probabilities, axis=1, kind="stable")
    predictions = []
    for row, order, item in zip(probabilities, orders, encoded, strict=True):
        scores = {labels[column]: float(row[column]) for column in order}
        best = labels[order[0]]
        in_scope, scope_score = rules.scope_of(item.text)
        predictions.append(
            Prediction(
                label=best,
                score=scores[best],
                scores=dict(list(scores.items())[:top_k]),
                truncated=item.truncated,
                prediction_set=rules.set_of(scores),
                in_scope=in_scope,
                scope_score=scope_score,
                answered_by=answered_by,
            )
        )
    return predictions


def locate_model(model: str | Path, revision: str | None = None, engine: str | None = None) -> Path:
    """The local directory of a model: itself, or the snapshot of a Hub id.

    Args:
        model: a directory (with or without a trailing slash) or a Hub id, also as `user/name@revision`.
        revision: branch, tag or commit of a Hub id.
        engine: decides which weights are downloaded: the ONNX file of an ONNX engine, else the
            safetensors; a baseline has one file for all.

    Raises:
        UserError: nothing there, or the Hub cannot be reached (exit code 3).
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory
    name, _, tag = str(model).partition("@")
    if name.startswith((".", "/", "~", "outputs/")) or name.count("/") != 1 or name.endswith("/"):
        raise UserError(
            f"{model}: no such model directory",
            hint="MODEL is a directory that training wrote, or a Hub id user/name.",
        )
    from arxiv_cls.models.pretrained import HUB_FILES, HUB_WEIGHTS, download_from_hub

    weights = [ONNX_FILES[engine], "onnx/parity.json"] if engine in ONNX_FILES else HUB_WEIGHTS
    files = [*HUB_FILES, *weights, "model.skops", "recipe.yaml", "run.json", "eval/*", "README.md"]
    return download_from_hub(name, tag or revision, files)


def load_predictor(
    model: str | Path, revision: str | None = None, *, engine: str | None = None, threads: int | None = None
) -> Predictor:
    """Loads a model of either kind.

    Args:
        model: model directory or Hub id.
        revision: of a Hub id.
        engine: one of `ENGINES` for a transformer, None for torch; a baseline ignores it.
        threads: CPU threads that score; None for all that this process may use (torch: for as many as
            torch was set to). A baseline ignores it.

    Raises:
        UserError: no such model or engine, its files are not those of a model or could run code, or an ONNX
            engine without an export of these weights.
    """
    if engine is not None and engine not in ENGINES:
        raise UserError(f"no engine {engine!r}", hint=f"name one of {', '.join(ENGINES)}")
    directory = locate_model(model, revision, engine)
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise UserError(f"{model}: no config.json, so this is not a model directory")
    if read_record(config_file, ClassifierConfig).get("model_type") == TFIDF_MODEL_TYPE:
        from arxiv_cls.models.tfidf import TfidfPredictor

        return TfidfPredictor.load(directory)
    if engine in ONNX_FILES:
        from arxiv_cls.models.onnx_model import OnnxPredictor

        return OnnxPredictor.load(directory, engine, threads)
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{model}: torch is not installed, which the engine torch needs",
            hint="use --engine onnx, or install the extra `train`",
        )
    from arxiv_cls.models.transformer import TransformerPredictor

    return TransformerPredictor.load(directory, threads=threads)
