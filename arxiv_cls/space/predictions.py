"""The Space's model: how it is loaded, and how it scores a text or an uploaded CSV.

On ZeroGPU hardware a Space borrows a GPU for the length of a decorated call; elsewhere nothing changes.
"""

from __future__ import annotations

import csv
import functools
import importlib
import importlib.util
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.models.attribution import MOST_PHRASES, attribute
from arxiv_cls.models.predict_csv import count_rows, predict_csv
from arxiv_cls.models.predictor import ONNX_FILES, Prediction, Predictor, load_predictor, locate_model
from arxiv_cls.record.model_files import TFIDF_MODEL_TYPE, read_model_file
from arxiv_cls.space.content import ModelFacts, read_facts

# What a call asks for: the time to get the model onto the GPU, and a slow guess of its speed. Less is granted
# sooner and fits into what is left of a visitor's daily share, of which only the time that was used is taken.
STARTING_SECONDS = 15
TEXTS_PER_SECOND = 20


def on_zero_gpu() -> bool:
    """Whether this is ZeroGPU hardware (it sets a variable and installs the package `spaces`)."""
    return bool(os.environ.get("SPACES_ZERO_GPU")) and importlib.util.find_spec("spaces") is not None


def prepare_zero_gpu() -> None:
    """Lets `spaces` change torch before anything touches a GPU; elsewhere nothing happens."""
    if on_zero_gpu():
        importlib.import_module("spaces")


def borrow_gpu(function: Callable[..., Any], count_texts: Callable[..., int]) -> Callable[..., Any]:
    """The function under `spaces.GPU` on ZeroGPU hardware, the function itself elsewhere.

    ZeroGPU refuses to start a Space without any decorated function, so this is called whatever the engine.

    Args:
        function: computes on the GPU.
        count_texts: of the same arguments: how many texts the model will read; decides the longest duration.

    Raises:
        UserError: by the function that is returned, when the visitor's share of GPU time is used up.
    """
    if not on_zero_gpu():
        return function

    def seconds(*arguments: Any) -> int:
        return STARTING_SECONDS + math.ceil(count_texts(*arguments) / TEXTS_PER_SECOND)

    @functools.wraps(function)
    def on_gpu(*arguments: Any) -> Any:
        return function(*arguments)

    borrowed = importlib.import_module("spaces").GPU(duration=seconds)(on_gpu)

    @functools.wraps(function)
    def ask(*arguments: Any) -> Any:
        try:
            return borrowed(*arguments)
        except Exception as error:
            # `spaces` raises Gradio's own error for everything and tells the cases apart by their words.
            if "quota" not in f"{getattr(error, 'title', '')} {error}".lower():
                raise
            raise UserError(
                "Your share of GPU time on the Hub is used up for now.",
                hint="Sign in to the Hub for a larger one, come back in some hours, or send fewer papers.",
            ) from error

    return ask


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


MAX_ROWS = 2_000
MAX_BYTES = 10 * 1024 * 1024
PREVIEW_ROWS = 10
PREVIEW_HEADER = ("id", "label", "score", "error")
ON_THE_COMMAND_LINE = "For more, install the package: arxiv-cls predict MODEL --csv FILE --out FILE."


@dataclass(frozen=True)
class ScoredFile:
    """What came of a CSV.

    Attributes:
        path: the new CSV.
        scored: rows with a category.
        failed: rows whose `error` column says why they have none.
        preview: the first rows, cut to `PREVIEW_HEADER`.
    """

    path: Path
    scored: int
    failed: int
    preview: list[list[str]]


def score_file(
    space: SpaceModel, source: Path, folder: Path, on_rows: Callable[[int, int], None] | None = None
) -> ScoredFile:
    """Scores an uploaded CSV.

    Args:
        space: the model.
        source: the upload.
        folder: gets the new CSV; the caller's to delete.
        on_rows: called with rows done and rows in all.

    Raises:
        UserError: it is too large, or not a CSV with the columns that are needed; the message names the file
            as the visitor knows it, and the line where there is one.
    """
    size = source.stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"{source.name} has {size / 2**20:.1f} MB; this page takes {MAX_BYTES // 2**20} MB.",
            hint=ON_THE_COMMAND_LINE,
        )
    try:
        rows = count_rows(source)
        if rows == 0:
            raise UserError(f"{source.name} has a header and no rows.")
        if rows > MAX_ROWS:
            raise UserError(
                f"{source.name} has {rows:,} rows; this page takes {MAX_ROWS:,}.", hint=ON_THE_COMMAND_LINE
            )
        out = folder / f"{source.stem}_categories.csv"
        scored, failed = predict_csv(
            space,
            source,
            out,
            progress=False,
            rows_at_a_time=space.rows_at_a_time,
            on_rows=None if on_rows is None else lambda done: on_rows(done, rows),
        )
    except UserError as error:
        raise UserError(error.message.replace(str(source), source.name), hint=error.hint) from None
    return ScoredFile(out, scored, failed, _preview(out))


def _preview(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [[row[name] for name in PREVIEW_HEADER] for row in islice(csv.DictReader(file), PREVIEW_ROWS)]
