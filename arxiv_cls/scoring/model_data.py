"""A model together with the data it was trained on, rebuilt from the records in its directory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import portable_path
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.record.schemas import RecipeRecord

DEFAULT_CSV = "data/raw/arxiv.csv"

logger = logging.getLogger(__name__)


def data_options(model_dir: Path) -> dict[str, Any]:
    """The arguments of `build_corpus` that rebuild a model's splits, from its `recipe.yaml`.

    Raises:
        UserError: when the recipe is missing or has no `data` group.
    """
    recipe = read_model_file(model_dir, "recipe.yaml")
    if recipe is None:
        raise UserError(
            f"{model_dir} has no recipe.yaml: which papers it was trained on is not known",
            hint="score a file of your own with --csv FILE",
        )
    data = recipe.get("data")
    if data is None:
        raise UserError(f"{model_dir / 'recipe.yaml'} has no group `data`", hint=RecipeRecord.hint)
    known = ("config", "csv", "split", "seed", "time_boundaries", "near_duplicates", "max_samples")
    return {key: data[key] for key in known if data.get(key) is not None}


def load_model_and_corpus(
    model: str | Path, csv: str | Path | None = None, engine: str | None = None
) -> tuple[Any, Path, Any, dict[str, Any]]:
    """A model with the corpus that its recipe names.

    Args:
        model: model directory or Hub id.
        csv: the data file; None for the one at the path that the recipe names.
        engine: what computes a transformer; None for torch.

    Returns:
        The predictor, the directory of its files, the `Corpus`, and the options that built it.

    Raises:
        UserError: when model, recipe or data cannot be had.
    """
    from arxiv_cls.models.predictor import load_predictor

    predictor = load_predictor(model, engine=engine)
    model_dir = Path(predictor.directory)
    return predictor, model_dir, *load_corpus(model_dir, csv)


def load_corpus(model_dir: Path, csv: str | Path | None = None) -> tuple[Any, dict[str, Any]]:
    """The corpus that a model's recipe names.

    Args:
        model_dir: the model directory.
        csv: the data file; None for the one at the path that the recipe names.

    Returns:
        The `Corpus`, and the options that built it.

    Raises:
        UserError: when recipe or data cannot be had.
    """
    from arxiv_cls.corpus import build_corpus

    options = data_options(model_dir)
    if csv is not None:
        options["csv"] = str(csv)
    path = Path(options.get("csv", DEFAULT_CSV))
    if not path.is_file():
        named = "" if csv is not None else ", which the recipe of the model names,"
        raise UserError(
            f"{path}{named} is not there", hint="name the data file with --data FILE, or `make data` gets it"
        )
    config = options.pop("config", "top5")
    corpus = build_corpus(config, **options)
    _warn_of_other_data(model_dir, corpus.data.sha256)
    return corpus, {"config": config, **options}


def _warn_of_other_data(model_dir: Path, sha256: str) -> None:
    trained_on = (read_model_file(model_dir, "run.json") or {}).get("data") or {}
    if trained_on.get("sha256") not in (None, sha256):
        logger.warning(
            "the data is not the version the model was trained on (sha256 %s, now %s)",
            trained_on["sha256"][:12],
            sha256[:12],
        )


def data_record(data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The data version and how it was split, as JSON."""
    return {
        "csv": portable_path(str(options.get("csv", DEFAULT_CSV))),
        "md5": data.md5,
        "sha256": data.sha256,
        "bytes": data.bytes,
        "rows": data.rows,
        "config": options["config"],
        "split": options.get("split", "paper"),
        "seed": options.get("seed", 42),
        "time_boundaries": options.get("time_boundaries"),
        "max_samples": options.get("max_samples"),
    }
