"""The local Hub for one test, with this process's client pointed at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from local_hub import TOKEN, LocalHub

from arxiv_cls.release import hub_commit as atomic_commit


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub on loopback; the client of this process uses it, with an empty cache and no waits."""
    patient = SimpleNamespace(**{name: getattr(time, name) for name in dir(time) if name[0] != "_"})
    patient.sleep = lambda seconds: None
    monkeypatch.setattr(_http, "time", patient)
    monkeypatch.setattr(atomic_commit, "time", patient)
    with LocalHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="session")
def real_baseline(
    real_csv: Path, tmp_path_factory: pytest.TempPathFactory, run_python: Callable[..., CompletedProcess]
) -> Path:
    """The model directory of `recipes/tfidf_xgboost.yaml`, trained on the real data; half a minute."""
    folder = tmp_path_factory.mktemp("real") / "tfidf_xgboost"
    recipe = "recipes/tfidf_xgboost.yaml"
    trained = run_python("arxiv_cls/train_tfidf.py", recipe, "--output_dir", folder, "--csv", real_csv)
    assert trained.returncode == 0, trained.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, sample_csv: Path) -> Path:
    """A tiny BERT classifier with its recipe, exported on 40 papers of the sample; tests do not change it."""
    import yaml
    from exported_models import classifier
    from transformers import AutoTokenizer

    from arxiv_cls.export import quantization
    from arxiv_cls.export.onnx_export import export_model

    folder = tmp_path_factory.mktemp("exported") / "model"
    classifier("bert", tiny_encoder).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    recipe = {"data": {"csv": str(sample_csv), "config": "top5"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        # Random weights leave papers between two labels; two candidates show what all would.
        patch.setattr(quantization, "WANTED_EQUAL_LABELS", 0.5)
        patch.setattr(quantization, "LEAST_EQUAL_LABELS", 0.5)
        patch.setattr(quantization, "LARGEST_ACCURACY_FALL", 0.5)
        patch.setattr(quantization, "CANDIDATES", quantization.CANDIDATES[1:3])
        export_model(folder, papers=40, search_papers=20)
    return folder
