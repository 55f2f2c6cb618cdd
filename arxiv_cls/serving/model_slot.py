"""The model that answers now, and how another one takes its place without a request noticing."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import CascadePredictor, fitted_engine, load_cascade
from arxiv_cls.models.predictor import Predictor, load_predictor
from arxiv_cls.record.checksums import file_sha256
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

RELEASE_TAG = re.compile(r"v?\d+(\.\d+)+\S*")
WARM_UP_TEXT = "Warm-up of the engine. The first computation allocates its memory."


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
    """Loads a model as the settings say, and computes one text with it.

    Args:
        model: directory or Hub id.
        settings: of the endpoint: engine, threads, cascade.

    Raises:
        UserError: no such model, or its files are not those of a model.
    """
    before = time.monotonic()
    predictor = _predictor(model, settings)
    run = read_model_file(predictor.directory, "run.json") or {}
    if not predictor.predict([WARM_UP_TEXT]):
        raise UserError(f"{model}: answers nothing")
    name, version, sha256 = _identity(model, predictor)
    baseline = None
    if isinstance(predictor, CascadePredictor):
        first = _identity(str(settings.cascade), predictor.baseline)
        baseline = ServedBaseline(*first, predictor.rule.threshold, predictor.rule.max_tokens)
        # An answer depends on both, whichever gave it.
        version = f"{version}+{baseline.version}"
    return ServedModel(
        predictor=predictor,
        name=name,
        version=version,
        weights_sha256=sha256,
        run=run,
        loaded_in=time.monotonic() - before,
        baseline=baseline,
    )


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
