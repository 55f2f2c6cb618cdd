"""`run.json`: what a run was made of: the commit of its code, the data, the machine."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arxiv_cls.label_sets import OWN_LABELS

COMMIT_VARIABLE = "ARXIV_CLS_COMMIT"
SCHEMA_VERSION = 1
RECORDED_LIBRARIES = (
    "arxiv_cls", "accelerate", "datasets", "numpy", "scikit-learn", "tokenizers", "torch", "transformers",
    "xgboost", "xgboost-cpu",
)  # fmt: skip


def run_git(*arguments: str, directory: Path | None = None) -> str | None:
    """What git prints in the folder of this package; None when it fails or is not there."""
    package = directory or Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit_exists(commit: str, directory: Path | None = None) -> bool | None:
    """Whether a commit is one of this project; None where its history is not at hand."""
    if git_state(directory)["commit"] == commit:
        return True
    if run_git("ls-files", "--error-unmatch", "__init__.py", directory=directory) is None:
        return None
    if re.fullmatch(r"[0-9a-f]{40}", commit) is None:
        return False
    if run_git("cat-file", "-e", f"{commit}^{{commit}}", directory=directory) is not None:
        return True
    return None if run_git("rev-parse", "--is-shallow-repository", directory=directory) == "true" else False


def git_state(directory: Path | None = None) -> dict[str, Any]:
    """The commit of the code and whether tracked files differ from it, now.

    Only a repository that tracks this very package counts, not one whose `.venv` it is installed into. Where
    there is none, as in a container image, the environment variable `ARXIV_CLS_COMMIT` names the commit that
    the image was built from: 40 hexadecimal digits. `dvc.lock` and the data's `.dvc` files do not count: the
    pipeline notes there what its stages made, while it runs.

    Returns:
        `{"commit": 40 hex digits or None, "dirty": bool or None}`; None where it is not known.
    """
    if run_git("ls-files", "--error-unmatch", "__init__.py", directory=directory) is None:
        named = os.environ.get(COMMIT_VARIABLE, "")
        known = re.fullmatch(r"[0-9a-f]{40}", named) is not None
        return {"commit": named if known else None, "dirty": False if known else None}
    files = ("--", ":(top)", ":(top,exclude)dvc.lock", ":(top,exclude)data/raw/*.dvc")
    status = run_git("status", "--porcelain", "--untracked-files=no", *files, directory=directory)
    return {
        "commit": run_git("rev-parse", "HEAD", directory=directory),
        "dirty": None if status is None else bool(status),
    }


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its CPU affinity, and the CPU quota of its container, at least 1.

    A container with a limit of 2 CPUs on a host of 64 still sees 64 cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            # "max" in version 2 and -1 in version 1 mean no limit.
            if quota != "max" and int(quota) > 0:
                return max(1, min(cores, math.ceil(int(quota) / int(period))))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return cores


def peak_resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Largest resident memory of this process since its program started, in bytes.

    Linux's `ru_maxrss` will not do: a new program inherits it from the process that started it. `VmHWM`
    begins anew with each program.
    """
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor_name() -> str:
    """The processor's model name, as it goes on record."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as processors:
            return next(line.split(":", 1)[1].strip() for line in processors if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def data_record(corpus: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The data version, the label set and the split, as they go on record.

    The day of the newest training paper tells later which papers of another file cannot have been seen.

    Args:
        corpus: a `Corpus`.
        options: the keywords of `build_corpus` that made it.
    """
    days = [day for day in corpus.splits["train"]["published"][:] if day is not None]
    return {
        # A file of the Hub by its address with the commit, another by its name.
        "csv": corpus.data.csv if corpus.data.csv.startswith("hf:") else Path(corpus.data.csv).name,
        "md5": corpus.data.md5,
        "sha256": corpus.data.sha256,
        "bytes": corpus.data.bytes,
        "rows": corpus.data.rows,
        "config": OWN_LABELS if options.get("labels") else options.get("config", "top5"),
        "split": options.get("split", "paper"),
        "time_boundaries": options.get("time_boundaries"),
        "seed": options.get("seed", 42),
        "max_samples": options.get("max_samples"),
        **({"ratios": options["ratios"]} if options.get("ratios") else {}),
        **({"task": "multi_label"} if options.get("task") == "multi_label" else {}),
        "report": corpus.report.counts(),
        "splits": {name: len(papers) for name, papers in corpus.splits.items()},
        "newest_training_paper": max(days).isoformat() if days else None,
        "labels": list(corpus.labels),
    }


def build_run_record(
    *,
    kind: str,
    recipe: str,
    data: dict[str, Any],
    git: dict[str, Any],
    seed: int,
    device: dict[str, Any],
    started: str,
    duration_seconds: float,
    papers_per_second: float,
    peak_memory_bytes: int,
    calibration: dict[str, float],
    weights_sha256: str,
    metrics: dict[str, Any],
    overrides: Sequence[str] = (),
    training: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `run.json`.

    Args:
        recipe: its file name without folder and suffix.
        git: `git_state` before the training; the record is dirty where anything changed since: Python reads
            a module when it is first needed, so an edit meanwhile can be part of a run.
        started: ISO time, UTC.
        duration_seconds: of the training, without loading data and without the final evaluation.
        papers_per_second: papers seen in training, over that duration.
        peak_memory_bytes: of the device for a GPU, of the process for a CPU.
        overrides: words of the command line that changed the recipe; the names of the keys are recorded.
        training: what else the kind of model records, such as steps and the best epoch.
    """
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in RECORDED_LIBRARIES if name in installed}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "recipe": recipe,
        "overrides": [word[2:].partition("=")[0] for word in overrides if word.startswith("--")],
        "data": data,
        "git": git if git == git_state() else git | {"dirty": True},
        "versions": {"python": platform.python_version()} | versions,
        "seed": seed,
        "device": device,
        "started": started,
        "duration_seconds": round(duration_seconds, 2),
        "papers_per_second": round(papers_per_second, 2),
        "peak_memory_bytes": peak_memory_bytes,
        "calibration": calibration,
        "training": training or {},
        "metrics": metrics,
        "weights_sha256": weights_sha256,
    }
