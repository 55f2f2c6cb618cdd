"""The one list of files that a model directory may hold; training, tests, gate and push all read it.

Which files are required depends on the kind of model: `transformer` (safetensors and a tokenizer) or
`tfidf` (one skops file). Files that are not pushed belong to the machine that trained, not to the release.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.record.model_files import (
    MULTI_LABEL,
    TFIDF_MODEL_TYPE,
    ClassifierConfig,
    labels_of,
    read_model_file,
    read_record,
)

TRANSFORMER = "transformer"
TFIDF = "tfidf"
BOTH = frozenset({TRANSFORMER, TFIDF})

CARD = "README.md"
RECIPE = "recipe.yaml"
RELEASE = "release.yaml"
RUN_RECORD = "run.json"
WEIGHTS = {TRANSFORMER: "model.safetensors", TFIDF: "model.skops"}
METRICS = "eval/metrics.json"
PREDICTIONS = "eval/predictions.parquet"
PREDICTION_SETS = "eval/prediction_sets.json"
SCOPE = "eval/scope.json"
SCOPE_PLOT = "eval/out_of_scope.png"
CASCADE = "eval/cascade.json"
EXAMPLES = "eval/examples.json"
GATE_RECORD = "eval/gate.json"
MAP_PLOT = "eval/embeddings.png"
MAP_RECORD = "eval/embeddings.json"
TERMS = "eval/terms.json"
TERMS_PLOT = "terms.png"
ONNX_PARITY = "onnx/parity.json"
ONNX_INT8 = "onnx/model_int8.onnx"
HANDLER = "handler.py"
REFERENCE = "monitoring/reference.parquet"
CASCADE_REFERENCE = "monitoring/cascade.parquet"
ROBUSTNESS = "monitoring/robustness.json"
ROBUSTNESS_PLOT = "monitoring/robustness.png"

RECORD_COMMANDS = {
    METRICS: "evaluate", ONNX_PARITY: "export", MAP_RECORD: "visualize", CASCADE: "cascade", EXAMPLES: "card",
    RELEASE: "card --recipe FILE",
}  # fmt: skip
"""The files that end with their own checksum, and the command that writes each."""


@dataclass(frozen=True)
class ManifestFile:
    """One file of a model directory.

    `record` is the file that carries its sha256, itself for a key of `RECORD_COMMANDS`; None where no file
    does, because it is not pushed or the release writes it.
    """

    path: str  # POSIX, inside the directory
    what: str  # one line on what it holds, for messages and the documentation
    kinds: frozenset[str] = BOTH  # of model that may have it
    required: bool = True  # a finished run has it
    pushed: bool = True  # it goes to the Hub with a release
    single_label: bool = False  # a multi-label model has none
    record: str | None = METRICS

    @property
    def evaluated(self) -> bool:
        """Written by the evaluation or later: a run that has just saved its weights lacks it."""
        return self.path.startswith(("eval/", "monitoring/")) or self.path == CARD


def _transformer(path: str, what: str, *, required: bool = False, record: str = METRICS) -> ManifestFile:
    return ManifestFile(path, what, frozenset({TRANSFORMER}), required, record=record)


def _optional(path: str, what: str, record: str | None = METRICS) -> ManifestFile:
    return ManifestFile(path, what, required=False, record=record)


MANIFEST: tuple[ManifestFile, ...] = (
    ManifestFile("config.json", "architecture, `id2label`, `label2id`"),
    _transformer(WEIGHTS[TRANSFORMER], "weights, calibration temperature folded in", required=True),
    _transformer("tokenizer.json", "tokenizer", required=True),
    _transformer("tokenizer_config.json", "tokenizer settings with `model_max_length`", required=True),
    _transformer("special_tokens_map.json", "special tokens, where the tokenizer class writes it"),
    _transformer("added_tokens.json", "added tokens, where the tokenizer class writes it"),
    _transformer("vocab.txt", "WordPiece vocabulary, where the tokenizer class writes it"),
    _transformer("vocab.json", "BPE vocabulary, where the tokenizer class writes it"),
    _transformer("merges.txt", "BPE merges, where the tokenizer class writes it"),
    _transformer("spiece.model", "SentencePiece model (protobuf), where the tokenizer class writes it"),
    ManifestFile(WEIGHTS[TFIDF], "vectoriser, model and calibration", frozenset({TFIDF})),
    ManifestFile(RECIPE, "the resolved recipe"),
    _optional(RELEASE, "the recipe's release group, where it was set after training", RELEASE),
    ManifestFile(RUN_RECORD, "provenance: data, commit, versions, seed, device, duration, metrics"),
    ManifestFile("training_curve.png", "losses and metrics over the steps"),
    ManifestFile(TERMS_PLOT, "terms that count most for each category", frozenset({TFIDF}), required=False),
    ManifestFile("train.log", "log of the training run", required=False, pushed=False, record=None),
    ManifestFile(METRICS, "metrics with intervals, slices, sha256 of weights and data"),
    ManifestFile(PREDICTIONS, "one row per scored paper: id, label, scores"),
    ManifestFile("eval/confusion_matrix.png", "confusion matrix", single_label=True),
    ManifestFile("eval/reliability.png", "reliability diagram"),
    ManifestFile("eval/accuracy_by_year.png", "accuracy by year of publication", single_label=True),
    _optional(SCOPE, "out-of-scope rule and threshold with its AUROC"),
    _optional(PREDICTION_SETS, "prediction-set thresholds for 80, 90 and 95% coverage"),
    _transformer(
        CASCADE, "when a baseline answers before this model, with the sha256 of both weights", record=CASCADE
    ),
    _optional(REFERENCE, "one row per test paper, to compare production with: scores, features; no text"),
    _transformer(CASCADE_REFERENCE, "the same of a cascade, for each half that answers", record=CASCADE),
    _optional(ROBUSTNESS, "accuracy on changed texts, and whether the drift check notices"),
    _optional(ROBUSTNESS_PLOT, "accuracy on changed texts by severity"),
    _optional(EXAMPLES, "example texts with their scores, for the card", EXAMPLES),
    _optional(SCOPE_PLOT, "scores of papers inside and outside the label set"),
    _optional(MAP_PLOT, "t-SNE or UMAP map of the embeddings", MAP_RECORD),
    _optional(MAP_RECORD, "how the map was made, and the sha256 of map and terms", MAP_RECORD),
    _optional(TERMS, "for the baseline: the terms with the largest weights for each category", MAP_RECORD),
    _optional(GATE_RECORD, "checks of the release gate that were overridden, where any were", None),
    ManifestFile(CARD, "model card", record=None),
    _transformer("onnx/model.onnx", "ONNX export, fp32", record=ONNX_PARITY),
    _transformer(ONNX_INT8, "ONNX export, int8", record=ONNX_PARITY),
    _transformer(ONNX_PARITY, "agreement of the exports with the weights", record=ONNX_PARITY),
    _transformer(HANDLER, "Inference Endpoints handler", record=ONNX_PARITY),
    _transformer("requirements.txt", "what the handler needs", record=ONNX_PARITY),
)

RECORD_OF = {entry.path: entry.record for entry in MANIFEST if entry.record is not None}
"""File to the record that carries its sha256."""

RENDERED = frozenset({CARD, GATE_RECORD})
"""Files that the release itself writes: they name its version, so two pushes of one model differ in them."""


def model_kind(model_dir: str | Path) -> str:
    """The kind of model in a directory, "transformer" or "tfidf", read from its `config.json`.

    Raises:
        UserError: when the directory or its `config.json` is missing or malformed.
    """
    path = Path(model_dir) / "config.json"
    if not path.is_file():
        raise UserError(
            f"{model_dir} is not a model directory: it has no config.json",
            hint="name a directory that train.py or train_tfidf.py finished, such as outputs/distilbert",
        )
    config = read_record(path, ClassifierConfig)
    return TFIDF if config.get("model_type") == TFIDF_MODEL_TYPE else TRANSFORMER


def model_labels(model_dir: str | Path) -> list[str]:
    """Category codes in the order of the model's outputs, read from its `config.json`."""
    return labels_of(read_record(Path(model_dir) / "config.json", ClassifierConfig))


