"""A model directory as card, gate, push and `verify` read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import ReleaseConfig, load_group
from arxiv_cls.record.directory import refuse_outside_links
from arxiv_cls.record.files import file_sha256, with_checksum_line, write_atomically
from arxiv_cls.record.manifest import METRICS, ONNX_PARITY, RECIPE, RELEASE, RUN_RECORD, WEIGHTS, model_kind
from arxiv_cls.record.model_files import labels_of, read_model_file


@dataclass(frozen=True)
class ModelDirectory:
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
        """Category codes in the order of the model's outputs."""
        return labels_of(self.config)

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
        """What `onnx/parity.json` records of each export, by its path; empty before an export.

        Raises:
            UserError: when the record is malformed.
        """
        return (self.optional_json(ONNX_PARITY) or {}).get("exports", {})

    def optional_json(self, path: str) -> dict[str, Any] | None:
        """An optional JSON file of the directory; None when it is not there.

        Raises:
            UserError: when it is malformed.
        """
        return read_model_file(self.model_dir, path, released=True)


def read_model_directory(model_dir: str | Path) -> ModelDirectory:
    """Reads the records of a model directory.

    Raises:
        UserError: when it is no model directory, a record is missing or malformed, or a link leads out of it.
    """
    folder = Path(model_dir)
    kind = model_kind(folder)
    refuse_outside_links(folder)
    records = {}
    for path in (RECIPE, "config.json", RUN_RECORD):
        content = read_model_file(folder, path, released=True)
        if content is None:
            hint = "it is written by training; an unfinished run lacks it"
            raise UserError(f"{folder} has no {path}", hint=hint)
        records[path] = content
    if release := read_model_file(folder, RELEASE):
        records[RECIPE]["release"] = release
    evaluation = read_model_file(folder, METRICS, released=True)
    return ModelDirectory(
        folder, kind, records["config.json"], records[RECIPE], records[RUN_RECORD], evaluation
    )


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
    path = Path(model_dir) / RELEASE
    group = asdict(load_group(recipe, "release", ReleaseConfig))
    write_atomically(path, with_checksum_line(yaml.safe_dump(group, sort_keys=False, allow_unicode=True)))
    return path
