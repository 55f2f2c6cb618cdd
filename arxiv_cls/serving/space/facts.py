"""What the page says about the model: name, version, test results, links; all read from its own records."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.record.model_files import read_model_file

HUB = "https://huggingface.co"
COMMIT = r"[0-9a-f]{40}"
SHOWN_METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "top_2_accuracy": "Top-2 accuracy"}


@dataclass(frozen=True)
class ModelFacts:
    """A model as its records describe it.

    Attributes:
        name: Hub id, or the name of the directory.
        version: release tag, commit, or the first digits of the weights' sha256; empty when nothing tells.
        card: address of the model card; None for a local directory.
        test_papers: size of the test split; None when the model was never evaluated.
        metrics: name to (value, lower end, upper end) of the test split, as fractions.
        f1: category to its F1 on the test split.
        set_coverage: share of test papers whose 90% set held the right category; None without such sets.
    """

    name: str
    version: str
    card: str | None
    test_papers: int | None
    metrics: dict[str, tuple[float, float, float]]
    f1: dict[str, float]
    set_coverage: float | None


def read_facts(model: str, directory: Path, revision: str | None = None) -> ModelFacts:
    """The facts of a model.

    Args:
        model: as it was named: a directory or a Hub id, also `user/name@revision`.
        directory: where its files are.
        revision: of a Hub id, when it was given apart.

    Raises:
        UserError: a record that is damaged.
    """
    measured = read_model_file(directory, "eval/metrics.json") or {}
    sets = read_model_file(directory, "eval/prediction_sets.json") or {}
    name, _, tag = str(model).partition("@")
    local = Path(model).expanduser().is_dir()
    try:
        intervals = measured.get("intervals", {})
        metrics = {
            shown: (float(measured["metrics"][key]), *(float(end) for end in intervals[key]))
            for key, shown in SHOWN_METRICS.items()
            if key in measured.get("metrics", {}) and key in intervals
        }
        per_class = measured.get("metrics", {}).get("per_class", {})
        f1 = {str(label): float(scores["f1"]) for label, scores in per_class.items()}
        coverage = sets["levels"]["0.9"].get("coverage") if sets else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory}: its evaluation is damaged: {error!r}",
            hint=f"run `arxiv-cls evaluate {model}` again",
        ) from None
    weights = str(measured.get("weights_sha256", ""))[:12]
    version = (f"weights {weights}" if weights else "") if local else (tag or revision or _commit(directory))
    # The page has no room for a whole commit id; the link has.
    shown = version[:12] if re.fullmatch(COMMIT, version) else version
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    card = None if local else endpoint + f"/{name}" + (f"/tree/{version}" if version else "")
    return ModelFacts(
        name=directory.resolve().name if local else name,
        version=shown,
        card=card,
        test_papers=measured.get("papers") if measured.get("split") == "test" else None,
        metrics=metrics if measured.get("split") == "test" else {},
        f1=f1 if measured.get("split") == "test" else {},
        set_coverage=coverage,
    )


def _commit(directory: Path) -> str:
    # The Hub's cache keeps a snapshot in a folder named after its commit.
    return directory.name if re.fullmatch(COMMIT, directory.name) else ""
