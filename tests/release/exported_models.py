"""Tiny classifiers to export, and texts for them."""

from __future__ import annotations

from pathlib import Path

TOP5 = ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]
TEXTS = [
    "Parsing with sentence encoders\n\nWe fine-tune a language model.",
    "Segmenting tumours\n\n" + "A network labels every voxel of an image. " * 40,
    "images",
]


def classifier(kind: str, encoder: Path):
    """A BERT or DistilBERT of two layers with random weights whose scores differ from text to text."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, DistilBertConfig

    bert = AutoConfig.from_pretrained(encoder)
    names = {
        "num_labels": len(TOP5),
        "id2label": dict(enumerate(TOP5)),
        "label2id": {label: number for number, label in enumerate(TOP5)},
    }
    if kind == "bert":
        config = AutoConfig.from_pretrained(encoder, **names)
    else:
        config = DistilBertConfig(
            vocab_size=bert.vocab_size,
            dim=16,
            n_layers=2,
            n_heads=2,
            hidden_dim=32,
            max_position_embeddings=128,
            pad_token_id=bert.pad_token_id,
            **names,
        )
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config)
    torch.nn.init.normal_(model.classifier.weight, std=5.0)
    return model.eval()
