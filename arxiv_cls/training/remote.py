"""Copies of a run's checkpoints and of its model in a bucket or on a mount: its machine may be taken away."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UNREACHABLE, UserError
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.storage import file_system, storage_errors

# Written last, with the sha256 of each file: a folder without it is incomplete.
MARK = "complete.json"

logger = logging.getLogger(__name__)


def _put_folder(folder: Path, filesystem: Any, target: str) -> dict[str, str]:
    """Uploads a folder, its mark last, and returns the sha256 of each file by its path."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    mark = f"{target}/{MARK}"
    if filesystem.exists(mark):
        filesystem.rm_file(mark)
    for name in files:
        filesystem.put_file(str(folder / name), f"{target}/{name}")
    filesystem.pipe_file(mark, json.dumps({"files": files}, indent=2).encode())
    return files


def copy_model(model_dir: Path, address: str) -> None:
    """Copies a finished model directory to an address, with `complete.json`, and reads it back.

    Raises:
        UserError: it cannot be written, or what is there is not what was sent.
    """
    with storage_errors(f"{address}, for the model that is whole in {model_dir}", "written"):
        filesystem, target = file_system(address.rstrip("/"))
        for name, sha256 in _put_folder(model_dir, filesystem, target).items():
            with filesystem.open(f"{target}/{name}", "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise UserError(f"{address}: {name} is not as it was sent", exit_code=UNREACHABLE)
    logger.info("model directory copied to %s", address)


class CheckpointMirror:
    """The whole checkpoints of a run under `<address>/<name of the run>/`, kept as they are on this machine.

    Uploads go on in a thread beside the training, of hard links: the Trainer may delete a checkpoint
    meanwhile. Where they are slower than the training, only the last checkpoints are uploaded.

    Args:
        address: a folder, such as gs://bucket/checkpoints or /gcs/bucket/checkpoints.
        state: the file that says what the run trains; it lies in the folder of the run.
        checkpoints: lists the whole checkpoints on this machine, oldest first.

    Raises:
        UserError: the address cannot be read (every method but `update` and `flush`, which log it).
    """

    def __init__(self, address: str, state: Path, checkpoints: Callable[[], list[Path]]) -> None:
        self.folder, self.state, self.checkpoints = state.parent, state, checkpoints
        self.address = f"{address.rstrip('/')}/{self.folder.name}"
        self._fs, self._root = file_system(self.address)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._upload: Future[None] | None = None
        self._outgoing, self._seen = self.folder / "uploading", set[str]()
        self.problem = ""

    def fetch(self, *, resume: bool, overwrite: bool) -> None:
        """Brings the newest whole checkpoint here, and the best one it names, unless a newer one is here.

        Raises:
            UserError: an unfinished run is there and neither switch was given, or another than is here.
        """
        with storage_errors(self.address):
            whole = self._whole()
            if not resume:
                if whole and not overwrite:
                    hint = "--resume goes on with it, --overwrite starts again."
                    raise UserError(f"{self.address}: holds an unfinished run (last: {whole[-1]})", hint)
                return
            here = self.checkpoints()
            state = self._fs.cat_file(f"{self._root}/{self.state.name}") if whole else b""
            if whole and here and state != self.state.read_bytes():
                hint = "Delete the one that should not go on, or --overwrite without --resume to drop both."
                raise UserError(f"{self.folder} and {self.address} hold different runs", hint)
            for name in reversed(whole):
                if here and _step(name) <= _step(here[-1].name):
                    return
                if self._fetch_with_best(name):
                    self.state.write_bytes(state)
                    logger.info("%s fetched from %s", name, self.address)
                    return

    def start(self) -> None:
        """Deletes there what is not here, and says there what the run trains."""
        shutil.rmtree(self._outgoing, ignore_errors=True)
        with storage_errors(self.address, "written"):
            self._delete_all_but({path.name for path in self.checkpoints()})
            self._fs.put_file(str(self.state), f"{self._root}/{self.state.name}")
            self._seen = set(self._whole())
        self.update()

    def update(self) -> None:
        """Has the thread upload new checkpoints and delete old ones."""
        for checkpoint in self.checkpoints():
            if checkpoint.name not in self._seen:
                self._seen.add(checkpoint.name)
                _link_files(checkpoint, self._outgoing / checkpoint.name)
        if self._upload is None or self._upload.running() or self._upload.done():
            self._upload = self._thread.submit(self._synchronize)

    def flush(self) -> str:
        """Waits for the uploads; returns what went wrong with the last one, or nothing."""
        if self._upload is not None:
            self._upload.result()
        return self.problem

    def clear(self) -> None:
        """Deletes the copies of a run that has ended."""
        self.flush()
        with storage_errors(self.address, "written"):
            self._fs.rm(self._root, recursive=True)

    def _whole(self) -> list[str]:
        """Names of the checkpoints there that have their mark, oldest first."""
        found = self._fs.glob(f"{self._root}/checkpoint-*/{MARK}")
        return sorted((path.rsplit("/", 2)[-2] for path in found), key=_step)

    def _fetch_with_best(self, name: str) -> bool:
        try:
            checkpoint = self._fetch(name)
            trainer_state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            best = Path(trainer_state["best_model_checkpoint"] or name).name
            if not (self.folder / best).is_dir():
                self._fetch(best)
        except (FileNotFoundError, ValueError, KeyError) as error:
            logger.warning("%s/%s: incomplete (%s), stepped over", self.address, name, error)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            return False
        return True

    def _fetch(self, name: str) -> Path:
        source, partial = f"{self._root}/{name}", self.folder / "fetching"
        shutil.rmtree(partial, ignore_errors=True)
        files = json.loads(self._fs.cat_file(f"{source}/{MARK}"))["files"]
        for path, sha256 in files.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(f"{source}/{path}", str(partial / path))
            if file_sha256(partial / path) != sha256:
                raise ValueError(f"{path} is not as it was uploaded")
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return partial.rename(self.folder / name)

    def _synchronize(self) -> None:
        try:
            here = {path.name for path in self.checkpoints()}
            outgoing = {path.name for path in self._outgoing.glob("checkpoint-*")}
            for name in outgoing - here:
                shutil.rmtree(self._outgoing / name)
            for name in sorted(outgoing & here, key=_step, reverse=True):
                _put_folder(self._outgoing / name, self._fs, f"{self._root}/{name}")
                shutil.rmtree(self._outgoing / name)
            self._delete_all_but(here)
            self.problem = ""
        except Exception as error:
            # Training goes on: the next checkpoint is the next try.
            self.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            logger.warning("%s: the last checkpoint was not uploaded: %s", self.address, self.problem)

    def _delete_all_but(self, kept: set[str]) -> None:
        for folder in self._fs.glob(f"{self._root}/checkpoint-*"):
            if folder.rsplit("/", 1)[-1] not in kept:
                # The mark goes first: what is left after an interruption is incomplete.
                if self._fs.exists(f"{folder}/{MARK}"):
                    self._fs.rm_file(f"{folder}/{MARK}")
                self._fs.rm(folder, recursive=True)


def _step(name: str) -> int:
    return int(name.rpartition("-")[2])


def _link_files(folder: Path, target: Path) -> None:
    """Makes a folder of hard links, at once: it is there with all its files or not at all."""
    partial = target.with_name("linking")
    shutil.rmtree(partial, ignore_errors=True)

    def link(source: str, copy: str) -> None:
        try:
            os.link(source, copy)
        except OSError:
            # A file system without hard links.
            shutil.copy2(source, copy)

    shutil.copytree(folder, partial, copy_function=link)
    partial.rename(target)
