"""What clients send and get: four schemas of texts, their replies, and what `GET /info` describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from arxiv_cls import __version__
from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.models.predictor import Prediction, Predictor
from arxiv_cls.serving.http_errors import EMPTY_TEXT
from arxiv_cls.serving.settings import ServingSettings

EXAMPLE_TITLE = "Segmenting tumours in volumetric scans"
EXAMPLE_ABSTRACT = "A convolutional network labels every voxel of a scan from a few annotated slices."


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError(EMPTY_TEXT, "the text is empty")
    return text


def _whole(value: Any) -> Any:
    # JSON knows one kind of number: 5.0 is a whole one.
    return int(value) if isinstance(value, float) and value.is_integer() else value


# White space as Python has it (which `str.strip` removes), so that document and check agree.
NotBlank = Annotated[
    str,
    AfterValidator(_not_blank),
    WithJsonSchema({"type": "string", "minLength": 1, "pattern": r"[^\s\x1c-\x1f\x85\ufeff]"}),
]
# Strict: JSON's true is not a 1, and "5" is not a 5.
Count = Annotated[int, Field(strict=True, ge=1, le=1000), BeforeValidator(_whole)]
TopK = Annotated[Count | None, Field(description="labels in `top_k`; all when left out")]
Truncation = Annotated[
    Annotated[bool, Field(strict=True)] | None,
    Field(description="false refuses a text that is longer than the model reads; else it is cut"),
]


def _example(**content: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [content]})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassificationRequest(_Strict):
    """A request whose texts are scored; `log_name` is the name of its schema in the logs."""

    log_name: ClassVar[str] = "text"

    def refuses_truncation(self) -> bool:
        """Whether a text that is longer than the model reads is an error."""
        return False


class TextInstance(_Strict):
    """One text of a Vertex AI request."""

    text: NotBlank

    def texts(self) -> list[str]:
        """The one text."""
        return [self.text]


class PaperInstance(_Strict):
    """One paper of a Vertex AI request."""

    title: NotBlank
    abstract: NotBlank

    def texts(self) -> list[str]:
        """The one text."""
        return [joined(self.title, self.abstract)]


def joined(title: str, abstract: str) -> str:
    """Title, blank line, abstract: how the corpus joins them."""
    return f"{title.strip()}\n\n{abstract.strip()}"


class TextRequest(TextInstance, ClassificationRequest):
    """One text: a title, a blank line and an abstract do best."""

    model_config = _example(text=EXAMPLE_TITLE, top_k=3)
    top_k: TopK = None

    def reply(self, predictions: list[Prediction], model: ServedModel) -> Any:
        """The fields of `Paper`."""
        return paper_reply(predictions[0], model, self.top_k)


class PaperRequest(PaperInstance, ClassificationRequest):
    """One paper."""

    model_config = _example(title=EXAMPLE_TITLE, abstract=EXAMPLE_ABSTRACT)
    top_k: TopK = None

    def reply(self, predictions: list[Prediction], model: ServedModel) -> Any:
        """The fields of `Paper`."""
        return paper_reply(predictions[0], model, self.top_k)


class VertexParameters(_Strict):
    """Parameters of a Vertex AI request."""

    top_k: TopK = None


class VertexRequest(ClassificationRequest):
    """Vertex AI's schema: a batch of instances."""

    model_config = _example(instances=[EXAMPLE_TITLE])
    log_name: ClassVar[str] = "instances"
    instances: Annotated[list[NotBlank | TextInstance | PaperInstance], Field(min_length=1, fail_fast=True)]
    parameters: VertexParameters | None = None

    def texts(self) -> list[str]:
        """The text of each instance."""
        return [one if isinstance(one, str) else one.texts()[0] for one in self.instances]

    def reply(self, predictions: list[Prediction], model: ServedModel) -> Any:
        """The fields of `VertexReply`."""
        top_k = self.parameters.top_k if self.parameters else None
        return {"predictions": [paper_reply(prediction, model, top_k) for prediction in predictions]}


# A list of one text is that text, a list of two is a pair: here a title and its abstract.
Sequence = Annotated[list[NotBlank], Field(min_length=1, max_length=2, fail_fast=True)]


class TeiRequest(ClassificationRequest):
    """Text Embeddings Inference: a text, a pair `["title", "abstract"]`, or a batch `[["a"], ["b"]]`."""

    model_config = _example(inputs=EXAMPLE_TITLE)
    log_name: ClassVar[str] = "inputs"
    inputs: NotBlank | Sequence | Annotated[list[Sequence], Field(min_length=1, fail_fast=True)]
    truncate: Truncation = None
    truncation_direction: Literal["right", "Right"] = Field("right", description="the end is cut")
    raw_scores: Literal[False] = Field(False, description="scores are always calibrated probabilities")

    def refuses_truncation(self) -> bool:
        """Whether a text that is longer than the model reads is an error."""
        return self.truncate is False

    def _is_batch(self) -> bool:
        return isinstance(self.inputs, list) and isinstance(self.inputs[0], list)

    def texts(self) -> list[str]:
        """The text of each sequence."""
        if isinstance(self.inputs, str):
            return [self.inputs]
        sequences: list[Any] = self.inputs if self._is_batch() else [self.inputs]
        return [one[0] if len(one) == 1 else joined(*one) for one in sequences]

    def reply(self, predictions: list[Prediction], model: ServedModel) -> Any:
        """The scores of one text, or of each text of a batch."""
        scores = [client_scores(prediction) for prediction in predictions]
        return scores if self._is_batch() else scores[0]


