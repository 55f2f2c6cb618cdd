"""What clients send and get: four schemas of texts, their replies, and what `GET /info` describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from arxiv_cls import __version__
from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.models.prediction import Prediction, Predictor
from arxiv_cls.serving.settings import ServingSettings

EXAMPLE_TITLE = "Segmenting tumours in volumetric scans"
EXAMPLE_ABSTRACT = "A convolutional network labels every voxel of a scan from a few annotated slices."


def _whole(value: Any) -> Any:
    # JSON knows one kind of number: 5.0 is a whole one.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _example(**content: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [content]})


# One character that is no white space, control or format character: the rule of `text_problem` for all entry
# points, in one pass of a compiled expression, however long the text is.
VISIBLE = (
    r"[^\s\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
NotBlank = Annotated[str, Field(pattern=VISIBLE)]
# A list of one text is that text, a list of two is a pair: here a title and its abstract.
OneOrPair = Annotated[list[NotBlank], Field(min_length=1, max_length=2, fail_fast=True)]
# Strict: JSON's true is not a 1, and "5" is not a 5.
Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Count = Annotated[int, Field(strict=True, ge=1, le=1000), BeforeValidator(_whole)]
TopK = Annotated[Count | None, Field(description="labels in `top_k`; all when left out")]
Truncation = Annotated[
    Annotated[bool, Field(strict=True)] | None,
    Field(description="false refuses a text that is longer than the model reads; else it is cut"),
]
CALIBRATED = "scores are always calibrated probabilities"


class _Request(BaseModel):
    """`log_name` is the schema's name in the logs."""

    model_config = ConfigDict(extra="forbid")
    log_name: ClassVar[str] = "text"


class TextInstance(_Request):
    """One text of a Vertex AI request."""

    text: NotBlank


class PaperInstance(_Request):
    """One paper of a Vertex AI request."""

    title: NotBlank
    abstract: NotBlank


class TextRequest(TextInstance):
    """One text: a title, a blank line and an abstract do best."""

    model_config = _example(text=EXAMPLE_TITLE, top_k=3)
    top_k: TopK = None


class PaperRequest(PaperInstance):
    """One paper."""

    model_config = _example(title=EXAMPLE_TITLE, abstract=EXAMPLE_ABSTRACT)
    top_k: TopK = None


class VertexParameters(_Request):
    """Parameters of a Vertex AI request."""

    top_k: TopK = None


class VertexRequest(_Request):
    """Vertex AI's schema: a batch of instances."""

    model_config = _example(instances=[EXAMPLE_TITLE])
    log_name: ClassVar[str] = "instances"
    instances: Annotated[list[NotBlank | TextInstance | PaperInstance], Field(min_length=1, fail_fast=True)]
    parameters: VertexParameters | None = None


class TeiRequest(_Request):
    """Text Embeddings Inference: a text, a pair `["title", "abstract"]`, or a batch `[["a"], ["b"]]`."""

    model_config = _example(inputs=EXAMPLE_TITLE)
    log_name: ClassVar[str] = "inputs"
    inputs: NotBlank | OneOrPair | Annotated[list[OneOrPair], Field(min_length=1, fail_fast=True)]
    truncate: Truncation = None
    truncation_direction: Literal["right", "Right"] = Field("right", description="the end is cut")
    raw_scores: Literal[False] = Field(False, description=CALIBRATED)


class HuggingFaceParameters(VertexParameters):
    """Parameters of text classification."""

    function_to_apply: Literal["softmax", "sigmoid"] | None = Field(
        None, description="the model's own: sigmoid of a multi-label model, else softmax"
    )
    truncation: Truncation = None


class HuggingFaceRequest(_Request):
    """Hugging Face's inference API: a text, or a list of texts."""

    # Clients add keys of their own (`options`), which change nothing here.
    model_config = _example(inputs=EXAMPLE_TITLE) | ConfigDict(extra="ignore")
    log_name: ClassVar[str] = "huggingface"
    inputs: NotBlank | Annotated[list[NotBlank], Field(min_length=1, fail_fast=True)]
    parameters: HuggingFaceParameters | None = None


def _schema_of(body: Any) -> str | None:
    keys = {"text", "title", "abstract", "inputs", "instances"} & set(body if isinstance(body, dict) else ())
    named = {"title" if key == "abstract" else key for key in keys}
    return named.pop() if len(named) == 1 else None


