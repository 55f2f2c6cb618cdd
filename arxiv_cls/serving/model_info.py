"""What `GET /info` says of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from arxiv_cls import __version__
from arxiv_cls.serving.settings import ServingSettings

if TYPE_CHECKING:
    from arxiv_cls.serving.model_slot import ServedModel


class Limits(BaseModel):
    """What a request may ask for."""

    max_texts: int = Field(description="texts in one request")
    max_characters: int = Field(description="characters in one text")
    max_body: int = Field(description="bytes in one request")
    max_tokens: int | None = Field(description="tokens that the model reads of a text; null for no limit")
    max_queue: int = Field(description="texts that wait or are computed")
    max_wait: float = Field(description="longest wait in the queue, seconds")
    max_batch_tokens: int = Field(description="tokens that are computed together")


class CascadeInfo(BaseModel):
    """The baseline that answers first, and when it does."""

    baseline: str
    baseline_version: str
    baseline_sha: str = Field(description="sha256 of its weights")
    threshold: float = Field(description="top score of the baseline from which it answers alone")
    max_tokens: int = Field(description="tokens that the transformer reads of the other texts")


class Info(BaseModel):
    """The model, its data and the limits; the names of Text Embeddings Inference where it has one."""

    model_id: str
    model_sha: str = Field(description="sha256 of the weights that the engine computes with")
    model_version: str
    model_type: dict[str, Any] = Field(description="classifier with id2label and label2id")
    kind: str = Field(description="transformer, tfidf or cascade")
    engine: str
    cascade: CascadeInfo | None = Field(description="null for a model by itself")
    labels: list[str]
    data: dict[str, Any] = Field(description="what the model was trained on, from its run.json")
    test_metrics: dict[str, float] = Field(description="scores on the test split, from its run.json")
    max_input_length: int | None
    max_client_batch_size: int
    auto_truncate: bool
    limits: Limits
    version: str = Field(description="of the program")


def describe(model: ServedModel, settings: ServingSettings) -> dict[str, Any]:
    """The fields of `Info`."""
    predictor = model.predictor
    labels = {str(number): label for number, label in enumerate(predictor.labels)}
    baseline = model.baseline
    test = model.run.get("metrics", {}).get("test", {})
    return {
        "model_id": model.name,
        "model_sha": model.weights_sha256,
        "model_version": model.version,
        "model_type": {
            "classifier": {
                "id2label": labels,
                "label2id": {label: number for number, label in labels.items()},
            }
        },
        "kind": predictor.kind,
        "engine": predictor.engine,
        "cascade": baseline
        and {
            "baseline": baseline.name,
            "baseline_version": baseline.version,
            "baseline_sha": baseline.weights_sha256,
            "threshold": baseline.threshold,
            "max_tokens": baseline.max_tokens,
        },
        "labels": predictor.labels,
        "data": model.run.get("data", {}),
        "test_metrics": {name: value for name, value in test.items() if isinstance(value, int | float)},
        "max_input_length": predictor.max_length,
        "max_client_batch_size": settings.texts_per_request,
        "auto_truncate": True,
        "limits": {
            "max_texts": settings.texts_per_request,
            "max_characters": settings.max_characters,
            "max_body": settings.max_body,
            "max_tokens": predictor.max_length,
            "max_queue": settings.max_queue,
            "max_wait": settings.max_wait,
            "max_batch_tokens": settings.max_batch_tokens,
        },
        "version": __version__,
    }
