"""Papers to token ids, with the length that the model will use for good."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from arxiv_cls.models import loading

logger = logging.getLogger(__name__)


def load_tokenizer(directory: Path, max_length: int) -> PreTrainedTokenizerBase:
    """The pretrained model's tokenizer, which from now on truncates at `max_length` tokens.

    The length is kept in `model_max_length`, so that it is saved with the model and a later user's
    `truncation=True` cuts where the training did. A model that reads less than that says so in a line.

    Raises:
        UserError: the directory holds no configuration and tokenizer that transformers can load.
    """
    tokenizer = loading.load_tokenizer(directory)
    positions = getattr(loading.load_encoder_config(directory), "max_position_embeddings", None)
    longest = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    if max_length > longest:
        logger.warning(
            "model.max_length: %d tokens instead of %d, the model reads no more", longest, max_length
        )
    tokenizer.model_max_length = min(max_length, longest)
    return tokenizer


def tokenize(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    """Columns `input_ids` and `label`; validation and test sorted by length, so that they pad little.

    Args:
        splits: `train`, `validation`, `test` with `text` and `label`.
        tokenizer: from `load_tokenizer`.
    """

    def to_ids(batch: dict) -> dict:
        # The attention mask follows from the lengths, and one segment needs no type ids.
        return {"input_ids": tokenizer(batch["text"], truncation=True)["input_ids"]}

    def tokenized(name: str, papers: Dataset) -> Dataset:
        unused = [column for column in papers.column_names if column != "label"]
        ids = papers.map(
            to_ids,
            batched=True,
            remove_columns=unused,
            desc=f"tokenize {name}",
            # Hashing a tokenizer costs more than using it; a build is cached, its tokens need not be.
            new_fingerprint=uuid.uuid4().hex,
            keep_in_memory=True,
            load_from_cache_file=False,
        )
        if name == "train":
            return ids
        lengths = [len(row) for row in ids["input_ids"]]
        return ids.select(sorted(range(len(lengths)), key=lengths.__getitem__), keep_in_memory=True)

    return DatasetDict({name: tokenized(name, papers) for name, papers in splits.items()})
