"""Which models `POST /load` may name: those of one directory, and Hub ids that were allowed by name."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection
from pathlib import Path

from arxiv_cls.record.pickles import is_pickle
from arxiv_cls.serving.http_errors import Refused
from arxiv_cls.serving.settings import HUB_ID

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_NAME = re.compile(r"[\w][\w.-]{0,127}")


def allowed_model(name: str, models_dir: Path | None, allow_hub: Collection[str]) -> str:
    """What to load for a name.

    Args:
        name: a folder's name in `models_dir`, or an allowed Hub id, also as `user/name@revision`.
        models_dir: the directory whose models may be loaded; None for none.
        allow_hub: Hub ids; one that stands without a revision allows the branches and tags of its owner.

    Returns:
        A directory or the Hub id.

    Raises:
        Refused: 403 for anything outside, 404 for a name that is not there, 424 for a file that cannot be
            read.
    """
    if "/" in name and HUB_ID.fullmatch(name) and {name, name.partition("@")[0]} & set(allow_hub):
        return _hub_id(name, allow_hub)
    if not _NAME.fullmatch(name):
        raise Refused(403, "only a name in the models directory or an allowed Hub id can be loaded")
    if models_dir is None:
        raise Refused(403, "this server has no models directory: it was started without --models-dir")
    return str(_inside(name, models_dir.resolve()))


def _hub_id(name: str, allow_hub: Collection[str]) -> str:
    revision = name.partition("@")[2]
    if name not in allow_hub and (revision.startswith("refs/") or _COMMIT.fullmatch(revision)):
        # Anyone on the Hub can open a pull request, whose commits are found under the repository's own name.
        raise Refused(403, f"{name}: only a branch or a tag; another revision has to be allowed by name")
    if Path(name).expanduser().is_dir():
        raise Refused(403, f"{name}: a local folder has the name of this Hub id; start the server elsewhere")
    return name


def _inside(name: str, root: Path) -> Path:
    directory = root / name
    if directory.resolve().parent != root:
        raise Refused(403, f"{name} leads out of the models directory")
    if directory.is_file():
        raise Refused(403, f"{name} is a file: a model is a directory")
    if not directory.is_dir():
        raise Refused(404, f"{name}: no such model in the models directory")
    for path in directory.rglob("*"):
        inside = path.relative_to(directory).as_posix()
        if not path.resolve().is_relative_to(root):
            raise Refused(403, f"{name}: {inside} leads out of the models directory")
        if path.is_file() and _holds_pickle(path, f"{name}: {inside}"):
            raise Refused(403, f"{name}: {inside} is a pickle, which could run code")
    return directory.resolve()


def _holds_pickle(path: Path, shown: str) -> bool:
    try:
        return is_pickle(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Refused(424, f"not loaded, the old model stays: {shown} cannot be read: {error}") from None
