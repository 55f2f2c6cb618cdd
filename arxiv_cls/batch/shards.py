"""A shard in, one Parquet file out: what a worker does, the same on every runner.

One row per record: `source`, `position` (byte offset of the record's line in the unpacked text; row of
Parquet, from 0), `id`, then `label` and `scores`, of a multi-label model `labels` too, or `embedding`, then
`in_scope` and `error`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arxiv_cls.batch.inputs import Shard
from arxiv_cls.corpus.csv_reader import open_csv
from arxiv_cls.corpus.papers import read_table
from arxiv_cls.corpus.records import RawTable, check_rows, file_format, json_lines, parquet_rows
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ONNX_FILES, Predictor
from arxiv_cls.models.predictor import load_predictor, locate_model
from arxiv_cls.record.files import file_sha256, write_atomically
from arxiv_cls.record.manifest import TFIDF, WEIGHTS, model_kind
from arxiv_cls.record.storage import file_system, storage_errors

TEXTS_AT_A_TIME = 2048
FOOTER = b"arxiv_cls"
# What decides the rows, beside the weights.
_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "eval/scope.json")


@dataclass(frozen=True)
class Settings:
    """What all shards of a run share."""

    model: str
    engine: str | None
    model_files: dict[str, str]  # path to sha256
    output: str
    plan: str  # sha256 of the manifest
    labels: tuple[str, ...]
    threads: int
    embeddings: bool = False
    multi_label: bool = False
    load: Callable[..., Predictor] = load_predictor

    def __hash__(self) -> int:
        return hash((self.model, self.engine, self.plan, self.threads))


def model_files(model: str, engine: str | None) -> dict[str, str]:
    """The files of a model that decide the rows, each with its sha256."""
    directory = locate_model(model, engine=engine)
    kind = model_kind(directory)
    weights = WEIGHTS[kind] if kind == TFIDF or engine not in ONNX_FILES else ONNX_FILES[engine]
    paths = [path for path in (*_MODEL_FILES, weights) if (directory / path).is_file()]
    return {path: file_sha256(directory / path) for path in paths}


@lru_cache(maxsize=1)
def _predictor(settings: Settings) -> Predictor:
    """The model, loaded once in a process.

    Raises:
        UserError: it is not the one of the manifest, as on another host or after a new push.
    """
    # Before the libraries that read them are imported.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(settings.threads)
    if settings.model_files != model_files(settings.model, settings.engine):
        raise UserError(f"{settings.model}: this worker has other files of the model than the run began with")
    return settings.load(settings.model, engine=settings.engine, threads=settings.threads)


def prepare_worker(settings: Settings) -> None:
    """Loads the model ahead of the first shard, which tells what is wrong with it."""
    with contextlib.suppress(Exception):
        _predictor(settings)


def schema_of(labels: Sequence[str], embeddings: bool, multi_label: bool) -> pa.Schema:
    """The columns of every file of a run."""
    scores = pa.struct([(label, pa.float32()) for label in labels])
    answer = [("label", pa.string()), ("scores", scores)]
    if multi_label:
        answer.append(("labels", pa.list_(pa.string())))
    if embeddings:
        answer = [("embedding", pa.list_(pa.float32()))]
    record = [("source", pa.string()), ("position", pa.int64()), ("id", pa.string())]
    return pa.schema([*record, *answer, ("in_scope", pa.bool_()), ("error", pa.string())])


def score_shard(shard: Shard, settings: Settings) -> dict[str, Any]:
    """Scores the records of a shard and writes its file whole.

    Returns:
        The counts of `summary_of`, as the file's footer has them.

    Raises:
        UserError: the model or the output cannot be read or written.
    """
    predictor = _predictor(settings)
    start = time.perf_counter()
    positions, ids, texts, errors = _records(shard)
    good = [at for at, error in enumerate(errors) if error is None]
    schema = schema_of(settings.labels, settings.embeddings, settings.multi_label)
    columns: dict[str, list[Any]] = {name: [None] * len(texts) for name in schema.names}
    for first in range(0, len(good), TEXTS_AT_A_TIME):
        places = good[first : first + TEXTS_AT_A_TIME]
        asked = [texts[at] for at in places]
        if settings.embeddings:
            rule = predictor.scope_rule
            inside = [None] * len(asked) if rule is None else rule.scores(asked) >= rule.threshold
            for at, vector, within in zip(places, predictor.embed(asked), inside, strict=True):
                columns["embedding"][at] = vector
                columns["in_scope"][at] = None if within is None else bool(within)
            continue
        for at, said in zip(places, predictor.predict(asked), strict=True):
            columns["label"][at], columns["scores"][at] = said.label, said.scores
            columns["in_scope"][at] = said.in_scope
            if settings.multi_label:
                columns["labels"][at] = said.prediction_set
    columns |= {"source": [shard.source] * len(texts), "position": positions, "id": ids, "error": errors}
    named = [label for label in columns.get("label", ()) if label is not None]
    if settings.multi_label:
        named = [label for several in columns.get("labels", ()) for label in several or ()]
    counts = {
        "rows": len(texts),
        "errors": len(texts) - len(good),
        "out_of_scope": sum(value is False for value in columns["in_scope"]),
        "labels": dict(Counter(named)),
        "weight": shard.weight,
    }
    footer = {"plan": settings.plan, "last": shard.last, **counts}
    schema = schema.with_metadata({FOOTER: json.dumps(footer).encode()})
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pydict(columns, schema), content, compression="zstd")
    write_output(settings.output, shard.name, content.getvalue())
    return counts | {"seconds": time.perf_counter() - start}


def write_output(output: str, name: str, content: bytes) -> None:
    """Writes a file of the output whole: a temporary name and a rename, in a bucket one PUT."""
    fs, path = file_system(output)
    if "file" in fs.protocol:
        write_atomically(Path(path) / name, content)
        return
    with storage_errors(f"{output}/{name}", "written"):
        fs.pipe_file(f"{path.rstrip('/')}/{name}", content)


def _records(shard: Shard) -> tuple[list[int], list[str | None], list[str], list[str | None]]:
    """Positions, ids, texts and errors of the records of a shard, in the order of the file."""
    raw, offsets = _read(shard)
    table = raw.table
    ids: dict[int, str | None] = {}
    if "id" in table.column_names:
        cells = (
            one.decode("utf-8", "replace") if isinstance(one, bytes) else one
            for one in table["id"].to_pylist()
        )
        ids = dict(zip(raw.rows.tolist(), cells, strict=True))
    required: tuple[str, ...] = ("title", "abstract")
    if "text" in table.column_names and not set(required) <= set(table.column_names):
        # A text is checked as an abstract is, and stands alone.
        kept = [name for name in table.column_names if name not in required]
        named = ["abstract" if name == "text" else name for name in kept]
        raw = replace(
            raw, table=table.select(kept).rename_columns(named), names=raw.names | {"abstract": "text"}
        )
        required = ("abstract",)
    lines = dict(zip(raw.rows.tolist(), raw.lines.tolist(), strict=True))
    # A column without a value in the whole shard is not there.
    for name in set(required) - set(raw.table.column_names):
        nothing = pa.nulls(len(raw.table), pa.string())
        raw = replace(raw, table=raw.table.append_column(name, pa.chunked_array([nothing])))
    found = check_rows(raw, required)
    texts, errors = {}, {}
    for row, *parts in zip(
        *(found.table[name].to_pylist() for name in ("row", "title", "abstract")), strict=True
    ):
        texts[row] = "\n\n".join(part for part in parts if part)
    for reject in found.rejects:
        errors[reject.row], lines[reject.row] = reject.where + reject.reason, reject.line
    rows = sorted({*texts, *errors})
    return (
        [int(offsets[lines[row] - 1]) for row in rows],
        [ids.get(row) for row in rows],
        [texts.get(row, "") for row in rows],
        [errors.get(row) for row in rows],
    )


def _read(shard: Shard) -> tuple[RawTable, np.ndarray]:
    """The records as they stand in the file, and the position of each of their lines."""
    data, start = shard.data, shard.position
    if file_format(shard.source) == "parquet":
        return parquet_rows(data), np.arange(start, start + len(data))
    line_ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
    offsets = start + np.concatenate(([0], line_ends + 1))
    if file_format(shard.source) == "json":
        return json_lines(data), offsets
    file = open_csv(shard.source, ("title", "abstract"), shard.header + data, instead="text")
    return read_table(replace(file, line=1)), offsets


def footer_of(output: str, name: str) -> dict[str, Any] | None:
    """What a file of the output says of itself; None where it is empty or damaged, as after a power failure.

    Raises:
        UserError: it cannot be read, or is not of this project.
    """
    fs, path = file_system(output)
    with storage_errors(f"{output}/{name}"), fs.open(f"{path.rstrip('/')}/{name}", "rb") as file:
        try:
            metadata = pq.read_schema(file).metadata or {}
        except pa.ArrowInvalid:
            return None
    if FOOTER not in metadata:
        raise UserError(f"{output}/{name}: was not written by `arxiv-cls predict`", "name another --output")
    return json.loads(metadata[FOOTER])
