"""Trackers: what a run reports to Weights & Biases or trackio, and the finished model as an artifact."""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arxiv_cls.errors import UserError
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.manifest import release_files

CONNECT_TIMEOUT_SECONDS = 5
DEFAULT_PROJECT = "arxiv_cls"
_ENV_LINE = re.compile(
    r"""\s*(?:export\s+)?(WANDB_\w+)\s*=\s*(?P<quote>['"]?)(?P<value>.*?)(?P=quote)\s*(?:(?<=[\s=])#.*)?$"""
)

logger = logging.getLogger(__name__)


class Trackers:
    """The open runs of the trackers that a recipe asks for, closed at the end of a `with` block.

    `auto` is W&B where a key, a login or `WANDB_MODE=offline` is there, also in `.env`. The Trainer's own
    callbacks close the run before the test split and log the paths of the machine. W&B's files are in
    `folder`, the run's; the trackio board is in `outputs/.trackio`.

    Raises:
        UserError: a tracker's package is not installed, or a line of `.env` cannot be read.
    """

    def __init__(
        self, report_to: str | list[str], run_name: str, folder: Path, config: Mapping[str, Any]
    ) -> None:
        openers = {"wandb": _open_wandb, "trackio": _open_trackio}
        asked = [report_to] if isinstance(report_to, str) else report_to
        read_env_file(Path(".env"))
        names = ["wandb" if name == "auto" else name for name in asked if name != "none"]
        if why_not := _why_not_wandb(asked):
            names = [name for name in names if name != "wandb"]
            logger.info("W&B: not reported (%s)", why_not)
        self.runs = {name: openers[name](run_name, folder, dict(config)) for name in dict.fromkeys(names)}

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
        """The metrics of a split, as `validation/macro_f1`."""
        self.log(_numbers(split, metrics))

    def log_evaluation(self, evaluation: Mapping[str, Any], model_dir: Path) -> None:
        """Adds test metrics and plots to the trackio board; the evaluation itself logs to an open W&B run."""
        if "trackio" in self.runs:
            import trackio

            plots = sorted((model_dir / "eval").glob("*.png"))
            images = {f"test/{plot.stem}": trackio.Image(str(plot)) for plot in plots}
            self.runs["trackio"].log(_numbers("test", evaluation["metrics"]) | images)

    def log_data(self, data: Mapping[str, Any]) -> None:
        """The data version as W&B's input of the run: its place in a DVC remote, no content."""
        if run := self.runs.get("wandb"):
            import wandb

            artifact = wandb.Artifact(_artifact_name(data["csv"]), type="dataset", metadata=dict(data))
            md5 = data["md5"]
            artifact.add_reference(f"dvc://files/md5/{md5[:2]}/{md5[2:]}", data["csv"], checksum=False)
            # `use_artifact` refuses offline what `wandb sync` uploads later.
            run._log_artifact(artifact, aliases=["latest"], is_user_created=True, use_after_commit=True)

    def log_model(self, model_dir: Path, record: Mapping[str, Any]) -> None:
        """The files of a release as W&B's output of the run, with metrics and checksums (sha256).

        Its aliases are `latest` and, for the best run of a sweep so far, `best`; `record` is `run.json`.
        """
        if run := self.runs.get("wandb"):
            import wandb

            files = {path: model_dir / path for path in release_files(model_dir, record["kind"])}
            metrics = {split: _numbers(split, found) for split, found in record["metrics"].items()}
            metadata = {
                "metrics": {name: value for split in metrics.values() for name, value in split.items()},
                "checksums": {path: file_sha256(file) for path, file in files.items()},
                "run": {key: record[key] for key in ("recipe", "seed", "git", "weights_sha256")},
            }
            artifact = wandb.Artifact(_artifact_name(record["recipe"]), type="model", metadata=metadata)
            for path, file in files.items():
                artifact.add_file(str(file), name=path, skip_cache=True)
            best = ["best"] if _is_best_of_sweep(run, metadata["metrics"]) else []
            run.log_artifact(artifact, aliases=["latest", *best])


