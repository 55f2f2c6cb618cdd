"""A model directory: its records, and what it may not hold: links that lead out, pickles, secrets.

Loading a pickle runs its author's code. What counts is the content, under any name: the opcodes of a pickle
of any protocol, an array of objects in a `.npy` file, a member of a zip, also of a zip in a zip, and each of
them compressed; another archive counts as one. A suffix that is used for pickles alone counts as well.
Secrets are the token formats of the services that users of this project log in to, and a long random value
assigned to a telling name; what is found is never printed whole.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickletools
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import yaml

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import ReleaseConfig, load_group
from arxiv_cls.record.files import file_sha256, with_checksum_line, write_atomically
from arxiv_cls.record.manifest import METRICS, ONNX_PARITY, RECIPE, RELEASE, RUN_RECORD, WEIGHTS, model_kind
from arxiv_cls.record.model_files import labels_of, read_model_file

PICKLE_SUFFIXES = frozenset({".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill"})
PICKLE_MEMBER_SUFFIXES = frozenset({".pkl", ".pickle"})
ZIP_START = b"PK\x03\x04"
# As many bytes as are looked at for opcodes, and as many opcodes: a file that parses so far is a pickle.
HEAD_BYTES, MOST_OPCODES = 1 << 16, 500
# A zip in a zip is unpacked to be looked at: at most so large, and so many levels deep.
NESTED_BYTES, NESTED_LEVELS = 64 << 20, 3
MOST_MEMBERS = 20_000
# The opcodes by which a pickle names what it calls or makes; two of them with module and name.
_NAMES_CODE = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_MODULE_AND_NAME = re.compile(r"[\w.]+ [\w.]+")
_PROTOCOL_START = re.compile(rb"\x80[\x02-\x05]")
_COMPRESSED: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open,
}  # fmt: skip
# 7z, RAR, Zstandard.
_OTHER_ARCHIVES = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd")
TEXT_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".md", ".txt", ".py", ".log", ".toml", ".cfg", ".csv"})

SECRET_PATTERNS: dict[str, re.Pattern[str]] = {
    "Hugging Face token": re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    "W&B key": re.compile(r"\bwandb_v1_[A-Za-z0-9_]{20,}"),
    "W&B key in a setting": re.compile(r"(?i)wandb[^\n]{0,40}?\b[0-9a-f]{40}\b"),
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "Google service account": re.compile(r'"type"\s*:\s*"service_account"'),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})"),
    "Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "OpenAI-style key": re.compile(r"\bsk-[A-Za-z0-9_-]{32,}"),
    "private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    "password in a URL": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']{3,}@"),
    "secret in a setting": re.compile(
        r"(?i)\b[\w.-]*(?:api[_-]?key|secret|passwd|password|access[_-]?token|auth[_-]?token)[\w.-]*[\"']?"
        r"\s*[:=]\s*[\"']?(?=[^\s\"']*[0-9])(?=[^\s\"']*[A-Za-z])[A-Za-z0-9_+/=.-]{16,}"
    ),
}


@dataclass(frozen=True)
class ModelDirectory:
    """The records of one model directory, as they were written."""

    model_dir: Path
    kind: str  # "transformer" or "tfidf"
    config: dict[str, Any]
    recipe: dict[str, Any]  # its release group is that of `release.yaml` where there is one
    run: dict[str, Any]
    evaluation: dict[str, Any] | None  # `eval/metrics.json`; None when the model was not evaluated

    @property
    def labels(self) -> list[str]:
        """Category codes in the order of the model's outputs."""
        return labels_of(self.config)

    def require_evaluation(self) -> dict[str, Any]:
        """`eval/metrics.json`.

        Raises:
            UserError: it is missing.
        """
        if self.evaluation is None:
            raise UserError(
                f"{self.model_dir} has no {METRICS}", hint=f"run `arxiv-cls evaluate {self.model_dir}` first"
            )
        return self.evaluation

    def weights_sha256(self) -> str:
        """The sha256 of the weights as they are on disk now.

        Raises:
            UserError: when they are missing.
        """
        path = self.model_dir / WEIGHTS[self.kind]
        if not path.is_file():
            raise UserError(f"{path} is missing", hint="train the model again, or restore the file")
        return file_sha256(path)

    @property
    def exports(self) -> dict[str, dict[str, Any]]:
        """What `onnx/parity.json` records of each export, by its path; empty before an export."""
        return (self.optional_json(ONNX_PARITY) or {}).get("exports", {})

    def optional_json(self, path: str) -> dict[str, Any] | None:
        """An optional JSON file of the directory; None when it is not there.

        Raises:
            UserError: it is malformed.
        """
        return read_model_file(self.model_dir, path, released=True)


