"""The front matter of a model card: what the Hub reads to show, find and run a model."""

from __future__ import annotations

from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from arxiv_cls.release.card_numbers import number
from arxiv_cls.release.evidence import Evidence
from arxiv_cls.release.manifest import TRANSFORMER

TASK = "text-classification"
# Hub's metric id, our field, the name to show. The ids are those of the Hub's metrics where it has one.
INDEX_METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("f1", "macro_f1", "Macro F1"),
    ("f1", "weighted_f1", "Weighted F1"),
    ("accuracy", "top_2_accuracy", "Top-2 accuracy"),
    ("log_loss", "log_loss", "Log-loss"),
    ("brier_score", "brier_score", "Brier score"),
    ("expected_calibration_error", "expected_calibration_error", "Expected calibration error"),
)
DATASET_NAME = "arXiv papers"
WIDGET_LABELS = 3


def _eval_results(evidence: Evidence, dataset: str | None) -> list[EvalResult]:
    evaluation, data = evidence.require_evaluation(), evidence.run["data"]
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset or "arxiv-papers",
            dataset_name=DATASET_NAME,
            dataset_config=data["config"],
            dataset_split=evaluation["split"],
            dataset_args={"md5": data["md5"], "split_by": data["split"], "seed": data["seed"]},
            metric_type=metric_type,
            metric_name=name,
            metric_value=float(number(f"metrics.{field}", evaluation["metrics"][field], 6)),
        )
        for metric_type, field, name in INDEX_METRICS
    ]


def card_metadata(evidence: Evidence, examples: list[dict[str, Any]], model_name: str) -> str:
    """The front matter as YAML, without the dashes around it.

    Args:
        evidence: the model's records.
        examples: example texts with their scores, for the widget.
        model_name: the name in the results index.
    """
    release = evidence.recipe.get("release") or {}
    transformer = evidence.kind == TRANSFORMER
    dataset = release.get("dataset")
    own_tags = ["arxiv", "scientific-papers"] + ([] if transformer else ["tfidf", "skops"])
    data = ModelCardData(
        language=release.get("language", "en"),
        license=release.get("license", "apache-2.0"),
        # `pipeline(model=...)` without a task reads the library from here; only a real one may stand there.
        library_name="transformers" if transformer else "arxiv_cls",
        pipeline_tag=TASK,
        base_model=release.get("base_model") if transformer else None,
        datasets=[dataset] if dataset else None,
        metrics=["accuracy", "f1"],
        tags=own_tags + [tag for tag in release.get("tags") or [] if tag not in own_tags],
        widget=[
            {
                "example_title": example["title"],
                "text": example["text"],
                "output": [
                    {"label": label, "score": round(score, 4)}
                    for label, score in list(example["scores"].items())[:WIDGET_LABELS]
                ],
            }
            for example in examples
        ],
        model_name=model_name,
        eval_results=_eval_results(evidence, dataset),
    )
    return yaml.safe_dump(
        {key: value for key, value in data.to_dict().items() if value is not None},
        sort_keys=False,
        allow_unicode=True,
        width=10_000,
    ).rstrip()
