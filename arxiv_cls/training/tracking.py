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
    """The open runs of the trackers that a recipe asks for, closed at the end of a `with` block.

    The Trainer's own callbacks close the run before the test split and log the paths of the machine.

    Args:
        names: wandb, trackio, both or none.
        run_name: of the run there.
        folder: `outputs/.checkpoints/NAME` for W&B's files; the trackio board is in `outputs/.trackio`.
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
        self.log(_numbers(split, metrics))

    def log_evaluation(self, evaluation: Mapping[str, Any], model_dir: Path) -> None:
        """Adds test metrics and plots to the trackio board; the evaluation itself logs to an open W&B run."""
        if "trackio" in self.runs:
            import trackio

            plots = sorted((model_dir / "eval").glob("*.png"))
            images = {f"test/{plot.stem}": trackio.Image(str(plot)) for plot in plots}
            self.runs["trackio"].log(_numbers("test", evaluation["metrics"]) | images)


def is_number(value: Any) -> bool:
    """Whether a logged value fits on a curve."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(split: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{split}/{name}": value for name, value in metrics.items() if is_number(value)}


def _open_wandb(run_name: str, folder: Path, config: dict[str, Any]) -> Any:
    """A W&B run: online with a key and a network, else offline; never a prompt, 10 seconds at most."""
    try:
        import wandb
    except ImportError:
        raise UserError("trainer.report_to: wandb is not installed", hint="make setup EXTRAS=train") from None
    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = url.hostname or ""
    mode = os.environ.get("WANDB_MODE") or "online"
    reason = None
    if mode not in ("offline", "dryrun", "disabled"):
        port = url.port or (80 if url.scheme == "http" else 443)
        reason = _why_offline(host, port)
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
        folder = run.settings.sync_dir
        print(f"W&B: offline ({reason}); upload later with: wandb sync {folder}", file=sys.stderr)
    return run


def _why_offline(host: str, port: int) -> str | None:
    """The reason; None with a key and a connection."""
    try:
        in_netrc = netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        in_netrc = False
    if not os.environ.get("WANDB_API_KEY") and not in_netrc:
        return "no API key"
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS):
            return None
    except OSError:
        return f"{host} cannot be reached"


def _open_trackio(run_name: str, folder: Path, config: dict[str, Any]) -> Any:
    # Read once, at import. One board for the runs of all recipes, since a board is there to compare them.
    directory = os.environ.setdefault("TRACKIO_DIR", str(folder.resolve().parent.parent / ".trackio"))
    try:
        import trackio
    except ImportError:
        message = "trainer.report_to: trackio is not installed"
        raise UserError(message, hint="make setup EXTRAS=dev,trackio") from None
    run = trackio.init(project=DEFAULT_PROJECT, name=run_name, config=config, embed=False)
    print(f"trackio: TRACKIO_DIR={directory} trackio show --project {DEFAULT_PROJECT}", file=sys.stderr)
    return run
