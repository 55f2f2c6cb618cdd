"""Brings the real CSV: from a DVC remote (default), or the public original from Kaggle.

    arxiv-cls data fetch [--remote URL_OR_DIRECTORY] [--source dvc|kaggle]

What is tracked in git names the content by checksum (`data/raw/arxiv.csv.dvc`); this module sees to it that
the file of that name has that content, or says in one line why it cannot.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from arxiv_cls.errors import UserError

logger = logging.getLogger(__name__)

TRACKED_CSV = Path("data/raw/arxiv.csv")
UNREACHABLE = 3  # exit status: not the input but the other side is at fault
CONNECT_SECONDS = 5.0  # a remote that does not take a connection in this time is not there
STALL_SECONDS = 90.0  # a download that brings nothing for this long is given up
_ALTERNATIVES = (
    "pass another place that holds the data: `make data REMOTE=<directory or gs://, s3://, https:// url>`, "
    "or `make data SOURCE=kaggle`; the sample needs no download: `--data.csv data/sample/arxiv_sample.csv`"
)


# DVC in a process that ends with ours: were we killed, an orphan would go on and hold DVC's lock.
_DVC_PROGRAM = """
import os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from dvc.cli import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class TrackedFile:
    """What a `.dvc` file says about the one file it tracks."""

    path: Path
    md5: str
    size: int  # bytes


def read_dvc_file(csv: Path) -> TrackedFile:
    """The checksum and size that `<csv>.dvc` promises.

    Raises:
        UserError: when there is no such file or it is not a DVC file with one output.
    """
    dvc_file = csv.with_name(csv.name + ".dvc")
    if not dvc_file.is_file():
        raise UserError(f"{dvc_file} is not there", "run this in the project's root folder")
    try:
        (output,) = yaml.safe_load(dvc_file.read_text(encoding="utf-8"))["outs"]
        return TrackedFile(csv, str(output["md5"]), int(output["size"]))
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{dvc_file} is not a DVC file with one output that has md5 and size",
            f"restore it: git checkout -- {dvc_file}",
        ) from None


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes, as DVC computes it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def is_in_place(tracked: TrackedFile) -> bool:
    """Whether the file is there with the promised content."""
    path = tracked.path
    return path.is_file() and path.stat().st_size == tracked.size and file_md5(path) == tracked.md5


