"""The folder of a run in progress, beside the model directory: checkpoints, log, trackers' files.

`outputs/.checkpoints/<name>/` belongs to the run; `outputs/<name>/` appears only when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainerCallback

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import CARD, MANIFEST, files_in

COMPLETE = "complete"
ENDED = "ended"
STATE = "run_state.json"
FINISHED = "run.json"
STARTING_WEIGHTS = "starting weights sha256"
# Runs from before these keys were kept can be resumed: what they had then, None where it is not known.
BEFORE_IT_WAS_KEPT = {STARTING_WEIGHTS: None, "data.near_duplicates": "keep"}

logger = logging.getLogger(__name__)


class RunFolder:
    """Where a run writes, and what may be in the way.

    Args:
        model_dir: the model directory that the run will become.
    """

    def __init__(self, model_dir: str | Path) -> None:
        self.model_dir = Path(model_dir)
        self.folder = self.model_dir.parent / ".checkpoints" / self.model_dir.name
        self.staging = self.folder / "model"
        self.replaced = self.folder / "replaced"
        self.log_file = self.folder / "train.log"

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps other runs out of the folder until the block, or this process, ends.

        A launcher that is killed leaves its training process alive, and a second run beside it would take
        its checkpoints for its own.

        Raises:
            UserError: another run is at work there, or the folder cannot be made.
        """
        holder = self.folder / "process"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.is_file() else "an unknown process"
            raise UserError(
                f"{self.folder}: another run is at work there ({who})",
                hint="Wait for it, or end that process and go on with --resume; or --trainer.output_dir DIR.",
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written: {error.strerror or error}",
                hint="Name another directory: --trainer.output_dir DIR.",
            ) from None
        try:
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def prepare(self, fingerprint: dict[str, Any], *, resume: bool, overwrite: bool) -> Path | None:
        """Clears or keeps what earlier runs left, and notes what this run is.

        Only what a run needs to go on is ever cleared: logs, profiles and trackers' files stay.

        Args:
            fingerprint: what must be the same for a run to be resumed, as flat keys.
            resume: go on from the last whole checkpoint.
            overwrite: a finished or unfinished run may be replaced; together with `resume`, an unfinished
                run of the same recipe and data is gone on with, and any other is replaced.

        Returns:
            The checkpoint to go on from, or None to start.

        Raises:
            UserError: a run is in the way, or it cannot be resumed with this recipe and data.
        """
        self._put_back_replaced()
        self._check_model_dir(overwrite)
        checkpoints = self.checkpoints()
        if overwrite and not (checkpoints and self._changes(fingerprint) == []):
            resume = False
        if resume:
            self._check_same(fingerprint)
            for torn in set(self.folder.glob("checkpoint-*")) - set(checkpoints):
                shutil.rmtree(torn)
        elif checkpoints and not overwrite:
            raise UserError(
                f"{self.folder}: holds an unfinished run (last checkpoint: {checkpoints[-1].name})",
                hint="--resume goes on with it, --overwrite starts again.",
            )
        else:
            for stale in self.folder.glob("checkpoint-*"):
                shutil.rmtree(stale)
        for unfinished in (self.staging, self.replaced):
            shutil.rmtree(unfinished, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / STATE).write_text(json.dumps(fingerprint, indent=2), encoding="utf-8")
        if resume and not checkpoints:
            logger.warning("no whole checkpoint in %s: the run starts from the beginning", self.folder)
        return checkpoints[-1] if resume and checkpoints else None

    def checkpoints(self) -> list[Path]:
        """The checkpoints that were written to their end, oldest first."""
        whole = [path.parent for path in self.folder.glob(f"checkpoint-*/{COMPLETE}")]
        return sorted(whole, key=lambda path: int(path.name.rpartition("-")[2]))

    def publish(self) -> None:
        """Makes the staged directory the model directory in one rename, and drops the checkpoints."""
        shutil.rmtree(self.replaced, ignore_errors=True)
        if self.model_dir.exists():
            self.model_dir.rename(self.replaced)
        self.staging.rename(self.model_dir)
        for spent in (self.replaced, *self.folder.glob("checkpoint-*")):
            shutil.rmtree(spent, ignore_errors=True)

    def _put_back_replaced(self) -> None:
        """Restores the older model where a run was killed between the two renames of `publish`."""
        if self.replaced.is_dir() and not self.model_dir.exists():
            self.replaced.rename(self.model_dir)

    def _check_model_dir(self, overwrite: bool) -> None:
        if not self.model_dir.exists():
            return
        if not self.model_dir.is_dir():
            raise UserError(f"{self.model_dir}: is a file; trainer.output_dir names a directory")
        if not any(self.model_dir.iterdir()):
            self.model_dir.rmdir()
        elif not (self.model_dir / FINISHED).is_file() and not (overwrite and self._holds_remains()):
            # Whatever this is, no run of ours wrote it: --overwrite must not delete it.
            raise UserError(
                f"{self.model_dir}: is not empty and holds no model of this project",
                hint="Name another directory: --trainer.output_dir DIR.",
            )
        elif not overwrite:
            raise UserError(
                f"{self.model_dir}: a finished run is in the way",
                hint="--overwrite replaces it once the new one is whole; or --trainer.output_dir DIR.",
            )

    def _holds_remains(self) -> bool:
        """Whether nothing but later steps' files of a model is there: DVC takes those of training away."""
        found = set(files_in(self.model_dir))
        later = {entry.path for entry in MANIFEST if entry.evaluated or entry.path.startswith("onnx/")}
        return found <= {entry.path for entry in MANIFEST} and (not found or bool(found & (later - {CARD})))

    def _changes(self, fingerprint: dict[str, Any]) -> list[str] | None:
        """What differs from the unfinished run, a line per key; None when there is no such run."""
        try:
            before = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        now = json.loads(json.dumps(fingerprint))
        for key, then in BEFORE_IT_WAS_KEPT.items():
            if key in now:
                before.setdefault(key, now[key] if then is None else then)
        return [
            f"  - {key}: was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(set(before) | set(now))
            if before.get(key) != now.get(key)
        ]

    def _check_same(self, fingerprint: dict[str, Any]) -> None:
        changed = self._changes(fingerprint)
        if changed is None:
            raise UserError(f"{self.folder}: no unfinished run to resume", hint="Start it without --resume.")
        if changed:
            raise UserError(
                f"{self.folder}: cannot be resumed, the recipe or the data differ:\n" + "\n".join(changed),
                hint="Undo the change to resume, or --overwrite to start again.",
            )


class MarkComplete(TrainerCallback):
    """Writes a mark into each checkpoint after its last file: without it, a checkpoint counts as torn.

    The mark holds the seconds of training so far, so that a resumed run knows how long it took in all, and
    the word `ended` where nothing was left to train: the Trainer forgets an early stop when it goes on.

    Args:
        checkpoint: the one that this run goes on from, or None.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        seconds, _, ended = (
            (checkpoint / COMPLETE).read_text().partition(" ") if checkpoint else ("0", "", "")
        )
        self._before = float(seconds)
        self._start = time.monotonic()
        self.ended = ended == ENDED

    def seconds(self) -> float:
        """Seconds of training so far, those before a kill included up to the checkpoint."""
        return self._before + time.monotonic() - self._start

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_save(self, args, state, control, **kwargs) -> None:
        """Marks the checkpoint of this step."""
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            ended = f" {ENDED}" if control.should_training_stop else ""
            (checkpoint / COMPLETE).write_text(f"{self.seconds():.2f}{ended}", encoding="utf-8")
