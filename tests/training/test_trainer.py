"""The parts of a training by themselves: batches, learning rates by layer, loss, what a run refuses first."""

import itertools
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from arxiv_cls.corpus.splits import label_matrix
from arxiv_cls.errors import UserError
from arxiv_cls.training import fine_tuning
from arxiv_cls.training.batches import LengthGroupedBatches, collate, load_tokenizer
from arxiv_cls.training.trainer import check_metric_name, class_weights, freeze, make_loss, parameter_groups

LENGTHS = np.random.default_rng(0).integers(8, 256, size=1003)


def batches(epoch: int = 0, size: int = 8, lengths=LENGTHS, **options) -> list[list[int]]:
    """The batches of one process in one epoch."""
    sampler = LengthGroupedBatches(lengths, size, 7, **options)
    sampler.epoch = epoch
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


class TestBatches:
    """Every paper once, the same order after a restart and for any number of processes."""

    @pytest.mark.parametrize("grouped", [True, False])
    def test_every_paper_once(self, grouped):
        """An epoch is a permutation, with one incomplete batch at its end; by seed and epoch alone."""
        found = batches(grouped=grouped)
        assert sorted(itertools.chain(*found)) == list(range(1003))
        assert [len(batch) for batch in found] == [8] * 125 + [3]
        assert found == batches(grouped=grouped) != batches(epoch=1, grouped=grouped)

    def test_processes_share_the_global_batch(self):
        """Two processes of four papers see in each step what one process of eight sees."""
        one = batches(epoch=1)
        two = [batches(epoch=1, size=4, process_index=index, num_processes=2) for index in (0, 1)]
        assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]

    def test_processes_have_the_same_number_of_batches(self):
        """Also when the last papers are fewer than the processes: one that waits would wait for ever."""
        shares = [batches(0, 4, LENGTHS[:17], process_index=index, num_processes=4) for index in range(4)]
        assert [len(share) for share in shares] == [2] * 4
        assert all(len(share[-1]) == 1 for share in shares)

    def test_little_padding(self):
        """Grouping leaves a small part of the padding that random batches have."""
        padding = {}
        for grouped in (True, False):
            found = [LENGTHS[batch] for batch in batches(grouped=grouped)]
            padding[grouped] = 1 - LENGTHS.sum() / sum(len(lengths) * lengths.max() for lengths in found)
        assert padding[True] < 0.1 < 0.3 < padding[False]

    def test_collate(self):
        """Shapes, padding token, mask and labels; a distribution over the classes takes the label's place."""
        batch = collate([{"input_ids": [5, 6, 7], "label": 1}, {"input_ids": [8], "label": 0}], 9, multiple=4)
        assert batch["input_ids"].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
        assert batch["labels"].tolist() == [1, 0]
        several = [
            {"input_ids": [5], "label": 1, "labels": [0, 2]},
            {"input_ids": [5], "label": 1, "labels": [1]},
        ]
        assert collate(several, 0, classes=3)["labels"].tolist() == [[1, 0, 1], [0, 1, 0]]
        batch = collate([{"input_ids": [5], "label": 1, "target": [0.25, 0.75]}], 0)
        assert torch.equal(batch["labels"], torch.tensor([[0.25, 0.75]]))


def bert() -> BertForSequenceClassification:
    """Two layers, five labels."""
    size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=5, **size))


def distilbert() -> DistilBertForSequenceClassification:
    """The same under DistilBERT's names."""
    size = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=20, num_labels=5, **size))


class TestParameters:
    """Each in one group, with the rate of its depth; and what does not learn."""

    @pytest.mark.parametrize(
        ("make", "head_learning_rate", "expected"),
        [
            (bert, 10.0, {
                "classifier.weight": (10.0, 0.1), "classifier.bias": (10.0, 0.0),
                "bert.encoder.layer.1.output.dense.weight": (1.0, 0.1),
                "bert.encoder.layer.0.output.dense.weight": (0.5, 0.1),
                "bert.encoder.layer.0.output.LayerNorm.weight": (0.5, 0.0),
                "bert.embeddings.word_embeddings.weight": (0.25, 0.1), "bert.pooler.dense.weight": (1.0, 0.1),
            }),
            (distilbert, None, {
                "pre_classifier.weight": (1.0, 0.1),
                "distilbert.transformer.layer.0.ffn.lin1.weight": (0.5, 0.1),
                "distilbert.embeddings.position_embeddings.weight": (0.25, 0.1),
            }),
        ],
    )  # fmt: skip
    def test_learning_rate_and_weight_decay(self, make, head_learning_rate, expected):
        """Head, layers, embeddings; no decay of biases and normalisation."""
        model = make()
        args = SimpleNamespace(learning_rate=1.0, layerwise_learning_rate_decay=0.5, weight_decay=0.1,
                               head_learning_rate=head_learning_rate)  # fmt: skip
        groups = parameter_groups(model, args)
        by_id = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
        assert len(by_id) == len(list(model.parameters()))
        found = {name: by_id[id(parameter)] for name, parameter in model.named_parameters()}
        assert {name: found[name] for name in expected} == expected

    @pytest.mark.parametrize("make", [bert, distilbert])
    def test_frozen_parts(self, make):
        """Embeddings and one layer, nothing else; the error names the parts that there are."""
        model = make()
        frozen = freeze(model, ["embeddings", "layer.0"])
        still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert still == {n for n, _ in model.named_parameters() if "embeddings" in n or "layer.0." in n}
        assert frozen == sum(p.numel() for n, p in model.named_parameters() if n in still)
        with pytest.raises(UserError, match=r"layer.0 to layer.1"):
            freeze(model, ["layer.7"])