def fetch_from_dvc(remote: str | None = None, csv: Path = TRACKED_CSV, force: bool = False) -> str:
    """Makes `csv` what its `.dvc` file says, from the cache or from a DVC remote.

    No tracked file is changed: a remote given here lives in a temporary configuration for this one call.

    Args:
        remote: a DVC remote url, a directory laid out as one, or the name of a configured remote; None
            takes the default of `.dvc/config`.
        csv: the tracked file, relative to the project's root, which must be the current folder.
        force: replace a file in the way whose content DVC does not know.

    Returns:
        One line that says what was done.

    Raises:
        UserError: exit code 3 when the remote cannot be reached or does not hold the data, 2 otherwise.
    """
    tracked = read_dvc_file(csv)
    if is_in_place(tracked):
        return f"{csv} is in place: {tracked.size:,} bytes, md5 {tracked.md5}"
    with tempfile.TemporaryDirectory(prefix="arxiv-cls-dvc-") as configuration:
        if not _inside_git():
            # A downloaded archive of the project: DVC needs to be told that nobody keeps its history.
            (Path(configuration) / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SYSTEM_CONFIG_DIR": configuration}
        cache = Path(_dvc(["cache", "dir"], environment).strip())
        if csv.exists() and not force and not _object_path(cache, file_md5(csv)).is_file():
            raise UserError(
                f"{csv} is in the way: its content is neither what {csv}.dvc names nor known to DVC",
                f"keep it with `dvc add {csv}`, or replace it with `arxiv-cls data fetch --force`",
            )
        if not _object_path(cache, tracked.md5).is_file():
            name, url = _choose_remote(remote, environment)
            _check_reachable(url)
            _download(["fetch", "--remote", name, str(csv)], environment, cache, tracked, url)
        _dvc(["checkout", "--force", str(csv)], environment)
    if not is_in_place(tracked):
        csv.unlink(missing_ok=True)
        _object_path(cache, tracked.md5).unlink(missing_ok=True)
        raise UserError(
            f"{csv}: the remote's copy has another md5 than {csv}.dvc names", _ALTERNATIVES, UNREACHABLE
        )
    return f"{csv}: {tracked.size:,} bytes, md5 {tracked.md5} as {csv}.dvc names it"


def _inside_git() -> bool:
    here = Path.cwd()
    return any((folder / ".git").exists() for folder in (here, *here.parents))


def _object_path(cache: Path, md5: str) -> Path:
    """Where DVC 3 keeps the content with this checksum; a folder that is a remote looks the same."""
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _choose_remote(remote: str | None, environment: Mapping[str, str]) -> tuple[str, str]:
    """The name and url of the remote to ask; one that is not configured is, for this call only."""
    listed = [line.split(maxsplit=1) for line in _dvc(["remote", "list"], environment).splitlines()]
    # A default remote is marked behind its url.
    configured = {name: re.sub(r"\s+\(default\)$", "", url).strip() for name, url in listed}
    if remote is None:
        default = _dvc(["remote", "default"], environment).strip()
        if default not in configured:
            raise UserError("no default DVC remote is configured", _ALTERNATIVES)
        return default, configured[default]
    if remote in configured:
        return remote, configured[remote]
    if "://" not in remote:
        if not Path(remote).is_dir():
            raise UserError(
                f"DVC remote {remote}: no such directory, seen from {Path.cwd()}", _ALTERNATIVES, UNREACHABLE
            )
        remote = str(Path(remote).resolve())
    _dvc(["remote", "add", "--system", "requested", remote], environment)
    return "requested", remote


def _check_reachable(url: str) -> None:
    """Fails at once where DVC would retry for a minute: connects to the remote's host, and hangs up.

    Raises:
        UserError: when nobody answers there.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "gs":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com")
        parts = urllib.parse.urlsplit(emulator if "://" in emulator else f"http://{emulator}")
    elif parts.scheme == "s3":
        parts = urllib.parse.urlsplit(os.environ.get("AWS_ENDPOINT_URL", "https://s3.amazonaws.com"))
    # Behind a proxy a direct connection proves nothing; other schemes are left to DVC and the stall limit.
    if parts.scheme not in ("http", "https") or parts.hostname is None or urllib.request.getproxies():
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"DVC remote {url} cannot be reached: {parts.hostname}: {reason}", _ALTERNATIVES, UNREACHABLE
        ) from None


def _dvc(arguments: list[str], environment: Mapping[str, str]) -> str:
    """Runs one DVC command that needs no network and returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise _dvc_error(f"dvc {' '.join(arguments[:2])}", result.stderr)
    return result.stdout


def _download(
    arguments: list[str], environment: Mapping[str, str], cache: Path, tracked: TrackedFile, url: str
) -> None:
    """Runs `dvc fetch` with a progress bar of our own: DVC draws none when its errors are read."""
    started = time.time()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _DVC_PROGRAM, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        try:
            with tqdm(total=tracked.size, unit="B", unit_scale=True, desc=tracked.path.name, delay=1) as bar:
                last_growth = time.monotonic()
                while process.poll() is None:
                    here = min(_bytes_written(cache, started), tracked.size)
                    if here > bar.n:
                        bar.update(here - bar.n)
                        last_growth = time.monotonic()
                    if time.monotonic() - last_growth > STALL_SECONDS:
                        raise UserError(
                            f"DVC remote {url}: nothing came for {STALL_SECONDS:.0f} s",
                            _ALTERNATIVES,
                            UNREACHABLE,
                        )
                    time.sleep(0.1)
        finally:
            process.kill()
            process.communicate()
        log.seek(0)
        if process.returncode != 0 or not _object_path(cache, tracked.md5).is_file():
            raise _dvc_error(f"DVC remote {url}", log.read(), tracked.md5)


def _bytes_written(cache: Path, since: float) -> int:
    """Bytes that appeared under the cache since a time (seconds of the epoch), finished or not."""
    total = 0
    for folder, _, names in os.walk(cache):
        for name in names:
            try:
                status = (Path(folder) / name).stat()
            except FileNotFoundError:  # renamed between the listing and the look
                continue
            total += status.st_size if status.st_mtime >= since - 1 else 0
    return total


def _dvc_error(subject: str, output: str, md5: str = "") -> UserError:
    """Turns what DVC said into one line: it repeats itself, and its libraries print tracebacks."""
    lines = [
        line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR: ")
    ]
    reason = lines[0] if lines else output.strip().splitlines()[-1] if output.strip() else "no reason given"
    lower = output.lower()
    if "no module named dvc" in lower:
        return UserError("DVC is not installed", "make setup, or: pip install 'dvc[gs]'")
    if "requires" in reason and "dvc-" in reason:
        return UserError(
            f"{subject}: {reason}", "install the package it names into the project's environment"
        )
    if any(
        word in lower
        for word in ("credentials", "anonymous caller", "401", "403", "access denied", "forbidden")
    ):
        return UserError(
            f"{subject} refuses us: {reason}",
            "log in to that cloud (gs://: `gcloud auth application-default login`), or " + _ALTERNATIVES,
            UNREACHABLE,
        )
    if "do not exist neither locally nor on remote" in lower or "no such file" in lower or not lines:
        return UserError(f"{subject} does not hold the data with md5 {md5}", _ALTERNATIVES, UNREACHABLE)
    return UserError(f"{subject}: {reason}", _ALTERNATIVES, UNREACHABLE)
