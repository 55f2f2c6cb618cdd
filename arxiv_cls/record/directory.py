"""What a model directory may not hold, whoever it comes from: links that lead out of it, and pickles."""

from __future__ import annotations

from pathlib import Path

from arxiv_cls.errors import UserError
from arxiv_cls.record.pickles import is_pickle, unreadable

ADAPTER = "adapter_config.json"


def refuse_outside_links(directory: str | Path) -> None:
    """Makes sure that every link of a model directory stays in it, or in its repository of the Hub's cache.

    The cache keeps a snapshot as `models--user--name/snapshots/COMMIT`, whose files link to `blobs` beside
    `snapshots`.

    Raises:
        UserError: a link leads elsewhere, with its name.
    """
    root = Path(directory).resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    for path in sorted(root.rglob("*")):
        # Resolved without `strict`, which would fail at a loop of links.
        if path.is_symlink() and not any(_resolved(path).is_relative_to(place) for place in allowed):
            shown = Path(directory) / path.relative_to(root)
            raise UserError(
                f"{shown}: is a link that leads out of the model directory", hint="put the file itself there"
            )


def check_directory(directory: str | Path) -> None:
    """Makes sure that nothing in a model directory could run code or lead out of it.

    Raises:
        UserError: a link that leads out, a pickle under any name, or an adapter, with its path.
    """
    refuse_outside_links(directory)
    root = Path(directory)
    if (root / ADAPTER).is_file():
        raise UserError(
            f"{root / ADAPTER}: an adapter names another model to load; only whole models are loaded",
            hint="merge the adapter into its model and save that",
        )
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        if (reason := unreadable(path)) is not None:
            raise UserError(f"{path}: cannot be read: {reason}", hint="get the model again")
        if is_pickle(path):
            raise UserError(
                f"{path}: is a pickle, which could run code; nothing of this directory was loaded",
                hint="delete the file: weights are read from model.safetensors or model.skops alone",
            )


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:
        # A loop of links, before Python 3.13; it leads to no file, so to none outside.
        return path.parent.resolve() / path.name
