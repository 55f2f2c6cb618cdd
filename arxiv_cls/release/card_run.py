"""What a card says of the data and the training, from `run.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from arxiv_cls.release.card_numbers import Shown, count, duration, gigabytes, number

SYNTHETIC_FILE = "arxiv_sample.csv"
"""The project's own generated papers; a card must not pass its numbers off as numbers on arXiv."""


@dataclass(frozen=True)
class Row:
    """A name and what stands beside it."""

    name: str
    value: Shown


def is_synthetic(data: Mapping[str, Any]) -> bool:
    """Whether the model was trained on the project's generated sample."""
    return PurePosixPath(str(data["csv"])).name == SYNTHETIC_FILE


def data_rows(data: Mapping[str, Any]) -> list[Row]:
    """The table of the data version."""
    # Only the file's name: a path would tell about the machine, not about the data.
    file = PurePosixPath(str(data["csv"])).name
    rows = count("run.data.rows", data["rows"])
    return [
        Row("file", Shown("run.data.rows", f"`{file}`, {rows} rows")),
        Row("md5", Shown("run.data.md5", f"`{data['md5']}`")),
        Row("sha256", Shown("run.data.sha256", f"`{data['sha256']}`")),
        Row("label set", Shown("run.data.config", f"`{data['config']}`")),
        Row("split", Shown("run.data.split", f"by {data['split']}, seed {data['seed']}")),
        *_limits(data),
        *(
            Row(f"{name} papers", count(f"run.data.splits.{name}", size))
            for name, size in data["splits"].items()
        ),
    ]


def _limits(data: Mapping[str, Any]) -> list[Row]:
    """What was set beyond the label set and the kind of split."""
    rows = []
    if data.get("time_boundaries"):
        first, second = data["time_boundaries"]
        text = f"validation from {first}, test from {second}"
        rows.append(Row("dates", Shown("run.data.time_boundaries", text)))
    if data.get("max_samples"):
        text = f"at most {data['max_samples']:,} training papers, in the order of the hash"
        rows.append(Row("cut", Shown("run.data.max_samples", text)))
    return rows


def training_rows(run: Mapping[str, Any]) -> list[Row]:
    """The table of the training run."""
    git, versions = run.get("git") or {}, run.get("versions") or {}
    commit = f"`{git['commit']}`" if git.get("commit") else "none: trained outside a commit"
    if git.get("commit") and git.get("dirty"):
        commit += ", with uncommitted changes"
    device = run["device"]
    processes = "1 process" if device["processes"] == 1 else f"{device['processes']} processes"
    machine = f"{device['name']} ({device['type']}, {device['precision']})"
    hardware = f"{machine}, {processes} of {device['threads']} CPU threads"
    rows = [
        Row("recipe", Shown("run.recipe", f"`{run['recipe']}`, seed {run['seed']}")),
        Row("commit", Shown("run.git", commit)),
        Row("hardware", Shown("run.device", hardware)),
        Row("duration", duration("run.duration_seconds", run["duration_seconds"])),
    ]
    if run.get("papers_per_second") is not None:
        speed = number("run.papers_per_second", run["papers_per_second"], 1)
        rows.append(Row("speed", Shown(speed.field, f"{speed} papers per second")))
    if run.get("peak_memory_bytes") is not None:
        rows.append(
            Row(
                f"peak memory of the {device['peak_memory_of']}",
                gigabytes("run.peak_memory_bytes", run["peak_memory_bytes"]),
            )
        )
    if versions:
        libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
        rows.append(Row("libraries", Shown("run.versions", libraries)))
    return rows
