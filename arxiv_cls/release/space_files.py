"""The files of the Space as they are pushed: the app, its README and requirements, the project's wheel."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

import arxiv_cls
from arxiv_cls.errors import UserError
from arxiv_cls.release.hub_state import Content
from arxiv_cls.release.manifest import CARD

APP, REQUIREMENTS, CONFIG = "app.py", "requirements.txt", "space.json"
WHEEL_SOURCES = ("pyproject.toml", "README.md", "LICENSE")
# setuptools writes this date into the wheel (the earliest that a zip can hold), so that the same code is the
# same file and a second push finds nothing to do.
SOURCE_DATE_EPOCH = "315532800"
BUILD_TIMEOUT = 300
TORCH_REQUIREMENTS = ("safetensors", "torch", "transformers")


def project_root() -> Path:
    """The checkout that this package runs from.

    Raises:
        UserError: the package is installed without its sources.
    """
    root = Path(arxiv_cls.__file__).resolve().parents[1]
    missing = [name for name in (*WHEEL_SOURCES, f"spaces_app/{APP}") if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"push-space needs the project's sources; {root} has no {missing[0]}",
            hint="run it in a checkout: make push-space REPO=user/space MODEL=user/name",
        )
    return root


def build_wheel(root: Path, folder: Path) -> Path:
    """Builds the project's wheel; the same sources give the same bytes.

    Args:
        root: the checkout; nothing is written there.
        folder: where the wheel goes.

    Raises:
        UserError: when the build fails.
    """
    with tempfile.TemporaryDirectory(prefix="arxiv_cls-wheel-") as scratch:
        copy = Path(scratch)
        for name in WHEEL_SOURCES:
            shutil.copyfile(root / name, copy / name)
        shutil.copytree(
            root / "arxiv_cls",
            copy / "arxiv_cls",
            ignore=shutil.ignore_patterns("__pycache__", ".*"),
            copy_function=shutil.copyfile,
        )
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--disable-pip-version-check",
            "--quiet",
        ]
        # With setuptools at hand nothing has to be downloaded to build with.
        isolated = importlib.util.find_spec("setuptools") is None
        command += ["--wheel-dir", str(folder), *([] if isolated else ["--no-build-isolation"]), str(copy)]
        environment = os.environ | {"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH}
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT, env=environment
        )
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"the wheel could not be built: {last[:300]}", hint="`make build` shows the whole output"
        )
    return wheels[0]


def split_front_matter(readme: str) -> tuple[dict[str, Any], str]:
    """The metadata and the text of a README.

    Raises:
        UserError: it has no front matter.
    """
    parts = re.split(r"^---\s*$", readme, maxsplit=2, flags=re.MULTILINE)
    if len(parts) != 3 or parts[0].strip():
        raise UserError("spaces_app/README.md has no front matter between two lines of ---")
    return yaml.safe_load(parts[1]), parts[2].lstrip("\n")


def render_readme(
    readme: str, repo_id: str, model: str, *, files: list[str], commit: str, datasets: list[str]
) -> str:
    """The README of one Space.

    Args:
        readme: spaces_app/README.md.
        repo_id: of the Space.
        model: Hub id of its model, without a version.
        files: the model's files that the Space reads: they are downloaded when it is built.
        commit: the model's commit.
        datasets: Hub ids that the model's card names.
    """
    metadata, text = split_front_matter(readme)
    metadata["models"] = [model]
    if datasets:
        metadata["datasets"] = datasets
    metadata["preload_from_hub"] = [f"{model} {','.join(files)} {commit}"]
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{front}---\n\n" + text.replace('Client("user/space")', f'Client("{repo_id}")')


def render_requirements(root: Path, *, torch: bool) -> str:
    """The requirements of the Space; with torch, for a model without an ONNX file or for ZeroGPU.

    Raises:
        UserError: constraints.txt does not pin what torch needs.
    """
    lines = (root / "spaces_app" / REQUIREMENTS).read_text(encoding="utf-8").rstrip("\n").splitlines()
    if torch:
        pins = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
        for name in TORCH_REQUIREMENTS:
            pinned = [pin for pin in pins if pin.startswith(f"{name}==")]
            if not pinned:
                raise UserError(f"constraints.txt does not pin {name}", hint="run `make lock`")
            lines += pinned
    return "\n".join(lines) + "\n"


def space_files(
    root: Path,
    folder: Path,
    repo_id: str,
    *,
    model: str,
    version: str | None,
    commit: str,
    files: list[str],
    datasets: list[str],
    torch: bool,
) -> dict[str, Content]:
    """Every file of the Space, path to content.

    Args:
        root: the checkout.
        folder: where the wheel is built.
        repo_id: of the Space.
        model: Hub id of the model.
        version: its release; None for what its main branch holds at the time of the push.
        commit: the model's commit.
        files: the model's files that the Space reads.
        datasets: Hub ids that the model's card names.
        torch: the Space computes with torch.

    Raises:
        UserError: when the wheel cannot be built.
    """
    wheel = build_wheel(root, folder)
    config = {"model": f"{model}@{version or commit}", "engine": "torch" if torch else None}
    readme = (root / "spaces_app" / CARD).read_text(encoding="utf-8")
    readme = render_readme(readme, repo_id, model, files=files, commit=commit, datasets=datasets)
    return {
        APP: root / "spaces_app" / APP,
        CARD: readme.encode(),
        REQUIREMENTS: render_requirements(root, torch=torch).encode(),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
        wheel.name: wheel,
    }
