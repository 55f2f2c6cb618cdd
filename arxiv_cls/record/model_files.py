"""Typed reading of the JSON and YAML files of a model directory: their schemas, and the one reader.

What a schema describes is checked for type and bounds; a field that none describes is kept as it is, so that
files of older and newer versions load. A model needs few fields to answer; what its card, the gate and
`verify` cannot do without is checked for a release.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from arxiv_cls.errors import UserError

MAX_RECORD_BYTES = 32 << 20
MAX_LABELS = 5000
TFIDF_MODEL_TYPE = "arxiv_cls-tfidf"
"""`model_type` in `config.json` of a baseline: what tells the two kinds apart on disk and on the Hub."""
MULTI_LABEL = "multi_label_classification"
"""`problem_type` in `config.json` of a model with a sigmoid for each label."""
# Tokenizers without a limit of their own write 1e30.
NO_LIMIT = 1_000_000
# Model types that number positions from the padding's on: they read fewer tokens than they have positions.
OFFSET_POSITIONS = {
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
# Two special tokens and one of the text.
FEWEST_TOKENS = 3
# A label becomes a file name, a cell of a table, a part of a page: no separators, markup or formulas.
LABEL_PATTERN = re.compile(r"\w[\w.-]{0,63}")
# Each makes transformers run, or download and run, what somebody else wrote, or read another weights file.
_CODE_KEYS = {
    "auto_map": "names Python code of the model's own, which is never run",
    "custom_pipelines": "names Python code of the model's own, which is never run",
    "quantization_config": "asks for another library's weights; only plain safetensors are loaded",
    "transformers_weights": "names a weights file of its own; only model.safetensors is loaded",
}
_KERNEL_KEYS = ("attn_implementation", "experts_implementation")
_EVALUATE = "run `arxiv-cls evaluate` again"
_TRAIN = "train the model again, or restore the file"


def _label(label: str) -> str:
    if not LABEL_PATTERN.fullmatch(label) or ".." in label:
        raise ValueError(
            "a label is 1 to 64 letters, digits, `_`, `.` or `-`, starts with a letter, digit or `_`, "
            "and has no `..`"
        )
    return label


def _own_code(content: Any, inside: str = "") -> Iterator[str]:
    if isinstance(content, list):
        for item in content:
            yield from _own_code(item, inside)
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        named = f"{inside}{key}"
        if key in _CODE_KEYS and value is not None:
            yield f"{named}: {_CODE_KEYS[key]}"
        elif any(part in str(key) for part in _KERNEL_KEYS) and "/" in str(value):
            yield f"{named}: names a kernel to download, which is never run"
        else:
            yield from _own_code(value, f"{named}.")


def _first_version(version: int) -> int:
    if version != 1:
        raise ValueError("this program reads version 1")
    return version


Version = Annotated[int, AfterValidator(_first_version)]
Label = Annotated[str, AfterValidator(_label)]
Size = Annotated[int, Field(ge=1, le=65_536)]
WideSize = Annotated[int, Field(ge=1, le=1 << 18)]
Depth = Annotated[int, Field(ge=1, le=256)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class Record(BaseModel):
    """A JSON object; types are not converted.

    `released` names the fields that a file of a release must have; a default stands for a field that others
    may lack, and None is a number that could not be measured.
    """

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())
    hint: ClassVar[str] = "get the model again, or restore the file"
    released: ClassVar[str] = ""

    def needed(self) -> list[str]:
        """The fields that this one must have in a release."""
        return self.released.split()

    @model_validator(mode="after")
    def _has_released_fields(self, info: ValidationInfo) -> Record:
        missing = [name for name in self.needed() if name not in self.model_fields_set]
        if info.context == "release" and missing:
            raise ValueError(f"{', '.join(missing)}: Field required")
        return self


class _WithoutCode(Record):
    """A file that transformers reads."""

    @model_validator(mode="before")
    @classmethod
    def _no_code(cls, content: Any) -> Any:
        if found := list(_own_code(content)):
            raise ValueError("; ".join(found))
        return content


class EncoderConfig(_WithoutCode):
    """`config.json` of a model to start a training from: bounds on what memory is allocated by."""

    model_type: str | None = None
    num_labels: Annotated[int, Field(ge=1, le=MAX_LABELS)] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=5_000_000)] | None = None
    max_position_embeddings: Annotated[int, Field(ge=1, le=NO_LIMIT)] | None = None
    hidden_size: Size | None = None
    dim: Size | None = None
    embedding_size: Size | None = None
    intermediate_size: WideSize | None = None
    hidden_dim: WideSize | None = None
    num_hidden_layers: Depth | None = None
    n_layers: Depth | None = None
    num_attention_heads: Heads | None = None
    n_heads: Heads | None = None
    type_vocab_size: Annotated[int, Field(ge=0, le=65_536)] | None = None
    pad_token_id: Annotated[int, Field(ge=0, le=5_000_000)] | None = None
    id2label: Annotated[dict[str, Any], Field(max_length=MAX_LABELS)] | None = None


class ClassifierConfig(EncoderConfig):
    """`config.json` of a finished model of either kind: with its labels."""

    id2label: Annotated[dict[str, Label], Field(min_length=2, max_length=MAX_LABELS)]
    label2id: dict[str, int] | None = None
    format_version: int | None = None
    classifier: str | None = None
    features: Count | None = None
    components: Count | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    problem_type: str | None = None
    label_thresholds: list[Annotated[float, Field(ge=0, le=1)]] | None = None

    @model_validator(mode="after")
    def _labels_agree(self) -> ClassifierConfig:
        count = len(self.id2label)
        if set(self.id2label) != {str(number) for number in range(count)}:
            raise ValueError(f'id2label: expected the keys "0" to "{count - 1}", without gaps')
        if len(set(self.id2label.values())) != count:
            raise ValueError("id2label: expected every label once")
        if self.num_labels not in (None, count):
            raise ValueError(f"num_labels: expected {count}, as many as id2label has labels")
        if self.label2id is not None and self.label2id != {v: int(k) for k, v in self.id2label.items()}:
            raise ValueError("label2id: expected the inverse of id2label")
        if (self.problem_type == MULTI_LABEL) != (self.label_thresholds is not None):
            raise ValueError(f"label_thresholds: expected with `problem_type: {MULTI_LABEL}`, and only then")
        if self.label_thresholds is not None and len(self.label_thresholds) != count:
            raise ValueError(f"label_thresholds: expected {count}, as many as id2label has labels")
        return self


class TokenizerConfig(_WithoutCode):
    """`tokenizer_config.json`."""

    model_max_length: Annotated[float, Field(ge=FEWEST_TOKENS)] | None = None
    truncation_side: Annotated[str, Field(pattern="^(left|right)$")] | None = None
    tokenizer_class: str | None = None


class _ShardIndex(Record):
    weight_map: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")]]


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
    ratios: list[float] | None = None
    splits: dict[str, Count] = Field(default_factory=dict)
    labels: list[Label] | None = None
    newest_training_paper: str | None = None


class _TrainingData(DataRecord):
    released = "csv md5 sha256 rows config split seed splits"
    csv: str = ""
    md5: str = ""
    sha256: str = ""
    config: str = ""
    split: str = ""
    seed: int = 0


class _Device(Record):
    released = "type name precision processes threads peak_memory_of"
    type: str = ""
    name: str = ""
    precision: str = ""
    processes: int = 0
    threads: int = 0
    peak_memory_of: str = ""


class _ClassScores(Record):
    released = "precision recall f1 support"
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    support: Count | None = None
    # Of a multi-label model.
    average_precision: float | None = None
    threshold: float | None = None
    expected_calibration_error: float | None = None


class Metrics(Record):
    """The metrics of one split; `lrap` tells those of a multi-label model."""

    released = (
        "accuracy macro_f1 micro_f1 weighted_f1 top_2_accuracy top_3_accuracy log_loss brier_score "
        "expected_calibration_error per_class"
    )
    of_multi_label: ClassVar[str] = (
        "macro_f1 micro_f1 lrap subset_accuracy macro_average_precision log_loss expected_calibration_error "
        "per_class"
    )
    accuracy: float | None = None
    macro_f1: float | None = None
    micro_f1: float | None = None
    weighted_f1: float | None = None
    top_2_accuracy: float | None = None
    top_3_accuracy: float | None = None
    log_loss: float | None = None
    brier_score: float | None = None
    expected_calibration_error: float | None = None
    lrap: float | None = None
    subset_accuracy: float | None = None
    macro_average_precision: float | None = None
    per_class: dict[str, _ClassScores] = Field(default_factory=dict)

    def needed(self) -> list[str]:
        """By the task."""
        return (self.of_multi_label if "lrap" in self.model_fields_set else self.released).split()


class _TemperatureFit(Record):
    temperature: float | None = None
    expected_calibration_error_before: float | None = None
    expected_calibration_error_after: float | None = None


class RunRecord(Record):
    """`run.json`: where a model comes from."""

    hint: ClassVar[str] = _TRAIN
    released = "recipe data device seed started duration_seconds"
    schema_version: int | None = None
    kind: str | None = None
    recipe: str = ""
    data: _TrainingData = Field(default_factory=_TrainingData)
    git: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    device: _Device = Field(default_factory=_Device)
    calibration: _TemperatureFit | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Metrics] = Field(default_factory=dict)
    weights_sha256: str | None = None
    started: str = ""
    seed: int = 0
    duration_seconds: float | None = None
    papers_per_second: float | None = None
    peak_memory_bytes: Count | None = None


class _ChanceCalibration(Record):
    released = "chance_mean chance_upper p_value"
    chance_mean: float | None = None
    chance_upper: float | None = None
    p_value: float | None = None


class _Slice(Record):
    released = "n accuracy macro_f1 accuracy_interval"
    n: Count = 0
    accuracy: float | None = None
    macro_f1: float | None = None
    accuracy_interval: Annotated[list[float | None], Field(min_length=2, max_length=2)] | None = None
    subset_accuracy: float | None = None
    subset_accuracy_interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None

    def needed(self) -> list[str]:
        """By the task: a multi-label model has the subset accuracy."""
        several = "subset_accuracy" in self.model_fields_set
        return (self.released.replace("accuracy", "subset_accuracy") if several else self.released).split()

    @model_validator(mode="after")
    def _measured(self) -> _Slice:
        if self.n and self.accuracy_interval is None and self.subset_accuracy_interval is None:
            raise ValueError("accuracy_interval: expected two numbers")
        return self


class Evaluation(Record):
    """`eval/metrics.json`."""

    hint: ClassVar[str] = _EVALUATE
    released = "split papers resamples metrics intervals calibration"
    schema_version: int | None = None
    kind: str | None = None
    task: Annotated[str, Field(pattern="^multi_label$")] | None = None
    labels: list[Label] | None = None
    split: str = ""
    papers: Count | None = None
    resamples: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    seed: Count | None = None
    confidence: float | None = None
    data: DataRecord = Field(default_factory=DataRecord)
    data_sha256: str | None = None
    weights_sha256: str | None = None
    metrics: Metrics = Field(default_factory=Metrics)
    intervals: dict[str, Interval] = Field(default_factory=dict)
    calibration: _ChanceCalibration = Field(default_factory=_ChanceCalibration)
    slices: dict[str, dict[str, _Slice]] = Field(default_factory=dict)

    def needed(self) -> list[str]:
        """By the task: a multi-label model is calibrated by label, in `metrics`."""
        fields = self.released.split()
        return fields if self.task is None else [name for name in fields if name != "calibration"]

    @model_validator(mode="after")
    def _every_interval(self, info: ValidationInfo) -> Evaluation:
        if info.context == "release" and ("lrap" in self.metrics.model_fields_set) != (self.task is not None):
            raise ValueError(f"metrics: expected those of the task {self.task or 'single_label'}")
        # The mean calibration error over labels has none.
        without = {"per_class"} if self.task is None else {"per_class", "expected_calibration_error"}
        needed = set(self.metrics.needed()) - without
        needed |= {f"f1/{label}" for label in self.metrics.per_class}
        if info.context == "release" and (missing := needed - set(self.intervals)):
            raise ValueError(f"intervals: expected {', '.join(sorted(missing)[:3])}")
        return self


class _SetLevel(Record):
    released = "coverage mean_size"
    threshold: Finite
    coverage: float | None = None
    mean_size: float | None = None


class _PredictionSets(Record):
    hint: ClassVar[str] = _EVALUATE
    schema_version: Version
    weights_sha256: str | None = None
    levels: dict[Annotated[str, Field(pattern=r"^0\.[0-9]{1,6}$")], _SetLevel]


class _ArchiveCaught(Record):
    caught: float
    n: Count


class Scope(Record):
    """`eval/scope.json`; the rule itself is absent in files that only describe it."""

    hint: ClassVar[str] = _EVALUATE
    released = "rule auroc auroc_interval in_scope_kept out_of_scope_caught out_of_scope_papers"
    schema_version: Version
    weights_sha256: str | None = None
    threshold: Finite
    intercept: Finite | None = None
    weights: dict[str, Finite] = Field(default_factory=dict)
    rule: str = ""
    auroc: float | None = None
    auroc_interval: Interval | None = None
    in_scope_kept: float = 0
    out_of_scope_caught: float = 0
    out_of_scope_papers: Count | None = None
    caught_by_archive: dict[str, _ArchiveCaught] | None = None


class _Cascade(Record):
    hint: ClassVar[str] = "`arxiv-cls cascade` fits it on the validation split"
    schema_version: Version
    engine: str
    transformer_sha256: str
    baseline_sha256: str
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_tokens: Annotated[int, Field(ge=FEWEST_TOKENS, le=NO_LIMIT)]
    set_threshold: Finite


class _ExportEntry(Record):
    sha256: str | None = None
    max_difference: float | None = None
    tolerance: float | None = None
    papers: Count | None = None
    equal_labels: float | None = None
    accuracy_fall: float | None = None


class _Parity(Record):
    hint: ClassVar[str] = "run `arxiv-cls export` again"
    weights_sha256: str | None = None
    exports: dict[str, _ExportEntry] = Field(default_factory=dict)


class _Example(Record):
    title: str
    text: str
    scores: Annotated[dict[Label, float], Field(min_length=1)]


class _Examples(Record):
    hint: ClassVar[str] = "delete the file: the card writes it again"
    weights_sha256: str | None = None
    examples: list[_Example]


class _Embeddings(Record):
    hint: ClassVar[str] = "run `arxiv-cls visualize` again"
    weights_sha256: str | None = None


class _Terms(_Embeddings):
    terms: dict[Label, dict[str, float]]


class _Change(Record):
    change: str
    severity: float
    accuracy: float
    macro_f1: float
    accuracy_change: Annotated[list[float], Field(min_length=3, max_length=3)]
    risk: str
    noticed: float | None = None


class _Robustness(Record):
    hint: ClassVar[str] = "run `arxiv-cls monitor robustness` again"
    schema_version: int
    weights_sha256: str
    papers: Count
    accuracy: float
    changes: list[_Change]


class _Override(Record):
    check: str
    found: str
    wanted: str
    reason: str


class _GateRecord(Record):
    hint: ClassVar[str] = "`arxiv-cls push-model` writes it"
    overridden: list[_Override]


class _ReleaseGroup(Record):
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
    release: _ReleaseGroup | None = None


SCHEMAS: dict[str, type[Record]] = {
    "config.json": ClassifierConfig,
    "tokenizer_config.json": TokenizerConfig,
    "model.safetensors.index.json": _ShardIndex,
    "run.json": RunRecord,
    "recipe.yaml": RecipeRecord,
    "release.yaml": _ReleaseGroup,
    "eval/metrics.json": Evaluation,
    "eval/prediction_sets.json": _PredictionSets,
    "eval/scope.json": Scope,
    "eval/cascade.json": _Cascade,
    "eval/examples.json": _Examples,
    "eval/terms.json": _Terms,
    "eval/embeddings.json": _Embeddings,
    "eval/gate.json": _GateRecord,
    "monitoring/robustness.json": _Robustness,
    "onnx/parity.json": _Parity,
}


def read_record(path: str | Path, schema: type[Record], *, released: bool = False) -> dict[str, Any]:
    """The content of a JSON or YAML file, as it was written, once it fits its schema.

    Args:
        path: the file; its suffix tells which it is.
        schema: what it has to fit.
        released: also ask for the fields that card, gate and `verify` need.

    Raises:
        UserError: no such file, too large, not JSON or YAML, or a field that does not fit: file, field, what
            was expected and what was found.
    """
    path = Path(path)
    kind = "YAML" if path.suffix in {".yaml", ".yml"} else "JSON"
    try:
        if (size := path.stat().st_size) > MAX_RECORD_BYTES:
            raise UserError(f"{path}: has {size:,} bytes, at most {MAX_RECORD_BYTES:,} are read", schema.hint)
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if kind == "YAML" else json.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not {kind}: {reason}", hint=schema.hint) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", hint=schema.hint) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, found {_shown(content)}", hint=schema.hint)
    try:
        schema.model_validate(content, context="release" if released else None)
    except ValidationError as error:
        problems = [_problem(problem) for problem in error.errors(include_url=False)]
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{path}: {'; '.join(problems[:3])}{more}", hint=schema.hint) from None
    return content


def read_model_file(model_dir: str | Path, name: str, *, released: bool = False) -> dict[str, Any] | None:
    """A file of a model directory, named by its key of `SCHEMAS`; None where the directory does not have it.

    Raises:
        UserError: as `read_record`.
    """
    path = Path(model_dir) / name
    return read_record(path, SCHEMAS[name], released=released) if path.is_file() else None


def labels_of(config: dict[str, Any]) -> list[str]:
    """The labels of a checked `config.json`, in the order of the model's outputs."""
    return [config["id2label"][str(number)] for number in range(len(config["id2label"]))]


