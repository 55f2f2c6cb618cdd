"""A tiny model of each architecture: trained, evaluated, exported, and asked about more than it reads."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from factories import SAMPLE, write_transformer_recipe

from arxiv_cls import train
from arxiv_cls.errors import UserError
from arxiv_cls.export.onnx_export import export_model
from arxiv_cls.models.predictor import load_predictor

pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES |= {"max_position_embeddings": 64}
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
# Each reads 64 tokens, whether its table has as many positions, two more, or there is no table.
ARCHITECTURES = {
    "albert": {"embedding_size": 16},
    # An encoder with a decoder, whose answers hold hidden states beside the logits.
    "bart": {
        **{f"{half}_{key}": value for half in ("encoder", "decoder")
           for key, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))},
        "d_model": 16, "max_position_embeddings": 64, "decoder_start_token_id": 2,
    },
    "bert": {},
    "deberta-v2": {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "electra": {"embedding_size": 16},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "pad_token_id": None},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 16},
    "mpnet": {"max_position_embeddings": 66},
    "roberta": {"max_position_embeddings": 66},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
}  # fmt: skip


def write_model(directory: Path, architecture: str) -> Path:
    """Random weights, and a tokenizer without a limit; that of GPT-2 has nothing to pad with."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    with SAMPLE.open(encoding="utf-8", newline="") as file:
        texts = [f"{row['title']}\n\n{row['summary']}" for row in csv.DictReader(file)]
    words = Tokenizer(models.WordPiece(unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    special = list(SPECIAL.values())
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    words.train_from_iterator(texts, trainer)
    named = dict(SPECIAL)
    if architecture == "gpt2":
        del named["pad_token"]
    else:
        ends = [("<s>", 0), ("</s>", 2)]
        words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **named)
    tokenizer.save_pretrained(directory)
    settings = {} if {"d_model", "n_embd", "dim"} & set(ARCHITECTURES[architecture]) else SIZES
    settings = {"initializer_range": 0.4, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, **settings}
    if architecture == "distilbert":
        settings["max_position_embeddings"] = 64
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), **(settings | ARCHITECTURES[architecture])
    )
    AutoModel.from_config(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_from_training_to_the_export(architecture: str, tmp_path: Path) -> None:
    """It reads what its positions allow; every engine and the pipeline give the same scores."""
    from transformers import pipeline

    folder, longest = tmp_path / "model", 64 if architecture == "xlnet" else 256
    recipe = write_transformer_recipe(
        tmp_path / "recipe.yaml",
        write_model(tmp_path / "start", architecture),
        model={"name_or_path": str(tmp_path / "start"), "max_length": longest},
        trainer={"num_train_epochs": 1, "output_dir": str(folder)},
    )
    train.main([str(recipe)])
    assert (folder / "eval" / "metrics.json").is_file()
    texts = ["vision learning language of images " * 300, "a method for images", "\u4f60\u597d"]
    torch = load_predictor(folder)
    said = torch.predict(texts)
    assert torch.max_length == 64
    assert [one.truncated for one in said] == [True, False, False]
    assert [one.no_known_words for one in said] == [False, False, True]
    assert said[2].prediction_set is None
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    scores = [answer["score"] for answer in classify(texts, truncation=True)]
    assert scores == pytest.approx([one.score for one in said], abs=1e-5)
    if architecture == "xlnet":
        with pytest.raises(UserError, match="XLNetForSequenceClassification cannot be written as ONNX"):
            export_model(folder, int8=False)
        return
    export_model(folder, int8=False)
    onnx = load_predictor(folder, engine="onnx")
    assert onnx.max_length == 64
    found = onnx.predict(texts)
    assert [one.score for one in found] == pytest.approx([one.score for one in said], abs=1e-4)
    assert [one.no_known_words for one in found] == [False, False, True]
