"""From texts to batches: token ids, batches of similar length, padding."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedTokenizerBase

from arxiv_cls.corpus.splits import label_matrix
from arxiv_cls.models import loading

# Batches are formed within chunks of this many, as in transformers: little padding, and which papers meet in
# a batch stays random.
BATCHES_PER_CHUNK = 50

logger = logging.getLogger(__name__)


def load_tokenizer(directory: Path, max_length: int) -> PreTrainedTokenizerBase:
    """The pretrained tokenizer, with `max_length` or what the model reads at most as its `model_max_length`.

    It is saved with the model, so that a later user's `truncation=True` cuts where the training did.

    Raises:
        UserError: the directory holds no configuration and tokenizer that transformers can load.
    """
    tokenizer = loading.load_tokenizer(directory)
    longest = tokenizer.model_max_length
    if max_length > longest:
        logger.warning(
            "model.max_length: %d tokens instead of %d, the model reads no more", longest, max_length
        )
    tokenizer.model_max_length = min(max_length, longest)
    return tokenizer


def tokenize(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    """`input_ids`, `label` and, where there are any, `labels`; validation and test sorted by length.

    Sorted, they pad little.
    """

    def tokenized(name: str, papers: Dataset) -> Dataset:
        ids = papers.map(
            # The attention mask follows from the lengths, and one segment needs no type ids.
            lambda batch: {"input_ids": tokenizer(batch["text"], truncation=True)["input_ids"]},
            batched=True,
            remove_columns=[column for column in papers.column_names if column not in ("label", "labels")],
            desc=f"tokenize {name}",
            # Hashing a tokenizer costs more than using it; a build is cached, its tokens need not be.
            new_fingerprint=uuid.uuid4().hex,
            keep_in_memory=True,
            load_from_cache_file=False,
        )
        if name == "train":
            return ids
        lengths = [len(row) for row in ids["input_ids"]]
        return ids.select(np.argsort(lengths, kind="stable"), keep_in_memory=True)

    return DatasetDict({name: tokenized(name, papers) for name, papers in splits.items()})


class LengthGroupedBatches(Sampler[list[int]]):
    """Yields this process's share of each global batch; the order depends on (seed, epoch) alone.

    A global batch is formed first and then divided, so that the same papers meet in a step whatever the
    number of processes. Where the last, incomplete one has fewer papers than there are processes, papers
    are repeated so that each process takes part in the step.

    Args:
        lengths: tokens of each paper.
        batch_size: papers per process and batch.
        seed: of the order.
        process_index, num_processes: number of this process, and how many there are.
        grouped: False keeps the random order and does not sort by length.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, *,
        process_index: int = 0, num_processes: int = 1, grouped: bool = True,
    ) -> None:  # fmt: skip
        self.lengths, self.grouped = np.asarray(lengths), grouped
        self.global_batch_size = batch_size * num_processes
        self.seed, self.epoch = seed, 0
        self.process_index, self.num_processes = process_index, num_processes

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.global_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._global_batches():
            if len(batch) < self.num_processes:
                batch = np.resize(batch, self.num_processes)
            yield batch[self.process_index :: self.num_processes].tolist()

    def _global_batches(self) -> list[np.ndarray]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.lengths))
        size = self.global_batch_size
        # The incomplete batch is set aside first, so that no chunk boundary can make a second one.
        whole = len(order) // size * size
        rest, order = order[whole:], order[:whole]
        if self.grouped:
            chunk = size * BATCHES_PER_CHUNK
            order = np.concatenate(
                [self._by_length(order[start : start + chunk]) for start in range(0, whole, chunk)] or [order]
            )
        batches = list(order.reshape(-1, size)[generator.permutation(whole // size)])
        return [*batches, self._by_length(rest)] if len(rest) else batches

    def _by_length(self, papers: np.ndarray) -> np.ndarray:
        return papers[np.argsort(self.lengths[papers], kind="stable")] if self.grouped else papers


class EpochDataLoader(DataLoader):
    """A `DataLoader` that passes on the epoch, which the Trainer sets and which counts from 0."""

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the batches."""
        self.batch_sampler.epoch = epoch


def collate(
    features: list[dict], pad_token_id: int, multiple: int = 8, side: str = "right", classes: int = 0
) -> dict[str, torch.Tensor]:
    """Pads to the longest paper of the batch, rounded up to a multiple for matrix units.

    Returns:
        `input_ids` and `attention_mask` (papers, tokens); `labels` (papers,), or (papers, classes) where the
        papers have a `target`, a distribution over the classes or a number from 0 to 1 for each, or a list
        of `labels`.
    """
    tokens = [torch.as_tensor(feature["input_ids"]) for feature in features]
    input_ids = pad_sequence(tokens, batch_first=True, padding_value=pad_token_id, padding_side=side)
    kept = [torch.ones_like(ids) for ids in tokens]
    attention_mask = pad_sequence(kept, batch_first=True, padding_value=0, padding_side=side)
    more = -input_ids.shape[1] % multiple
    ends = (more, 0) if side == "left" else (0, more)
    input_ids = functional.pad(input_ids, ends, value=pad_token_id)
    attention_mask = functional.pad(attention_mask, ends, value=0)
    if "labels" in features[0] and "target" not in features[0]:
        labels = torch.from_numpy(label_matrix([feature["labels"] for feature in features], classes)).float()
    else:
        labels = torch.tensor([feature.get("target", feature["label"]) for feature in features])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
