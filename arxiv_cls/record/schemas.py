"""The schemas of the records that this project writes into a model directory, and which file has which."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from arxiv_cls.record.model_config import (
    FEWEST_TOKENS,
    NO_LIMIT,
    ClassifierConfig,
    Count,
    Label,
    Record,
    ShardIndex,
    TokenizerConfig,
)

_EVALUATE = "run `arxiv-cls evaluate` again"
_EXPORT = "run `arxiv-cls export` again"
_TRAIN = "train the model again, or restore the file"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class DataRecord(Record):
    """The data that a model was trained or evaluated on."""

    csv: str | None = None
    md5: str | None = None
    sha256: str | None = None
    bytes: Count | None = None
    rows: Count | None = None
    config: str | None = None
    split: str | None = None
    seed: int | None = None
    max_samples: Count | None = None
    time_boundaries: list[Any] | None = None
    splits: dict[str, Count] = Field(default_factory=dict)
    labels: list[Label] | None = None
    newest_training_paper: str | None = None


class ClassScores(Record):
    """Precision, recall and F1 of one category, 0 to 1."""

    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    support: Count | None = None


class Metrics(Record):
    """The metrics of one split."""

    accuracy: float | None = None
    macro_f1: float | None = None
    top_2_accuracy: float | None = None
    log_loss: float | None = None
    expected_calibration_error: float | None = None
    per_class: dict[str, ClassScores] = Field(default_factory=dict)


class RunRecord(Record):
    """`run.json`: where a model comes from."""

    hint: ClassVar[str] = _TRAIN
    schema_version: int | None = None
    kind: str | None = None
    recipe: str | None = None
    data: DataRecord = Field(default_factory=DataRecord)
    git: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    device: dict[str, Any] = Field(default_factory=dict)
    calibration: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Metrics] = Field(default_factory=dict)
    weights_sha256: str | None = None
    started: str | None = None
    seed: int | None = None
    duration_seconds: float | None = None
    papers_per_second: float | None = None
    peak_memory_bytes: Count | None = None


class Evaluation(Record):
    """`eval/metrics.json`."""

    hint: ClassVar[str] = _EVALUATE
    schema_version: int | None = None
    kind: str | None = None
    labels: list[Label] | None = None
    split: str | None = None
    papers: Count | None = None
    resamples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    seed: Count | None = None
    confidence: float | None = None
    data: DataRecord = Field(default_factory=DataRecord)
    data_sha256: str | None = None
    weights_sha256: str | None = None
    metrics: Metrics = Field(default_factory=Metrics)
    intervals: dict[str, Interval] = Field(default_factory=dict)
    slices: dict[str, Any] = Field(default_factory=dict)


class SetLevel(Record):
    """Sets of one coverage."""

    threshold: Finite
    coverage: float | None = None
    mean_size: float | None = None


class PredictionSets(Record):
    """`eval/prediction_sets.json`."""

    hint: ClassVar[str] = _EVALUATE
    schema_version: int
    weights_sha256: str | None = None
    levels: dict[str, SetLevel]


class Scope(Record):
    """`eval/scope.json`; the rule itself is absent in records that only describe it."""

    hint: ClassVar[str] = _EVALUATE
    schema_version: int
    weights_sha256: str | None = None
    threshold: Finite
    intercept: Finite | None = None
    weights: dict[str, Finite] = Field(default_factory=dict)
    auroc: float | None = None
    auroc_interval: Interval | None = None


class Cascade(Record):
    """`eval/cascade.json`."""

    hint: ClassVar[str] = "`arxiv-cls cascade` fits it on the validation split"
    schema_version: int
    engine: str
    transformer_sha256: str
    baseline_sha256: str
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_tokens: Annotated[int, Field(ge=FEWEST_TOKENS, le=NO_LIMIT)]
    set_threshold: Finite


class ExportEntry(Record):
    """What is known of one ONNX file."""

    sha256: str | None = None
    max_difference: float | None = None
    tolerance: float | None = None
    papers: Count | None = None
    equal_labels: float | None = None
    accuracy_fall: float | None = None


class Parity(Record):
    """`onnx/parity.json`."""

    hint: ClassVar[str] = _EXPORT
    weights_sha256: str | None = None
    exports: dict[str, ExportEntry] = Field(default_factory=dict)


class Example(Record):
    """A text with its scores."""

    title: str
    text: str
    scores: Annotated[dict[Label, float], Field(min_length=1)]


class Examples(Record):
    """`eval/examples.json`."""

    hint: ClassVar[str] = "delete the file: the card writes it again"
    weights_sha256: str | None = None
    examples: list[Example]


class Terms(Record):
    """`eval/terms.json`."""

    hint: ClassVar[str] = "run `arxiv-cls visualize` again"
    weights_sha256: str | None = None
    terms: dict[Label, dict[str, float]]


class Embeddings(Record):
    """`eval/embeddings.json`: the checksums of what `visualize` wrote."""

    hint: ClassVar[str] = "run `arxiv-cls visualize` again"
    weights_sha256: str | None = None


class Override(Record):
    """A check of the gate that failed and was overridden."""

    check: str
    found: str
    wanted: str
    reason: str


class GateRecord(Record):
    """`eval/gate.json`."""

    hint: ClassVar[str] = "`arxiv-cls push` writes it"
    overridden: list[Override]


class ReleaseGroup(Record):
    """`release.yaml`: the release group of a recipe."""

    hint: ClassVar[str] = _TRAIN
    base_model: str | None = None
    license: str | None = None
    tags: list[str] | None = None


class RecipeRecord(Record):
    """`recipe.yaml`: the resolved recipe of a run."""

    hint: ClassVar[str] = _TRAIN
    model: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    trainer: dict[str, Any] = Field(default_factory=dict)
    release: ReleaseGroup | None = None


SCHEMAS: dict[str, type[Record]] = {
    "config.json": ClassifierConfig,
    "tokenizer_config.json": TokenizerConfig,
    "model.safetensors.index.json": ShardIndex,
    "run.json": RunRecord,
    "recipe.yaml": RecipeRecord,
    "release.yaml": ReleaseGroup,
    "eval/metrics.json": Evaluation,
    "eval/prediction_sets.json": PredictionSets,
    "eval/scope.json": Scope,
    "eval/cascade.json": Cascade,
    "eval/examples.json": Examples,
    "eval/terms.json": Terms,
    "eval/embeddings.json": Embeddings,
    "eval/gate.json": GateRecord,
    "onnx/parity.json": Parity,
}
