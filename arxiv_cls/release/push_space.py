"""The files of the Space as they are pushed: the app, its README and requirements, the project's wheel."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi

import arxiv_cls
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ONNX_FILES
from arxiv_cls.record.manifest import CARD, METRICS, PREDICTION_SETS, SCOPE, TFIDF, TRANSFORMER, WEIGHTS
from arxiv_cls.release.hub import Content, check_repo_id, connect, hub_call, read_state, remote_files
from arxiv_cls.release.hub_commit import ReleaseResult, plan_release, publish
from arxiv_cls.release.push_model import ensure_repository

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


logger = logging.getLogger(__name__)

REPO_TYPE, SDK = "space", "gradio"
ONNX_FILE = ONNX_FILES["onnx"]
READ_BY_ALL = ("config.json", METRICS, PREDICTION_SETS, SCOPE)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class HubModel:
    """The model that a Space is for, as the Hub has it.

    Attributes:
        repo_id: `user/name`.
        version: its release; None when it has none.
        commit: the commit of that version.
        files: those of its files that the Space reads.
        torch: it can only be computed with torch.
        datasets: what its card names.
    """

    repo_id: str
    version: str | None
    commit: str
    files: list[str]
    torch: bool
    datasets: list[str]


def find_model(api: HfApi, model: str, *, torch: bool = False) -> HubModel:
    """Looks a model up: the version asked for, or the one that is current.

    Args:
        api: the client.
        model: `user/name` or `user/name@v1.2.0`.
        torch: compute with torch even where there is an ONNX file (ZeroGPU).

    Raises:
        UserError: no such model or version, or its files are not those of a model; exit code 3 when the Hub
            cannot be reached.
    """
    repo_id, _, asked = model.partition("@")
    check_repo_id(repo_id)
    state = read_state(api, repo_id)
    if state is None:
        raise UserError(
            f"the Hub has no model {repo_id}",
            hint="release it first: make push-model MODEL=... REPO=" + repo_id,
        )
    version = asked or state.current_version
    info = hub_call(f"reading {repo_id}", lambda: api.model_info(repo_id, revision=version or state.head))
    commit = str(info.sha)
    present = set(remote_files(api, repo_id, commit))
    if WEIGHTS[TFIDF] in present:
        wanted, torch = [WEIGHTS[TFIDF]], False
    elif ONNX_FILE in present and not torch:
        wanted = [*TOKENIZER, ONNX_FILE, "onnx/parity.json"]
    elif WEIGHTS[TRANSFORMER] in present:
        wanted, torch = [*TOKENIZER, WEIGHTS[TRANSFORMER]], True
    else:
        raise UserError(f"{model} holds no model that the Space could show: no {ONNX_FILE}, no weights")
    card = info.card_data.to_dict() if info.card_data else {}
    named = card.get("datasets") or []
    datasets = [name for name in ([named] if isinstance(named, str) else named) if str(name).count("/") == 1]
    files = [path for path in (*READ_BY_ALL, *wanted) if path in present]
    return HubModel(repo_id, version, commit, files, torch, datasets)


def push_space(
    repo_id: str, model: str, *, torch: bool = False, private: bool = False, root: Path | None = None
) -> ReleaseResult:
    """Pushes the Space for a model; created when it does not exist.

    Args:
        repo_id: `user/space`.
        model: Hub id, also `user/name@v1.2.0`; without a version the current one is taken and named.
        torch: compute with torch (ZeroGPU); else only a model without an ONNX file gets torch.
        private: create the Space private.
        root: the checkout; None for the one that this package runs from.

    Raises:
        UserError: no such model, not a checkout, the wheel cannot be built, the token is missing or refused,
            or the Hub cannot be reached (before any work, with exit code 3).
    """
    check_repo_id(repo_id)
    checkout = root or project_root()
    api = connect(write=True)
    state = read_state(api, repo_id, REPO_TYPE)
    found = find_model(api, model, torch=torch)
    if found.torch and not torch:
        logger.warning(
            "%s has no %s: the Space will install torch, which is large and slow to start", model, ONNX_FILE
        )
    with tempfile.TemporaryDirectory(prefix="arxiv_cls-space-") as folder:
        files: dict[str, Content] = space_files(
            checkout,
            Path(folder),
            repo_id,
            model=found.repo_id,
            version=found.version,
            commit=found.commit,
            files=found.files,
            datasets=found.datasets,
            torch=found.torch,
        )
        plan = plan_release(api, repo_id, state, None, files, REPO_TYPE)
        # The README of a Space is its configuration: a change of it alone is a new version too.
        if state is not None and plan.commit is not None:
            there = remote_files(api, repo_id, plan.commit, REPO_TYPE).get(CARD)
            if there is None or not there.equals(files[CARD]):
                plan = replace(plan, version=state.next_version(), commit=None, tagged=False)
        created = state is None
        state = ensure_repository(api, repo_id, state, REPO_TYPE, private, space_sdk=SDK)
        return publish(
            api,
            repo_id,
            plan,
            files,
            parent=state.head,
            repo_type=REPO_TYPE,
            description=f"Shows {found.repo_id} {found.version or found.commit}.",
            created=created,
        )
