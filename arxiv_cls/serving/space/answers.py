"""The model behind the page: which engine, what is read from the boxes, what is answered."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.models.attribution import MOST_PHRASES, attribute
from arxiv_cls.models.predictor import ONNX_FILES, Prediction, Predictor, load_predictor, locate_model
from arxiv_cls.record.model_config import TFIDF_MODEL_TYPE
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.serving.space.facts import ModelFacts, read_facts
from arxiv_cls.serving.space.zero_gpu import borrow_gpu, on_zero_gpu, prepare_zero_gpu

MAX_CHARACTERS = 20_000
# On the CPU, about a second: progress moves and other visitors get their turn in between. A GPU of the Hub is
# asked for again for each chunk, which takes longer than the computing.
CPU_ROWS, BORROWED_GPU_ROWS = 16, 500


@dataclass(frozen=True)
class SpaceModel:
    """A loaded model and what is known of it.

    Attributes:
        predictor: the model.
        facts: name, version, test results.
        predict: texts to predictions, on a borrowed GPU where the engine is torch and the host is ZeroGPU.
        explain: text and label to words with their weights, likewise.
        rows_at_a_time: texts of a file that are best predicted in one call.
    """

    predictor: Predictor
    facts: ModelFacts
    predict: Callable[[list[str]], list[Prediction]]
    explain: Callable[[str, str], list[tuple[str, float]]]
    rows_at_a_time: int = CPU_ROWS

    @property
    def labels(self) -> list[str]:
        """The category codes that the model knows."""
        return self.predictor.labels


def load_space_model(model: str, revision: str | None = None, *, engine: str | None = None) -> SpaceModel:
    """Loads a model for the page.

    Args:
        model: directory or Hub id, also `user/name@v0.1.0`.
        revision: of a Hub id.
        engine: of a transformer; None for ONNX where the model has it, else torch where it is installed.

    Raises:
        UserError: no such model, or nothing here can compute it.
    """
    prepare_zero_gpu()
    directory, chosen = choose_engine(model, revision, engine)
    predictor = load_predictor(directory, engine=chosen)
    facts = read_facts(model, directory, revision)

    def predict(texts: list[str]) -> list[Prediction]:
        return predictor.predict(texts)

    def explain(text: str, label: str) -> list[tuple[str, float]]:
        return attribute(predictor, text, label)

    # Decorated whatever the engine (ZeroGPU asks for one such function), called so by torch alone: the other
    # engines compute on the CPU and would only use up the visitor's share of the GPU.
    predict_on_gpu = borrow_gpu(predict, len)
    explain_on_gpu = borrow_gpu(explain, lambda text, label: MOST_PHRASES)
    if predictor.engine == "torch" and on_zero_gpu():
        return SpaceModel(predictor, facts, predict_on_gpu, explain_on_gpu, BORROWED_GPU_ROWS)
    # Here all visitors share the cores: one computation at a time, and nobody holds them for a whole file.
    turn = threading.Lock()
    return SpaceModel(predictor, facts, _in_turn(turn, predict), _in_turn(turn, explain))


def _in_turn(turn: threading.Lock, function: Callable[..., Any]) -> Callable[..., Any]:
    def wait_and_call(*arguments: Any) -> Any:
        with turn:
            return function(*arguments)

    return wait_and_call


def choose_engine(
    model: str, revision: str | None = None, wanted: str | None = None
) -> tuple[Path, str | None]:
    """The model's directory and the engine for it; None for a baseline.

    Raises:
        UserError: the model has no ONNX file and torch is not installed.
    """
    directory = locate_model(model, revision, wanted or "onnx")
    if wanted is not None:
        return directory, wanted
    if (directory / ONNX_FILES["onnx"]).is_file():
        return directory, "onnx"
    if _is_baseline(directory):
        return directory, None
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"{model} has no {ONNX_FILES['onnx']}, and torch is not installed here",
            hint=f"`arxiv-cls export {model}` writes it; a model on the Hub is then released again",
        )
    return locate_model(model, revision, "torch"), "torch"


def _is_baseline(directory: Path) -> bool:
    # `load_predictor` says what is missing.
    return (read_model_file(directory, "config.json") or {}).get("model_type") == TFIDF_MODEL_TYPE


def compose_text(title: str | None, abstract: str | None) -> str:
    """What the model reads: title, blank line, abstract; or the one of them that is there.

    Raises:
        UserError: both are empty, or they are too long.
    """
    parts = [" ".join((title or "").split()), (abstract or "").strip()]
    text = "\n\n".join(part for part in parts if part)
    if not text:
        raise UserError("There is nothing to classify yet.", hint="Type a title and an abstract.")
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            f"The text has {len(text):,} characters; this page takes {MAX_CHARACTERS:,}.",
            hint="Paste title and abstract only, not the whole paper.",
        )
    return text


def as_reply(space: SpaceModel, prediction: Prediction) -> dict[str, Any]:
    """A prediction as the page's API gives it: plain JSON."""
    return {
        "label": prediction.label,
        "name": CATEGORY_NAMES.get(prediction.label, prediction.label),
        "score": prediction.score,
        "scores": prediction.scores,
        "prediction_set": None if prediction.prediction_set is None else list(prediction.prediction_set),
        "in_scope": prediction.in_scope,
        "truncated": prediction.truncated,
        "answered_by": prediction.answered_by,
        "model": space.facts.name,
        "version": space.facts.version,
    }
