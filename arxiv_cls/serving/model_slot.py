"""The model that answers now, and how another one takes its place without a request noticing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import Predictor, load_predictor
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

WARM_UP_TEXT = "Warm-up of the engine. The first computation allocates its memory."


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with what the endpoint says about it.

    Attributes:
        predictor: what answers.
        name: of the directory, or the Hub id.
        version: the Hub revision where one was named or downloaded, else the weights' sha256, 12 digits.
        weights_sha256: of the file that the engine computes with.
        run: the content of `run.json`; empty for a model without.
        loaded_in: seconds.
    """

    predictor: Predictor
    name: str
    version: str
    weights_sha256: str
    run: dict[str, Any]
    loaded_in: float


def load_model(model: str, settings: ServingSettings) -> ServedModel:
    """Loads a model as the settings say, and computes one text with it.

    Args:
        model: directory or Hub id.
        settings: of the endpoint: engine, threads, cascade.

    Raises:
        UserError: no such model, or its files are not those of a model.
    """
    before = time.monotonic()
    predictor = _predictor(model, settings)
    if not predictor.predict([WARM_UP_TEXT]):
        raise UserError(f"{model}: answers nothing")
    sha256 = _sha256(predictor.weights_path)
    name, _, revision = model.partition("@")
    directory = Path(model).expanduser()
    if directory.is_dir():
        name, revision = directory.resolve().name, ""
    elif not revision and predictor.directory.parent.name == "snapshots":
        revision = predictor.directory.name[:12]
    return ServedModel(
        predictor=predictor,
        name=name,
        version=revision or sha256[:12],
        weights_sha256=sha256,
        run=_run_record(predictor.directory),
        loaded_in=time.monotonic() - before,
    )


def _predictor(model: str, settings: ServingSettings) -> Predictor:
    if settings.cascade:
        from arxiv_cls.models.cascade import load_cascade

        return load_cascade(model, settings.cascade, engine=settings.engine, threads=settings.threads)
    return load_predictor(model, engine=settings.engine, threads=settings.threads)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_record(directory: Path) -> dict[str, Any]:
    path = directory / "run.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return record if isinstance(record, dict) else {}


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
        self.current: ServedModel | None = None

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
        loaded = await asyncio.to_thread(self._load, model)
        self.current = loaded
        logger.info(
            "model loaded",
            extra={"model": loaded.name, "version": loaded.version, "seconds": round(loaded.loaded_in, 3)},
        )
        return loaded
