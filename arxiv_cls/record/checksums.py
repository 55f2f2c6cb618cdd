"""Checksums of the files of a model directory: the step that writes a file records it, a release compares.

Each step owns one JSON record, so that a pipeline whose stages own their files can run them one by one. A
record ends with the sha256 of its own text (`record_sha256`), and gives the sha256 of the files that were
written or measured with it (`files`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from arxiv_cls.record.writing import write_atomically

METRICS, EXPORT, MAP = "eval/metrics.json", "onnx/parity.json", "eval/embeddings.json"
RELEASE = "release.yaml"
# Record to the files that it names. What a model is made of is recorded when it is evaluated.
FILES: dict[str, tuple[str, ...]] = {
    METRICS: (
        "config.json", "model.safetensors", "model.skops", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
        "spiece.model", "recipe.yaml", "run.json", "training_curve.png", "eval/predictions.parquet",
        "eval/confusion_matrix.png", "eval/reliability.png", "eval/accuracy_by_year.png",
        "eval/prediction_sets.json", "eval/scope.json", "eval/out_of_scope.png",
    ),
    EXPORT: ("onnx/model.onnx", "onnx/model_int8.onnx", "handler.py", "requirements.txt"),
    MAP: ("eval/embeddings.png", "eval/terms.json"),
    "eval/cascade.json": (),
    "eval/examples.json": (),
    RELEASE: (),
}  # fmt: skip
# What writes a record anew.
COMMANDS = {
    METRICS: "evaluate", EXPORT: "export", MAP: "visualize", "eval/cascade.json": "cascade",
    "eval/examples.json": "card", RELEASE: "card --recipe FILE",
}  # fmt: skip
RECORD_OF = {path: record for record, paths in FILES.items() for path in (*paths, record)}
CHECKSUM_LINE = "# sha256 of the lines above: "


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_record(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Writes the JSON record of a step with the checksum of its own text, and returns it so."""
    text = _with_checksum(content)
    write_atomically(path, text)
    return json.loads(text)


def write_step_record(
    content: dict[str, Any], model_dir: Path, record: str, known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Writes the record of a step with the checksums of the files that it names, as they are now.

    Args:
        content: of the record, without `files`.
        model_dir: the model directory.
        record: path of the record in it, a key of `FILES`.
        known: checksums that the step has already, by path.

    Returns:
        What was written: the content with `files` (path to sha256) and `record_sha256`.
    """
    present = [path for path in FILES[record] if (model_dir / path).is_file()]
    known = known or {}
    files = {path: known.get(path) or file_sha256(model_dir / path) for path in present}
    return write_record(content | {"files": files}, model_dir / record)


def update_file(model_dir: Path, path: str) -> None:
    """Records a file anew in the evaluation, for a step that completes it afterwards."""
    record = json.loads((model_dir / METRICS).read_text(encoding="utf-8"))
    record.pop("record_sha256")
    record["files"][path] = file_sha256(model_dir / path)
    write_record(record, model_dir / METRICS)


def with_checksum_line(text: str) -> str:
    """A YAML text that ends with a comment, the checksum of what is above it."""
    return f"{text}{CHECKSUM_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _with_checksum(content: dict[str, Any]) -> str:
    content = {key: value for key, value in content.items() if key != "record_sha256"}

    def text(value: dict[str, Any]) -> str:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    return text(content | {"record_sha256": hashlib.sha256(text(content).encode()).hexdigest()})


def changed_files(
    model_dir: Path, paths: Iterable[str], sha256: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """Compares files with their records.

    Args:
        model_dir: the model directory.
        paths: of the files, as in `RECORD_OF`; others are left out.
        sha256: gives the checksum of a path.

    Returns:
        The files that are not as recorded, and those that no record names.
    """
    changed, unrecorded = [], []
    named: dict[str, dict[str, str]] = {}
    for record in FILES:
        state, named[record] = _read_record(model_dir / record, record)
        if state is None:
            unrecorded.append(record)
        elif not state:
            changed.append(record)
    paths = list(paths)
    for path in paths:
        if path in FILES or path not in RECORD_OF:
            continue
        recorded = named[RECORD_OF[path]].get(path)
        if recorded is None:
            unrecorded.append(path)
        # A link that leads nowhere.
        elif not (model_dir / path).is_file() or sha256(path) != recorded:
            changed.append(path)
    gone = [path for files in named.values() for path in files if path not in paths]
    present = set(paths) | set(gone)
    return [path for path in [*changed, *gone] if path in present], [p for p in unrecorded if p in present]


def _read_record(path: Path, name: str) -> tuple[bool | None, dict[str, str]]:
    """Whether a record is as it was written (None: it has no checksum), and the files that it names."""
    try:
        text = path.read_bytes().decode()
        if name == RELEASE:
            body, found, _ = text.rpartition(CHECKSUM_LINE)
            return (text == with_checksum_line(body)) if found else None, {}
        content = json.loads(text)
        files = content.get("files", {})
        if "record_sha256" not in content:
            return None, {}
        return text == _with_checksum(content), {str(key): str(value) for key, value in files.items()}
    except FileNotFoundError:
        return None, {}
    except (ValueError, AttributeError):
        return False, {}