def read_model_directory(model_dir: str | Path) -> ModelDirectory:
    """Reads the records of a model directory.

    Raises:
        UserError: when it is no model directory, a record is missing or malformed, or a link leads out of it.
    """
    folder = Path(model_dir)
    kind = model_kind(folder)
    refuse_outside_links(folder)
    records = {}
    for path in (RECIPE, "config.json", RUN_RECORD):
        content = read_model_file(folder, path, released=True)
        if content is None:
            hint = "it is written by training; an unfinished run lacks it"
            raise UserError(f"{folder} has no {path}", hint=hint)
        records[path] = content
    if release := read_model_file(folder, RELEASE):
        records[RECIPE]["release"] = release
    evaluation = read_model_file(folder, METRICS, released=True)
    return ModelDirectory(
        folder, kind, records["config.json"], records[RECIPE], records[RUN_RECORD], evaluation
    )


def write_release_group(model_dir: str | Path, recipe: str | Path) -> Path:
    """Writes a recipe's release group as `release.yaml`: a new licence or tag needs no new training.

    Raises:
        UserError: it is no model directory, or the file is no recipe.
    """
    model_kind(model_dir)
    path = Path(model_dir) / RELEASE
    group = asdict(load_group(recipe, "release", ReleaseConfig))
    write_atomically(path, with_checksum_line(yaml.safe_dump(group, sort_keys=False, allow_unicode=True)))
    return path


def refuse_outside_links(directory: str | Path) -> None:
    """Makes sure that every link of a model directory stays in it, or in its repository of the Hub's cache.

    Raises:
        UserError: a link leads elsewhere, with its name.
    """
    root = Path(directory).resolve()
    allowed = [root]
    # models--user--name/snapshots/COMMIT: its files link to `blobs` beside `snapshots`.
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    for path in sorted(root.rglob("*")):
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
    if (adapter := root / "adapter_config.json").is_file():
        raise UserError(
            f"{adapter}: an adapter names another model to load; only whole models are loaded",
            hint="merge the adapter into its model and save that",
        )
    for path in filter(Path.is_file, sorted(root.rglob("*"))):
        if reason := unreadable(path):
            raise UserError(f"{path}: cannot be read: {reason}", hint="get the model again")
        if is_pickle(path):
            raise UserError(
                f"{path}: is a pickle, which could run code, or an archive; nothing of it was loaded",
                hint="delete the file: weights are read from model.safetensors or model.skops alone",
            )


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:
        # A loop of links, before Python 3.13; it leads to no file, so to none outside.
        return path.parent.resolve() / path.name


def unreadable(path: Path) -> str | None:
    """Why a file's content cannot be judged: it cannot be opened, or is a broken zip; None where it can."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == ZIP_START
        if is_zip:
            with zipfile.ZipFile(path):
                pass
    except zipfile.BadZipFile as error:
        return f"a broken zip: {error}"
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def is_pickle(path: Path) -> bool:
    """Whether a file is, or holds, a pickle; one that is `unreadable` is none: nothing loads it."""
    if path.suffix in PICKLE_SUFFIXES:
        return True
    if unreadable(path) is not None:
        return False
    with path.open("rb") as file:
        return _holds_pickle(file, NESTED_LEVELS)


def _holds_pickle(file: IO[bytes], levels: int) -> bool:
    head = file.read(HEAD_BYTES)
    if _is_other_archive(head):
        return True
    if head.startswith(ZIP_START):
        file.seek(0)
        return _zip_holds_pickle(file, levels)
    if head.startswith(b"\x93NUMPY"):
        return _is_object_array(head)
    for start, opened in _COMPRESSED.items():
        if head.startswith(start):
            file.seek(0)
            try:
                inner = opened(file).read(HEAD_BYTES)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
                return False
            return levels == 0 or _holds_pickle(io.BytesIO(inner), levels - 1)
    return _is_pickle_start(head)


def _is_other_archive(head: bytes) -> bool:
    """Whether it is an archive, or packed in a way, that is not looked into: it counts as a pickle."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return head.startswith(_OTHER_ARCHIVES)
    return True