def _numbers(split: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{split}/{name}": value for name, value in metrics.items() if isinstance(value, float)}


def _artifact_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", Path(name).name, flags=re.ASCII)


def _is_best_of_sweep(run: Any, metrics: Mapping[str, float]) -> bool:
    """Whether no other run of the W&B sweep that this run belongs to has a better metric; False offline."""
    if not run.sweep_id or run.offline:
        return False
    import wandb

    sweep = wandb.Api().sweep(f"{run.entity}/{run.project}/{run.sweep_id}")
    metric = sweep.config.get("metric", {})
    if (name := metric.get("name")) not in metrics:
        return False
    greater = metric.get("goal") == "maximize"
    found = [one.summary.get(name) for one in sweep.runs if one.id != run.id]
    others = [value for value in found if isinstance(value, float)]
    return all(metrics[name] >= value if greater else metrics[name] <= value for value in others)


def read_env_file(path: Path) -> None:
    """Sets W&B's variables of a `.env` that the environment lacks; a shell's quotes and comments are read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if match := _ENV_LINE.match(line):
            if match["value"].startswith(("'", '"')):
                raise UserError(f"{path}, line {number}: a quote is not closed", "close it")
            os.environ.setdefault(match[1], match["value"])


def _why_not_wandb(asked: list[str]) -> str:
    """Why a run is not reported to W&B, or an empty string; `asked` is `trainer.report_to`."""
    mode = os.environ.get("WANDB_MODE") or "online"
    if not {"auto", "wandb"} & {*asked}:
        return f"trainer.report_to is {', '.join(asked)}" if asked else ""
    if mode == "disabled":
        return "WANDB_MODE is disabled"
    if "wandb" in asked or mode != "online":
        return ""
    if not _has_wandb_key():
        return "no WANDB_API_KEY and no login"
    return "" if importlib.util.find_spec("wandb") else "wandb is not installed"


def _wandb_host() -> str:
    return urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc


def _has_wandb_key() -> bool:
    # Without W&B's client, which takes a second to import, and whose own check asks the server.
    if os.environ.get("WANDB_API_KEY"):
        return True
    login = Path(os.environ.get("NETRC") or Path.home() / ("_netrc" if os.name == "nt" else ".netrc"))
    try:
        return _wandb_host() in netrc.netrc(login).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def _open_wandb(run_name: str, folder: Path, config: dict[str, Any]) -> Any:
    # Online with a key and a network, else offline; never a prompt, 10 seconds at most.
    try:
        import wandb
    except ImportError:
        raise UserError("trainer.report_to: wandb is not installed", hint="make setup EXTRAS=train") from None
    mode = os.environ.get("WANDB_MODE") or "online"
    reason = f"WANDB_MODE is {mode}" if mode != "online" else "" if _has_wandb_key() else "no API key"
    timeouts = dict.fromkeys(("init_timeout", "login_timeout"), CONNECT_TIMEOUT_SECONDS)
    options = {
        "project": os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT), "name": run_name, "dir": str(folder),
        "config": config, "settings": wandb.Settings(console="off", silent=True, **timeouts),
    }  # fmt: skip
    try:
        run = wandb.init(mode="offline" if mode == "online" and reason else mode, **options)
    except wandb.Error as error:
        if mode != "online":
            raise
        refused = isinstance(error, wandb.errors.AuthenticationError)
        what = "refuses the key" if refused else "cannot be reached"
        reason = f"{_wandb_host()} {what}: {type(error).__name__}"
        run = wandb.init(mode="offline", **options)
    if run.offline:
        logger.warning("W&B: offline (%s); upload later with: wandb sync %s", reason, run.settings.sync_dir)
    else:
        logger.info("W&B: %s", run.url)
    return run


def _open_trackio(run_name: str, folder: Path, config: dict[str, Any]) -> Any:
    # Read once, at import. One board for the runs of all recipes, since a board is there to compare them.
    directory = os.environ.setdefault("TRACKIO_DIR", str(folder.resolve().parent.parent / ".trackio"))
    try:
        import trackio
    except ImportError:
        message = "trainer.report_to: trackio is not installed"
        raise UserError(message, hint="make setup EXTRAS=dev,trackio") from None
    run = trackio.init(project=DEFAULT_PROJECT, name=run_name, config=config, embed=False)
    logger.warning("trackio: TRACKIO_DIR=%s trackio show --project %s", directory, DEFAULT_PROJECT)
    return run
