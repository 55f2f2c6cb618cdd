"""What the endpoint's own clients send and get, `text` or `title` and `abstract`; and Vertex AI's batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel, WithJsonSchema
from pydantic_core import PydanticCustomError

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.models.prediction import Prediction
from arxiv_cls.serving.http_errors import EMPTY_TEXT
from arxiv_cls.serving.model_slot import ServedModel

EXAMPLE_TITLE = "Segmenting tumours in volumetric scans"
EXAMPLE_ABSTRACT = "A convolutional network labels every voxel of a scan from a few annotated slices."


def _sound(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError(EMPTY_TEXT, "the text is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("not_unicode", "the text holds half of a surrogate pair")
    return text


# White space as Python has it (which `str.strip` removes), so that document and check agree.
NotBlank = Annotated[
    str,
    AfterValidator(_sound),
    WithJsonSchema({"type": "string", "minLength": 1, "pattern": r"[^\s\x1c-\x1f\x85\ufeff]"}),
]


def _whole(value: Any) -> Any:
    # JSON knows one kind of number: 5.0 is a whole one.
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Strict: JSON's true is not a 1, and "5" is not a 5.
Count = Annotated[int, Field(strict=True, ge=1, le=1000), BeforeValidator(_whole)]
TopK = Annotated[Count | None, Field(description="labels in `top_k`; all when left out")]
Flag = Annotated[bool, Field(strict=True)]
STRICT = ConfigDict(extra="forbid")


class TextRequest(BaseModel):
    """One text: a title, a blank line and an abstract do best."""

    model_config = STRICT | {"json_schema_extra": {"examples": [{"text": EXAMPLE_TITLE, "top_k": 3}]}}
    text: NotBlank
    top_k: TopK = None

    def texts(self) -> list[str]:
        """The one text."""
        return [self.text]


class PaperRequest(BaseModel):
    """One paper."""

    model_config = STRICT | {
        "json_schema_extra": {"examples": [{"title": EXAMPLE_TITLE, "abstract": EXAMPLE_ABSTRACT}]}
    }
    title: NotBlank
    abstract: NotBlank
    top_k: TopK = None

    def texts(self) -> list[str]:
        """Title and abstract as models were trained on them."""
        return [joined(self.title, self.abstract)]


def joined(title: str, abstract: str) -> str:
    """Title, blank line, abstract: how the corpus joins them."""
    return f"{title.strip()}\n\n{abstract.strip()}"


class TextInstance(BaseModel):
    """One text of a Vertex AI request."""

    model_config = STRICT
    text: NotBlank

    def as_text(self) -> str:
        """What is scored."""
        return self.text


class PaperInstance(BaseModel):
    """One paper of a Vertex AI request."""

    model_config = STRICT
    title: NotBlank
    abstract: NotBlank

    def as_text(self) -> str:
        """What is scored."""
        return joined(self.title, self.abstract)


class VertexParameters(BaseModel):
    """Parameters of a Vertex AI request."""

    model_config = STRICT
    top_k: TopK = None


class VertexRequest(BaseModel):
    """Vertex AI's schema: a batch of instances."""

    model_config = STRICT | {"json_schema_extra": {"examples": [{"instances": [EXAMPLE_TITLE]}]}}
    instances: Annotated[list[NotBlank | TextInstance | PaperInstance], Field(min_length=1)]
    parameters: VertexParameters | None = None

    def texts(self) -> list[str]:
        """The text of each instance."""
        return [one if isinstance(one, str) else one.as_text() for one in self.instances]


class LabelScore(BaseModel):
    """A category with its score."""

    label: str = Field(description="category code")
    name: str = Field(description="long name")
    score: float = Field(description="calibrated probability, 0 to 1")


class Paper(BaseModel):
    """What the model says of one text."""

    predicted_class: int = Field(description="index of the label, as in the model's id2label")
    predicted_class_name: str = Field(description="category code")
    code: str = Field(description="category code, the same again under a plain name")
    name: str = Field(description="long name of the category")
    confidence: float = Field(description="calibrated probability of the predicted class, 0 to 1")
    probabilities: list[float] = Field(description="of every label, by index")
    class_probabilities: dict[str, float] = Field(description="category code to probability")
    top_k: list[LabelScore] = Field(description="labels with the highest scores, descending")
    prediction_set: list[str] | None = Field(
        description="labels that hold the right one with 90% probability; null for a model without the rule"
    )
    in_scope: bool | None = Field(
        description="whether the text belongs to the model's categories at all; null without the rule"
    )
    scope_score: float | None = Field(description="0 (outside) to 1 (inside)")
    truncated: bool = Field(description="whether the text was longer than the model reads")
    answered_by: str = Field(description="what computed it: onnx, int8, torch or tfidf")
    model: str = Field(description="name of the model")
    model_version: str = Field(description="version of the model")


class VertexReply(BaseModel):
    """Vertex AI's reply."""

    predictions: list[Paper]


def long_name(label: str) -> str:
    """The long name of a category; a label outside the taxonomy (an archive) is its own name."""
    return CATEGORY_NAMES.get(label, label)


def paper_reply(prediction: Prediction, model: ServedModel, top_k: int | None) -> dict[str, Any]:
    """A prediction with the fields of `Paper`."""
    labels = model.predictor.labels
    best = list(prediction.scores.items())[:top_k]
    return {
        "predicted_class": labels.index(prediction.label),
        "predicted_class_name": prediction.label,
        "code": prediction.label,
        "name": long_name(prediction.label),
        "confidence": prediction.score,
        "probabilities": [prediction.scores[label] for label in labels],
        "class_probabilities": {label: prediction.scores[label] for label in labels},
        "top_k": [{"label": label, "name": long_name(label), "score": score} for label, score in best],
        "prediction_set": prediction.prediction_set,
        "in_scope": prediction.in_scope,
        "scope_score": prediction.scope_score,
        "truncated": prediction.truncated,
        "answered_by": prediction.answered_by,
        "model": model.name,
        "model_version": model.version,
    }


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
