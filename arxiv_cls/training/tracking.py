"""Where the numbers of a run go while it runs: the log file, Weights & Biases, a local trackio board."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transformers import TrainerCallback

from arxiv_cls.errors import UserError

CONNECT_TIMEOUT_SECONDS = 5
DEFAULT_PROJECT = "arxiv_cls"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def log_to_file(path: Path | None) -> Iterator[None]:
    """Appends what the project's loggers say to a file, with times, beside the progress bars.

    Args:
        path: None writes nowhere: of several ranks one keeps the log.
    """
    if path is None:
        yield
        return
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    project = logging.getLogger("arxiv_cls")
    level = project.level
    project.addHandler(handler)
    project.setLevel(logging.INFO)
    try:
        yield
    finally:
        project.removeHandler(handler)
        project.setLevel(level)
        handler.close()


class Trackers:
    """The open runs of the trackers that a recipe asks for; does nothing when it asks for none.

    Used with `with`: the runs are closed at its end, as failed ones when an exception ends it.

    Args:
        names: of wandb and trackio.
        run_name: what the run is called there.
        folder: the run's folder, `outputs/.checkpoints/NAME`; W&B's files go into it, and the trackio
            board of all runs lies in `outputs/.trackio`.
        config: the recipe and the data version.

    Raises:
        UserError: a tracker's package is not installed.
    """

    def __init__(self, names: list[str], run_name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._wandb = open_wandb(run_name, folder, config) if "wandb" in names else None
        self._trackio = _open_trackio(run_name, folder, config) if "trackio" in names else None

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.finish(exit_code=0 if kind is None else 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at a training step."""
        for tracker in (self._wandb, self._trackio):
            if tracker is not None:
                tracker.log(dict(values), step=step)

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """The metrics of a finished model on a split, as `validation/macro_f1`: what a sweep reads."""
        numbers = {f"{split}/{name}": value for name, value in metrics.items() if _is_number(value)}
        for tracker in (self._wandb, self._trackio):
            if tracker is not None:
                tracker.log(numbers)

    def log_final(self, evaluation: Mapping[str, Any], model_dir: Path) -> None:
        """Puts test metrics and plots on the trackio board; the evaluation itself logs to an open W&B run.

        Args:
            evaluation: from `evaluate_model`.
            model_dir: its `eval/` holds the plots, among them the confusion matrix.
        """
        if self._trackio is None:
            return
        import trackio

        metrics = evaluation["metrics"].items()
        numbers = {f"test/{name}": value for name, value in metrics if _is_number(value)}
        plots = sorted((model_dir / "eval").glob("*.png"))
        self._trackio.log(numbers | {f"test/{plot.stem}": trackio.Image(str(plot)) for plot in plots})

    def finish(self, exit_code: int = 0) -> None:
        """Closes the runs; an exit code other than 0 marks them as failed."""
        if self._wandb is not None:
            self._wandb.finish(exit_code=exit_code)
        if self._trackio is not None:
            self._trackio.finish()


class TrackerCallback(TrainerCallback):
    """Passes what the Trainer logs on to the log file and the trackers."""

    def __init__(self, trackers: Trackers) -> None:
        self.trackers = trackers

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Writes one line and one point per logged step."""
        if not state.is_world_process_zero or not logs:
            return
        numbers = {name: float(value) for name, value in logs.items() if _is_number(value)}
        line = " ".join(f"{name}={value:.5g}" for name, value in numbers.items())
        logger.info("step %d/%d %s", state.global_step, state.max_steps, line)
        prefixed = {
            f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": value
            for name, value in numbers.items()
        }
        self.trackers.log(prefixed, step=state.global_step)


def open_wandb(run_name: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """A W&B run: online with a key and a network, else offline, never with a prompt.

    `WANDB_MODE=offline` and `disabled` decide; `online` is the default said aloud. The host gets 5 seconds
    to accept a connection and 5 more to open the run. An offline run lies in `folder/wandb`; `wandb sync`
    uploads it later.

    Raises:
        UserError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("trainer.report_to: wandb is not installed", hint="make setup EXTRAS=train") from None
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    mode = os.environ.get("WANDB_MODE") or "online"
    reason = None
    if mode not in ("offline", "dryrun", "disabled"):
        reason = None if _wandb_key(host) else "no API key"
        reason = reason or (None if _reachable(host) else f"{urlsplit(host).hostname} cannot be reached")
        mode = "offline" if reason else mode
    options = {
        "project": os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT),
        "name": run_name,
        "dir": str(folder),
        "config": dict(config),
    }
    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=CONNECT_TIMEOUT_SECONDS,
        login_timeout=CONNECT_TIMEOUT_SECONDS,
    )
    run = None
    if mode != "offline":
        try:
            run = wandb.init(mode=mode, settings=settings, **options)
        except wandb.Error as error:
            reason = f"{type(error).__name__} from {urlsplit(host).hostname}"
    if run is None:
        run = wandb.init(mode="offline", settings=settings, **options)
    if reason:
        print(
            f"W&B: offline ({reason}); upload later with: wandb sync {run.settings.sync_dir}", file=sys.stderr
        )
    return run


def _open_trackio(run_name: str, folder: Path, config: Mapping[str, Any]) -> Any:
    # Read once, at import. One board for the runs of all recipes, since a board is there to compare them.
    os.environ.setdefault("TRACKIO_DIR", str(folder.resolve().parent.parent / ".trackio"))
    try:
        import trackio
    except ImportError:
        raise UserError(
            "trainer.report_to: trackio is not installed", hint="make setup EXTRAS=dev,trackio"
        ) from None
    run = trackio.init(project=DEFAULT_PROJECT, name=run_name, config=dict(config), embed=False)
    directory = os.environ["TRACKIO_DIR"]
    print(f"trackio: TRACKIO_DIR={directory} trackio show --project {DEFAULT_PROJECT}", file=sys.stderr)
    return run


def _wandb_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(host).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
