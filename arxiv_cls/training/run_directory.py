"""A training run: its directory of checkpoints and logs, and all that it has made so far.

`outputs/.checkpoints/<name>/` belongs to the run; `outputs/<name>/` appears only when it is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from arxiv_cls.corpus import Corpus, build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.recipe import portable_path, recorded
from arxiv_cls.record.directory import redact
from arxiv_cls.record.files import file_sha256, update_file, write_json
from arxiv_cls.record.manifest import CARD, MANIFEST, RUN_RECORD, TERMS_PLOT, files_in
from arxiv_cls.record.run_record import build_run_record, data_record, git_state
from arxiv_cls.scoring.evaluation import evaluate_loaded
from arxiv_cls.scoring.plots import plot_terms, plot_training_curve
from arxiv_cls.scoring.scored_papers import LoadedModel, write_examples
from arxiv_cls.training.interruption import MARKER
from arxiv_cls.training.remote import CheckpointMirror, copy_model
from arxiv_cls.training.trackers import Trackers

COMPLETE = "complete"
STATE = "run_state.json"
PUBLISHING = "publishing"  # in a model directory that is not whole yet
# A mount point, another disk, a parent directory that is not ours to write.
NO_RENAME = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM)
ELSEWHERE = "Name another directory: --trainer.output_dir DIR."

logger = logging.getLogger(__name__)


class RunDirectory:
    """Where a run writes before it becomes `model_dir`, and what may be in the way."""

    def __init__(self, model_dir: str | Path) -> None:
        self.model_dir = Path(model_dir)
        # Of a symlink, what it points to is replaced, not the link.
        self.target = self.model_dir.resolve()
        self.folder = self.model_dir.parent / ".checkpoints" / self.model_dir.name
        self.staging = self.folder / "model"
        self.replaced = self.folder / "replaced"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other runs out until the block, or this process, ends.

        A launcher that is killed leaves its training process alive.

        Raises:
            UserError: another run is at work there, or the folder cannot be made.
        """
        holder, lock = self.folder / "process", FileLock(self.folder / "lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.is_file() else "an unknown process"
            hint = "Wait for it, or end that process and go on with --resume; or --trainer.output_dir DIR."
            raise UserError(f"{self.folder}: another run is at work there ({who})", hint) from None
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self.folder}: cannot be written: {reason}", ELSEWHERE) from None
        try:
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def prepare(self, fingerprint: dict[str, Any], *, resume: bool, overwrite: bool) -> Path | None:
        """Clears or keeps the checkpoints of earlier runs; logs, profiles and trackers' files always stay.

        Args:
            fingerprint: what must be the same for a run to be resumed, as flat keys.
            resume: go on from the last complete checkpoint.
            overwrite: a finished or unfinished run may be replaced; together with `resume`, an unfinished
                run of the same recipe and data is resumed, and any other is replaced.

        Returns:
            The checkpoint to go on from, or None to start.

        Raises:
            UserError: a run is in the way, or it cannot be resumed with this recipe and data.
        """
        if self.replaced.is_dir() and not self.target.exists():
            # A run was killed between the two renames of `publish`.
            self.replaced.rename(self.target)
        self._check_model_dir(overwrite)
        checkpoints, changes = self.checkpoints(), self._changes(fingerprint)
        resume = resume and not (overwrite and (not checkpoints or changes != []))
        if resume and changes is None:
            raise UserError(f"{self.folder}: no unfinished run to resume", hint="Start it without --resume.")
        if resume and changes:
            raise UserError(
                f"{self.folder}: cannot be resumed, the recipe or the data differ:\n" + "\n".join(changes),
                hint="Undo the change to resume, or --overwrite to start again.",
            )
        if checkpoints and not resume and not overwrite:
            raise UserError(
                f"{self.folder}: holds an unfinished run (last checkpoint: {checkpoints[-1].name})",
                hint="--resume goes on with it, --overwrite starts again.",
            )
        kept = checkpoints if resume else []
        for stale in {self.staging, self.replaced, *self.folder.glob("checkpoint-*")} - set(kept):
            if stale.exists():
                shutil.rmtree(stale)
        write_json(fingerprint, self.folder / STATE)
        if resume and not kept:
            logger.warning("no whole checkpoint in %s: the run starts from the beginning", self.folder)
        return kept[-1] if kept else None

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        complete = [path.parent for path in self.folder.glob(f"checkpoint-*/{COMPLETE}")]
        return sorted(complete, key=lambda path: int(path.name.rpartition("-")[2]))

    def publish(self) -> None:
        """Makes the staged directory the model directory, and drops the checkpoints.

        In one rename; a mount point or a directory on another disk is filled file by file, and holds a file
        `publishing` until it is whole.
        """
        shutil.rmtree(self.replaced, ignore_errors=True)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self.target.exists():
                self.target.rename(self.replaced)
            self.staging.rename(self.target)
        except OSError as error:
            if self.replaced.exists():
                self.replaced.rename(self.target)
            if error.errno not in NO_RENAME:
                raise
            self._fill_target()
        for spent in (self.staging, self.replaced, *self.folder.glob("checkpoint-*")):
            shutil.rmtree(spent, ignore_errors=True)

    def _fill_target(self) -> None:
        self.target.mkdir(exist_ok=True)
        mark = self.target / PUBLISHING
        mark.touch()
        for path in self.target.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != mark:
                path.unlink()
        shutil.copytree(self.staging, self.target, dirs_exist_ok=True)
        mark.unlink()

    def _check_model_dir(self, overwrite: bool) -> None:
        if not self.target.exists() or (self.target / PUBLISHING).exists():
            return
        if not self.target.is_dir():
            raise UserError(f"{self.model_dir}: is a file; trainer.output_dir names a directory")
        if not any(self.target.iterdir()):
            return
        if not (self.target / RUN_RECORD).is_file() and not (overwrite and self._holds_later_files()):
            # Whatever this is, no run of ours wrote it: --overwrite must not delete it.
            raise UserError(f"{self.model_dir}: is not empty and holds no model of this project", ELSEWHERE)
        if not overwrite:
            hint = "--overwrite replaces it once the new one is whole; or --trainer.output_dir DIR."
            raise UserError(f"{self.model_dir}: a finished run is in the way", hint)

    def _holds_later_files(self) -> bool:
        # DVC removes the files of the training before it runs, and leaves those of later steps.
        found = set(files_in(self.target))
        later = {entry.path for entry in MANIFEST if entry.evaluated or entry.path.startswith("onnx/")}
        return found <= {entry.path for entry in MANIFEST} and (not found or bool(found & (later - {CARD})))

    def _changes(self, fingerprint: dict[str, Any]) -> list[str] | None:
        """What differs from the unfinished run, a line per key; None when there is no such run."""
        try:
            before = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        now = json.loads(json.dumps(fingerprint))
        return [
            f"  - {key}: was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(set(before) | set(now))
            if before.get(key) != now.get(key)
        ]


