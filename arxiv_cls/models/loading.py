"""The one place where files of a model become a transformer of torch: nothing that is loaded is ever run.

Weights come from safetensors, classes from the installed transformers; a directory that asks for anything
else is refused before transformers sees it, so that no question is put to anybody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from arxiv_cls.errors import UserError, is_out_of_memory
from arxiv_cls.record.directory import check_directory
from arxiv_cls.record.model_files import (
    ClassifierConfig,
    EncoderConfig,
    TokenizerConfig,
    check_length,
    read_model_file,
    read_record,
)

# A new head, and what an architecture keeps beside its published weights; more is another model's size.
MOST_NEW_PARAMETERS = 30_000_000
_ENCODER_HINT = "model.name_or_path wants a model of transformers with tokenizer and weights in safetensors."


def load_encoder_config(directory: Path, **changes: Any) -> PreTrainedConfig:
    """The configuration of a pretrained encoder.

    Args:
        directory: from `resolve_pretrained`.
        changes: keys that replace its own.

    Raises:
        UserError: no configuration that transformers knows, or one that names code of its own.
    """
    read_record(directory / "config.json", EncoderConfig)
    with _one_error(directory, "its configuration cannot be loaded", _ENCODER_HINT):
        return AutoConfig.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True, **changes
        )


def load_tokenizer(directory: Path, hint: str | None = _ENCODER_HINT) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        UserError: no tokenizer that transformers knows, or one that names code of its own.
    """
    # AutoTokenizer reads config.json as well, and would name as many labels as it asks for.
    for name, schema in (("config.json", EncoderConfig), ("tokenizer_config.json", TokenizerConfig)):
        if (directory / name).is_file():
            read_record(directory / name, schema)
    with _one_error(directory, "its tokenizer cannot be loaded", hint):
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)


def load_encoder(directory: Path, settings: PreTrainedConfig) -> PreTrainedModel:
    """A pretrained encoder in float32 with a new head.

    Args:
        directory: from `resolve_pretrained`.
        settings: of `load_encoder_config`, with the new labels.

    Raises:
        UserError: the directory holds no weights in safetensors that fit the configuration.
    """
    return _load_weights(directory, settings, "cannot be loaded as a text encoder", _ENCODER_HINT)[0]


def new_classifier(settings: PreTrainedConfig, encoder: PreTrainedModel) -> PreTrainedModel:
    """A classifier in float32 with a new head on an encoder of the same configuration."""
    model = AutoModelForSequenceClassification.from_config(
        settings, dtype=torch.float32, trust_remote_code=False
    )
    setattr(model, model.base_model_prefix, encoder)
    return model


def load_classifier(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A finished classifier in float32 on the CPU, with its tokenizer.

    Raises:
        UserError: the directory holds no classifier, its records contradict its weights or each other, or
            something in it could run code.
    """
    check_directory(directory)
    config = read_record(directory / "config.json", ClassifierConfig)
    check_length(directory, config)
    with _one_error(directory, "not a text classifier"):
        settings = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    model, missing = _load_weights(directory, settings, "not a text classifier")
    if missing:
        raise UserError(
            f"{directory}: not a text classifier: its weights lack {', '.join(sorted(missing)[:3])}",
            hint="a pretrained encoder is fine-tuned first: train.py RECIPE --model.name_or_path DIRECTORY",
        )
    tokenizer = load_tokenizer(directory, hint=None)
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"{directory / 'tokenizer_config.json'}: pad_token: expected a token of the vocabulary"
        )
    if len(tokenizer) > settings.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has {len(tokenizer):,} tokens, config.json a vocab_size of "
            f"{settings.vocab_size:,}: they are not of one model"
        )
    return model, tokenizer


def _load_weights(
    directory: Path, settings: PreTrainedConfig, problem: str, hint: str | None = None
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of the parameters that the weights do not hold."""
    index = read_model_file(directory, "model.safetensors.index.json")
    names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    for name in names:
        if not (directory / name).is_file():
            raise UserError(f"{directory}: {problem}: no {name}", hint=hint)
    with _one_error(directory, problem, hint):
        with torch.device("meta"):
            empty = AutoModelForSequenceClassification.from_config(settings, trust_remote_code=False)
        wanted, held = empty.num_parameters(), sum(_parameters(directory / name) for name in names)
        if wanted > held + MOST_NEW_PARAMETERS:
            # Said before the memory for them is taken.
            raise UserError(
                f"{directory}: config.json describes {wanted:,} parameters, the weights hold {held:,}",
                hint=hint,
            )
        model, report = AutoModelForSequenceClassification.from_pretrained(
            directory,
            config=settings,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    return model, set(report["missing_keys"])


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        UserError: it is none.
    """
    with _one_error(path, "cannot be read as safetensors"), safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary


def _parameters(path: Path) -> int:
    with safe_open(path, "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return sum(torch.Size(shape).numel() for shape in shapes)


@contextlib.contextmanager
def _one_error(where: Path, problem: str, hint: str | None = None) -> Iterator[None]:
    try:
        yield
    # A damaged file can make transformers, safetensors and tokenizers raise anything.
    except Exception as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{where}: {problem}: {reason}", hint=hint) from None
