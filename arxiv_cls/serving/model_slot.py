"""Which models `POST /load` may name: those of one directory, and Hub ids that were allowed by name."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import zipfile
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import CascadePredictor, fitted_engine, load_cascade
from arxiv_cls.models.prediction import Predictor
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.directory import is_pickle
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.serving.http_errors import Refused
from arxiv_cls.serving.model_info import Info, describe
from arxiv_cls.serving.schemas import Paper, paper_reply
from arxiv_cls.serving.settings import HUB_ID, ServingSettings

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_NAME = re.compile(r"[\w][\w.-]{0,127}")


def allowed_model(name: str, models_dir: Path | None, allow_hub: Collection[str]) -> str:
    """What to load for a name.

    Args:
        name: a folder's name in `models_dir`, or an allowed Hub id, also as `user/name@revision`.
        models_dir: the directory whose models may be loaded; None for none.
        allow_hub: Hub ids; one that stands without a revision allows the branches and tags of its owner.

    Returns:
        A directory or the Hub id.

    Raises:
        Refused: 403 for anything outside, 404 for a name that is not there, 424 for a file that cannot be
            read.
    """
    if "/" in name and HUB_ID.fullmatch(name) and {name, name.partition("@")[0]} & set(allow_hub):
        return _hub_id(name, allow_hub)
    if not _NAME.fullmatch(name):
        raise Refused(403, "only a name in the models directory or an allowed Hub id can be loaded")
    if models_dir is None:
        raise Refused(403, "this server has no models directory: it was started without --models-dir")
    return str(_inside(name, models_dir.resolve()))


def _hub_id(name: str, allow_hub: Collection[str]) -> str:
    revision = name.partition("@")[2]
    if name not in allow_hub and (revision.startswith("refs/") or _COMMIT.fullmatch(revision)):
        # Anyone on the Hub can open a pull request, whose commits are found under the repository's own name.
        raise Refused(403, f"{name}: only a branch or a tag; another revision has to be allowed by name")
    if Path(name).expanduser().is_dir():
        raise Refused(403, f"{name}: a local folder has the name of this Hub id; start the server elsewhere")
    return name


def _inside(name: str, root: Path) -> Path:
    directory = root / name
    if directory.resolve().parent != root:
        raise Refused(403, f"{name} leads out of the models directory")
    if directory.is_file():
        raise Refused(403, f"{name} is a file: a model is a directory")
    if not directory.is_dir():
        raise Refused(404, f"{name}: no such model in the models directory")
    for path in directory.rglob("*"):
        inside = path.relative_to(directory).as_posix()
        if not path.resolve().is_relative_to(root):
            raise Refused(403, f"{name}: {inside} leads out of the models directory")
        if path.is_file() and _holds_pickle(path, f"{name}: {inside}"):
            raise Refused(403, f"{name}: {inside} is a pickle, which could run code")
    return directory.resolve()


def _holds_pickle(path: Path, shown: str) -> bool:
    try:
        return is_pickle(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        # What the system says of a file names its path.
        told = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise Refused(424, f"not loaded, the old model stays: {shown} cannot be read: {told}") from None


logger = logging.getLogger(__name__)

RELEASE_TAG = re.compile(r"v?\d+(\.\d+)+\S*")
# The first computation of an engine allocates its memory. Of some texts a tokenizer leaves next to nothing.
WARM_UP_TEXTS = ("Warm-up of the engine.", ".", "\u200b")


@dataclass(frozen=True)
class ServedBaseline:
    """The cheap half of a cascade.

    Attributes:
        name: of the directory, or the Hub id.
        version: as a model's.
        weights_sha256: of its weights.
        threshold: top score from which it answers alone.
        max_tokens: tokens that the transformer behind it reads of a text.
    """

    name: str
    version: str
    weights_sha256: str
    threshold: float
    max_tokens: int


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with what the endpoint says about it.

    Attributes:
        predictor: what answers.
        name: of the directory, or the Hub id.
        version: the release tag that was named, else the commit it was downloaded from, else the weights'
            sha256 (12 digits); in a cascade, "+" and the version of the baseline follow.
        weights_sha256: of the file that the engine computes with.
        run: the content of `run.json`; empty for a model without.
        loaded_in: seconds.
        baseline: what answers first in a cascade; None for a model by itself.
    """

    predictor: Predictor
    name: str
    version: str
    weights_sha256: str
    run: dict[str, Any]
    loaded_in: float
    baseline: ServedBaseline | None = None