class HuggingFaceParameters(_Strict):
    """Parameters of text classification."""

    top_k: TopK = None
    function_to_apply: Literal["softmax"] | None = Field(
        None, description="scores are always calibrated probabilities"
    )
    truncation: Truncation = None


class HuggingFaceRequest(ClassificationRequest):
    """Hugging Face's inference API: a text, or a list of texts."""

    # Clients add keys of their own (`options`), which change nothing here.
    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"inputs": EXAMPLE_TITLE}]})
    log_name: ClassVar[str] = "huggingface"
    inputs: NotBlank | Annotated[list[NotBlank], Field(min_length=1, fail_fast=True)]
    parameters: HuggingFaceParameters | None = None

    def refuses_truncation(self) -> bool:
        """Whether a text that is longer than the model reads is an error."""
        return self.parameters is not None and self.parameters.truncation is False

    def texts(self) -> list[str]:
        """The texts."""
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    def reply(self, predictions: list[Prediction], model: ServedModel) -> Any:
        """The scores of each text."""
        top_k = self.parameters.top_k if self.parameters else None
        return [client_scores(prediction, top_k) for prediction in predictions]


def _schema_of(body: Any) -> str | None:
    tags = {
        "text": "text",
        "title": "paper",
        "abstract": "paper",
        "inputs": "inputs",
        "instances": "instances",
    }
    named = {tags[key] for key in tags if isinstance(body, dict) and key in body}
    return named.pop() if len(named) == 1 else None


PredictRequest = Annotated[
    Annotated[TextRequest, Tag("text")]
    | Annotated[PaperRequest, Tag("paper")]
    | Annotated[TeiRequest, Tag("inputs")]
    | Annotated[VertexRequest, Tag("instances")],
    Discriminator(
        _schema_of,
        custom_error_type="one_schema",
        custom_error_message=(
            "send a JSON object with exactly one of: text; title and abstract; inputs; instances"
        ),
    ),
]
AnyRequest = TextRequest | PaperRequest | TeiRequest | VertexRequest | HuggingFaceRequest


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
        description="labels that hold the right one with 90% probability; null for a model without the rule, "
        "or without known words"
    )
    no_known_words: bool = Field(
        description="the model knows none of the words: there is nothing to judge by"
    )
    in_scope: bool | None = Field(
        description="whether the text belongs to the model's categories at all; null without the rule"
    )
    scope_score: float | None = Field(description="0 (outside) to 1 (inside)")
    truncated: bool = Field(description="whether the text was longer than the model reads")
    answered_by: str = Field(description="what computed it: onnx, int8, torch or tfidf")
    model: str = Field(description="name of the model")
    model_version: str = Field(description="version of the model")


def paper_reply(prediction: Prediction, model: ServedModel, top_k: int | None) -> dict[str, Any]:
    """A prediction with the fields of `Paper`."""
    labels, scores = model.predictor.labels, prediction.scores

    def name(label: str) -> str:
        # A label outside the taxonomy (an archive) is its own name.
        return CATEGORY_NAMES.get(label, label)

    return {
        "predicted_class": labels.index(prediction.label),
        "predicted_class_name": prediction.label,
        "code": prediction.label,
        "name": name(prediction.label),
        "confidence": prediction.score,
        "probabilities": [scores[label] for label in labels],
        "class_probabilities": {label: scores[label] for label in labels},
        "top_k": [
            {"label": label, "name": name(label), "score": score}
            for label, score in list(scores.items())[:top_k]
        ],
        "prediction_set": prediction.prediction_set,
        "no_known_words": prediction.no_known_words,
        "in_scope": prediction.in_scope,
        "scope_score": prediction.scope_score,
        "truncated": prediction.truncated,
        "answered_by": prediction.answered_by,
        "model": model.name,
        "model_version": model.version,
    }


class VertexReply(BaseModel):
    """Vertex AI's reply."""

    predictions: list[Paper]


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


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and its identity.

    Attributes:
        name: of the directory, or the Hub id.
        version: the release tag that was named, else the commit it was downloaded from, else the weights'
            sha256 (12 digits); in a cascade, "+" and the version of the baseline follow.
        weights_sha256: of the file that the engine computes with.
        run: the content of `run.json`; empty for a model without.
        loaded_in: seconds.
        cascade: the baseline that answers first; None for a model by itself.
    """

    predictor: Predictor
    name: str
    version: str
    weights_sha256: str
    run: dict[str, Any]
    loaded_in: float
    cascade: CascadeInfo | None = None


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
    numbers = {label: number for number, label in labels.items()}
    test = model.run.get("metrics", {}).get("test", {})
    limits = {name: getattr(settings, name, None) for name in Limits.model_fields}
    return {
        "model_id": model.name,
        "model_sha": model.weights_sha256,
        "model_version": model.version,
        "model_type": {"classifier": {"id2label": labels, "label2id": numbers}},
        "kind": predictor.kind,
        "engine": predictor.engine,
        "cascade": model.cascade and model.cascade.model_dump(),
        "labels": predictor.labels,
        "data": model.run.get("data", {}),
        "test_metrics": {name: value for name, value in test.items() if isinstance(value, int | float)},
        "max_input_length": predictor.max_length,
        "max_client_batch_size": settings.texts_per_request,
        "auto_truncate": True,
        "limits": limits | {"max_texts": settings.texts_per_request, "max_tokens": predictor.max_length},
        "version": __version__,
    }
