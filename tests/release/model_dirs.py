"""Model directories for the tests of the release: real records around weights that nobody loads."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arxiv_cls.record.files import write_record, write_step_record
from arxiv_cls.record.manifest import METRICS, RECORD_COMMANDS, RECORD_OF, TFIDF, TRANSFORMER, WEIGHTS
from arxiv_cls.record.model_files import TFIDF_MODEL_TYPE
from arxiv_cls.record.run_record import git_state
from arxiv_cls.scoring.evaluation import evaluation_of
from arxiv_cls.scoring.scored_papers import ScoredPapers, write_predictions

LABELS = ["cs.CL", "cs.CV", "stat.ML"]
DATA_SHA256 = "d" * 64
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)
PLOTS = (
    "training_curve.png",
    "eval/confusion_matrix.png",
    "eval/reliability.png",
    "eval/accuracy_by_year.png",
)


def scored_papers(accuracy: float = 0.8, papers: int = 400, seed: int = 0) -> ScoredPapers:
    """Papers whose label the scores name with this probability, the scores being calibrated."""
    generator = np.random.default_rng(seed)
    truth = np.random.default_rng(7).integers(0, len(LABELS), papers)
    right = generator.random(papers) < accuracy
    named = np.where(right, truth, (truth + generator.integers(1, len(LABELS), papers)) % len(LABELS))
    probabilities = np.full((papers, len(LABELS)), (1 - accuracy) / (len(LABELS) - 1))
    probabilities += generator.uniform(0, 0.01, probabilities.shape)
    probabilities[np.arange(papers), named] = accuracy
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return ScoredPapers(
        label_names=LABELS,
        arxiv_ids=np.asarray([f"{1000 + number}.0001" for number in range(papers)], dtype=object),
        labels=truth,
        probabilities=probabilities,
        published=np.datetime64("2015-01-01") + np.random.default_rng(8).integers(0, 1400, papers),
        words=np.random.default_rng(9).integers(60, 300, papers),
    )


_measured: dict[bytes, dict[str, Any]] = {}


def evaluation_record(scored: ScoredPapers, weights_sha256: str) -> dict[str, Any]:
    """What `eval/metrics.json` holds for these scores; the same scores are measured once a session."""
    key = hashlib.sha256(scored.probabilities.tobytes() + scored.labels.tobytes()).digest()
    if key not in _measured:
        _measured[key] = evaluation_of(scored, resamples=200)
    identity = {"weights_sha256": weights_sha256, "data_sha256": DATA_SHA256}
    return {"schema_version": 1, "split": "test", **identity, **_measured[key]}


def run_record(kind: str, weights_sha256: str) -> dict[str, Any]:
    """A `run.json` as training writes it."""
    return {
        "schema_version": 1,
        "kind": kind,
        "recipe": "tiny",
        "data": {
            "csv": "data/sample/arxiv_sample.csv",
            "md5": "a" * 32,
            "sha256": DATA_SHA256,
            "bytes": 500_000,
            "rows": 600,
            "config": "top5",
            "split": "paper",
            "seed": 42,
            "splits": {"train": 1400, "validation": 300, "test": 400},
            "labels": LABELS,
        },
        "git": {"commit": git_state()["commit"], "dirty": False},
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "seed": 7,
        "device": {
            "type": "cpu",
            "name": "a processor",
            "processes": 1,
            "threads": 2,
            "precision": "fp32",
            "peak_memory_of": "process",
        },
        "started": "2026-03-04T05:06:07+00:00",
        "duration_seconds": 300.0,
        "papers_per_second": 12.34,
        "peak_memory_bytes": 1_500_000_000,
        "calibration": {
            "temperature": 1.25,
            "expected_calibration_error_before": 0.08,
            "expected_calibration_error_after": 0.02,
        },
        "metrics": {},
        "weights_sha256": weights_sha256,
    }


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def record_again(folder: Path) -> Path:
    """Records the files as they are now, as if the steps that write them had written them so."""
    for record in RECORD_COMMANDS:
        path = folder / record
        named = [name for name, owner in RECORD_OF.items() if owner == record != name]
        if record != METRICS and any((folder / name).is_file() for name in named):
            weights = json.loads((folder / "run.json").read_text(encoding="utf-8"))["weights_sha256"]
            path.is_file() or write_json(path, {"weights_sha256": weights})
        if path.suffix == ".json" and path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if named:
                write_step_record(content, folder, record)
            else:
                write_record(content, path)
    return folder


def change_json(path: Path, **changes: Any) -> None:
    """Replaces top-level keys of a JSON file; `run.json` counts as written so by the training."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)
    if path.name == "run.json":
        record_again(path.parent)