def manifest_for(kind: str) -> tuple[ManifestFile, ...]:
    """The entries that a model directory of this kind may hold."""
    return tuple(entry for entry in MANIFEST if kind in entry.kinds)


def files_in(model_dir: str | Path) -> list[str]:
    """Every file under a model directory as sorted POSIX paths relative to it (links are followed)."""
    root = Path(model_dir)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def foreign_files(model_dir: str | Path, kind: str) -> list[str]:
    """Files of a model directory that the manifest does not list for its kind."""
    allowed = {entry.path for entry in manifest_for(kind)}
    return [path for path in files_in(model_dir) if path not in allowed]


def missing_files(model_dir: str | Path, kind: str, *, before_evaluation: bool = False) -> list[str]:
    """Required files that a model directory lacks; `before_evaluation`, less those of the evaluation."""
    present = set(files_in(model_dir))
    several = (read_model_file(model_dir, "config.json") or {}).get("problem_type") == MULTI_LABEL
    return [
        entry.path
        for entry in manifest_for(kind)
        if entry.required
        and entry.path not in present
        and not (before_evaluation and entry.evaluated)
        and not (several and entry.single_label)
    ]


def release_files(model_dir: str | Path, kind: str) -> list[str]:
    """Files of a model directory that a release pushes: listed, pushed and present, in manifest order."""
    present = set(files_in(model_dir))
    return [entry.path for entry in manifest_for(kind) if entry.pushed and entry.path in present]


def describe(path: str) -> str:
    """What a listed file holds, in one line; an empty string for a file outside the manifest."""
    return next((entry.what for entry in MANIFEST if entry.path == path), "")
