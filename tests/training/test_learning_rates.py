"""Learning rates by layer, frozen parts, class weights, the loss."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from arxiv_cls.errors import UserError
from arxiv_cls.training.trainer import (
    class_weights,
    freeze,
    make_loss,
    parameter_groups,
)


def bert() -> BertForSequenceClassification:
    """Two layers, five labels."""
    size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=5, **size))


def distilbert() -> DistilBertForSequenceClassification:
    """The same under DistilBERT's names."""
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=20, dim=8, n_layers=2, n_heads=2, hidden_dim=8, num_labels=5)
    )


def rates(model, **options) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by parameter name."""
    chosen = {"learning_rate": 1.0, "head_learning_rate": 10.0, "layerwise_learning_rate_decay": 0.5}
    groups = parameter_groups(model, SimpleNamespace(**(chosen | {"weight_decay": 0.1} | options)))
    by_id = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(by_id) == len(list(model.parameters()))
    return {name: by_id[id(parameter)] for name, parameter in model.named_parameters()}


class TestParameterGroups:
    """Each parameter in one group, with the rate of its depth."""

    def test_bert(self):
        """Head, last layer, first layer, embeddings; no decay of biases and normalisation."""
        found = rates(bert())
        assert found["classifier.weight"] == (10.0, 0.1)
        assert found["classifier.bias"] == (10.0, 0.0)
        assert found["bert.encoder.layer.1.output.dense.weight"] == (1.0, 0.1)
        assert found["bert.encoder.layer.0.output.dense.weight"] == (0.5, 0.1)
        assert found["bert.encoder.layer.0.output.LayerNorm.weight"] == (0.5, 0.0)
        assert found["bert.embeddings.word_embeddings.weight"] == (0.25, 0.1)
        assert found["bert.pooler.dense.weight"] == (1.0, 0.1)

    def test_distilbert(self):
        """Its head has two layers, both new."""
        found = rates(distilbert(), head_learning_rate=None)
        assert found["pre_classifier.weight"] == (1.0, 0.1)
        assert found["distilbert.transformer.layer.0.ffn.lin1.weight"] == (0.5, 0.1)
        assert found["distilbert.embeddings.position_embeddings.weight"] == (0.25, 0.1)


class TestFreezing:
    """What does not learn."""

    @pytest.mark.parametrize("make", [bert, distilbert])
    def test_parts(self, make):
        """Embeddings and one layer, nothing else."""
        model = make()
        frozen = freeze(model, ["embeddings", "layer.0"])
        still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert still == {n for n, _ in model.named_parameters() if "embeddings" in n or "layer.0." in n}
        assert frozen == sum(p.numel() for n, p in model.named_parameters() if n in still)

    def test_unknown_part(self):
        """The error names the parts that there are."""
        with pytest.raises(UserError, match=r"layer.0 to layer.1"):
            freeze(bert(), ["layer.7"])


class TestLoss:
    """Cross-entropy with weights, smoothing and distributions, by hand or by torch."""

    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [-1.0, 3.0, 0.0]])
    labels = torch.tensor([0, 2, 1])

    def test_mean_without_a_count(self):
        """As torch has it."""
        found = make_loss(None, 0.1)({"logits": self.logits}, self.labels)
        assert torch.allclose(found, functional.cross_entropy(self.logits, self.labels, label_smoothing=0.1))

    def test_accumulated_batches_add_up(self):
        """Two parts with the count of the whole step sum to the loss of the whole."""
        loss = make_loss(None, 0.0)
        parts = [
            loss({"logits": self.logits[part]}, self.labels[part], num_items_in_batch=torch.tensor(3))
            for part in (slice(0, 2), slice(2, 3))
        ]
        assert torch.allclose(sum(parts), functional.cross_entropy(self.logits, self.labels))

    def test_distribution_of_one_label_is_the_label(self):
        """Also where the Trainer counted a distribution's elements."""
        loss = make_loss(torch.tensor([0.5, 1.0, 2.0]), 0.0)
        hard = loss({"logits": self.logits}, self.labels, num_items_in_batch=3)
        soft = loss({"logits": self.logits}, functional.one_hot(self.labels, 3).float(), num_items_in_batch=9)
        assert torch.allclose(hard, soft)

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
