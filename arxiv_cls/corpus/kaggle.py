"""The public original from Kaggle: download with resume, check, unpack; nothing half-written gets its name.

    arxiv-cls data fetch --source kaggle

The archive grows in `<csv>.zip.part`, which a later run continues. Its one CSV is unpacked into `<csv>.part`
and renamed when its checksum is one of the two known ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arxiv_cls import __version__
from arxiv_cls.errors import UserError

logger = logging.getLogger(__name__)

KAGGLE_CSV = Path("data/raw/arxiv_kaggle.csv")
DATASET = "sumitm004/arxiv-scientific-research-papers-dataset"
DEFAULT_URL = f"https://www.kaggle.com/api/v1/datasets/download/{DATASET}"
URL_VARIABLE = "ARXIV_CLS_KAGGLE_URL"  # a mirror, or a server of the tests
UNREACHABLE = 3
TIMEOUT_SECONDS = 20.0  # for a connection, and between two pieces of the answer
ATTEMPTS = 5  # connections in a row that bring nothing new
CHUNK = 1 << 20
_BY_HAND = (
    f"download it in a browser from https://www.kaggle.com/datasets/{DATASET}, unpack the CSV to "
    f"{KAGGLE_CSV} and run this again: it will be checked; or `make data REMOTE=<directory or url>`"
)


class ConnectionBroke(Exception):
    """The server or the way to it failed, while the disk did not; the message is for a person."""


@dataclass(frozen=True)
class ExpectedCsv:
    """The checksums by which the CSV is known: as Kaggle serves it (CRLF), or with LF line ends."""

    md5_crlf: str = "51fb0a7e9911559e4bc0dc99fa05ae31"
    sha256_lf: str = "db1bcdd5d4fbd6dd3e9450fc55e22e4861e24627c09ede2e898b30b39a4199a5"
    largest: int = 186_543_036  # bytes; what is longer is not the file, and is not unpacked to its end

    def matches(self, md5: str, sha256: str) -> bool:
        """Whether checksums, as hex digests, are those of the file in one of its two forms."""
        return md5 == self.md5_crlf or sha256 == self.sha256_lf


def fetch_from_kaggle(
    csv: Path = KAGGLE_CSV, url: str | None = None, expected: ExpectedCsv | None = None
) -> str:
    """Makes `csv` the public original, and does nothing when it already is.

    Args:
        csv: where the CSV goes.
        url: of the archive; default the environment's ARXIV_CLS_KAGGLE_URL, else Kaggle's.
        expected: checksums; default those of the file this project was made on.

    Returns:
        One line that says what was done.

    Raises:
        UserError: exit code 3 when the archive cannot be had or is not the known one, 2 when the disk
            does not take it.
    """
    expected = expected or ExpectedCsv()
    url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    archive = csv.with_name(csv.name + ".zip.part")
    try:
        if csv.is_file():
            if csv.stat().st_size <= expected.largest and expected.matches(*_digests(csv)):
                archive.unlink(missing_ok=True)
                return f"{csv} is in place and is the known file: {csv.stat().st_size:,} bytes"
            logger.warning("%s is not the known file: it will be replaced when the download is whole", csv)
        csv.parent.mkdir(parents=True, exist_ok=True)
        resumed = _download(url, archive)
        try:
            _unpack(archive, csv, expected, url)
        except UserError:
            _forget(archive)
            if not resumed:
                raise
            # The first half may have come from another version of the archive: once more, from the start.
            logger.warning("the continued download is not whole: starting it again")
            _download(url, archive)
            try:
                _unpack(archive, csv, expected, url)
            finally:
                _forget(archive)
        _forget(archive)
    except OSError as error:
        raise UserError(
            f"cannot write {csv}: {error.strerror or error}", "free some space, or pass another place"
        ) from None
    return f"{csv}: {csv.stat().st_size:,} bytes, checksum as expected"


def _digests(path: Path) -> tuple[str, str]:
    """md5 and sha256 of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()


def _notes_path(archive: Path) -> Path:
    return archive.with_name(archive.name + ".json")


