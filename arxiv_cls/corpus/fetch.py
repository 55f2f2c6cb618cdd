"""Where `data/raw/arxiv.csv` comes from: a DVC remote (`make data`) or Kaggle (`make data SOURCE=kaggle`)."""

from __future__ import annotations

import hashlib
import logging
import logging.handlers
import os
import re
import shutil
import socket
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from arxiv_cls.errors import UNREACHABLE, UserError
from arxiv_cls.record.files import file_sha256, staged

if TYPE_CHECKING:
    from dvc.repo import Repo

logger = logging.getLogger(__name__)

TRACKED_CSV = Path("data/raw/arxiv.csv")
KAGGLE_CSV = Path("data/raw/arxiv_kaggle.csv")
KAGGLE_DATASET = "sumitm004/arxiv-scientific-research-papers-dataset"
SNAPSHOT = Path("data/raw/arxiv-metadata-oai-snapshot.json")
SNAPSHOT_DATASET = "Cornell-University/arxiv"  # a new version every week: it has no known checksum
KAGGLE_MD5 = "51fb0a7e9911559e4bc0dc99fa05ae31"  # with the line ends of Windows, as Kaggle serves it
KAGGLE_SHA256_LF = "db1bcdd5d4fbd6dd3e9450fc55e22e4861e24627c09ede2e898b30b39a4199a5"  # with line feeds
_HUB_FILE = re.compile(
    r"hf:/{1,2}datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?/(?P<file>.+)"
)
REQUESTED = "requested"  # name of a remote that is in no configuration
CONNECT_SECONDS = 5.0  # a remote that does not take a connection in this time is not there
_DAMAGED = (ValueError, EOFError, zipfile.BadZipFile, zlib.error)  # what unpacking raises
ATTEMPTS = 3  # of a download from Kaggle; each goes on where the one before it broke
_REFUSED = ("credentials", "anonymous caller", "401", "403", "denied", "forbidden", "unauthorized")
_ALTERNATIVES = (
    "pass another place that holds the data: `make data REMOTE=<directory or gs://, s3://, https:// url>`, "
    "or `make data SOURCE=kaggle`; the sample needs no download: `--data.csv data/sample/arxiv_sample.csv`"
)


def local_file(path: str | Path) -> Path:
    """The file itself or, of hf://datasets/USER/NAME[@REVISION]/FILE, its copy in the Hub client's cache.

    Raises:
        UserError: the address is none, or the Hub does not give the file.
    """
    text = str(path)
    if not text.startswith("hf:"):
        return Path(path)
    match = _HUB_FILE.fullmatch(text)
    if match is None:
        raise UserError(
            f"{text}: no file of a dataset on the Hub", "hf://datasets/USER/NAME@REVISION/FOLDER/FILE"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, revision, name = match.group("repo", "revision", "file")
    try:
        return Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{text}: {' '.join(str(error).split())[:300]}", "is the name right, are you logged in?"
        ) from None


def pinned(path: str | Path, file: Path) -> str:
    """A path as it goes on record: of a file of the Hub with the commit of `file`, its `local_file`."""
    match = _HUB_FILE.fullmatch(str(path))
    if match is None:
        return str(path)
    commit = file.parts[file.parts.index("snapshots") + 1]
    return f"hf://datasets/{match['repo']}@{commit}/{match['file']}"


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes, as DVC computes it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def is_kaggle_original(csv: Path) -> bool:
    """Whether a file is the public original, in one of its two forms."""
    return file_md5(csv) == KAGGLE_MD5 or file_sha256(csv) == KAGGLE_SHA256_LF


