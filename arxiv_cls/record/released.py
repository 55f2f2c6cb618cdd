"""The schemas of a model that has a card: the fields without which card, gate and `verify` cannot do.

None stands where a number could not be measured; the card says which it needs.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from arxiv_cls.record.model_config import Count, Record
from arxiv_cls.record.schemas import (
    SCHEMAS,
    ClassScores,
    DataRecord,
    Evaluation,
    Interval,
    Metrics,
    PredictionSets,
    RunRecord,
    Scope,
    SetLevel,
)


class ReleasedData(DataRecord):
    """The data of a model that has a card."""

    csv: str
    md5: str
    sha256: str
    rows: Count | None
    config: str
    split: str
    seed: int
    splits: dict[str, Count]


class ReleasedDevice(Record):
    """What a model that has a card was trained on."""

    type: str
    name: str
    precision: str
    processes: int
    threads: int
    peak_memory_of: str


class ReleasedRun(RunRecord):
    """`run.json` of a model that has a card."""

    recipe: str
    data: ReleasedData
    device: ReleasedDevice
    seed: int
    started: str
    duration_seconds: float | None
    calibration: ReleasedCalibration | None = None


class ReleasedClassScores(ClassScores):
    """The scores of a category on a card."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: Count | None


class ReleasedMetrics(Metrics):
    """The metrics of the test split on a card; None where a metric could not be measured."""

    accuracy: float | None
    macro_f1: float | None
    micro_f1: float | None
    weighted_f1: float | None
    top_2_accuracy: float | None
    top_3_accuracy: float | None
    log_loss: float | None
    brier_score: float | None
    expected_calibration_error: float | None
    per_class: dict[str, ReleasedClassScores]


class ChanceCalibration(Record):
    """The calibration error that chance gives a perfectly calibrated model."""

    chance_mean: float | None
    chance_upper: float | None
    p_value: float | None


class ReleasedSlice(Record):
    """A line of the tables by year and by length; a slice without papers has no numbers."""

    n: Count
    accuracy: float | None
    macro_f1: float | None
    accuracy_interval: Annotated[list[float | None], Field(min_length=2, max_length=2)] | None

    @model_validator(mode="after")
    def _measured(self) -> ReleasedSlice:
        if self.n and self.accuracy_interval is None:
            raise ValueError("accuracy_interval: expected two numbers")
        return self


class ReleasedCalibration(Record):
    """The temperature of a model that has a card."""

    temperature: float | None = None
    expected_calibration_error_before: float | None = None
    expected_calibration_error_after: float | None = None


class ReleasedEvaluation(Evaluation):
    """`eval/metrics.json` of a model that has a card."""

    split: str
    papers: Count | None
    resamples: Annotated[int, Field(ge=1, le=1_000_000)]
    metrics: ReleasedMetrics
    intervals: dict[str, Interval]
    calibration: ChanceCalibration
    slices: dict[str, dict[str, ReleasedSlice]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _every_interval(self) -> ReleasedEvaluation:
        scalars = set(ReleasedMetrics.model_fields) - {"per_class"}
        missing = scalars | {f"f1/{label}" for label in self.metrics.per_class}
        if missing := missing - set(self.intervals):
            raise ValueError(f"intervals: expected {', '.join(sorted(missing)[:3])}")
        return self


class ReleasedLevel(SetLevel):
    """A line of the table of prediction sets on a card."""

    coverage: float | None
    mean_size: float | None


class ReleasedSets(PredictionSets):
    """`eval/prediction_sets.json` of a model that has a card."""

    levels: dict[Annotated[str, Field(pattern=r"^0\.[0-9]{1,6}$")], ReleasedLevel]


class ArchiveCaught(Record):
    """What a rule catches of one archive."""

    caught: float
    n: Count


class ReleasedScope(Scope):
    """`eval/scope.json` of a model that has a card."""

    rule: str
    auroc: float | None
    auroc_interval: Interval
    in_scope_kept: float
    out_of_scope_caught: float
    out_of_scope_papers: Count | None
    caught_by_archive: dict[str, ArchiveCaught] | None = None


RELEASED: dict[str, type[Record]] = SCHEMAS | {
    "run.json": ReleasedRun,
    "eval/metrics.json": ReleasedEvaluation,
    "eval/prediction_sets.json": ReleasedSets,
    "eval/scope.json": ReleasedScope,
}
"""What card, gate and `verify` need of the records, beyond what a model needs to answer."""