def make_model_dir(
    folder: Path,
    kind: str = TRANSFORMER,
    *,
    accuracy: float = 0.8,
    weights: bytes = b"weights" * 100,
    seed: int = 0,
    scored: ScoredPapers | None = None,
) -> Path:
    """A whole model directory except for the card.

    Args:
        folder: where to write it.
        kind: "transformer" or "tfidf".
        accuracy: of the recorded predictions.
        weights: content of the weights file; nothing loads it.
        seed: of the recorded predictions.
        scored: the recorded predictions themselves, instead of `accuracy` and `seed`.
    """
    folder.mkdir(parents=True)
    id2label = {str(number): label for number, label in enumerate(LABELS)}
    model_type = "bert" if kind == TRANSFORMER else TFIDF_MODEL_TYPE
    write_json(folder / "config.json", {"model_type": model_type, "id2label": id2label})
    (folder / WEIGHTS[kind]).write_bytes(weights)
    if kind == TRANSFORMER:
        write_json(folder / "tokenizer.json", {})
        write_json(folder / "tokenizer_config.json", {"model_max_length": 256})
    release = {"license": "apache-2.0", "language": "en", "tags": ["demo"]}
    release |= {"base_model": "user/base"} if kind == TRANSFORMER else {}
    recipe = {"data": {"csv": "data/sample/arxiv_sample.csv", "config": "top5"}, "release": release}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    sha256 = hashlib.sha256(weights).hexdigest()
    write_json(folder / "run.json", run_record(kind, sha256))
    scored = scored or scored_papers(accuracy, seed=seed)
    write_json(folder / "eval/metrics.json", evaluation_record(scored, sha256))
    write_predictions(scored, folder / "eval/predictions.parquet")
    scores = {"cs.CV": 0.7, "cs.CL": 0.2, "stat.ML": 0.1}
    examples = [{"title": "A title", "text": "A title\n\nAn abstract.", "scores": scores}]
    write_json(folder / "eval/examples.json", {"weights_sha256": sha256, "examples": examples})
    for path in PLOTS:
        (folder / path).write_bytes(PNG)
    return record_again(folder)


def add_every_section(folder: Path) -> Path:
    """Adds what only some models have: rules of both kinds, a cut split by time."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    boundaries = ["2018-07-15", "2019-02-15"]
    run["data"] |= {"max_samples": 1400, "split": "time", "time_boundaries": boundaries}
    write_json(folder / "run.json", run)
    rules = {"schema_version": 1, "weights_sha256": run["weights_sha256"]}
    levels = {
        "0.8": {"threshold": 0.5, "coverage": 0.81, "mean_size": 1.04},
        "0.9": {"threshold": 0.25, "coverage": 0.9, "mean_size": 1.4},
    }
    write_json(folder / "eval/prediction_sets.json", rules | {"levels": levels})
    scope = {
        "rule": "logistic regression on the words that occur",
        "auroc": 0.9642,
        "auroc_interval": [0.9611, 0.9664],
        "threshold": 0.3471,
        "in_scope_kept": 0.9612,
        "out_of_scope_caught": 0.848,
        "out_of_scope_papers": 17173,
    }
    write_json(folder / "eval/scope.json", rules | scope)
    (folder / "eval/out_of_scope.png").write_bytes(PNG)
    return record_again(folder)


def add_export(folder: Path, difference: float | None = 3.2e-7, tolerance: float = 1e-4) -> Path:
    """Adds an ONNX file that nobody loads, and the record of its parity."""
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_bytes(b"graph" * 500_000)
    weights = json.loads((folder / "run.json").read_text(encoding="utf-8"))["weights_sha256"]
    digest = hashlib.sha256((folder / "onnx/model.onnx").read_bytes()).hexdigest()
    record = {"sha256": digest, "max_difference": difference, "tolerance": tolerance, "reference": "torch"}
    record |= {"papers": 3293, "equal_labels": 1.0, "accuracy_fall": 0.0}
    parity = {"weights_sha256": weights, "exports": {"onnx/model.onnx": record}}
    write_json(folder / "onnx/parity.json", parity)
    return record_again(folder)


__all__ = [
    "LABELS", "TFIDF", "TRANSFORMER", "add_every_section", "add_export", "change_json", "make_model_dir",
    "record_again", "scored_papers", "write_json",
]  # fmt: skip