def _notes(archive: Path) -> dict[str, Any]:
    """What the server said about the growing archive: its `etag` and its `total` bytes, if known."""
    try:
        notes = json.loads(_notes_path(archive).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _forget(archive: Path) -> None:
    archive.unlink(missing_ok=True)
    _notes_path(archive).unlink(missing_ok=True)


def _download(url: str, archive: Path) -> bool:
    """Brings the archive to its full length; returns whether any of it was there before.

    A dropped connection is taken up again where it broke, as long as new bytes keep coming.
    """
    resumed = archive.is_file() and archive.stat().st_size > 0
    fruitless = 0
    while True:
        before = archive.stat().st_size if archive.is_file() else 0
        try:
            if _download_once(url, archive):
                return resumed
            problem = "the connection was dropped"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is there is not a beginning of what they have
                _forget(archive)
            elif error.code not in (408, 429) and error.code < 500:
                raise UserError(
                    f"{url}: the server answers {error.code} {error.reason}", _BY_HAND, UNREACHABLE
                ) from None
            problem = f"the server answers {error.code} {error.reason}"
        except ConnectionBroke as error:
            problem = str(error)
            if before == 0 and not archive.is_file():
                raise UserError(f"{url} cannot be reached: {problem}", _BY_HAND, UNREACHABLE) from None
        here = archive.stat().st_size if archive.is_file() else 0
        fruitless = 0 if here > before else fruitless + 1
        if fruitless == ATTEMPTS:
            raise UserError(
                f"{url}: {problem}, {ATTEMPTS} times in a row; {here:,} bytes are kept",
                "run the same command again to continue; or " + _BY_HAND,
                UNREACHABLE,
            )
        time.sleep(min(0.2 * 2**fruitless, 5.0) if fruitless else 0)


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Tells the errors of a connection from those of the disk: both are `OSError`, TLS and routing too.

    Raises:
        ConnectionBroke: in place of them; an answer with an error status goes through as it is.
    """
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConnectionBroke(
            getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        ) from error


def _download_once(url: str, archive: Path) -> bool:
    """One request from where the file ends; returns whether the archive is whole now.

    Raises:
        ConnectionBroke: the connection could not be made, or was lost.
        HTTPError: the server answers with an error status.
        OSError: the disk does not take what came.
    """
    have = archive.stat().st_size if archive.is_file() else 0
    notes = _notes(archive)
    if have and have == notes.get("total"):
        return True
    request = urllib.request.Request(url, headers={"User-Agent": f"arxiv_cls/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if notes.get("etag"):
            request.add_header("If-Range", notes["etag"])
    with _network():
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    with contextlib.closing(response):
        if response.status != 206:
            have = 0  # the whole of it comes: the server knows no ranges, or its file is another one now
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        tag = response.headers.get("ETag")
        # A weak tag promises the same meaning, not the same bytes: it may not be used to continue.
        strong = tag if tag and not tag.startswith("W/") else None
        _notes_path(archive).write_text(json.dumps({"etag": strong, "total": total}), encoding="utf-8")
        with (
            archive.open("r+b" if have else "wb") as stream,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc="kaggle", delay=1) as bar,
        ):
            stream.seek(have)
            while True:
                with _network():
                    chunk = response.read1(CHUNK)
                if not chunk:
                    break
                stream.write(chunk)
                bar.update(len(chunk))
            return total is None or stream.tell() >= total


def _unpack(archive: Path, csv: Path, expected: ExpectedCsv, url: str) -> None:
    """Writes the archive's one CSV to `csv`, whole and known or not at all.

    The names inside the archive are never used as paths, and its stated sizes are not believed.
    """
    part = csv.with_name(csv.name + ".part")
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if member.filename.lower().endswith(".csv")]
            if len(members) != 1:
                raise UserError(
                    f"{url}: the archive holds {len(members)} CSV files, one is expected",
                    _BY_HAND,
                    UNREACHABLE,
                )
            with opened.open(members[0]) as stream, part.open("wb") as out:
                while chunk := stream.read(CHUNK):
                    size += len(chunk)
                    if size > expected.largest:
                        raise UserError(
                            f"{url}: the CSV in the archive exceeds the known {expected.largest:,} bytes",
                            _BY_HAND,
                            UNREACHABLE,
                        )
                    md5.update(chunk)
                    sha256.update(chunk)
                    out.write(chunk)
        if not expected.matches(md5.hexdigest(), sha256.hexdigest()):
            raise UserError(
                f"{url}: its CSV ({size:,} bytes, md5 {md5.hexdigest()}) is not the known file",
                "Kaggle may hold a newer version; " + _BY_HAND,
                UNREACHABLE,
            )
        part.replace(csv)
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
        EOFError,
    ) as error:
        # RuntimeError: encrypted; NotImplementedError: an unknown compression.
        raise UserError(
            f"{url}: what came is not a zip archive we can read: {error}", _BY_HAND, UNREACHABLE
        ) from None
    finally:
        part.unlink(missing_ok=True)
