"""The reference that production is compared with: one row per test paper, without the text.

Scores, true label, the text features of the request log, `in_scope` and the scope score. Nothing was fitted
on the test split, so that its rows look like those of production where nothing has changed. The file names
the sha256 of weights and data, and `eval/metrics.json` (of a cascade `eval/cascade.json`) has its checksum.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import fitted_engine, load_cascade
from arxiv_cls.models.prediction import EncodedText, ScopeRule, load_label_thresholds, load_scope
from arxiv_cls.models.text_features import TEXT_FEATURES, text_features
from arxiv_cls.record.files import file_sha256, staged, update_file, write_step_record
from arxiv_cls.record.manifest import (
    CASCADE,
    CASCADE_REFERENCE,
    METRICS,
    REFERENCE,
    WEIGHTS,
    model_kind,
)
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.scoring.scored_papers import (
    LoadedModel,
    ScoredPapers,
    load_corpus,
    load_model_and_corpus,
    score_papers,
    texts_of,
    true_columns,
    with_a_label,
)

SCHEMA_VERSION = 1
# Of rows whose text was cut the tokens are those that were read: they have none.
FEATURES = (*TEXT_FEATURES, "tokens_per_word")
BASELINE, TRANSFORMER = "baseline", "transformer"
_SCORE = "score:"
_IDENTITY = b"arxiv_cls"
_features_of = itemgetter(*TEXT_FEATURES)


def half_of(answered_by: str) -> str:
    """What an engine computes: "baseline" or "transformer"."""
    return BASELINE if answered_by == "tfidf" else TRANSFORMER


@dataclass(frozen=True)
class Rows:
    """What drift is measured on.

    Attributes:
        scores: (n, k) probabilities.
        features: (n, 8) float64, a column per name of `FEATURES`; NaN where a row has none.
        in_scope: (n,) 1 inside, 0 outside, NaN for a model without the rule.
    """

    scores: np.ndarray
    features: np.ndarray
    in_scope: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: np.ndarray) -> Rows:
        """The rows of a mask or of row numbers."""
        return Rows(self.scores[chosen], self.features[chosen], self.in_scope[chosen])


@dataclass(frozen=True)
class Reference:
    """The test papers that one half answers.

    Attributes:
        labels: the k categories, in the order of the columns of the scores.
        rows: n rows.
        truth: (n,) column of the true category.
        identity: {schema_version, kind, engine, split, weights_sha256, data_sha256, ...}.
        sha256: of the file.
    """

    labels: list[str]
    rows: Rows
    truth: np.ndarray
    identity: dict[str, Any]
    sha256: str


def rows_of(encoded: Sequence[EncodedText], scores: np.ndarray, scope_rule: ScopeRule | None) -> Rows:
    """What the request log holds of n texts with (n, k) scores."""
    texts = [item.text for item in encoded]
    features = np.array([_features_of(text_features(text)) for text in texts], dtype=np.float64)
    tokens = np.array([np.nan if item.truncated else item.tokens for item in encoded])
    per_word = tokens / np.maximum(features[:, TEXT_FEATURES.index("words")], 1)
    in_scope = np.full(len(texts), np.nan)
    if scope_rule is not None:
        in_scope = (scope_rule.scores(texts) >= scope_rule.threshold).astype(np.float64)
    return Rows(scores, np.column_stack([features, per_word]), in_scope)


def write_reference(
    path: Path,
    labels: Sequence[str],
    rows: Rows,
    truth: np.ndarray,
    answered_by: Sequence[str],
    identity: dict[str, Any],
) -> None:
    """Writes the reference of n rows, each with its true column and the engine that answered it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "answered_by": list(answered_by),
        "label": np.asarray(labels, dtype=object)[truth],
        # Rounded as the request log rounds them.
        **{_SCORE + name: column for name, column in zip(labels, rows.scores.round(6).T, strict=True)},
        **dict(zip(FEATURES, rows.features.T, strict=True)),
        "in_scope": rows.in_scope,
    }
    identity = {"schema_version": SCHEMA_VERSION, "labels": list(labels), **identity}
    table = pa.table(columns).replace_schema_metadata({_IDENTITY: json.dumps(identity)})
    with staged(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_reference(path: Path) -> dict[str, Reference]:
    """The reference of each half that a file holds.

    Raises:
        UserError: it is missing or is no reference.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    hint = "`arxiv-cls monitor reference MODEL` makes it"
    try:
        table = pq.read_table(path)
        identity = json.loads((table.schema.metadata or {})[_IDENTITY])
        labels = identity["labels"]
        scores, features = (
            np.column_stack([table[name].to_numpy() for name in names])
            for names in ([_SCORE + label for label in labels], FEATURES)
        )
        rows = Rows(scores, features, table["in_scope"].to_numpy())
        truth = np.array([labels.index(name) for name in table["label"].to_pylist()])
        halves = np.array([half_of(name) for name in table["answered_by"].to_pylist()])
        version = identity["schema_version"]
    except FileNotFoundError:
        raise UserError(f"{path} is missing", hint=hint) from None
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no reference: {type(error).__name__}: {error}", hint=hint) from None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path} is of version {version}, this program reads version {SCHEMA_VERSION}")
    sha256 = file_sha256(path)
    return {
        str(half): Reference(labels, rows.take(halves == half), truth[halves == half], identity, sha256)
        for half in np.unique(halves)
    }


def refuse_multi_label(model_dir: str | Path) -> None:
    """Monitoring is for models that give a paper one label.

    Raises:
        UserError: this one gives it any number.
    """
    if load_label_thresholds(model_dir) is not None:
        raise UserError(
            f"{model_dir} is a multi-label model: monitoring compares models that give a paper one label",
            hint="leave monitoring out; `arxiv-cls evaluate MODEL --csv FILE` measures it on newer papers",
        )


def load_references(model_dir: Path) -> dict[tuple[bool, str], Reference]:
    """The references of a model directory: by whether a cascade answered, and which half.

    Raises:
        UserError: there is none; one is of other weights or data, or was changed after it was recorded; or
            as of `refuse_multi_label`.
    """
    refuse_multi_label(model_dir)
    found: dict[tuple[bool, str], Reference] = {}
    evaluation = read_model_file(model_dir, METRICS) or {}
    cascade = read_model_file(model_dir, CASCADE) or {}
    for name, record, command in (
        (REFERENCE, evaluation, f"arxiv-cls monitor reference {model_dir}"),
        (CASCADE_REFERENCE, cascade, f"arxiv-cls monitor reference {model_dir} --cascade BASELINE"),
    ):
        path = model_dir / name
        if not path.is_file():
            continue
        references = read_reference(path)
        reference = next(iter(references.values()))
        _check(path, reference, record, command, _identity_now(model_dir, name, evaluation, cascade))
        found |= {(name == CASCADE_REFERENCE, half): one for half, one in references.items()}
    if not found:
        raise UserError(
            f"{model_dir} has no reference: {REFERENCE} is missing",
            hint=f"`arxiv-cls monitor reference {model_dir}` makes it from the test split",
        )
    return found


def _identity_now(
    model_dir: Path, name: str, evaluation: dict[str, Any], cascade: dict[str, Any]
) -> dict[str, Any]:
    """What a reference has to name."""
    weights = model_dir / WEIGHTS[model_kind(model_dir)]
    now = {
        # An endpoint's download may hold the ONNX file alone.
        "weights_sha256": file_sha256(weights) if weights.is_file() else evaluation.get("weights_sha256"),
        "data_sha256": evaluation.get("data_sha256"),
    }
    if name == CASCADE_REFERENCE:
        now |= {key: cascade.get(key) for key in ("transformer_sha256", "baseline_sha256", "threshold")}
    return now


def _check(
    path: Path, reference: Reference, record: dict[str, Any], command: str, now: dict[str, Any]
) -> None:
    hint = f"`{command}` makes it anew"
    if reference.identity.get("split") is None:
        # Of papers that somebody named: the model's own data has no say.
        now = now | {"data_sha256": None}
    for key, value in now.items():
        if value is not None and reference.identity.get(key) != value:
            what = key.removesuffix("_sha256")
            raise UserError(f"{path} is of another {what} than the model ({key} differs)", hint=hint)
    recorded = record.get("files", {}).get(path.relative_to(path.parent.parent).as_posix())
    if recorded not in (None, reference.sha256):
        raise UserError(f"{path} is not the file that was recorded (sha256 differs)", hint=hint)


def _write(
    model_dir: Path, name: str, predictor: Any, texts: list[str], scores: np.ndarray, truth: np.ndarray,
    **identity: Any,
) -> Path:  # fmt: skip
    encoded = predictor.encode(texts)
    answered_by = [predictor.engine] * len(texts)
    if name == CASCADE_REFERENCE:
        halves = predictor.transformer, predictor.baseline
        answered_by = [halves[item.answered].engine for item in encoded]
    identity |= {"kind": predictor.kind, "engine": predictor.engine}
    rows = rows_of(encoded, scores, load_scope(model_dir))
    write_reference(model_dir / name, predictor.labels, rows, truth, answered_by, identity)
    return model_dir / name


def write_model_reference(loaded: LoadedModel, scored: ScoredPapers, split: str) -> Path:
    """Writes `monitoring/reference.parquet` of a split that a model has scored; records nothing."""
    identity = {"weights_sha256": loaded.weights_sha256, "data_sha256": loaded.corpus.data.sha256}
    return _write(
        loaded.directory, REFERENCE, loaded.predictor, list(loaded.corpus.splits[split]["text"]),
        scored.probabilities, scored.labels, split=split, **identity,
    )  # fmt: skip


def make_reference(
    model: str | Path, *, data: str | Path | None = None, csv: str | Path | None = None
) -> Path:
    """Makes the reference of a model that was evaluated before there were references.

    Args:
        model: a directory.
        data: the file that the test split is rebuilt from; None for the path that the recipe names.
        csv: papers that the model was not trained on, to take instead of the test split.

    Raises:
        UserError: model or papers cannot be had.
    """
    _need_directory(model)
    refuse_multi_label(model)
    if csv is None:
        loaded = load_model_and_corpus(model, data)
        path = write_model_reference(loaded, loaded.score("test"), "test")
    else:
        path = _reference_of_csv(Path(model), csv)
    if "files" in (read_model_file(model, METRICS) or {}):
        update_file(Path(model), REFERENCE)
    return path


def _reference_of_csv(model_dir: Path, csv: str | Path) -> Path:
    from arxiv_cls.corpus.papers import read_papers
    from arxiv_cls.models.predictor import load_predictor

    predictor = load_predictor(model_dir)
    keep = with_a_label(predictor.labels)
    papers = read_papers(csv, required=("title", "abstract", "category"), keep=keep)
    truth = true_columns(papers.table["category"].to_pylist(), predictor.labels)
    texts = texts_of(papers.table.take(np.flatnonzero(truth >= 0)))
    if not texts:
        raise UserError(f"{csv}: no row has a label of the model", hint=f"it knows {predictor.labels}")
    identity = {"weights_sha256": file_sha256(predictor.weights_path), "data_sha256": papers.version.sha256}
    scores = np.asarray(predictor.predict_proba(texts))
    return _write(model_dir, REFERENCE, predictor, texts, scores, truth[truth >= 0], split=None, **identity)


def make_cascade_reference(
    model: str | Path, baseline: str | Path, *, data: str | Path | None = None
) -> Path:
    """Writes `monitoring/cascade.parquet`: each test paper as the half that answers it scores it.

    Args:
        model: directory of a transformer with a fitted cascade, whose record then names the file.
        baseline: directory or Hub id.
        data: as of `make_reference`.

    Raises:
        UserError: the pair was not fitted, or model or data cannot be had.
    """
    _need_directory(model)
    model_dir = Path(model)
    predictor = load_cascade(model, baseline, engine=fitted_engine(model))
    corpus, _ = load_corpus(predictor.directory, data)
    papers = corpus.splits["test"]
    scored = score_papers(predictor, papers, corpus.labels)
    record, evaluation = (read_model_file(model_dir, name) or {} for name in (CASCADE, METRICS))
    identity = {
        "weights_sha256": evaluation.get("weights_sha256") or file_sha256(model_dir / WEIGHTS[TRANSFORMER]),
        "data_sha256": corpus.data.sha256,
        **{key: record[key] for key in ("transformer_sha256", "baseline_sha256", "threshold")},
    }
    path = _write(
        model_dir, CASCADE_REFERENCE, predictor, list(papers["text"]), scored.probabilities, scored.labels,
        split="test", **identity,
    )  # fmt: skip
    write_step_record({key: value for key, value in record.items() if key != "files"}, model_dir, CASCADE)
    return path


def _need_directory(model: str | Path) -> None:
    if not Path(model).is_dir():
        raise UserError(
            f"{model}: the reference is written into the model's directory, and there is none",
            hint="download the release first, or name a local model directory",
        )
