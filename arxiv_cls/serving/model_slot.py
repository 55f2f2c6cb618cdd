"""The model that answers: which ones may be loaded, how one is loaded, and the slot it is switched in."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import zipfile
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Thread

from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import CascadePredictor, fitted_engine, load_cascade
from arxiv_cls.models.predictor import Predictor, load_predictor
from arxiv_cls.record.directory import is_pickle
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.serving.http_errors import Refused
from arxiv_cls.serving.schemas import CascadeInfo, Info, Paper, ServedModel, describe, paper_reply
from arxiv_cls.serving.settings import HUB_ID, ServingSettings

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{7,40}")
NAME = re.compile(r"[\w][\w.-]{0,127}")
RELEASE_TAG = re.compile(r"v?\d+(\.\d+)+\S*")
# The first computation of an engine allocates its memory. Of some texts a tokenizer leaves next to nothing.
WARM_UP_TEXTS = ("Warm-up of the engine.", ".", "\u0301")


def allowed_model(name: str, models_dir: Path | None, allow_hub: Collection[str]) -> str:
    """The directory or Hub id to load for a name that `POST /load` was given.

    Args:
        name: a folder's name in `models_dir`, or an allowed Hub id, also as `user/name@revision`.
        models_dir: the directory whose models may be loaded; None for none.
        allow_hub: Hub ids; one that stands without a revision allows the branches and tags of its owner.

    Raises:
        Refused: 403 for anything outside, 404 for a name that is not there, 424 for a file that cannot be
            read.
    """
    repository, _, revision = name.partition("@")
    if "/" in name and HUB_ID.fullmatch(name) and {name, repository} & set(allow_hub):
        if name not in allow_hub and (revision.startswith("refs/") or COMMIT.fullmatch(revision)):
            # Anyone on the Hub can open a pull request, whose commits are found under the repository's name.
            raise Refused(403, f"{name}: only a branch or a tag; another revision has to be allowed by name")
        if Path(name).expanduser().is_dir():
            reason = "a local folder has the name of this Hub id; start the server elsewhere"
            raise Refused(403, f"{name}: {reason}")
        return name
    if not NAME.fullmatch(name):
        raise Refused(403, "only a name in the models directory or an allowed Hub id can be loaded")
    if models_dir is None:
        raise Refused(403, "this server has no models directory: it was started without --models-dir")
    return str(_checked_directory(name, models_dir.resolve()))


def _checked_directory(name: str, root: Path) -> Path:
    directory = root / name
    if directory.resolve().parent != root:
        raise Refused(403, f"{name} leads out of the models directory")
    if directory.is_file():
        raise Refused(403, f"{name} is a file: a model is a directory")
    if not directory.is_dir():
        raise Refused(404, f"{name}: no such model in the models directory")
    for path in directory.rglob("*"):
        shown = f"{name}: {path.relative_to(directory).as_posix()}"
        if not path.resolve().is_relative_to(root):
            raise Refused(403, f"{shown} leads out of the models directory")
        try:
            pickled = path.is_file() and is_pickle(path)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            # What the system says of a file names its path.
            reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
            raise Refused(424, f"not loaded, the old model stays: {shown} cannot be read: {reason}") from None
        if pickled:
            raise Refused(403, f"{shown} is a pickle, which could run code")
    return directory.resolve()


def load_model(model: str, settings: ServingSettings) -> ServedModel:
    """Loads a model (a directory or a Hub id) as the settings say, and lets it answer a few texts.

    Raises:
        UserError: no such model, or its files are not those of a model that can answer.
    """
    before = time.monotonic()
    try:
        served = _load(model, settings)
        _check_answers(served, settings)
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # A panic in the tokenizers' Rust is no `Exception`.
        logger.warning("a model cannot be loaded", exc_info=error)
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{model}: its files are not those of a model that works: {type(error).__name__}: {reason}",
            hint="Download or export the model again.",
        ) from error
    return replace(served, loaded_in=time.monotonic() - before)


def _load(model: str, settings: ServingSettings) -> ServedModel:
    predictor: Predictor
    if settings.cascade:
        engine = settings.engine or fitted_engine(model)
        predictor = load_cascade(model, settings.cascade, engine=engine, threads=settings.threads)
    else:
        predictor = load_predictor(model, engine=settings.engine, threads=settings.threads)
    name, version, sha256 = _identity(model, predictor)
    cascade = None
    if isinstance(predictor, CascadePredictor):
        baseline, baseline_version, baseline_sha = _identity(str(settings.cascade), predictor.baseline)
        cascade = CascadeInfo(
            baseline=baseline,
            baseline_version=baseline_version,
            baseline_sha=baseline_sha,
            threshold=predictor.rule.threshold,
            max_tokens=predictor.rule.max_tokens,
        )
        # An answer depends on both, whichever gave it.
        version = f"{version}+{baseline_version}"
    run = read_model_file(predictor.directory, "run.json") or {}
    return ServedModel(predictor, name, version, sha256, run, loaded_in=0.0, cascade=cascade)


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


def _check_answers(model: ServedModel, settings: ServingSettings) -> None:
    """Does what requests do, so that a model which cannot is refused here and not by each of them."""
    texts = [*WARM_UP_TEXTS, "a " * max(1, settings.max_characters // 2)]
    for prediction in model.predictor.predict(texts):
        # JSON has no NaN, which damaged weights give.
        reply = json.dumps(paper_reply(prediction, model, top_k=None), allow_nan=False)
        Paper.model_validate_json(reply, strict=True)
    Info.model_validate_json(json.dumps(describe(model, settings), allow_nan=False), strict=True)


class ModelSlot:
    """Holds the model; empty until the first one is loaded.

    A request takes `current` once and keeps it to its end, so a switch needs no lock: requests that came
    before it are answered by the old model, which goes when the last of them lets it go.
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
        """Loads an allowed model and puts it in the place of the old one, which stays when that fails.

        Returns:
            The new model; None when another switch is under way.

        Raises:
            UserError: the model cannot be loaded.
        """
        if self._switch is not None and not self._switch.done():
            return None
        self._switch = asyncio.create_task(self._replace(model))
        # The client may hang up; the switch goes on.
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
        self.current = loaded = await asyncio.wrap_future(future)
        shown = {"model": loaded.name, "version": loaded.version, "seconds": round(loaded.loaded_in, 3)}
        logger.info("model loaded", extra=shown)
        return loaded
