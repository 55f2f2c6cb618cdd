"""The services of `arxiv-cls cloud` on loopback, and a folder with recipes and data to submit."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import google.auth
import pytest
import yaml
from google.auth.exceptions import DefaultCredentialsError
from google.oauth2.credentials import Credentials
from huggingface_hub import constants
from local_google import API, LocalGoogle
from local_hub_jobs import LocalHubJobs, LocalRegistry

from arxiv_cls.cli import main
from arxiv_cls.cloud import google_api, hf_jobs, vertex
from arxiv_cls.errors import UserError

TOKEN = "hf_" + "loopback" * 4
CANARY = "canary-0123456789abcdef"


def signed_in(scopes: list[str], **others: object) -> tuple[Credentials, str]:
    """Credentials for REST; none for gcsfs's look over gRPC, which no server on loopback answers."""
    if others:
        raise DefaultCredentialsError("none for gRPC")
    return Credentials("access-token"), "papers"


@pytest.fixture
def registry() -> Iterator[LocalRegistry]:
    with LocalRegistry() as server:
        yield server


@pytest.fixture
def google_cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalGoogle]:
    """Google's services, with an account signed in."""
    with LocalGoogle() as server:
        for service in API:
            monkeypatch.setenv(
                f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}", f"{server.url}/{service}"
            )
        monkeypatch.setattr(google.auth, "default", signed_in)
        monkeypatch.setattr(google_api, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(vertex, "POLL_SECONDS", 0.01)
        server.quota = {"other": {}, "third": {}, "custom_model_training_nvidia_l4_gpus": {"us-central1": 1}}
        server.secrets = {"projects/papers/secrets/wandb/versions/3": ("ENABLED", CANARY.encode())}
        yield server


@pytest.fixture
def hub_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHubJobs]:
    """Hugging Face Jobs, with a user signed in."""
    with LocalHubJobs(TOKEN) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "INFERENCE_ENDPOINTS_ENDPOINT", f"{server.url}/v2")
        monkeypatch.setattr(google_api, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(hf_jobs, "POLL_SECONDS", 0.01)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("WANDB_KEY_HERE", CANARY)
        yield server


@pytest.fixture
def run(capsys, caplog) -> Callable[..., tuple[int, str]]:
    """Runs a command; its exit status and all that it printed. A secret in either fails the test."""

    def call(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        caplog.set_level(logging.DEBUG)
        try:
            status = main([str(word) for word in words]) or 0
        except UserError as error:
            status, told = error.exit_code, str(error)
            printed = capsys.readouterr()
            assert CANARY not in printed.out + printed.err + told + caplog.text
            return status, told
        printed = capsys.readouterr()
        assert CANARY not in printed.out + printed.err + caplog.text
        return status, printed.out + printed.err

    return call


@pytest.fixture
def write_cloud_recipe(
    tmp_path: Path, registry: LocalRegistry, sample_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Writes a cloud recipe of a small baseline in a new working directory, whose CSV is the sample."""
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes", "data/raw"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(sample_csv, tmp_path / "data/raw/arxiv.csv")
    training = {
        "model": {"classifier": "linear", "min_df": 1, "components": 0},
        "data": {"csv": "data/raw/arxiv.csv"},
    }
    (tmp_path / "recipes/small.yaml").write_text(yaml.safe_dump(training))
    common = {
        "recipe": "recipes/small.yaml", "program": "arxiv_cls/train_tfidf.py", "image": registry.image,
        "max_hours": 2, "overrides": ["--trainer.seed=7"],
    }  # fmt: skip
    backends = {
        "vertex": {
            "machine": "g2-standard-8", "accelerator": "NVIDIA_L4", "accelerators": 1,
            "region": "us-central1",
            "data": "gs://bucket/data/arxiv.csv", "output": "gs://bucket/models",
            "secrets": {"WANDB_API_KEY": "projects/papers/secrets/wandb/versions/3"},
        },
        "hf": {
            "machine": "l4x4", "namespace": "user", "data": "hf://datasets/user/csv/arxiv.csv",
            "output": "hf://buckets/user/models/runs", "secrets": {"WANDB_API_KEY": "WANDB_KEY_HERE"},
        },
    }  # fmt: skip

    def write(backend: str, **changes: object) -> Path:
        path = tmp_path / f"{backend}.yaml"
        path.write_text(yaml.safe_dump({"backend": backend} | common | backends[backend] | changes))
        return path

    return write
