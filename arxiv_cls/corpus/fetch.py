"""One DVC command in a process of its own: its libraries print tracebacks and retry for minutes."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from arxiv_cls.errors import UserError

# It ends with ours, whose end closes its standard input: an orphan would go on and hold DVC's lock.
_DVC_PROGRAM = """
import os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from dvc.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_dvc(
    arguments: list[str], environment: Mapping[str, str], watch: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Runs `dvc <arguments>` and waits for it.

    Args:
        arguments: the command line after `dvc`.
        environment: all environment variables of the process.
        watch: called ten times a second while it runs; what it raises ends the process.

    Returns:
        The exit status, and everything that was printed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _DVC_PROGRAM, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        try:
            while process.poll() is None:
                watch()
                time.sleep(0.1)
        finally:
            process.kill()
            process.communicate()
        log.seek(0)
        return process.returncode, log.read()


logger = logging.getLogger(__name__)

TRACKED_CSV = Path("data/raw/arxiv.csv")
REQUESTED = "requested"  # name of a remote that is in no configuration
UNREACHABLE = 3  # exit status: not the input but the other side is at fault
CONNECT_SECONDS = 5.0  # a remote that does not take a connection in this time is not there
STALL_SECONDS = 90.0  # a download that brings nothing for this long is given up
_ALTERNATIVES = (
    "pass another place that holds the data: `make data REMOTE=<directory or gs://, s3://, https:// url>`, "
    "or `make data SOURCE=kaggle`; the sample needs no download: `--data.csv data/sample/arxiv_sample.csv`"
)


@dataclass(frozen=True)
class TrackedFile:
    """What a `.dvc` file says about the one file it tracks."""

    path: Path
    md5: str
    size: int  # bytes


@dataclass(frozen=True)
class _Settings:
    """The part of DVC's configuration that matters here."""

    cache: Path
    remotes: dict[str, str]  # name: url
    default_remote: str | None


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
    settings = _read_settings()
    cached = _object_path(settings.cache, tracked.md5)
    if csv.exists() and not force and not _object_path(settings.cache, file_md5(csv)).is_file():
        raise UserError(
            f"{csv} is in the way: its content is neither what {csv}.dvc names nor known to DVC",
            f"keep it with `dvc add {csv}`, or replace it with `arxiv-cls data fetch --force`",
        )
    if cached.is_file() and file_md5(cached) != tracked.md5:
        # Left behind by a full disk or an edit through a link; DVC would hand it out as it is.
        logger.warning("%s is damaged in DVC's cache: it is fetched again", tracked.md5)
        cached.unlink()
    with tempfile.TemporaryDirectory(prefix="arxiv-cls-dvc-") as configuration:
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SYSTEM_CONFIG_DIR": configuration}
        if not cached.is_file():
            name, url = _choose_remote(remote, settings)
            _check_reachable(url)
            _write_configuration(Path(configuration), name, url)
            _download(csv, name, environment, settings.cache, tracked, url)
        _write_configuration(Path(configuration))
        status, output = run_dvc(["checkout", "--force", str(csv)], environment)
        if status != 0:
            raise _dvc_error("dvc checkout", output, tracked.md5)
    if not is_in_place(tracked):
        csv.unlink(missing_ok=True)
        cached.unlink(missing_ok=True)
        raise UserError(
            f"{csv}: the remote's copy has another md5 than {csv}.dvc names", _ALTERNATIVES, UNREACHABLE
        )
    return f"{csv}: {tracked.size:,} bytes, md5 {tracked.md5} as {csv}.dvc names it"


def is_cached(path: Path) -> bool:
    """Whether DVC's cache holds this file's content, so that replacing the file loses nothing."""
    return _object_path(_read_settings().cache, file_md5(path)).is_file()


def _object_path(cache: Path, md5: str) -> Path:
    """Where DVC 3 keeps the content with this checksum; a folder that is a remote looks the same."""
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _read_settings() -> _Settings:
    """DVC's own reading of its configuration files, in the current folder."""
    try:
        from dvc.config import Config, ConfigError
    except ImportError:
        raise UserError("DVC is not installed", "make setup, or: pip install 'dvc[gs]'") from None
    if not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()} has no .dvc folder", "run this in the project's root folder")
    try:
        read = Config(dvc_dir=".dvc")
    except ConfigError as error:
        raise UserError(f".dvc/config: {error}", "restore it: git checkout -- .dvc/config") from None
    remotes = {name: str(remote.get("url", "")) for name, remote in read["remote"].items()}
    cache = Path(read["cache"].get("dir") or ".dvc/cache")
    return _Settings(cache.resolve(), remotes, read["core"].get("remote"))