class TrainingRun(contextlib.ExitStack):
    """What a run of a recipe has made so far; each step adds its part.

    Used with `with`: trackers, log file and lock are closed at its end, trackers as failed after an error.
    """

    corpus: Corpus  # after `build_corpus`
    record: dict[str, Any]  # content of `run.json`, after `write_record`
    evaluation: dict[str, Any]  # content of `eval/metrics.json`, after `evaluate`
    mirror: CheckpointMirror | None = None  # of the main process, where an address is given

    def __init__(self, recipe: Any, overrides: Sequence[str]) -> None:
        super().__init__()
        self.recipe, self.overrides = recipe, overrides
        self.directory = RunDirectory(recipe.trainer.output_dir or f"outputs/{recipe.name}")
        self.recorded_recipe = recorded(recipe)
        output_dir = portable_path(self.directory.model_dir.as_posix())
        self.recorded_recipe["trainer"]["output_dir"] = output_dir
        # Where and for how long a machine ran says nothing of the model.
        for key in ("checkpoint_dir", "max_hours"):
            self.recorded_recipe["trainer"].pop(key, None)
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.git = git_state()
        self.trackers = Trackers([], recipe.name, self.directory.folder, {})

    def build_corpus(self) -> None:
        """Reads the CSV, or takes the splits from the cache."""
        options = dataclasses.asdict(self.recipe.data)
        self.data_options = {key: value for key, value in options.items() if value is not None}
        self.corpus = build_corpus(**self.data_options)
        self.data = data_record(self.corpus, self.data_options)

    def begin(self, fingerprint: dict[str, Any], *, resume: bool, overwrite: bool) -> Path | None:
        """Takes the directory, opens log file and trackers; arguments and result as of `prepare`."""
        self.enter_context(self.directory.lock())
        address = getattr(self.recipe.trainer, "checkpoint_dir", None) or os.environ.get("AIP_CHECKPOINT_DIR")
        if address and hasattr(self.recipe.trainer, "checkpoint_dir"):
            state = self.directory.folder / STATE
            self.mirror = CheckpointMirror(address, state, self.directory.checkpoints)
            self.mirror.fetch(resume=resume, overwrite=overwrite)
        checkpoint = self.directory.prepare(fingerprint, resume=resume, overwrite=overwrite)
        (self.directory.folder / MARKER).unlink(missing_ok=True)
        if self.mirror:
            self.mirror.start()
        self.directory.staging.mkdir()
        self._log_to_file()
        config = {"recipe": self.recorded_recipe, "data": self.data}
        trackers = Trackers(self.recipe.trainer.report_to, self.recipe.name, self.directory.folder, config)
        self.trackers = self.enter_context(trackers)
        self.trackers.log_data(self.data)
        logger.info("%s", self.corpus.report_line())
        return checkpoint

    def _log_to_file(self) -> None:
        handler = logging.FileHandler(self.directory.folder / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        project = logging.getLogger("arxiv_cls")
        self.callback(handler.close)
        self.callback(project.setLevel, project.level)
        self.callback(project.removeHandler, handler)
        project.addHandler(handler)
        project.setLevel(logging.INFO)

    def write_record(
        self, predictor: Any, seconds: float, history: list[dict[str, float]], **measured: Any
    ) -> None:
        """Adds `recipe.yaml`, plots and `run.json` to the staged weights.

        Args:
            predictor: over the weights in memory, which are those that were saved.
            seconds, history: of the training.
            measured: further arguments of `build_run_record`, among them `training` with `papers_seen`.
        """
        staging = self.directory.staging
        recipe = yaml.safe_dump(self.recorded_recipe, sort_keys=False, allow_unicode=True)
        (staging / "recipe.yaml").write_text(recipe, encoding="utf-8")
        plot_training_curve(history, staging / "training_curve.png")
        if hasattr(predictor, "top_terms"):
            plot_terms(
                {label: predictor.top_terms(label) for label in predictor.labels}, staging / TERMS_PLOT
            )
        self.record = build_run_record(
            kind=predictor.kind, recipe=self.recipe.name, data=self.data, git=self.git, started=self.started,
            seed=self.recipe.trainer.seed, overrides=self.overrides, duration_seconds=seconds,
            papers_per_second=measured["training"]["papers_seen"] / seconds,
            weights_sha256=file_sha256(predictor.weights_path), **measured,
        )  # fmt: skip
        write_json(self.record, staging / RUN_RECORD)
        self.trackers.log_metrics("validation", self.record["metrics"]["validation"])

    def evaluate(self, predictor: Any) -> None:
        """Scores the test split and the card's examples, and adds the metrics to the record."""
        staging, weights_sha256 = self.directory.staging, self.record["weights_sha256"]
        loaded = LoadedModel(staging, predictor, self.corpus, self.data_options, weights_sha256)
        self.evaluation = evaluate_loaded(loaded, folder=staging / "eval")
        self.record["metrics"]["test"] = self.evaluation["metrics"]
        write_json(self.record, staging / RUN_RECORD)
        update_file(staging, RUN_RECORD)
        write_examples(predictor, weights_sha256)
        self.trackers.log_evaluation(self.evaluation, staging)

    def publish(self) -> None:
        """Makes the staged model the model directory; W&B and `AIP_MODEL_DIR`, where set, get copies."""
        self.directory.publish()
        state = "" if "test" in self.record["metrics"] else ", not evaluated yet"
        logger.info("model directory%s: %s", state, self.directory.model_dir)
        if address := os.environ.get("AIP_MODEL_DIR"):
            copy_model(self.directory.target, address)
        if self.mirror:
            self.mirror.clear()
        try:
            self.trackers.log_model(self.directory.model_dir, self.record)
        except Exception as error:  # the model is there, whatever W&B's client raises
            logger.warning("W&B: the model was not logged: %s: %s", type(error).__name__, redact(str(error)))
