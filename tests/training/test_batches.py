"""Batches by length: every paper once, the same order after a restart and for any number of processes."""

import itertools

import numpy as np
import pytest
import torch

from arxiv_cls.training.batches import LengthGroupedBatches, collate

LENGTHS = np.random.default_rng(0).integers(8, 256, size=1003)


def batches(epoch: int = 0, size: int = 8, **options) -> list[list[int]]:
    """The batches of one process in one epoch."""
    sampler = LengthGroupedBatches(LENGTHS, size, 7, **options)
    sampler.epoch = epoch
    return list(sampler)


class TestOrder:
    """Who meets in a batch, and when."""

    @pytest.mark.parametrize("grouped", [True, False])
    def test_every_paper_once(self, grouped):
        """An epoch is a permutation, with one incomplete batch at its end."""
        found = batches(grouped=grouped)
        assert sorted(itertools.chain(*found)) == list(range(1003))
        assert [len(batch) for batch in found] == [8] * 125 + [3]

    def test_depends_on_seed_and_epoch_alone(self):
        """A new sampler in a new process gives the same order; another epoch another one."""
        assert batches(epoch=2) == batches(epoch=2)
        assert batches(epoch=2) != batches(epoch=1)

    def test_processes_share_the_global_batch(self):
        """Two processes of four papers see in each step what one process of eight sees."""
        one = batches(epoch=1, size=8)
        two = [batches(epoch=1, size=4, process_index=index, num_processes=2) for index in (0, 1)]
        assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]

    def test_processes_have_the_same_number_of_batches(self):
        """Also when the last papers are fewer than the processes: one that waits would wait for ever."""
        lengths = LENGTHS[:17]
        shares = [
            list(LengthGroupedBatches(lengths, 4, 0, process_index=index, num_processes=4))
            for index in range(4)
        ]
        assert [len(share) for share in shares] == [2] * 4
        assert all(len(share[-1]) == 1 for share in shares)

    def test_little_padding(self):
        """Grouping leaves a small part of the padding that random batches have."""
        padding = {}
        for grouped in (True, False):
            found = [LENGTHS[batch] for batch in batches(grouped=grouped)]
            computed = sum(len(lengths) * lengths.max() for lengths in found)
            padding[grouped] = 1 - LENGTHS.sum() / computed
        assert padding[True] < 0.1 < 0.3 < padding[False]


class TestCollate:
    """Padding by hand."""

    def test_values(self):
        """Shapes, padding token, mask and labels."""
        batch = collate([{"input_ids": [5, 6, 7], "label": 1}, {"input_ids": [8], "label": 0}], 9, multiple=4)
        assert batch["input_ids"].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
        assert batch["labels"].tolist() == [1, 0]

    def test_target_takes_the_labels_place(self):
        """A distribution over the classes is what the loss gets."""
        batch = collate([{"input_ids": [5], "label": 1, "target": [0.25, 0.75]}], 0)
        assert torch.equal(batch["labels"], torch.tensor([[0.25, 0.75]]))
