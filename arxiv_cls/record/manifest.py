"""The one list of files that a model directory may hold; training, tests, gate and push all read it.

Which files are required depends on the kind of model: `transformer` (safetensors and a tokenizer) or
`tfidf` (one skops file). Files that are not pushed belong to the machine that trained, not to the release.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.record.model_config import TFIDF_MODEL_TYPE, ClassifierConfig, labels_of
from arxiv_cls.record.model_files import read_record

TRANSFORMER = "transformer"
TFIDF = "tfidf"
BOTH = frozenset({TRANSFORMER, TFIDF})


@dataclass(frozen=True)
class ManifestFile:
    """One file of a model directory.

    Attributes:
        path: POSIX path inside the directory.
        what: one line on what the file holds, for messages and the documentation.
        kinds: kinds of model that may have it.
        required: a finished run has it.
        pushed: it goes to the Hub with a release.
        evaluated: written by evaluation or later, so that a run which has just saved its weights lacks it.
    """

    path: str
    what: str
    kinds: frozenset[str] = BOTH
    required: bool = True
    pushed: bool = True
    evaluated: bool = False


def _transformer(path: str, what: str, *, required: bool = True) -> ManifestFile:
    return ManifestFile(path, what, frozenset({TRANSFORMER}), required)


def _evaluation(path: str, what: str, *, required: bool = False) -> ManifestFile:
    return ManifestFile(path, what, required=required, evaluated=True)


METRICS = "eval/metrics.json"
PREDICTIONS = "eval/predictions.parquet"
SCOPE = "eval/scope.json"
SCOPE_PLOT = "eval/out_of_scope.png"
PREDICTION_SETS = "eval/prediction_sets.json"
CASCADE = "eval/cascade.json"
EXAMPLES = "eval/examples.json"
GATE_RECORD = "eval/gate.json"
MAP_PLOT = "eval/embeddings.png"
MAP_RECORD = "eval/embeddings.json"
TERMS = "eval/terms.json"
CARD = "README.md"
RECIPE = "recipe.yaml"
RELEASE = "release.yaml"
RUN_RECORD = "run.json"
WEIGHTS = {TRANSFORMER: "model.safetensors", TFIDF: "model.skops"}
ONNX_PARITY = "onnx/parity.json"
ONNX_INT8 = "onnx/model_int8.onnx"
HANDLER = "handler.py"

MANIFEST: tuple[ManifestFile, ...] = (
    ManifestFile("config.json", "architecture, `id2label`, `label2id`"),
    _transformer(WEIGHTS[TRANSFORMER], "weights, calibration temperature folded in"),
    _transformer("tokenizer.json", "tokenizer"),
    _transformer("tokenizer_config.json", "tokenizer settings with `model_max_length`"),
    *(
        _transformer(path, f"{what}, where the tokenizer class writes it", required=False)
        for path, what in {
            "special_tokens_map.json": "special tokens",
            "added_tokens.json": "added tokens",
            "vocab.txt": "WordPiece vocabulary",
            "vocab.json": "BPE vocabulary",
            "merges.txt": "BPE merges",
            "spiece.model": "SentencePiece model (protobuf)",
        }.items()
    ),
    ManifestFile(WEIGHTS[TFIDF], "vectoriser, model and calibration", frozenset({TFIDF})),
    ManifestFile(RECIPE, "the resolved recipe"),
    ManifestFile(RELEASE, "the recipe's release group, where it was set after training", required=False),
    ManifestFile(RUN_RECORD, "provenance: data, commit, versions, seed, device, duration, metrics"),
    ManifestFile("training_curve.png", "losses and metrics over the steps"),
    ManifestFile("train.log", "log of the training run", required=False, pushed=False),
    _evaluation(METRICS, "metrics with intervals, slices, sha256 of weights and data", required=True),
    _evaluation(PREDICTIONS, "one row per scored paper: id, label, scores", required=True),
    _evaluation("eval/confusion_matrix.png", "confusion matrix", required=True),
    _evaluation("eval/reliability.png", "reliability diagram", required=True),
    _evaluation("eval/accuracy_by_year.png", "accuracy by year of publication", required=True),
    _evaluation(SCOPE, "out-of-scope rule and threshold with its AUROC"),
    _evaluation(PREDICTION_SETS, "prediction-set thresholds for 80, 90 and 95% coverage"),
    ManifestFile(
        CASCADE,
        "when a baseline answers before this model, with the sha256 of both weights",
        frozenset({TRANSFORMER}),
        required=False,
        evaluated=True,
    ),
    _evaluation(EXAMPLES, "example texts with their scores, for the card"),
    _evaluation(SCOPE_PLOT, "scores of papers inside and outside the label set"),
    _evaluation(MAP_PLOT, "t-SNE or UMAP map of the embeddings"),
    _evaluation(MAP_RECORD, "how the map was made, and the sha256 of map and terms"),
    _evaluation(TERMS, "for the baseline: the terms that speak for each category"),
    _evaluation(GATE_RECORD, "checks of the release gate that were overridden, where any were"),
    ManifestFile(CARD, "model card", evaluated=True),
    _transformer("onnx/model.onnx", "ONNX export, fp32", required=False),
    _transformer(ONNX_INT8, "ONNX export, int8", required=False),
    _transformer(ONNX_PARITY, "agreement of the exports with the weights", required=False),
    _transformer(HANDLER, "Inference Endpoints handler", required=False),
    _transformer("requirements.txt", "what the handler needs", required=False),
)

RENDERED = frozenset({CARD, GATE_RECORD})
"""Files that the release itself writes: they name its version, so two pushes of one model differ in them."""

HUB_OWN_FILES = frozenset({".gitattributes"})
"""Files that the Hub itself puts into a repository; a release neither writes nor removes them."""

_BY_PATH = {entry.path: entry for entry in MANIFEST}


def model_kind(model_dir: str | Path) -> str:
    """The kind of model in a directory, read from its `config.json`.

    Returns:
        "transformer" or "tfidf".

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
    """Category codes in the order of the model's outputs, read from its `config.json`.

    Raises:
        UserError: when it is missing or malformed.
    """
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
    """Required files that a model directory lacks.

    Args:
        model_dir: the directory.
        kind: "transformer" or "tfidf".
        before_evaluation: do not ask for the files that evaluation writes.
    """
    present = set(files_in(model_dir))
    return [
        entry.path
        for entry in manifest_for(kind)
        if entry.required and entry.path not in present and not (before_evaluation and entry.evaluated)
    ]


def release_files(model_dir: str | Path, kind: str) -> list[str]:
    """Files of a model directory that a release pushes: listed, pushed and present, in manifest order."""
    present = set(files_in(model_dir))
    return [entry.path for entry in manifest_for(kind) if entry.pushed and entry.path in present]


def describe(path: str) -> str:
    """What a listed file holds, in one line; an empty string for a file outside the manifest."""
    entry = _BY_PATH.get(path)
    return entry.what if entry else ""
