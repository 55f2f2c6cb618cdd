"""`arxiv-cls export`: the ONNX files of a model, compared with its weights, and the endpoint's handler."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.export.handler import write_handler
from arxiv_cls.export.quantization import (
    LARGEST_DIFFERENCE,
    LEAST_EQUAL_LABELS,
    Agreement,
    agreement,
    choose,
    limits,
)
from arxiv_cls.models.onnx_engine import OnnxEngine
from arxiv_cls.models.prediction import ONNX_FILES, load_label_thresholds
from arxiv_cls.record.files import file_sha256, staged, write_step_record
from arxiv_cls.record.manifest import ONNX_PARITY, TRANSFORMER, model_kind, model_labels

logger = logging.getLogger(__name__)

FP32, INT8 = ONNX_FILES["onnx"], ONNX_FILES["int8"]
# Scores of fp32: what another order of additions changes is a hundred times smaller.
FP32_TOLERANCE = 1e-4
PARITY_PAPERS = 500
SEARCH_PAPERS = 300
# Padded batches must give what texts by themselves give; a few are enough to see a mask that does not work.
BATCHED_PAPERS, BATCHED_TOKENS = 32, 4096
PACKAGES = ("torch", "transformers", "onnx", "onnxscript")


class _Measured(NamedTuple):
    """n texts to measure an export on, their labels where known (as of `agreement`), the source on record."""

    texts: list[str]
    labels: np.ndarray | None
    source: dict[str, Any]


def _validation_papers(model_dir: Path, data: str | Path | None, limit: int | None) -> _Measured:
    """The first papers of the model's own validation split, whose order is that of a hash."""
    from arxiv_cls.scoring.scored_papers import listed_columns, load_corpus

    corpus, _ = load_corpus(model_dir, data)
    labels = model_labels(model_dir)
    if set(corpus.labels) != set(labels):
        raise UserError(
            f"{model_dir} knows the labels {', '.join(labels)}, its data {', '.join(corpus.labels)}"
        )
    papers = corpus.splits["validation"][:limit]
    if load_label_thresholds(model_dir) is not None:
        answers = listed_columns(papers["categories"], labels)
    else:
        answers = np.asarray([labels.index(name) for name in corpus.labels])[papers["label"]]
    source = {"texts": "validation split", "data_sha256": corpus.data.sha256}
    return _Measured(list(papers["text"]), answers, source)


def _csv_papers(model_dir: Path, csv: str | Path, limit: int | None) -> _Measured:
    """The first rows of a file whose category is one of the model's labels."""
    from arxiv_cls.corpus.papers import read_papers
    from arxiv_cls.scoring.scored_papers import REQUIRED, listed_columns, texts_of, true_columns, with_a_label

    labels, multi_label = model_labels(model_dir), load_label_thresholds(model_dir) is not None
    papers = read_papers(csv, required=REQUIRED, keep=with_a_label(labels, multi_label=multi_label))
    if multi_label:
        if "categories" not in papers.table.column_names:
            raise UserError(f"{csv} has no column of all categories", hint="`arxiv-cls data join` adds it")
        answers = listed_columns(papers.table["categories"].to_pylist(), labels)
        known = answers.any(axis=1)
    else:
        answers = true_columns(papers.table["category"].to_pylist(), labels)
        known = answers >= 0
    rows = np.flatnonzero(known)[:limit]
    if not len(rows):
        raise UserError(f"{csv}: none of its {papers.rows_read:,} rows has a label of the model")
    source = {"texts": "rows of a file", "data_sha256": papers.version.sha256}
    return _Measured(texts_of(papers.table.take(rows)), answers[rows], source)


