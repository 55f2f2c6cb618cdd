"""The example papers on a card, with the scores that the model gives them, kept in `eval/examples.json`.

The papers are made up, so that no test paper is singled out and nobody's text is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arxiv_cls.record.directory import ModelDirectory
from arxiv_cls.record.files import write_record
from arxiv_cls.record.manifest import EXAMPLES


@dataclass(frozen=True)
class ExamplePaper:
    """A made-up paper."""

    title: str
    abstract: str

    @property
    def text(self) -> str:
        """Title, blank line, abstract: the form of the training texts."""
        return f"{self.title}\n\n{self.abstract}"

    @property
    def opening(self) -> str:
        """Title and first sentence as they stand in a Python string, for a snippet of one line."""
        return f"{self.title}\\n\\n{self.abstract.split('. ')[0]}. ..."


EXAMPLE_PAPERS = (
    ExamplePaper(
        "Sparse attention for translating long documents",
        "We study machine translation of whole documents. A sparse attention pattern links every sentence to "
        "its neighbours and to the headings, and keeps pronouns consistent across paragraphs.",
    ),
    ExamplePaper(
        "Segmenting road scenes in rain",
        "Cameras lose contrast in heavy rain. We train a convolutional network on paired dry and wet images "
        "and improve the segmentation of lanes and pedestrians without extra sensors.",
    ),
    ExamplePaper(
        "Posterior contraction for deep Gaussian processes",
        "We prove rates at which the posterior of a deep Gaussian process concentrates around a composite "
        "regression function, and derive priors that adapt to unknown smoothness.",
    ),
)


def ensure_examples(model: ModelDirectory) -> list[dict[str, Any]]:
    """The examples with their scores, measured anew when the recorded ones belong to other weights.

    `eval/examples.json` is written into the model directory when needed. Returns for each example `title`,
    `text` and `scores` ({label: score}, descending).
    """
    weights = model.weights_sha256()
    recorded = model.optional_json(EXAMPLES)
    if recorded and recorded.get("weights_sha256") == weights and "record_sha256" in recorded:
        return recorded["examples"]
    from arxiv_cls.models.predictor import load_predictor

    return write_examples(load_predictor(model.model_dir), weights)


def write_examples(predictor: Any, weights_sha256: str) -> list[dict[str, Any]]:
    """Scores the examples, writes `eval/examples.json` of the predictor's directory, and returns them."""
    predictions = predictor.predict([paper.text for paper in EXAMPLE_PAPERS])
    examples = [
        {"title": paper.title, "text": paper.text, "scores": prediction.scores}
        for paper, prediction in zip(EXAMPLE_PAPERS, predictions, strict=True)
    ]
    record = {"weights_sha256": weights_sha256, "examples": examples}
    write_record(record, Path(predictor.directory) / EXAMPLES)
    return examples