def load_model(model: str, settings: ServingSettings) -> ServedModel:
    """Loads a model as the settings say, and lets it answer a few texts.

    Args:
        model: directory or Hub id.
        settings: of the endpoint: engine, threads, cascade.

    Raises:
        UserError: no such model, or its files are not those of a model that can answer.
    """
    before = time.monotonic()
    try:
        served = _load(model, settings)
        _answer_once(served, settings)
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # A panic in the tokenizers' Rust is no `Exception`.
        logger.warning("a model cannot be loaded", exc_info=error)
        told = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{model}: its files are not those of a model that works: {type(error).__name__}: {told}",
            hint="Download or export the model again.",
        ) from error
    return replace(served, loaded_in=time.monotonic() - before)


def _load(model: str, settings: ServingSettings) -> ServedModel:
    predictor = _predictor(model, settings)
    name, version, sha256 = _identity(model, predictor)
    baseline = None
    if isinstance(predictor, CascadePredictor):
        first = _identity(str(settings.cascade), predictor.baseline)
        baseline = ServedBaseline(*first, predictor.rule.threshold, predictor.rule.max_tokens)
        # An answer depends on both, whichever gave it.
        version = f"{version}+{baseline.version}"
    run = read_model_file(predictor.directory, "run.json") or {}
    return ServedModel(predictor, name, version, sha256, run, loaded_in=0.0, baseline=baseline)


def _answer_once(model: ServedModel, settings: ServingSettings) -> None:
    """Does what requests do, so that a model which cannot is refused here and not by each of them."""
    texts = [*WARM_UP_TEXTS, "a " * max(1, settings.max_characters // 2)]
    for prediction in model.predictor.predict(texts):
        # JSON has no NaN, which damaged weights give.
        reply = json.dumps(paper_reply(prediction, model, top_k=None), allow_nan=False)
        Paper.model_validate_json(reply, strict=True)
    Info.model_validate_json(json.dumps(describe(model, settings), allow_nan=False), strict=True)


def _identity(model: str, predictor: Predictor) -> tuple[str, str, str]:
    """Name, version and sha256 of the weights."""
    sha256 = file_sha256(predictor.weights_path)
    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory.resolve().name, sha256[:12], sha256
    name, _, revision = model.partition("@")
    if not RELEASE_TAG.fullmatch(revision):
        # A branch moves on: the Hub's cache keeps a snapshot in a folder named after its commit.
        snapshot = predictor.directory
        revision = snapshot.name[:12] if snapshot.parent.name == "snapshots" else ""
    return name, revision or sha256[:12], sha256


def _predictor(model: str, settings: ServingSettings) -> Predictor:
    if settings.cascade:
        engine = settings.engine or fitted_engine(model)
        return load_cascade(model, settings.cascade, engine=engine, threads=settings.threads)
    return load_predictor(model, engine=settings.engine, threads=settings.threads)


class ModelSlot:
    """Holds the model; empty until the first one is loaded.

    A request takes `current` once and keeps it to its end, so a switch needs no lock: requests that came
    before it are answered by the old model, which goes when the last of them lets it go.

    Args:
        load: makes a model from a directory or a Hub id; runs in a thread.
    """

    def __init__(self, load: Callable[[str], ServedModel]) -> None:
        self._load = load
        self._switch: asyncio.Task[ServedModel] | None = None
        self._thread: Thread | None = None
        self.current: ServedModel | None = None

    @property
    def loading(self) -> bool:
        """Whether a thread still loads a model."""
        return self._thread is not None and self._thread.is_alive()

    async def switch(self, model: str) -> ServedModel | None:
        """Loads a model and puts it in the place of the old one; the old one stays when that fails.

        Args:
            model: directory or Hub id, already found to be allowed.

        Returns:
            The new model; None when another switch is under way.

        Raises:
            UserError: the model cannot be loaded.
        """
        if self._switch is not None and not self._switch.done():
            return None
        self._switch = asyncio.create_task(self._replace(model))
        # Who asked may hang up; the switch goes on.
        return await asyncio.shield(self._switch)

    async def _replace(self, model: str) -> ServedModel:
        future: Future[ServedModel] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                future.set_result(self._load(model))
            except BaseException as error:
                future.set_exception(error)

        # Not a thread of asyncio's: its end would wait for a download, which cannot be interrupted.
        self._thread = Thread(target=work, name="load", daemon=True)
        self._thread.start()
        loaded = await asyncio.wrap_future(future)
        self.current = loaded
        logger.info(
            "model loaded",
            extra={"model": loaded.name, "version": loaded.version, "seconds": round(loaded.loaded_in, 3)},
        )
        return loaded
