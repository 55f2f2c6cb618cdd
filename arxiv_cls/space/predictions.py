"""What the Space computes: predictions for a text or an uploaded CSV, and papers fetched from arXiv.

On ZeroGPU hardware a Space borrows a GPU for the length of a decorated call; elsewhere nothing changes.
"""

from __future__ import annotations

import csv
import functools
import http.client
import importlib
import importlib.util
import math
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from arxiv_cls import __version__
from arxiv_cls.corpus.ids import parse_id
from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UNREACHABLE, UserError
from arxiv_cls.models.attribution import MOST_PHRASES, attribute
from arxiv_cls.models.predict_csv import count_rows, predict_csv
from arxiv_cls.models.prediction import ONNX_FILES, Prediction, Predictor, text_problem
from arxiv_cls.models.predictor import load_predictor, locate_model
from arxiv_cls.record.model_files import TFIDF_MODEL_TYPE, read_model_file
from arxiv_cls.space.content import ModelFacts, read_facts

# What a call asks for: the time to get the model onto the GPU, and a slow guess of its speed. Less is granted
# sooner and fits into what is left of a visitor's daily share, of which only the time that was used is taken.
STARTING_SECONDS = 15
TEXTS_PER_SECOND = 20
MAX_CHARACTERS = 20_000
# On the CPU, about a second: progress moves and other visitors get their turn in between. A GPU of the Hub is
# asked for again for each chunk, which takes longer than the computing.
CPU_ROWS, BORROWED_GPU_ROWS = 16, 500


def _on_zero_gpu() -> bool:
    return bool(os.environ.get("SPACES_ZERO_GPU")) and importlib.util.find_spec("spaces") is not None


def _borrow_gpu(function: Callable[..., Any], count_texts: Callable[..., int]) -> Callable[..., Any]:
    """The function under `spaces.GPU`; `count_texts` of its arguments decides the longest duration."""

    def seconds(*arguments: Any) -> int:
        return STARTING_SECONDS + math.ceil(count_texts(*arguments) / TEXTS_PER_SECOND)

    borrowed = importlib.import_module("spaces").GPU(duration=seconds)(function)

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


@dataclass(frozen=True)
class SpaceModel:
    """A loaded model: `predict` gives predictions of texts, `explain` the weights of a text's words."""

    predictor: Predictor
    facts: ModelFacts
    predict: Callable[[list[str]], list[Prediction]]
    explain: Callable[[str, str], list[tuple[str, float]]]
    rows_at_a_time: int = CPU_ROWS  # of a file, predicted in one call

    @property
    def labels(self) -> list[str]:
        """The category codes that the model knows."""
        return self.predictor.labels

    @property
    def preview_header(self) -> tuple[str, ...]:
        """The columns of a scored file that the page shows."""
        answer = ("prediction_set",) if self.facts.multi_label else ("label", "score")
        return ("id", *answer, "error")


def load_space_model(model: str, *, engine: str | None = None) -> SpaceModel:
    """Loads a model for the page.

    Args:
        model: directory or Hub id, also `user/name@v0.1.0`.
        engine: of a transformer; None for ONNX where the model has it, else torch where it is installed.

    Raises:
        UserError: no such model, or nothing here can compute it.
    """
    if _on_zero_gpu():
        # `spaces` changes torch, which has to happen before anything touches a GPU.
        importlib.import_module("spaces")
    directory, chosen = choose_engine(model, engine)
    predictor = load_predictor(directory, engine=chosen)
    facts = read_facts(model, directory, multi_label=predictor.multi_label)

    # All visitors share the cores: one computation at a time, and nobody holds them for a whole file.
    turn = threading.Lock()

    def predict(texts: list[str]) -> list[Prediction]:
        with turn:
            return predictor.predict(texts)

    def explain(text: str, label: str) -> list[tuple[str, float]]:
        with turn:
            return attribute(predictor, text, label)

    if _on_zero_gpu():
        # Decorated whatever the engine: ZeroGPU refuses to start a Space without any such function. The other
        # engines compute on the CPU and would only use up the visitor's share of the GPU.
        on_gpu = _borrow_gpu(predict, len), _borrow_gpu(explain, lambda text, label: MOST_PHRASES)
        if predictor.engine == "torch":
            return SpaceModel(predictor, facts, *on_gpu, BORROWED_GPU_ROWS)
    return SpaceModel(predictor, facts, predict, explain)


def choose_engine(model: str, wanted: str | None = None) -> tuple[Path, str | None]:
    """The model's directory and the engine for it; None for a baseline.

    Raises:
        UserError: the model has no ONNX file and torch is not installed.
    """
    directory = locate_model(model, engine=wanted or "onnx")
    if wanted is not None or (directory / ONNX_FILES["onnx"]).is_file():
        return directory, wanted or "onnx"
    # Where there is no config.json, `load_predictor` says so.
    if (read_model_file(directory, "config.json") or {}).get("model_type") == TFIDF_MODEL_TYPE:
        return directory, None
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{model} has no {ONNX_FILES['onnx']}, and torch is not installed here",
            hint=f"`arxiv-cls export {model}` writes it; a model on the Hub is then released again",
        )
    return locate_model(model, engine="torch"), "torch"