class TestLoss:
    """Cross-entropy with weights, smoothing and distributions, by hand or by torch."""

    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [-1.0, 3.0, 0.0]])
    labels = torch.tensor([0, 2, 1])

    def test_accumulated_batches_add_up(self):
        """Two parts with the count of the whole step sum to the loss of the whole, which is torch's."""
        loss = make_loss(None, 0.1)
        parts = [
            loss({"logits": self.logits[part]}, self.labels[part], num_items_in_batch=torch.tensor(3))
            for part in (slice(0, 2), slice(2, 3))
        ]
        whole = functional.cross_entropy(self.logits, self.labels, label_smoothing=0.1)
        assert torch.allclose(sum(parts), whole)
        assert torch.allclose(loss({"logits": self.logits}, self.labels), whole)

    def test_distribution_of_one_label_is_the_label(self):
        """Also where the Trainer counted a distribution's elements."""
        loss = make_loss(torch.tensor([0.5, 1.0, 2.0]), 0.0)
        hard = loss({"logits": self.logits}, self.labels, num_items_in_batch=3)
        soft = loss({"logits": self.logits}, functional.one_hot(self.labels, 3).float(), num_items_in_batch=9)
        assert torch.allclose(hard, soft)

    def test_multi_label(self):
        """The binary cross-entropy of transformers, whole and in parts."""
        targets = label_matrix([[0, 2], [1], [0, 1]], 3)
        hot = torch.from_numpy(targets).float()
        loss = make_loss(None, 0.0, multi_label=True)
        whole = functional.binary_cross_entropy_with_logits(self.logits, hot)
        assert torch.allclose(loss({"logits": self.logits}, hot), whole)
        parts = [
            loss({"logits": self.logits[part]}, hot[part], num_items_in_batch=torch.tensor(9))
            for part in (slice(0, 2), slice(2, 3))
        ]
        assert torch.allclose(sum(parts), whole)

    def test_class_weights(self):
        """Mean 1 over the papers; balanced gives each class the same total; an empty class has none."""
        counts = torch.tensor([60, 30, 10, 0])
        for weighting in ("balanced", "sqrt"):
            weights = class_weights(counts, weighting)
            assert torch.isclose((weights * counts).sum() / 100, torch.tensor(1.0))
            assert weights[3] == 0
        balanced = class_weights(counts, "balanced") * counts
        assert torch.allclose(balanced[:3], torch.full((3,), 100 / 3))
        assert class_weights(counts, "none") is None


class TestStart:
    """What a run refuses, changes or records before its first step."""

    def test_metric_name(self):
        """With or without the Trainer's prefix, or the F1 of one class; another is refused at the start."""
        for name in (None, "loss", "macro_f1", "eval_accuracy", "f1/cs.CL"):
            check_metric_name(name, ["cs.AI", "cs.CL"])
        for name in ("foo", "f1/cs.LG", "macro-f1"):
            with pytest.raises(UserError, match="is no metric") as error:
                check_metric_name(name, ["cs.AI", "cs.CL"])
            assert "macro_f1" in error.value.hint

    def test_fp16_on_a_cpu(self):
        """Refused: the Trainer would compute in fp32 and the record would say fp16."""
        with pytest.raises(UserError, match="fp16 needs a GPU"):
            fine_tuning.resolve_precision("fp16", use_cpu=True)
        assert fine_tuning.resolve_precision("bf16", use_cpu=True) == "bf16"

    def test_length_is_lowered_in_one_line(self, tiny_encoder, tmp_path, caplog):
        """The encoder has 128 positions, which count too where its tokenizer names no limit."""
        directory = shutil.copytree(tiny_encoder, tmp_path / "encoder")
        settings = directory / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace(": 128", ": 99999"))
        with caplog.at_level(logging.WARNING):
            assert load_tokenizer(tiny_encoder, 64).model_max_length == 64
            assert not caplog.records
            for encoder in (tiny_encoder, directory):
                assert load_tokenizer(encoder, 4096).model_max_length == 128
        line = "model.max_length: 128 tokens instead of 4096, the model reads no more"
        assert [record.getMessage() for record in caplog.records] == [line, line]

    def test_no_tokenizer(self, tmp_path):
        """One error that names the folder."""
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(UserError, match="its tokenizer cannot be loaded"):
            load_tokenizer(tmp_path, 64)

    def test_commit_of_a_model_in_the_hubs_cache(self, tmp_path):
        """The cache's folder names it; the checksum is that of the weights."""
        directory = tmp_path / "snapshots" / ("0123456789" * 4)
        directory.mkdir(parents=True)
        (directory / "model.safetensors").write_bytes(b"abc")
        abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert fine_tuning.starting_weights(directory) == {"sha256": abc, "hub_commit": directory.name}