def export_model(
    model: str | Path,
    *,
    data: str | Path | None = None,
    csv: str | Path | None = None,
    int8: bool = True,
    papers: int | None = None,
    search_papers: int = SEARCH_PAPERS,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes `onnx/`, `handler.py` and `requirements.txt` into a model directory.

    fp32 is compared with torch on up to 500 papers, int8 with fp32 on all of them. Returns what
    `onnx/parity.json` holds.

    Args:
        model: a model directory with a transformer.
        data: the CSV file that the model's splits come from; None for the one that its recipe names.
        csv: measure on the rows of this file instead of the model's validation split.
        int8: also quantise; needs papers with known categories.
        papers: measure on at most so many; None for all.
        search_papers: of these so many tell the int8 candidates apart.
        progress: show bars.

    Raises:
        UserError: not a transformer's directory, no papers to measure int8 on, a missing package, or an
            export that does not agree with what it was made from.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise UserError(f"{model}: no such model directory", hint="export writes beside the weights")
    if model_kind(folder) != TRANSFORMER:
        raise UserError(
            f"{model} is a TF-IDF baseline: there is nothing to export",
            hint="it is served as it is: `arxiv-cls serve` takes it, and as the baseline of a cascade",
        )
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"export needs {', '.join(missing)}", hint="`make setup EXTRAS=train,export` installs them"
        )
    measured = _papers(folder, data, csv, int8, papers)
    with tempfile.TemporaryDirectory(prefix="arxiv_cls-export-") as name:
        staging = Path(name)
        record = _export(folder, staging, measured, int8, search_papers, progress)
        (folder / "onnx").mkdir(exist_ok=True)
        # Without its record an export counts as unchecked, so the record goes first and comes back last.
        (folder / ONNX_PARITY).unlink(missing_ok=True)
        # An export that was killed leaves what it was moving.
        for path in (INT8, *(f"onnx/{file.name}" for file in (folder / "onnx").glob(".model*.onnx.*"))):
            (folder / path).unlink(missing_ok=True)
        for path in record["exports"]:
            # The temporary folder may be on another disk.
            with staged(folder / path) as partial:
                shutil.move(staging / Path(path).name, partial)
    write_handler(folder)
    known = {path: entry["sha256"] for path, entry in record["exports"].items()}
    return write_step_record(record, folder, ONNX_PARITY, known)


def _papers(
    folder: Path, data: str | Path | None, csv: str | Path | None, int8: bool, limit: int | None
) -> _Measured:
    if csv is not None:
        return _csv_papers(folder, csv, limit)
    try:
        return _validation_papers(folder, data, limit)
    except UserError as error:
        if int8 or data is not None:
            raise UserError(
                f"{error.message}\n  so there are no papers to measure the export on",
                hint="name the file of the model's own data with --data FILE, measure on any file with --csv "
                "FILE, or leave out what needs papers with --no-int8",
            ) from None
        logger.warning("%s: fp32 is compared with torch on the example papers only", error.message)
    from arxiv_cls.scoring.scored_papers import EXAMPLE_PAPERS

    return _Measured([paper.text for paper in EXAMPLE_PAPERS], None, {"texts": "example papers"})


