"""One face for every kind of model: `load_predictor(model).predict(texts)`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from arxiv_cls.errors import UserError

TFIDF_MODEL_TYPE = "arxiv_cls-tfidf"


@dataclass(frozen=True)
class Prediction:
    """What a model says of one text.

    Attributes:
        label: category code with the highest score.
        score: its calibrated probability, 0 to 1.
        scores: every label (or the top k) with its probability, descending.
        truncated: whether the text was longer than the model reads.
    """

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool


class Predictor(Protocol):
    """What every kind of model can do.

    Attributes:
        kind: "transformer" or "tfidf".
        labels: category codes, in the order of the columns of `predict_proba`.
        weights_path: the file that holds the weights.
    """

    kind: str
    labels: list[str]
    weights_path: Path

    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities, (texts, labels) float64; rows sum to 1."""

    def predict(self, texts: Sequence[str], top_k: int | None = None) -> list[Prediction]:
        """One prediction per text, in the same order.

        Raises:
            UserError: an empty text.
        """

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """The model's own features of each text, (texts, features) float32."""


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
    probabilities: np.ndarray, labels: Sequence[str], truncated: Sequence[bool], top_k: int | None = None
) -> list[Prediction]:
    """Rows of probabilities as `Prediction`s.

    Args:
        probabilities: (texts, labels).
        labels: codes in the order of the columns.
        truncated: whether each text was cut, (texts,).
        top_k: how many labels to keep; None keeps all.
    """
    # A stable sort of the negated scores: of equal ones the first label wins, as argmax has it.
    orders = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    predictions = []
    for row, order, cut in zip(probabilities, orders, truncated, strict=True):
        scores = {labels[column]: float(row[column]) for column in order}
        best = labels[order[0]]
        predictions.append(Prediction(label=best, score=scores[best], scores=scores, truncated=bool(cut)))
    return predictions


def locate_model(model: str | Path, revision: str | None = None) -> Path:
    """The local directory of a model: itself, or the snapshot of a Hub id.

    Args:
        model: a directory (with or without a trailing slash) or a Hub id, also as `user/name@revision`.
        revision: branch, tag or commit of a Hub id.

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
    from arxiv_cls.models.pretrained import HUB_FILES, download_from_hub

    files = [*HUB_FILES, "model.skops", "recipe.yaml", "run.json", "eval/*", "README.md"]
    return download_from_hub(name, tag or revision, files)


def load_predictor(model: str | Path, revision: str | None = None) -> Predictor:
    """Loads a model of either kind.

    Args:
        model: model directory or Hub id.
        revision: of a Hub id.

    Raises:
        UserError: no such model, or its files are not those of a model.
    """
    directory = locate_model(model, revision)
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise UserError(f"{model}: no config.json, so this is not a model directory")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{config_file}: not JSON: {error}") from None
    if config.get("model_type") == TFIDF_MODEL_TYPE:
        from arxiv_cls.models.tfidf import TfidfPredictor

        return TfidfPredictor.load(directory)
    from arxiv_cls.models.transformer import TransformerPredictor

    return TransformerPredictor.load(directory)
