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

from arxiv_cls.errors import UserError

CONNECT_TIMEOUT_SECONDS = 5
DEFAULT_PROJECT = "arxiv_cls"


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Appends the messages of the project's loggers to a file, with times."""
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

    Used with `with`: the runs are closed at its end, as failed ones when an exception ends it. The Trainer's
    own callbacks will not do: they close the run before the test split, and log every path of the machine.

    Args:
        names: of wandb and trackio.
        run_name: what the run is called there.
        folder: `outputs/.checkpoints/NAME`; W&B's files go into it, and the trackio board of all runs lies
            in `outputs/.trackio`.
        config: the recipe and the data version.

    Raises:
        UserError: a tracker's package is not installed.
    """

    def __init__(self, names: list[str], run_name: str, folder: Path, config: Mapping[str, Any]) -> None:
        openers = {"wandb": _open_wandb, "trackio": _open_trackio}
        self.runs = {name: openers[name](run_name, folder, dict(config)) for name in names}

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for name, run in self.runs.items():
            run.finish(**({"exit_code": int(kind is not None)} if name == "wandb" else {}))

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers, at a training step where one is given."""
        for run in self.runs.values():
            run.log(dict(values), step=step)

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """The metrics of the finished model on a split, as `validation/macro_f1`: what a sweep reads."""
        self.log({f"{split}/{name}": value for name, value in metrics.items() if is_number(value)})

    def log_evaluation(self, evaluation: Mapping[str, Any], model_dir: Path) -> None:
        """Adds test metrics and plots to the trackio board; the evaluation itself logs to an open W&B run.

        Args:
            evaluation: the content of `eval/metrics.json`.
            model_dir: its `eval/` holds the plots.
        """
        if "trackio" in self.runs:
            import trackio

            plots = sorted((model_dir / "eval").glob("*.png"))
            images = {f"test/{plot.stem}": trackio.Image(str(plot)) for plot in plots}
            metrics = evaluation["metrics"].items()
            numbers = {f"test/{name}": value for name, value in metrics if is_number(value)}
            self.runs["trackio"].log(numbers | images)


def is_number(value: Any) -> bool:
    """Whether a logged value fits on a curve."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _open_wandb(run_name: str, folder: Path, config: dict[str, Any]) -> Any:
    """A W&B run: online with a key and a network, else offline; it never asks and never waits for long.

    The host gets 5 seconds to accept a connection and 5 more to open the run.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("trainer.report_to: wandb is not installed", hint="make setup EXTRAS=train") from None
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = urlsplit(url).hostname or ""
    mode = os.environ.get("WANDB_MODE") or "online"
    reason = None
    if mode not in ("offline", "dryrun", "disabled"):
        reason = "no API key" if not _has_wandb_key(host) else _unreachable(url)
        mode = "offline" if reason else mode
    timeouts = dict.fromkeys(("init_timeout", "login_timeout"), CONNECT_TIMEOUT_SECONDS)
    options = {
        "project": os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT), "name": run_name, "dir": str(folder),
        "config": config, "settings": wandb.Settings(console="off", silent=True, **timeouts),
    }  # fmt: skip
    try:
        run = wandb.init(mode=mode, **options)
    except wandb.Error as error:
        if mode == "offline":
            raise
        reason = f"{type(error).__name__} from {host}"
        run = wandb.init(mode="offline", **options)
    if reason:
        print(
            f"W&B: offline ({reason}); upload later with: wandb sync {run.settings.sync_dir}", file=sys.stderr
        )
    return run


def _has_wandb_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _unreachable(url: str) -> str | None:
    """Why there is no connection; None when there is one."""
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_SECONDS):
            return None
    except OSError:
        return f"{parts.hostname} cannot be reached"


def _open_trackio(run_name: str, folder: Path, config: dict[str, Any]) -> Any:
    # Read once, at import. One board for the runs of all recipes, since a board is there to compare them.
    directory = os.environ.setdefault("TRACKIO_DIR", str(folder.resolve().parent.parent / ".trackio"))
    try:
        import trackio
    except ImportError:
        raise UserError(
            "trainer.report_to: trackio is not installed", hint="make setup EXTRAS=dev,trackio"
        ) from None
    run = trackio.init(project=DEFAULT_PROJECT, name=run_name, config=config, embed=False)
    print(f"trackio: TRACKIO_DIR={directory} trackio show --project {DEFAULT_PROJECT}", file=sys.stderr)
    return run