def compose_text(title: str | None, abstract: str | None) -> str:
    """What the model reads: title, blank line, abstract; or the one of them that is there.

    Raises:
        UserError: there is no text in them, it cannot be written as UTF-8, or it is too long.
    """
    parts = [" ".join((title or "").split()), (abstract or "").strip()]
    text = "\n\n".join(part for part in parts if part)
    if problem := text_problem(text):
        raise UserError(f"The text {problem}.", hint="Type a title and an abstract.")
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            f"The text has {len(text):,} characters; this page takes {MAX_CHARACTERS:,}.",
            hint="Paste title and abstract only, not the whole paper.",
        )
    return text


def as_reply(space: SpaceModel, prediction: Prediction) -> dict[str, Any]:
    """A prediction as the page's API gives it: plain JSON."""
    name = CATEGORY_NAMES.get(prediction.label, prediction.label)
    return asdict(prediction) | {"name": name, "model": space.facts.name, "version": space.facts.version}


MAX_ROWS = 2_000
MAX_BYTES = 10 * 1024 * 1024
_FOR_MORE = "For more, install the package: arxiv-cls predict MODEL --csv FILE --out FILE."


class ScoredFile(NamedTuple):
    """The new CSV, how many rows have a category and how many an error, and the first rows."""

    path: Path
    scored: int
    failed: int
    preview: list[list[str]]


def score_file(
    space: SpaceModel, source: Path, folder: Path, on_rows: Callable[[int, int], None]
) -> ScoredFile:
    """Scores an uploaded CSV.

    Args:
        space: the model.
        source: the upload.
        folder: gets the new CSV; the caller's to delete.
        on_rows: called with rows done and all rows.

    Raises:
        UserError: it is too large, or not a CSV with the columns that are needed; the message names the file
            as the visitor knows it, and the line where there is one.
    """
    name, size = source.name, source.stat().st_size
    if size > MAX_BYTES:
        too_large = f"{name} has {size / 2**20:.1f} MB; this page takes {MAX_BYTES // 2**20} MB."
        raise UserError(too_large, hint=_FOR_MORE)
    out = folder / f"{source.stem}_categories.csv"
    try:
        rows = count_rows(source)
        if rows == 0:
            raise UserError(f"{name} has a header and no rows.")
        if rows > MAX_ROWS:
            raise UserError(f"{name} has {rows:,} rows; this page takes {MAX_ROWS:,}.", hint=_FOR_MORE)
        scored, failed = predict_csv(
            space, source, out, progress=False,
            rows_at_a_time=space.rows_at_a_time, on_rows=lambda done: on_rows(done, rows),
        )  # fmt: skip
    except UserError as error:
        raise UserError(error.message.replace(str(source), name), hint=error.hint) from None
    with out.open(encoding="utf-8", newline="") as file:
        rows_shown = islice(csv.DictReader(file), 10)
        preview = [[row[column] for column in space.preview_header] for row in rows_shown]
    return ScoredFile(out, scored, failed, preview)


# arXiv's API and its Atom reply: https://info.arxiv.org/help/api/user-manual.html
ENDPOINT = "https://export.arxiv.org/api/query"
MAX_REPLY_BYTES = 1024 * 1024
_NAMESPACES = {"atom": "http://www.w3.org/2005/Atom", "arxiv": "http://arxiv.org/schemas/atom"}


class FoundPaper(NamedTuple):
    """A paper as arXiv has it: texts on one line, its primary category "" where arXiv names none."""

    arxiv_id: str
    title: str
    abstract: str
    category: str


def _read_id(entered: str) -> str:
    try:
        base, version = parse_id(entered)
    except ValueError:
        raise UserError(
            f"{entered.strip()[:80]!r} is not an arXiv id", hint="It looks like 2301.00001 or hep-th/9901001."
        ) from None
    return f"{base}v{version}" if version else base


def fetch_paper(entered: str, *, endpoint: str = ENDPOINT, timeout: float = 10) -> FoundPaper:
    """Asks arXiv for a paper by its id, in any spelling; `timeout` is in seconds.

    Raises:
        UserError: not an id, no such paper, or arXiv cannot be reached (exit code 3).
    """
    arxiv_id = _read_id(entered)
    unknown = UserError(f"arXiv has no paper {arxiv_id}", hint="Check the id, or paste title and abstract.")
    query = urllib.parse.urlencode({"id_list": arxiv_id, "max_results": 1})
    request = urllib.request.Request(
        f"{endpoint}?{query}", headers={"User-Agent": f"arxiv_cls/{__version__}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            content = reply.read(MAX_REPLY_BYTES + 1)
        # A document type can define entities that expand without end; arXiv sends none.
        if len(content) > MAX_REPLY_BYTES or b"<!DOCTYPE" in content:
            raise ValueError
        entry = ElementTree.fromstring(content).find("atom:entry", _NAMESPACES)
    except urllib.error.HTTPError as error:
        raise unknown if error.code == 400 else _unreachable(f"it answered {error.code}") from None
    except (ValueError, ElementTree.ParseError):
        raise _unreachable("its answer is not a paper") from None
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(type(error).__name__) from None
    if entry is None:
        raise unknown
    title, abstract, address = (
        " ".join((entry.findtext(f"atom:{tag}", "", _NAMESPACES) or "").split())
        for tag in ("title", "summary", "id")
    )
    if "/api/errors" in address or not title or not abstract:
        raise unknown
    primary = entry.find("arxiv:primary_category", _NAMESPACES)
    return FoundPaper(arxiv_id, title, abstract, "" if primary is None else primary.get("term", ""))


def _unreachable(reason: str) -> UserError:
    return UserError(
        f"arXiv cannot be reached from here ({reason})",
        hint="Paste the title and the abstract instead.",
        exit_code=UNREACHABLE,
    )
