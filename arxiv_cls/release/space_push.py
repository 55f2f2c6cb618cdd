"""Pushes the web demo as a Hugging Face Space: app, wheel and the model's name in one commit, then a tag."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import ONNX_FILES
from arxiv_cls.release.atomic_commit import ReleaseResult, plan_release, publish
from arxiv_cls.release.hub_client import check_repo_id, connect, hub_errors
from arxiv_cls.release.hub_push import ensure_repository
from arxiv_cls.release.hub_state import Content, read_state, remote_files
from arxiv_cls.release.manifest import CARD, METRICS, PREDICTION_SETS, SCOPE, TFIDF, TRANSFORMER, WEIGHTS
from arxiv_cls.release.space_files import project_root, space_files

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
    with hub_errors(f"reading {repo_id}"):
        info = api.model_info(repo_id, revision=version or state.head)
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
        state = ensure_repository(api, repo_id, state, REPO_TYPE, private, space_sdk=SDK)
        return publish(
            api,
            repo_id,
            plan,
            files,
            parent=state.head,
            repo_type=REPO_TYPE,
            description=f"Shows {found.repo_id} {found.version or found.commit}.",
        )
