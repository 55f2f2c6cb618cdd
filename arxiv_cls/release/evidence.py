"""What a model directory says about itself: the files that the card, the gate and `verify` read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from arxiv_cls.errors import UserError
from arxiv_cls.release.manifest import METRICS, RECIPE, RUN_RECORD, WEIGHTS, model_kind
from arxiv_cls.scoring.model_data import file_sha256


@dataclass(frozen=True)
class Evidence:
    """The records of one model directory, as they were written.

    Attributes:
        model_dir: the directory.
        kind: "transformer" or "tfidf".
        config: `config.json`.
        recipe: `recipe.yaml`.
        run: `run.json`.
        evaluation: `eval/metrics.json`; None when the model was not evaluated.
    """

    model_dir: Path
    kind: str
    config: dict[str, Any]
    recipe: dict[str, Any]
    run: dict[str, Any]
    evaluation: dict[str, Any] | None

    @property
    def labels(self) -> list[str]:
        """Category codes in the order of the model's outputs."""
        id2label = self.config["id2label"]
        return [id2label[key] for key in sorted(id2label, key=int)]

    def require_evaluation(self) -> dict[str, Any]:
        """`eval/metrics.json`.

        Raises:
            UserError: when it is missing.
        """
        if self.evaluation is None:
            raise UserError(
                f"{self.model_dir} has no {METRICS}", hint=f"run `arxiv-cls evaluate {self.model_dir}` first"
            )
        return self.evaluation

    def weights_sha256(self) -> str:
        """The sha256 of the weights as they are on disk now.

        Raises:
            UserError: when they are missing.
        """
        path = self.model_dir / WEIGHTS[self.kind]
        if not path.is_file():
            raise UserError(f"{path} is missing", hint="train the model again, or restore the file")
        return file_sha256(path)

    def optional_json(self, path: str) -> dict[str, Any] | None:
        """An optional JSON file of the directory; None when it is not there."""
        return _read_json(self.model_dir, path) if (self.model_dir / path).is_file() else None


def _read_json(model_dir: Path, path: str) -> dict[str, Any]:
    file = model_dir / path
    if not file.is_file():
        raise UserError(
            f"{model_dir} has no {path}", hint="it is written by training; an unfinished run lacks it"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} does not hold a JSON object")
    return content


def read_evidence(model_dir: str | Path) -> Evidence:
    """Reads the records of a model directory.

    Raises:
        UserError: when it is no model directory, or a record is missing or malformed.
    """
    folder = Path(model_dir)
    kind = model_kind(folder)
    recipe_path = folder / RECIPE
    if not recipe_path.is_file():
        raise UserError(
            f"{folder} has no {RECIPE}", hint="it is written by training; an unfinished run lacks it"
        )
    try:
        recipe = yaml.safe_load(recipe_path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{recipe_path} is not YAML: {error}") from error
    return Evidence(
        model_dir=folder,
        kind=kind,
        config=_read_json(folder, "config.json"),
        recipe=recipe if isinstance(recipe, dict) else {},
        run=_read_json(folder, RUN_RECORD),
        evaluation=_read_json(folder, METRICS) if (folder / METRICS).is_file() else None,
    )
