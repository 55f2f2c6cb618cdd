"""What `/metrics` tells Prometheus: requests by route and status, and what only this program knows."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator

from arxiv_cls.models.predictor import Prediction
from arxiv_cls.serving.model_slot import ServedModel

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
REFUSALS = ("queue_full", "ending", "not_loaded", "disconnected")


class Metrics:
    """The counters of one app, in a registry of its own, so that two apps in one process stay apart.

    Args:
        queue_depth: texts that wait or are computed now.
    """

    def __init__(self, queue_depth: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.predictions = Counter(
            "arxiv_cls_predictions", "Texts answered", ["label", "answered_by"], registry=registry
        )
        self.truncated = Counter(
            "arxiv_cls_truncated", "Texts longer than the model reads", registry=registry
        )
        self.out_of_scope = Counter("arxiv_cls_out_of_scope", "Texts out of scope", registry=registry)
        self.refused = Counter(
            "arxiv_cls_refused", "Requests that were not computed", ["reason"], registry=registry
        )
        for reason in REFUSALS:
            # A counter that is 0 is there from the start, so that a rate over it is 0 and not absent.
            self.refused.labels(reason)
        self.batch_texts = Histogram(
            "arxiv_cls_batch_texts", "Texts per batch", registry=registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self.batch_tokens = Histogram(
            "arxiv_cls_batch_tokens",
            "Tokens per batch",
            registry=registry,
            buckets=(64, 128, 256, 512, 1024, 2048, 4096, 8192),
        )
        self.batch_seconds = Histogram(
            "arxiv_cls_batch_seconds", "Computing time of a batch", registry=registry, buckets=SECONDS
        )
        self.wait_seconds = Histogram(
            "arxiv_cls_wait_seconds", "Time of a request in the queue", registry=registry, buckets=SECONDS
        )
        Gauge("arxiv_cls_queue_texts", "Texts that wait or are computed", registry=registry).set_function(
            queue_depth
        )
        self.log_records = Counter(
            "arxiv_cls_request_log_records",
            "Records of the request log: written, or lost and why",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("written", "queue_full", "write_failed"):
            self.log_records.labels(outcome)
        self.model_loads = Counter("arxiv_cls_model_loads", "Models loaded", ["outcome"], registry=registry)
        self.model = Gauge(
            "arxiv_cls_model_info",
            "1 for the model that answers",
            ["model", "version", "engine"],
            registry=registry,
        )

    def instrument(self, app: FastAPI) -> None:
        """Counts and times the requests of an app by route, method and status."""
        Instrumentator(
            registry=self.registry, should_group_status_codes=False, excluded_handlers=["^/metrics$"]
        ).instrument(app)

    def note_model(self, model: ServedModel) -> None:
        """A model has taken its place."""
        self.model.clear()
        self.model.labels(model.name, model.version, model.predictor.engine).set(1)
        self.model_loads.labels("loaded").inc()

    def note_batch(self, texts: int, tokens: int, seconds: float) -> None:
        """A batch was computed."""
        self.batch_texts.observe(texts)
        self.batch_tokens.observe(tokens)
        self.batch_seconds.observe(seconds)

    def note_prediction(self, prediction: Prediction) -> None:
        """A text was answered."""
        self.predictions.labels(prediction.label, prediction.answered_by).inc()
        if prediction.truncated:
            self.truncated.inc()
        if prediction.in_scope is False:
            self.out_of_scope.inc()