def tracked_md5(csv: Path) -> str:
    """The checksum that `<csv>.dvc` names; a `UserError` when that is no DVC file with one output."""
    dvc_file = csv.with_name(csv.name + ".dvc")
    if not dvc_file.is_file():
        raise UserError(f"{dvc_file} is not there", "run this in the project's root folder")
    try:
        (output,) = yaml.safe_load(dvc_file.read_text(encoding="utf-8"))["outs"]
        return str(output["md5"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{dvc_file} is not a DVC file with one output that has an md5",
            f"restore it: git checkout -- {dvc_file}",
        ) from None


def fetch_from_dvc(remote: str | None = None, csv: Path = TRACKED_CSV, force: bool = False) -> str:
    """Makes `csv` what its `.dvc` file says, from DVC's cache or a remote, and says in a line what was done.

    Args:
        remote: a DVC remote url, a directory laid out as one, or the name of a configured remote; None
            takes the default of `.dvc/config`.
        csv: the tracked file, relative to the project's root, which must be the current folder.
        force: replace a file in the way whose content DVC does not know.

    Raises:
        UserError: exit code 3 when the remote cannot be reached or does not hold the data, 2 otherwise.
    """
    md5 = tracked_md5(csv)
    if csv.is_file() and file_md5(csv) == md5:
        return f"{csv} is in place: {csv.stat().st_size:,} bytes, md5 {md5}"
    with open_repository(remote) as repository:
        if csv.exists() and not force and not is_cached(csv, repository):
            raise UserError(
                f"{csv} is in the way: its content is neither what {csv}.dvc names nor known to DVC",
                f"keep it with `dvc add {csv}`, or replace it with `arxiv-cls data fetch --force`",
            )
        cached = Path(repository.cache.local.oid_to_path(md5))
        if cached.is_file() and file_md5(cached) != md5:
            # Left behind by a full disk or an edit through a link; DVC would take it as it is.
            logger.warning("%s is damaged in DVC's cache: it is fetched again", md5)
            cached.unlink()
        if not cached.is_file():
            _download(repository, remote, csv, md5)
        repository.checkout([str(csv)], force=True)
    if file_md5(csv) != md5:
        csv.unlink()
        cached.unlink(missing_ok=True)
        raise UserError(
            f"{csv}: the remote's copy has another md5 than {csv}.dvc", _ALTERNATIVES, UNREACHABLE
        )
    return f"{csv}: {csv.stat().st_size:,} bytes, md5 {md5} as {csv}.dvc names it"


def is_cached(path: Path, repository: Repo) -> bool:
    """Whether DVC's cache holds this file's content, so that replacing the file loses nothing."""
    return Path(repository.cache.local.oid_to_path(file_md5(path))).is_file()


def open_repository(remote: str | None = None) -> Repo:
    """The DVC repository in the current folder; a url or directory `remote` becomes its remote `requested`.

    Raises:
        UserError: DVC is not installed, the folder is no project, or its settings cannot be read.
    """
    try:
        from dvc.config import ConfigError
        from dvc.repo import Repo
    except ImportError:
        raise UserError("DVC is not installed", "make setup, or: pip install 'dvc[gs]'") from None
    here = Path.cwd()
    if not (here / ".dvc").is_dir():
        raise UserError(f"{here} has no .dvc folder", "run this in the project's root folder")
    settings: dict[str, Any] = {}
    if remote and ("://" in remote or Path(remote).is_dir()):
        url = remote if "://" in remote else str(Path(remote).resolve())
        settings = {"core": {"remote": REQUESTED}, "remote": {REQUESTED: {"url": url}}}
    if not any((parent / ".git").exists() for parent in (here, *here.parents)):
        # A downloaded archive of the project: DVC needs to know that nobody keeps its history.
        settings.setdefault("core", {})["no_scm"] = True
    try:
        return Repo(".", config=settings)
    except ConfigError as error:
        raise UserError(f"DVC: {error}", f"is .dvc/config changed? Or {_ALTERNATIVES}", UNREACHABLE) from None


def _download(repository: Repo, remote: str | None, csv: Path, md5: str) -> None:
    """Brings the content into DVC's cache, with DVC's own progress bar."""
    from dvc.exceptions import DvcException

    name = repository.config["core"].get("remote")
    if remote and name != REQUESTED:
        name = remote
    if name is None:
        raise UserError("no default DVC remote is configured", _ALTERNATIVES)
    if name not in repository.config["remote"]:
        what = f"DVC remote {name}: no such directory, seen from {Path.cwd()}"
        raise UserError(what, _ALTERNATIVES, UNREACHABLE)
    url = str(repository.config["remote"][name]["url"])
    _check_reachable(url)
    # DVC's messages and its libraries' tracebacks give way to one error, with the last of their reasons.
    messages = logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
    for library in ("dvc", "dvc_data", "dvc_objects", "asyncio", "gcsfs", "fsspec"):
        logging.getLogger(library).handlers = [messages]
        logging.getLogger(library).propagate = False
    try:
        fetched = repository.fetch([str(csv)], remote=name)
        reason = "" if fetched else f"does not hold the data with md5 {md5}"
    except (DvcException, ImportError, OSError) as error:
        causes = [record.exc_info[1] for record in messages.buffer if record.exc_info]
        reason = " ".join(str(causes[-1] if causes else error).split())
    if reason:
        refused = any(word in reason.lower() for word in _REFUSED)
        login = "log in to that cloud (gs://: `gcloud auth application-default login`), or "
        what = f"DVC remote {url}{' refuses us' * refused}: {reason}"
        raise UserError(what, login * refused + _ALTERNATIVES, UNREACHABLE)


def _check_reachable(url: str) -> None:
    """Fails at once where DVC would retry for a minute: connects to the remote's host once."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "gs":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com")
        parts = urllib.parse.urlsplit(emulator if "://" in emulator else f"http://{emulator}")
    elif parts.scheme == "s3":
        parts = urllib.parse.urlsplit(os.environ.get("AWS_ENDPOINT_URL", "https://s3.amazonaws.com"))
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return  # other schemes are left to DVC
    proxies = urllib.request.getproxies()
    if (proxies.get(parts.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(parts.hostname):
        return  # behind a proxy a direct connection proves nothing
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        what = f"DVC remote {url} cannot be reached: {parts.hostname}: {error.strerror or error}"
        raise UserError(what, _ALTERNATIVES, UNREACHABLE) from None


def fetch_from_kaggle(csv: Path = KAGGLE_CSV, tracked: Path = TRACKED_CSV) -> str:
    """Makes `csv` the public original from Kaggle, and `tracked` a copy of it; says in lines what was done.

    What came of a broken download is kept in `<csv>.download`, and kagglehub goes on from there. A `tracked`
    that is there stays.

    Raises:
        UserError: exit code 3 when the file cannot be had or is not the known one, 2 when the disk does not
            take it.
    """
    try:
        if csv.is_file() and is_kaggle_original(csv):
            said = f"{csv} is in place and is the known file: {csv.stat().st_size:,} bytes"
        else:
            csv.parent.mkdir(parents=True, exist_ok=True)
            _download_from_kaggle(csv, KAGGLE_DATASET)
            said = f"{csv}: {csv.stat().st_size:,} bytes, checksum as expected"
        if not tracked.exists():
            with staged(tracked) as part:
                shutil.copyfile(csv, part)
            said += f"\n{tracked}: a copy of it, for the recipes"
        return said
    except OSError as error:
        raise UserError(f"cannot write {csv}: {error.strerror or error}", "free some space") from None


def fetch_snapshot(path: Path = SNAPSHOT) -> str:
    """Makes `path` arXiv's snapshot from Kaggle where there is none; says in a line what was done.

    A newer version comes when the file is moved away. Errors are those of `fetch_from_kaggle`.
    """
    try:
        if path.is_file():
            return f"{path} is in place: {path.stat().st_size:,} bytes"
        path.parent.mkdir(parents=True, exist_ok=True)
        _download_from_kaggle(path, SNAPSHOT_DATASET)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}", "free some space") from None
    return f"{path}: {path.stat().st_size:,} bytes; train with --data.path {path}"


def _download_from_kaggle(target: Path, dataset: str) -> None:
    try:
        import kagglehub
        import requests
    except ImportError:
        raise UserError("kagglehub is not installed", "make setup, or: pip install kagglehub") from None
    folder = target.with_name(target.name + ".download")
    by_hand = (
        f"download it in a browser from https://www.kaggle.com/datasets/{dataset}, unpack it to {target} and "
        "run this again; or `make data REMOTE=<directory or url>`"
    )
    # Its `output_dir` would throw away what came of a broken download; its cache keeps it.
    os.environ["KAGGLEHUB_CACHE"] = str(folder)
    logging.getLogger("kagglehub").setLevel(logging.WARNING)
    for attempt in range(ATTEMPTS):
        try:
            kagglehub.dataset_download(dataset)
            break
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", None)
            if attempt == ATTEMPTS - 1 or (status is not None and status < 500):
                what = f"answers {status}" if status else f"cannot be reached: {_innermost(error)}"
                raise UserError(f"Kaggle {what} ({dataset})", by_hand, UNREACHABLE) from None
        except _DAMAGED as error:
            shutil.rmtree(folder)
            what = f"Kaggle: what came is no whole archive: {error}"
            raise UserError(what, by_hand, UNREACHABLE) from None
    try:
        found = sorted(folder.rglob(f"*{target.suffix}"))
        known = dataset != KAGGLE_DATASET or (len(found) == 1 and is_kaggle_original(found[0]))
        if len(found) != 1 or not known:
            kind = target.suffix.removeprefix(".").upper()
            names = ", ".join(f"{path.name} (md5 {file_md5(path)})" for path in found) or f"no {kind}"
            what = f"Kaggle: what it has as {dataset} is not the known file: {names}"
            raise UserError(what, "Kaggle may hold a newer version; " + by_hand, UNREACHABLE)
        found[0].replace(target)
    finally:
        shutil.rmtree(folder)


def _innermost(error: BaseException) -> str:
    """What went wrong with a connection, without the layers of the libraries."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return getattr(error, "strerror", None) or str(error)