def _is_pickle_start(head: bytes) -> bool:
    """Whether the bytes parse as opcodes that name code, or that start with a protocol number."""
    numbered = _PROTOCOL_START.match(head) is not None
    names_code, seen = False, 0
    try:
        for opcode, argument, _ in islice(pickletools.genops(head), MOST_OPCODES):
            seen += 1
            if opcode.name in {"GLOBAL", "INST"} and not _MODULE_AND_NAME.fullmatch(str(argument)):
                break
            names_code = names_code or opcode.name in _NAMES_CODE
            if opcode.name == "STOP":
                break
    except ValueError as error:
        # The length of a safetensors header can look like a protocol number, and no opcode follows it. What
        # the limit on the bytes cut off is a pickle all the same.
        cut_off = len(head) == HEAD_BYTES and "unknown" not in str(error)
        return (numbered and seen > 1) or (names_code and cut_off)
    return numbered or names_code


def _is_object_array(head: bytes) -> bool:
    file, formats = io.BytesIO(head), np.lib.format
    try:
        first = formats.read_magic(file) == (1, 0)
        read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
        return bool(read(file)[2].hasobject)
    except (ValueError, SyntaxError, TypeError, EOFError):
        # No reader of arrays takes it either.
        return False


def _zip_holds_pickle(file: IO[bytes], levels: int) -> bool:
    """Whether a member is one; an archive that is too deep or too large to look into counts as one."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            suffixes = {PurePosixPath(member.filename).suffix for member in members}
            if len(members) > MOST_MEMBERS or suffixes & PICKLE_MEMBER_SUFFIXES:
                return True
            return any(
                _member_holds_pickle(archive, member, levels) for member in members if not member.is_dir()
            )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error, ValueError):
        # Cut short, encrypted or packed in a way that Python does not know: nothing loads it.
        return False


def _member_holds_pickle(archive: zipfile.ZipFile, member: zipfile.ZipInfo, levels: int) -> bool:
    with archive.open(member) as content:
        head = content.read(HEAD_BYTES)
        if not head.startswith(ZIP_START):
            return levels > 0 and _holds_pickle(io.BytesIO(head), levels - 1)
        if levels == 0 or member.file_size > NESTED_BYTES:
            return True
        return _holds_pickle(io.BytesIO(head + content.read(NESTED_BYTES)), levels - 1)


@dataclass(frozen=True)
class SecretFinding:
    """Where a secret stands: the path as given, the line (from 1) and the kind; never the value."""

    path: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.kind}"


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced, for messages that quote other programs."""
    for kind, pattern in SECRET_PATTERNS.items():
        text = pattern.sub(f"<{kind}>", text)
    return text


def find_secrets(text: str, path: str) -> list[SecretFinding]:
    """Secrets in a text, at most one of each kind per line, reported under the path."""
    return [
        SecretFinding(path, number, kind)
        for number, line in enumerate(text.splitlines(), start=1)
        for kind, pattern in SECRET_PATTERNS.items()
        if pattern.search(line)
    ]


def secrets_in_files(root: Path, paths: list[str]) -> list[SecretFinding]:
    """Secrets in the text files among `paths` (POSIX paths below `root`), a tokenizer's words left out."""
    vocabularies = {"tokenizer.json", "vocab.txt", "vocab.json"}
    return [
        finding
        for path in paths
        if Path(path).suffix in TEXT_SUFFIXES and path not in vocabularies and not unreadable(root / path)
        for finding in find_secrets((root / path).read_text(encoding="utf-8", errors="replace"), path)
    ]
