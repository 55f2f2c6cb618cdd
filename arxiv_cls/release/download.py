"""Downloads a released model, or one that a run logged to Weights & Biases, and verifies it."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from pathlib import Path

from arxiv_cls.errors import UNREACHABLE, UserError
from arxiv_cls.record.directory import check_directory, redact
from arxiv_cls.record.files import changed_files, file_sha256
from arxiv_cls.record.manifest import METRICS, files_in, model_kind
from arxiv_cls.release.gate_checks import listed
from arxiv_cls.release.hub import check_repo_id, connect, download_release
from arxiv_cls.training.trackers import read_env_file

logger = logging.getLogger(__name__)

WANDB = "wandb:"
ARTIFACT = re.compile(r"[^/:]+/[^/:]+/(?P<name>[\w.-]+):[\w.-]+")


def download_model(source: str, out: str | Path | None = None) -> Path:
    """Downloads a model, and returns its directory once every file has its recorded sha256.

    Args:
        source: `wandb:ENTITY/PROJECT/NAME:ALIAS`, or an id of the Hub, also `user/name@v1.0.0`.
        out: the directory; by default `outputs/` and the model's name.

    Raises:
        UserError: the directory is there, there is no such model, the service cannot be reached, or a file
            is not the one that was recorded.
    """
    artifact = ARTIFACT.fullmatch(source.removeprefix(WANDB))
    if source.startswith(WANDB) and artifact is None:
        raise UserError(f"{source!r} names no artifact", "it looks like wandb:ENTITY/PROJECT/NAME:ALIAS")
    repo_id, _, version = source.partition("@")
    name = artifact["name"] if artifact else check_repo_id(repo_id).partition("/")[2]
    target = Path(out or Path("outputs", name))
    if target.exists():
        raise UserError(f"{target} is there already", "name another directory with --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        staging = Path(folder, "model")
        if artifact:
            checksums = _from_wandb(artifact[0], staging)
        else:
            checksums = {}
            shutil.copytree(download_release(connect(write=False), repo_id, version or "main"), staging)
        found = [path for path in files_in(staging) if path != ".gitattributes"]
        wrong, unrecorded = changed_files(staging, found)
        if not checksums and METRICS not in found:
            wrong += [f"{path} (on no record)" for path in unrecorded]
        elif not checksums and unrecorded:
            logger.warning("no checksum on record, as in older releases: %s", listed(unrecorded))
        if checksums:
            wrong += sorted(checksums.keys() ^ {*found})
            wrong += [
                path for path in found if checksums.get(path) not in (None, file_sha256(staging / path))
            ]
        if wrong:
            raise UserError(f"{source}: not as recorded: {listed(wrong)}", "nothing was kept; ask its author")
        check_directory(staging)
        model_kind(staging)
        staging.rename(target)
    return target


def _from_wandb(name: str, folder: Path) -> dict[str, str]:
    """Downloads an artifact of type model into a new folder; returns the checksums of its metadata."""
    read_env_file(Path(".env"))
    import wandb

    try:
        artifact = wandb.Api().artifact(name, type="model")
        artifact.download(root=str(folder), skip_cache=True)
    except (wandb.Error, ValueError, OSError) as error:
        reason = redact(" ".join(str(error).split()))[:300]
        hint = "check the name, the network and the key (`wandb login` or WANDB_API_KEY)"
        raise UserError(f"{WANDB}{name} cannot be downloaded: {reason}", hint, UNREACHABLE) from None
    checksums = artifact.metadata.get("checksums")
    if not isinstance(checksums, dict) or not checksums:
        raise UserError(
            f"{WANDB}{name} has no checksums", "only a model that a run of this project logged has"
        )
    return checksums
