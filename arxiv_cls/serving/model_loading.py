"""Which models may be loaded by name, and how one is loaded and tried before it answers."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import CascadePredictor, fitted_engine, load_cascade
from arxiv_cls.models.predictor import Predictor, load_predictor
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.serving.http_requests import Refused
from arxiv_cls.serving.schemas import CascadeInfo, Paper, ServedModel, describe, paper_reply
from arxiv_cls.serving.settings import HUB_ID, ServingSettings

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{7,40}")
NAME = re.compile(r"[\w][\w.-]{0,127}")
RELEASE_TAG = re.compile(r"v?\d+(\.\d+)+\S*")
# The first computation of an engine allocates its memory. Of some texts a tokenizer leaves next to nothing.
WARM_UP_TEXTS = ("Warm-up of the engine.", ".", "\u0301")


def allowed_model(name: str, models_dir: Path | None, allow_hub: Collection[str]) -> str:
    """The directory or Hub id to load for a name that `POST /load` was given.

    A folder's name in `models_dir`, or a Hub id; one that is allowed without a revision allows its branches
    and tags.

    Raises:
        Refused: 403 for anything outside, 404 for a name that is not there.
    """
    repository, _, revision = name.partition("@")
    if "/" in name and HUB_ID.fullmatch(name) and {name, repository} & set(allow_hub):
        if name not in allow_hub and (revision.startswith("refs/") or COMMIT.fullmatch(revision)):
            # Anyone on the Hub can open a pull request, whose commits are found under the repository's name.
            raise Refused(403, f"{name}: only a branch or a tag; another revision has to be allowed by name")
        if Path(name).expanduser().is_dir():
            raise Refused(
                403, f"{name}: a local folder has the name of this Hub id; start the server elsewhere"
            )
        return name
    if not NAME.fullmatch(name):
        raise Refused(403, "only a name in the models directory or an allowed Hub id can be loaded")
    if models_dir is None:
        raise Refused(403, "this server has no models directory: it was started without --models-dir")
    root = models_dir.resolve()
    directory = root / name
    if directory.resolve().parent != root:
        raise Refused(403, f"{name} leads out of the models directory")
    if directory.is_file():
        raise Refused(403, f"{name} is a file: a model is a directory")
    if not directory.is_dir():
        raise Refused(404, f"{name}: no such model in the models directory")
    return str(directory.resolve())


def load_model(model: str, settings: ServingSettings) -> ServedModel:
    """Loads a model (a directory or a Hub id) as the settings say, and lets it answer a few texts.

    Raises:
        UserError: no such model, or its files are not those of a model that can answer.
    """
    before = time.monotonic()
    try:
        served = _load(model, settings)
        # What requests do, so that a model which cannot is refused here and not by each of them.
        describe(served, settings)
        texts = [*WARM_UP_TEXTS, "a " * max(1, settings.max_characters // 2)]
        for prediction in served.predictor.predict(texts):
            # JSON has no NaN, which damaged weights give.
            reply = json.dumps(paper_reply(prediction, served, top_k=None), allow_nan=False)
            Paper.model_validate_json(reply, strict=True)
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
        predictor = load_predictor(model, engine=settings.engine or "onnx", threads=settings.threads)
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
