"""What every test may use: the sample, the real CSV where it is, a tiny encoder, caches of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Before any Hugging Face library is imported: they read these once.
_CACHE = tempfile.TemporaryDirectory(prefix="arxiv_cls-tests-")
os.environ["HF_HOME"] = _CACHE.name
os.environ["HF_DATASETS_CACHE"] = str(Path(_CACHE.name) / "datasets")
os.environ["WANDB_MODE"] = "disabled"
os.environ["WANDB_DATA_DIR"] = _CACHE.name
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

import pytest  # noqa: E402
from factories import (  # noqa: E402
    ROOT,
    SAMPLE,
    TRAINED,
    RealModel,
    export_real_model,
    export_tiny,
    trained_model,
    write_encoder,
    write_transformer_recipe,
)


@pytest.fixture(scope="session")
def sample_csv() -> Path:
    """The committed synthetic sample."""
    return SAMPLE


@pytest.fixture(scope="session")
def real_csv() -> Path:
    """The real data; the test is skipped where it was not pulled."""
    path = ROOT / "data" / "raw" / "arxiv.csv"
    if not path.is_file():
        pytest.skip("data/raw/arxiv.csv is not there: make data")
    return path


@pytest.fixture(scope="session")
def real_model(real_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> RealModel:
    """A real model, exported once, and 500 real papers of the test split with what `pipeline()` says."""
    source = trained_model()
    if source is None:
        pytest.skip(f"no real model: neither {' nor '.join(map(str, TRAINED))} is there with its weights")
    return export_real_model(source, real_csv, tmp_path_factory.mktemp("real-model"))


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers and 16 hidden units with random weights and a tokenizer of the sample's words."""
    return write_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="session")
def write_recipe(tiny_encoder: Path) -> Callable[..., Path]:
    """Writes a recipe for the tiny encoder and the sample: `write_recipe(path, trainer={...})`."""
    return partial(write_transformer_recipe, encoder=tiny_encoder)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A tiny BERT classifier with its recipe and its exports; tests do not change it."""
    return export_tiny(tmp_path_factory.mktemp("exported") / "model", tiny_encoder)


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess]:
    """Runs this Python with arguments from the project's root: `run_python("arxiv_cls/train.py", recipe)`."""

    def run(*arguments: object, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=600,
            **options,
        )

    return run