def _choose_remote(remote: str | None, settings: _Settings) -> tuple[str, str]:
    """The name and url of the remote to ask; one that is not configured is named `requested`."""
    name = remote or settings.default_remote
    if name is None or (remote is None and name not in settings.remotes):
        raise UserError("no default DVC remote is configured", _ALTERNATIVES)
    if name in settings.remotes:
        return name, settings.remotes[name]
    if "://" in name:
        return REQUESTED, name
    if not Path(name).is_dir():
        raise UserError(
            f"DVC remote {name}: no such directory, seen from {Path.cwd()}", _ALTERNATIVES, UNREACHABLE
        )
    return REQUESTED, str(Path(name).resolve())


def _write_configuration(folder: Path, name: str = "", url: str = "") -> None:
    """Writes what this one call needs where DVC looks for the machine's own configuration."""
    from configobj import ConfigObj  # type: ignore[import-untyped]  # comes with DVC

    configuration = ConfigObj(encoding="utf-8")
    configuration.filename = str(folder / "config")
    here = Path.cwd()
    if not any((parent / ".git").exists() for parent in (here, *here.parents)):
        # A downloaded archive of the project: DVC needs to be told that nobody keeps its history.
        configuration["core"] = {"no_scm": True}
    if name == REQUESTED:
        configuration[f'remote "{name}"'] = {"url": url}
    configuration.write()


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
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return  # other schemes are left to DVC and the stall limit
    proxies = urllib.request.getproxies()
    if (proxies.get(parts.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(parts.hostname):
        return  # behind a proxy a direct connection proves nothing
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"DVC remote {url} cannot be reached: {parts.hostname}: {reason}", _ALTERNATIVES, UNREACHABLE
        ) from None


def _download(
    csv: Path, name: str, environment: Mapping[str, str], cache: Path, tracked: TrackedFile, url: str
) -> None:
    """Brings the content into the cache, with a progress bar of our own: DVC draws none when it is read."""
    started = time.time()
    with tqdm(total=tracked.size, unit="B", unit_scale=True, desc=csv.name, delay=1) as bar:
        last_growth = time.monotonic()

        def watch() -> None:
            nonlocal last_growth
            here = min(_bytes_written(cache, started), tracked.size)
            if here > bar.n:
                bar.update(here - bar.n)
                last_growth = time.monotonic()
            if time.monotonic() - last_growth > STALL_SECONDS:
                message = f"DVC remote {url}: nothing came for {STALL_SECONDS:.0f} s"
                raise UserError(message, _ALTERNATIVES, UNREACHABLE)

        status, output = run_dvc(["fetch", "--remote", name, str(csv)], environment, watch)
    if status != 0 or not _object_path(cache, tracked.md5).is_file():
        raise _dvc_error(f"DVC remote {url}", output, tracked.md5)


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


def _dvc_error(subject: str, output: str, md5: str) -> UserError:
    """Turns what DVC said into one line: it repeats itself, and its libraries print tracebacks."""
    errors = [
        line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR: ")
    ]
    # A bucket may be public, so DVC goes on without credentials and only mentions it.
    no_login = "credentials were not found" in output
    if not errors:
        reason = f"does not hold the data with md5 {md5}" + (
            ", or hides it: no credentials were found" * no_login
        )
        return UserError(f"{subject} {reason}", _ALTERNATIVES, UNREACHABLE)
    reason = errors[0]
    if "is supported, but requires" in reason:
        return UserError(
            f"{subject}: {reason}", "install the package it names into the project's environment"
        )
    refused = ("credentials", "anonymous caller", "401", "403", "access denied", "forbidden", "unauthorized")
    if any(word in reason.lower() for word in refused):
        hint = "log in to that cloud (gs://: `gcloud auth application-default login`), or " + _ALTERNATIVES
        return UserError(f"{subject} refuses us: {reason}", hint, UNREACHABLE)
    return UserError(f"{subject}: {reason}", _ALTERNATIVES, UNREACHABLE)
