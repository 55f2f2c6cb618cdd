"""The schemas of what transformers reads of a model directory: labels, sizes, tokenizer, shards.

A field that is not described here is kept as it is, so that records of older and newer versions load. What is
described is held to its type and bounds, and the message names file, field and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_LABELS = 5000
TFIDF_MODEL_TYPE = "arxiv_cls-tfidf"
"""`model_type` in `config.json` of a baseline: what tells the two kinds apart on disk and on the Hub."""
# Tokenizers without a limit of their own write 1e30.
NO_LIMIT = 1_000_000
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


def safe_label(label: str) -> str:
    """The label itself.

    Raises:
        ValueError: it does not fit the pattern of labels.
    """
    if not LABEL_PATTERN.fullmatch(label) or ".." in label:
        raise ValueError(
            "a label is 1 to 64 letters, digits, `_`, `.` or `-`, starts with a letter, digit or `_`, "
            "and has no `..`"
        )
    return label


def _code_of_its_own(content: Any, inside: str = "") -> Iterator[str]:
    if isinstance(content, list):
        for item in content:
            yield from _code_of_its_own(item, inside)
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        named = f"{inside}{key}"
        if key in _CODE_KEYS and value is not None:
            yield f"{named}: {_CODE_KEYS[key]}"
        elif any(part in str(key) for part in _KERNEL_KEYS) and "/" in str(value):
            yield f"{named}: names a kernel to download, which is never run"
        else:
            yield from _code_of_its_own(value, f"{named}.")


Label = Annotated[str, AfterValidator(safe_label)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """A JSON object; types are not converted, what is not described is kept."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())
    hint: ClassVar[str] = "get the model again, or restore the file"


class EncoderConfig(Record):
    """`config.json` of a model to start a training from: bounds on what memory is allocated by."""

    model_type: str | None = None
    num_labels: Annotated[int, Field(ge=1, le=MAX_LABELS)] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=5_000_000)] | None = None
    max_position_embeddings: Annotated[int, Field(ge=1, le=NO_LIMIT)] | None = None
    hidden_size: Size | None = None
    dim: Size | None = None
    embedding_size: Size | None = None
    intermediate_size: Annotated[int, Field(ge=1, le=1 << 18)] | None = None
    hidden_dim: Annotated[int, Field(ge=1, le=1 << 18)] | None = None
    num_hidden_layers: Annotated[int, Field(ge=1, le=256)] | None = None
    n_layers: Annotated[int, Field(ge=1, le=256)] | None = None
    num_attention_heads: Annotated[int, Field(ge=1, le=1024)] | None = None
    n_heads: Annotated[int, Field(ge=1, le=1024)] | None = None
    type_vocab_size: Annotated[int, Field(ge=0, le=65_536)] | None = None
    pad_token_id: Annotated[int, Field(ge=0, le=5_000_000)] | None = None
    id2label: Annotated[dict[str, Any], Field(max_length=MAX_LABELS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_code(cls, content: Any) -> Any:
        if found := list(_code_of_its_own(content)):
            raise ValueError("; ".join(found))
        return content


class ClassifierConfig(EncoderConfig):
    """`config.json` of a finished model of either kind: with its labels."""

    id2label: Annotated[dict[str, Label], Field(min_length=2, max_length=MAX_LABELS)]
    label2id: dict[str, int] | None = None
    format_version: int | None = None
    classifier: str | None = None
    features: Count | None = None
    components: Count | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

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
        return self


class TokenizerConfig(Record):
    """`tokenizer_config.json`."""

    model_max_length: Annotated[float, Field(ge=FEWEST_TOKENS)] | None = None
    truncation_side: Annotated[str, Field(pattern="^(left|right)$")] | None = None
    tokenizer_class: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_code(cls, content: Any) -> Any:
        if found := list(_code_of_its_own(content)):
            raise ValueError("; ".join(found))
        return content


class ShardIndex(Record):
    """`model.safetensors.index.json`: which file holds which tensor."""

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")]]


def labels_of(config: dict[str, Any]) -> list[str]:
    """The labels of a checked `config.json`, in the order of the model's outputs."""
    return [config["id2label"][str(number)] for number in range(len(config["id2label"]))]
