"""The baseline's weights on disk: a skops file of plain arrays, without pickle and without trusted types.

The trees lie in it as the bytes of XGBoost's own UBJSON format. skops names its members after memory
addresses and stamps them with the time; here they are numbered and undated, so that the same weights give
the same bytes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from arxiv_cls.errors import UserError, is_out_of_memory

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.skops"
_SCHEMA = "schema.json"
_HINT = "train the model again, or download it again"
# Arrays of floats shrink little; 1.9 MB of zeros unpack to 1.6 GB.
UNPACKED_RATIO, UNPACKED_ALLOWANCE = 20, 64 << 20
MOST_MEMBERS = 1000


def write_state(state: dict[str, Any], path: Path) -> None:
    """Writes a nested dictionary of arrays, lists, strings and numbers."""
    skops_io = _import_skops_io()
    source = zipfile.ZipFile(io.BytesIO(skops_io.dumps(state)))
    schema = json.loads(source.read(_SCHEMA))
    members: dict[str, str] = {}
    _number(schema, {}, members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as target:
        for old, new in [*members.items(), (None, _SCHEMA)]:
            content = json.dumps(schema, sort_keys=True).encode() if old is None else source.read(old)
            entry = zipfile.ZipInfo(new, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            target.writestr(entry, content)


def read_state(path: Path, known_version: int) -> dict[str, Any]:
    """Reads what `write_state` wrote.

    Args:
        path: the file.
        known_version: the newest `format_version` that the caller reads.

    Raises:
        UserError: when the file is missing, damaged, far larger unpacked than a baseline is, of a later
            format, or names types that are not plain.
    """
    _refuse_bomb(path)
    skops_io = _import_skops_io()
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        untrusted = skops_io.get_untrusted_types(file=path)
        if untrusted:
            raise UserError(
                f"{path} holds types that could run code: {', '.join(sorted(untrusted))}; it was not loaded",
                hint="a baseline's file holds plain arrays only: get it again from a source you trust",
            )
        state = skops_io.load(path, trusted=[])
    except UntrustedTypesFoundException as error:
        raise UserError(f"{path} was not loaded: {error}", hint=_HINT) from error
    # skops builds what the file describes: a damaged description can raise anything.
    except Exception as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {reason}", hint=_HINT) from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is not a baseline's file", hint=_HINT)
    if version > known_version:
        raise UserError(
            f"{path} has format {version}, this version reads up to {known_version}",
            hint="upgrade arxiv_cls",
        )
    return state


def _refuse_bomb(path: Path) -> None:
    """Makes sure, before anything is unpacked, that a file holds no more than a baseline of its size can."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except FileNotFoundError:
        raise UserError(f"{path} is missing", hint=_HINT) from None
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", hint=_HINT) from None
    size = path.stat().st_size
    unpacked, most = sum(member.file_size for member in members), UNPACKED_ALLOWANCE + UNPACKED_RATIO * size
    if unpacked > most or len(members) > MOST_MEMBERS:
        raise UserError(
            f"{path}: {len(members):,} members of {unpacked:,} bytes in a file of {size:,} bytes: a baseline "
            f"has at most {MOST_MEMBERS:,} members and {most:,} bytes; it was not read",
            hint=_HINT,
        )


class _HideTorch:
    """An import finder that tells one thread that torch is not installed."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Raises for torch in the thread that made the finder; leaves everything else to other finders."""
        if name == "torch" and threading.get_ident() == self.thread:
            raise ModuleNotFoundError("torch is hidden while skops looks for estimators", name=name)


@contextlib.contextmanager
def _torch_hidden() -> Iterator[None]:
    finder = _HideTorch()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _import_skops_io() -> ModuleType:
    # skops lists scikit-learn's estimators by importing all its submodules; one of them is an adapter for
    # torch, which would cost seconds and 200 MB in a process that only scores texts.
    with _torch_hidden() if "torch" not in sys.modules else contextlib.nullcontext():
        return importlib.import_module("skops.io")


def _number(node: Any, numbers: dict[int, int], members: dict[str, str]) -> None:
    # Walks skops' schema in its own order, which is the order of the state.
    if isinstance(node, list):
        for item in node:
            _number(item, numbers, members)
    if not isinstance(node, dict):
        return
    if "__id__" in node:
        node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
    if isinstance(node.get("file"), str) and "__loader__" in node:
        old = node["file"]
        suffix = Path(old).suffix
        node["file"] = members.setdefault(old, f"{len(members)}{suffix}")
    for value in node.values():
        _number(value, numbers, members)
