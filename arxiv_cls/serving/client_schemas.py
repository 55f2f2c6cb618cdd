"""The schemas that existing clients speak: Text Embeddings Inference and Hugging Face's inference API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from arxiv_cls.models.predictor import Prediction
from arxiv_cls.serving.schemas import EXAMPLE_TITLE, STRICT, Flag, NotBlank, TopK, joined

# A list of one text is that text, a list of two is a pair: here a title and its abstract.
Sequence = Annotated[list[NotBlank], Field(min_length=1, max_length=2)]


class TeiRequest(BaseModel):
    """Text Embeddings Inference: a text, a pair `["title", "abstract"]`, or a batch `[["a"], ["b"]]`."""

    model_config = STRICT | {"json_schema_extra": {"examples": [{"inputs": EXAMPLE_TITLE}]}}
    inputs: NotBlank | Sequence | Annotated[list[Sequence], Field(min_length=1)]
    truncate: Flag | None = Field(
        None, description="false refuses a text that is longer than the model reads; else it is cut"
    )
    truncation_direction: Literal["right", "Right"] = Field("right", description="the end is cut")
    raw_scores: Literal[False] = Field(False, description="scores are always calibrated probabilities")

    def is_batch(self) -> bool:
        """Whether the reply is nested."""
        return isinstance(self.inputs, list) and isinstance(self.inputs[0], list)

    def texts(self) -> list[str]:
        """The text of each sequence."""
        if isinstance(self.inputs, str):
            return [self.inputs]
        sequences: list[Any] = self.inputs if self.is_batch() else [self.inputs]
        return [one[0] if len(one) == 1 else joined(*one) for one in sequences]


class HuggingFaceParameters(BaseModel):
    """Parameters of text classification."""

    model_config = STRICT
    top_k: TopK = None
    function_to_apply: Literal["softmax"] | None = Field(
        None, description="scores are always calibrated probabilities"
    )
    truncation: Flag | None = Field(
        None, description="false refuses a text that is longer than the model reads; else it is cut"
    )


class HuggingFaceRequest(BaseModel):
    """Hugging Face's inference API: a text, or a list of texts."""

    # Clients add keys of their own (`options`), which change nothing here.
    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"inputs": EXAMPLE_TITLE}]})
    inputs: NotBlank | Annotated[list[NotBlank], Field(min_length=1)]
    parameters: HuggingFaceParameters | None = None

    def texts(self) -> list[str]:
        """The texts."""
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs


class ClientScore(BaseModel):
    """A label with its score, as both clients read it."""

    score: float
    label: str


class TeiReply(RootModel[list[ClientScore] | list[list[ClientScore]]]):
    """Scores of one text, flat; or of each text of a batch, nested. All labels, descending."""


class HuggingFaceReply(RootModel[list[list[ClientScore]]]):
    """Scores of each text, always nested."""


def client_scores(prediction: Prediction, top_k: int | None = None) -> list[dict[str, Any]]:
    """Labels and scores of one text, descending."""
    return [{"score": score, "label": label} for label, score in list(prediction.scores.items())[:top_k]]