def token_limit(config: dict[str, Any], limit: float | None, unlimited: int = 512) -> int:
    """Tokens that a model reads of a text: at most its tokenizer's limit and its table of positions.

    Args:
        config: a checked `config.json`.
        limit: the tokenizer's `model_max_length`.
        unlimited: the answer where there is neither.
    """
    positions = config.get("max_position_embeddings") or config.get("n_positions") or NO_LIMIT
    if config.get("model_type") in OFFSET_POSITIONS:
        padding = config.get("pad_token_id")
        positions -= 2 if padding is None else padding + 1
    known = [number for number in (limit or NO_LIMIT, positions) if 0 < number < NO_LIMIT]
    return int(min(known, default=unlimited))


def check_length(model_dir: str | Path, config: dict[str, Any]) -> None:
    """Makes sure that a tokenizer's limit lies within the position table of the model's `config.json`.

    Raises:
        UserError: it does not, or `tokenizer_config.json` does not fit its schema.
    """
    path = Path(model_dir) / "tokenizer_config.json"
    limit = read_record(path, TokenizerConfig).get("model_max_length") or NO_LIMIT
    positions = config.get("max_position_embeddings")
    if positions is not None and positions < limit < NO_LIMIT:
        raise UserError(
            f"{path}: model_max_length: expected at most {positions}, the model's max_position_embeddings, "
            f"found {limit}",
            hint=TokenizerConfig.hint,
        )


def _problem(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}, found {_shown(problem['input'])}" if place else message


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=True)
    return text if len(text) <= 80 else text[:77] + "..."