def _export(
    folder: Path, staging: Path, measured: _Measured, int8: bool, search_papers: int, progress: bool
) -> dict[str, Any]:
    """Writes the files into the staging folder; returns the record."""
    from tqdm.auto import tqdm

    from arxiv_cls.export.onnx_graph import write_onnx
    from arxiv_cls.models.transformer import TransformerPredictor

    def engine_of(file: Path) -> OnnxEngine:
        return OnnxEngine(folder, str(file.resolve()))

    fp32_file, int8_file = staging / Path(FP32).name, staging / Path(INT8).name
    predictor = TransformerPredictor.load(folder, device="cpu")
    reference = predictor.predict_proba(measured.texts[:PARITY_PAPERS], progress=progress)
    write_onnx(predictor.model, fp32_file)
    engine = engine_of(fp32_file)
    ids = [tokens for tokens, _ in engine.tokenize(measured.texts)]
    count, few = len(ids) if int8 else len(reference), len(reference)
    with tqdm(total=count, desc="fp32", unit="paper", disable=not progress) as bar:
        fp32 = engine.probabilities(ids[:count], on_batch=bar.update)
    labels, thresholds = measured.labels, predictor.thresholds
    parity = agreement(fp32[:few], reference, None if labels is None else labels[:few], thresholds)
    batched = engine.probabilities(ids[: min(BATCHED_PAPERS, count)], BATCHED_TOKENS)
    padding = agreement(batched, fp32[: len(batched)], None).max_difference
    # A score may lie right at a threshold; right between two labels none does.
    least_equal = 1.0 if thresholds is None else LEAST_EQUAL_LABELS
    if max(parity.max_difference, padding) > FP32_TOLERANCE or parity.equal_labels < least_equal:
        raise UserError(
            f"{folder}: the ONNX graph does not give torch's scores: they differ by up to "
            f"{parity.max_difference:.2g}, in padded batches by {padding:.2g}, {parity.equal_labels:.2%} of "
            f"the labels are equal on {parity.papers} papers; nothing was written"
        )
    # Whether the processor multiplies 8-bit numbers without overflow; None where Linux does not say so.
    processor = Path("/proc/cpuinfo")
    vnni = "vnni" in processor.read_text(errors="replace") if processor.is_file() else None
    fp32_entry = _entry(fp32_file, parity, "torch", FP32_TOLERANCE)
    record: dict[str, Any] = {
        "schema_version": 1,
        "weights_sha256": file_sha256(Path(predictor.weights_path)),
        "measured_on": {**measured.source, "vnni": vnni},
        "versions": {name: version(name) for name in ("onnx", "onnxruntime", "torch", "transformers")},
        "exports": {FP32: fp32_entry | {"least_equal_labels": least_equal}},
    }
    if int8 and labels is not None:
        candidate, kept, record["candidates"] = choose(
            fp32_file, int8_file, engine_of, ids, fp32, labels,
            thresholds=thresholds, search_papers=search_papers, progress=progress,
        )  # fmt: skip
        if candidate is not None and kept is not None:
            entry = _entry(int8_file, kept, FP32, LARGEST_DIFFERENCE)
            record["exports"][INT8] = entry | limits(kept.papers) | {"quantization": asdict(candidate)}
    return record


def _entry(file: Path, compared: Agreement, reference: str, tolerance: float) -> dict[str, Any]:
    about = {"sha256": file_sha256(file), "bytes": file.stat().st_size, "reference": reference}
    return {**about, **asdict(compared), "tolerance": tolerance}


def export_report(model: str | Path, record: dict[str, Any]) -> str:
    """The record for a terminal."""
    lines = []
    for path, entry in record["exports"].items():
        line = (
            f"{model}/{path}: {entry['bytes'] / 1e6:.1f} MB; on {entry['papers']:,} papers "
            f"({record['measured_on']['texts']}) {entry['equal_labels']:.2%} of the labels of "
            f"{entry['reference']}, scores within {entry['max_difference']:.1e}"
        )
        if entry["accuracy"] is not None:
            line += f", accuracy {entry['accuracy']:.4f} (lost {100 * entry['accuracy_fall']:.2f} points)"
        lines.append(line)
    chosen = record["exports"].get(INT8, {}).get("quantization")
    for row in record.get("candidates", []):
        name = ", ".join(f"{key}={row[key]}" for key in ("per_channel", "reduce_range", "smooth", "float32"))
        mark = "*" if all(row[key] == value for key, value in (chosen or {}).items()) else " "
        lines.append(
            f" {mark} {name}: {row['equal_labels']:.2%} equal, mean difference {row['mean_difference']:.4f}, "
            f"{row['milliseconds_per_paper']:.1f} ms a paper, {row['bytes'] / 1e6:.1f} MB"
        )
    if "candidates" in record and chosen is None:
        lines.append(f"{model}/{INT8}: not written, no candidate keeps enough of the labels and the accuracy")
    return "\n".join(lines)
