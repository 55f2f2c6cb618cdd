"""Pushes the Space for a model: the app, its README and requirements, the project's wheel."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, SpaceCard

import arxiv_cls
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ONNX_FILES
from arxiv_cls.record.manifest import (
    CARD,
    METRICS,
    ONNX_PARITY,
    PREDICTION_SETS,
    SCOPE,
    TFIDF,
    TRANSFORMER,
    WEIGHTS,
)
from arxiv_cls.release.hub import Content, Repository, check_repo_id, hub_call, same_content
from arxiv_cls.release.releases import ReleaseResult, begin_release, plan_release, publish

logger = logging.getLogger(__name__)

APP, REQUIREMENTS, CONFIG = "app.py", "requirements.txt", "space.json"
SOURCES = ("pyproject.toml", "README.md", "LICENSE")
# setuptools writes this date into the wheel (the earliest that a zip can hold), so that the same code is the
# same file and a second push finds nothing to do.
SOURCE_DATE_EPOCH = "315532800"
BUILD_TIMEOUT = 300
TORCH_REQUIREMENTS = ("safetensors", "torch", "transformers")
ONNX_FILE = ONNX_FILES["onnx"]
READ_BY_ALL = ("config.json", METRICS, PREDICTION_SETS, SCOPE)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class _HubModel:
    """The model that a Space is for, as the Hub has it."""

    repo_id: str
    version: str | None
    commit: str
    files: list[str]  # that the Space reads and downloads when it is built
    torch: bool  # whether it computes with torch
    datasets: list[str]  # that the model's card names


def _find_model(api: HfApi, model: str, *, torch: bool = False) -> _HubModel:
    """A model of the Hub, `user/name` or `user/name@v1.2.0`: that version, or the one that is current."""
    repo_id, _, asked = model.partition("@")
    check_repo_id(repo_id)
    repository = Repository(api, repo_id)
    if (state := repository.state()) is None:
        hint = f"release it first: make push-model MODEL=... REPO={repo_id}"
        raise UserError(f"the Hub has no model {repo_id}", hint)
    version = asked or state.current_version
    info = hub_call(f"reading {repo_id}", lambda: api.model_info(repo_id, revision=version or state.head))
    present = set(repository.files(str(info.sha)))
    if WEIGHTS[TFIDF] in present:
        wanted, torch = [WEIGHTS[TFIDF]], False
    elif ONNX_FILE in present and not torch:
        wanted = [*TOKENIZER, ONNX_FILE, ONNX_PARITY]
    elif WEIGHTS[TRANSFORMER] in present:
        wanted, torch = [*TOKENIZER, WEIGHTS[TRANSFORMER]], True
    else:
        raise UserError(f"{model} holds no model that the Space could show: no {ONNX_FILE}, no weights")
    named = (info.card_data.to_dict() if info.card_data else {}).get("datasets") or []
    datasets = [name for name in ([named] if isinstance(named, str) else named) if str(name).count("/") == 1]
    files = [path for path in (*READ_BY_ALL, *wanted) if path in present]
    return _HubModel(repo_id, version, str(info.sha), files, torch, datasets)


def project_root() -> Path:
    """The checkout that this package runs from.

    Raises:
        UserError: the package is installed without its sources.
    """
    root = Path(arxiv_cls.__file__).resolve().parents[1]
    missing = [name for name in (*SOURCES, f"spaces_app/{APP}") if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"push-space needs the project's sources; {root} has no {missing[0]}",
            hint="run it in a checkout: make push-space REPO=user/space MODEL=user/name",
        )
    return root


def build_wheel(root: Path, folder: Path) -> Path:
    """Builds the wheel of a checkout into a folder; the same sources give the same bytes.

    Raises:
        UserError: when the build fails.
    """
    with tempfile.TemporaryDirectory(prefix="arxiv_cls-wheel-") as scratch:
        copy = Path(scratch)
        for name in SOURCES:
            shutil.copyfile(root / name, copy / name)
        shutil.copytree(
            root / "arxiv_cls",
            copy / "arxiv_cls",
            ignore=shutil.ignore_patterns("__pycache__", ".*"),
            copy_function=shutil.copyfile,
        )
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        # With setuptools installed here nothing has to be downloaded to build with.
        isolated = importlib.util.find_spec("setuptools") is None
        options = ["--no-deps", "--wheel-dir", str(folder), *([] if isolated else ["--no-build-isolation"])]
        run = subprocess.run(
            [*pip, "wheel", *options, str(copy)],
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_TIMEOUT,
            env=os.environ | {"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH},
        )
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the wheel could not be built: {last[:300]}", "`make build` shows the whole output")
    return wheels[0]


def _render_readme(readme: str, repo_id: str, model: _HubModel) -> str:
    """The README of one Space, from spaces_app/README.md."""
    card = SpaceCard(readme)
    card.data.models, card.data.datasets = [model.repo_id], model.datasets or None
    card.data.preload_from_hub = [f"{model.repo_id} {','.join(model.files)} {model.commit}"]
    card.text = card.text.replace('Client("user/space")', f'Client("{repo_id}")')
    return card.content


def _space_files(root: Path, folder: Path, repo_id: str, model: _HubModel) -> dict[str, Content]:
    """Every file of the Space, path to content; a model without a release is named by its commit."""
    requirements = (root / "spaces_app" / REQUIREMENTS).read_text(encoding="utf-8")
    if model.torch:
        pins = (root / "constraints.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        requirements += "".join(pin for pin in pins if pin.partition("==")[0] in TORCH_REQUIREMENTS)
    wheel = build_wheel(root, folder)
    shown = f"{model.repo_id}@{model.version or model.commit}"
    config = {"model": shown, "engine": "torch" if model.torch else None}
    readme = (root / "spaces_app" / CARD).read_text(encoding="utf-8")
    return {
        APP: root / "spaces_app" / APP,
        CARD: _render_readme(readme, repo_id, model).encode(),
        REQUIREMENTS: requirements.encode(),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
        wheel.name: wheel,
    }


def push_space(repo_id: str, model: str, *, torch: bool = False, private: bool = False) -> ReleaseResult:
    """Pushes the Space `user/space` for a model, `user/name` or `user/name@v1.2.0`.

    With `torch` it computes with torch (ZeroGPU); else only a model without an ONNX file gets it.

    Raises:
        UserError: no such model, not a checkout, the wheel cannot be built, the token is missing or refused,
            or the Hub cannot be reached (before any work, with exit code 3).
    """
    root = project_root()
    repository, state = begin_release(repo_id, None, "space")
    found = _find_model(repository.api, model, torch=torch)
    if found.torch and not torch:
        logger.warning(
            "%s has no %s: the Space will install torch, which is large and slow to start", model, ONNX_FILE
        )
    with tempfile.TemporaryDirectory(prefix="arxiv_cls-space-") as folder:
        files = _space_files(root, Path(folder), repo_id, found)
        plan = plan_release(repository, state, None, files)
        # The README of a Space is its configuration: a change of it alone is a new version too.
        readme = repository.files(plan.commit).get(CARD) if plan.commit else None
        if state is not None and plan.commit and not same_content(readme, files[CARD]):
            plan = replace(plan, version=state.next_version(), commit=None, tagged=False)
        shown = f"Shows {found.repo_id} {found.version or found.commit}."
        return publish(repository, plan, files, private=private, description=shown)
