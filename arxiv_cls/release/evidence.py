"""What a model directory says about itself: the files that the card, the gate and `verify` read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import ReleaseConfig, load_group
from arxiv_cls.release.manifest import METRICS, ONNX_PARITY, RECIPE, RELEASE, RUN_RECORD, WEIGHTS, model_kind
from arxiv_cls.scoring.model_data import file_sha256


@dataclass(frozen=True)
class Evidence:
    """The records of one model directory, as they were written.

    Attributes:
        model_dir: the directory.
        kind: "transformer" or "tfidf".
        config: `config.json`.
        recipe: `recipe.yaml`; its release group is that of `release.yaml` where there is one.
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
        """Category codes in the order of the model's outputs.

        Raises:
            UserError: when `config.json` names none.
        """
        id2label = self.config.get("id2label")
        if not isinstance(id2label, dict):
            raise UserError(f"{self.model_dir / 'config.json'} has no id2label: it is no classifier of ours")
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

    @property
    def exports(self) -> dict[str, dict[str, Any]]:
        """What `onnx/parity.json` says of each export, by its path; empty before an export.

        Raises:
            UserError: when the record is malformed.
        """
        exports = (self.optional_json(ONNX_PARITY) or {}).get("exports", {})
        if not isinstance(exports, dict) or not all(isinstance(entry, dict) for entry in exports.values()):
            raise UserError(
                f"{self.model_dir / ONNX_PARITY} is not what an export writes: `exports` names no files",
                hint="run `arxiv-cls export` again",
            )
        return exports

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


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    return content if isinstance(content, dict) else {}


def write_release_group(model_dir: str | Path, recipe: str | Path) -> Path:
    """Notes a recipe's release group beside the weights, so that a new licence or tag needs no new training.

    Args:
        model_dir: a model directory.
        recipe: the recipe file, of either kind.

    Returns:
        The path of `release.yaml`; `recipe.yaml`, the record of the run, stays as it is.

    Raises:
        UserError: it is no model directory, or the file is no recipe.
    """
    model_kind(model_dir)
    group = asdict(load_group(recipe, "release", ReleaseConfig))
    path = Path(model_dir) / RELEASE
    path.write_text(yaml.safe_dump(group, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


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
    recipe = _read_yaml(recipe_path)
    if (folder / RELEASE).is_file():
        recipe["release"] = _read_yaml(folder / RELEASE)
    return Evidence(
        model_dir=folder,
        kind=kind,
        config=_read_json(folder, "config.json"),
        recipe=recipe,
        run=_read_json(folder, RUN_RECORD),
        evaluation=_read_json(folder, METRICS) if (folder / METRICS).is_file() else None,
    )
