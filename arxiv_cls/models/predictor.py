"""Loads a model of any kind on any engine: `load_predictor(model).predict(texts)`."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import HUB_FILES, HUB_WEIGHTS, ONNX_FILES, Predictor, download_from_hub
from arxiv_cls.record.manifest import TFIDF, model_kind

logger = logging.getLogger(__name__)

# What can compute a transformer; the baseline is its own engine, "tfidf".
ENGINES = ("torch", "onnx", "int8")


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
    weights = [ONNX_FILES[engine], "onnx/parity.json"] if engine in ONNX_FILES else HUB_WEIGHTS
    own = ["model.skops", "recipe.yaml", "run.json", "eval/*", "monitoring/*", "README.md"]
    files = [*HUB_FILES, *weights, *own]
    return download_from_hub(name, tag or revision, files)


def load_predictor(
    model: str | Path,
    revision: str | None = None,
    *,
    engine: str | None = None,
    default: str = "torch",
    threads: int | None = None,
) -> Predictor:
    """Loads a model of either kind.

    Args:
        model: model directory or Hub id.
        revision: of a Hub id.
        engine: one of `ENGINES` for a transformer, None for `default`; a warning says that a baseline, which
            is its own engine, does not use it.
        default: the engine of a transformer for which none is named.
        threads: CPU threads that score; None for all that this process may use (torch: for as many as
            torch was set to). A baseline ignores it.

    Raises:
        UserError: no such model or engine, its files are not those of a model or could run code, or an ONNX
            engine without an export of these weights.
    """
    if engine is not None and engine not in ENGINES:
        raise UserError(f"no engine {engine!r}", hint=f"name one of {', '.join(ENGINES)}")
    named, engine = engine, engine or default
    directory = locate_model(model, revision, engine)
    if model_kind(directory) == TFIDF:
        if named:
            logger.warning("%s is a TF-IDF baseline: the engine %s is not used", model, named)
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