PredictRequest = Annotated[
    Annotated[TextRequest, Tag("text")]
    | Annotated[PaperRequest, Tag("title")]
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


class ClientScore(BaseModel):
    """A label with its score, as the clients of others read it."""

    score: float = Field(description="calibrated probability, 0 to 1")
    label: str = Field(description="category code")


class LabelScore(ClientScore):
    """A category with its score."""

    name: str = Field(description="long name")


class Paper(BaseModel):
    """What the model says of one text."""

    predicted_class: int = Field(description="index of the label, as in the model's id2label")
    predicted_class_name: str = Field(description="category code")
    code: str = Field(description="category code, the same again under a plain name")
    name: str = Field(description="long name of the category")
    confidence: float = Field(description="calibrated probability of the predicted class, 0 to 1")
    probabilities: list[float] = Field(
        description="of every label, by index; they sum to 1 unless the model is multi-label"
    )
    class_probabilities: dict[str, float] = Field(description="category code to probability")
    top_k: list[LabelScore] = Field(description="labels with the highest scores, descending")
    prediction_set: list[str] | None = Field(
        description="labels that hold the right one with 90% probability; of a multi-label model those at or "
        "above their thresholds, perhaps none; null for a model without the rule, or without known words"
    )
    thresholds: dict[str, float] | None = Field(
        None, description="score from which a multi-label model names a label; another model has none"
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


class VertexReply(BaseModel):
    """Vertex AI's reply."""

    predictions: list[Paper]


# Labels by descending score, of each text; Text Embeddings Inference has those of one text flat.
HuggingFaceReply = list[list[ClientScore]]
TeiReply = list[ClientScore] | HuggingFaceReply


class CascadeInfo(BaseModel):
    """The baseline that answers first, and when it does."""

    baseline: str
    baseline_version: str
    baseline_sha: str = Field(description="sha256 of its weights")
    threshold: float = Field(description="top score of the baseline from which it answers alone")
    max_tokens: int = Field(description="tokens that the transformer reads of the other texts")


@dataclass(frozen=True)
class ServedModel:
    """A loaded model, its `run.json` (empty for a model without) and the seconds that loading took.

    `version` is the release tag that was named, else the commit it was downloaded from, else the weights'
    sha256 (12 digits); in a cascade, "+" and the version of the baseline follow.
    """

    predictor: Predictor
    name: str
    version: str
    weights_sha256: str
    run: dict[str, Any]
    loaded_in: float
    cascade: CascadeInfo | None = None


def texts_of(body: AnyRequest | TextInstance | PaperInstance | str) -> list[str]:
    """The texts to score, in the order of the request."""
    match body:
        case str():
            return [body]
        case TextInstance():
            return [body.text]
        case PaperInstance():
            return [_joined(body.title, body.abstract)]
        case VertexRequest():
            return [text for instance in body.instances for text in texts_of(instance)]
        case HuggingFaceRequest():
            return [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if isinstance(body.inputs, str):
        return [body.inputs]
    sequences: list[Any] = body.inputs if _is_batch(body) else [body.inputs]
    return [one[0] if len(one) == 1 else _joined(*one) for one in sequences]


def _joined(title: str, abstract: str) -> str:
    # As the corpus joins them.
    return f"{title.strip()}\n\n{abstract.strip()}"


def _is_batch(body: TeiRequest) -> bool:
    return isinstance(body.inputs, list) and isinstance(body.inputs[0], list)


def refuses_truncation(body: AnyRequest) -> bool:
    """Whether a text that is longer than the model reads is an error."""
    if isinstance(body, HuggingFaceRequest):
        return body.parameters is not None and body.parameters.truncation is False
    return isinstance(body, TeiRequest) and body.truncate is False


def asks_for_other_scores(body: AnyRequest, predictor: Predictor) -> bool:
    """Whether a request names another function than the one that gives the model's calibrated scores."""
    if not isinstance(body, HuggingFaceRequest) or body.parameters is None:
        return False
    return body.parameters.function_to_apply not in (None, "sigmoid" if predictor.multi_label else "softmax")


def reply_to(body: AnyRequest, predictions: list[Prediction], model: ServedModel) -> Any:
    """The reply, in the schema of the request."""
    if isinstance(body, TextRequest | PaperRequest):
        return paper_reply(predictions[0], model, body.top_k)
    if isinstance(body, TeiRequest):
        scores = [_client_scores(prediction) for prediction in predictions]
        return scores if _is_batch(body) else scores[0]
    top_k = body.parameters.top_k if body.parameters else None
    if isinstance(body, VertexRequest):
        return {"predictions": [paper_reply(prediction, model, top_k) for prediction in predictions]}
    return [_client_scores(prediction, top_k) for prediction in predictions]


def _client_scores(prediction: Prediction, top_k: int | None = None) -> list[dict[str, Any]]:
    return [{"score": score, "label": label} for label, score in list(prediction.scores.items())[:top_k]]


def thresholds_of(predictor: Predictor) -> dict[str, float] | None:
    """Label to the score from which a multi-label model names it; None for another model."""
    if predictor.thresholds is None:
        return None
    return dict(zip(predictor.labels, predictor.thresholds.tolist(), strict=True))


def paper_reply(prediction: Prediction, model: ServedModel, top_k: int | None) -> dict[str, Any]:
    """A prediction with the fields of `Paper`."""
    labels, scores = model.predictor.labels, prediction.scores
    # A label outside the taxonomy (an archive) is its own name.
    top = [
        {"label": label, "name": CATEGORY_NAMES.get(label, label), "score": score}
        for label, score in scores.items()
    ]
    return {
        "predicted_class": labels.index(prediction.label),
        "predicted_class_name": prediction.label,
        "code": prediction.label,
        "name": top[0]["name"],
        "confidence": prediction.score,
        "probabilities": [scores[label] for label in labels],
        "class_probabilities": {label: scores[label] for label in labels},
        "top_k": top[:top_k],
        "prediction_set": prediction.prediction_set,
        **({} if (thresholds := thresholds_of(model.predictor)) is None else {"thresholds": thresholds}),
        "no_known_words": prediction.no_known_words,
        "in_scope": prediction.in_scope,
        "scope_score": prediction.scope_score,
        "truncated": prediction.truncated,
        "answered_by": prediction.answered_by,
        "model": model.name,
        "model_version": model.version,
    }


class Limits(BaseModel):
    """What a request may ask for."""

    max_texts: int = Field(description="texts in one request")
    max_characters: int = Field(description="characters in one text")
    max_body: int = Field(description="bytes in one request")
    max_tokens: int | None = Field(description="tokens that the model reads of a text; null for no limit")
    max_queue: int = Field(description="texts that wait or are computed")
    max_wait: float = Field(description="longest wait in the queue, seconds")
    max_batch_tokens: int = Field(description="tokens that are computed together")


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
    thresholds: dict[str, float] | None = Field(
        description="of a multi-label model: score from which it names a label"
    )
    data: dict[str, Any] = Field(description="what the model was trained on, from its run.json")
    test_metrics: dict[str, float] = Field(description="scores on the test split, from its run.json")
    max_input_length: int | None
    max_client_batch_size: int
    auto_truncate: bool
    limits: Limits
    version: str = Field(description="of the program")


def describe(model: ServedModel, settings: ServingSettings) -> Info:
    """What `GET /info` says of a model under these settings."""
    predictor, labels = model.predictor, model.predictor.labels
    test = model.run.get("metrics", {}).get("test", {})
    texts, tokens = settings.texts_per_request, predictor.max_length
    label2id = {label: number for number, label in enumerate(labels)}
    return Info(
        model_id=model.name,
        model_sha=model.weights_sha256,
        model_version=model.version,
        model_type={"classifier": {"id2label": dict(enumerate(labels)), "label2id": label2id}},
        kind=predictor.kind,
        engine=predictor.engine,
        cascade=model.cascade,
        labels=labels,
        thresholds=thresholds_of(predictor),
        data=model.run.get("data", {}),
        test_metrics={name: value for name, value in test.items() if isinstance(value, int | float)},
        max_input_length=tokens,
        max_client_batch_size=texts,
        auto_truncate=True,
        limits=Limits(**dict(settings) | {"max_texts": texts, "max_tokens": tokens}),
        version=__version__,
    )
