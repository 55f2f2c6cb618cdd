"""What every test may use: the sample, the real CSV where it is, a tiny encoder, caches of their own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before any Hugging Face library is imported: they read these once.
_CACHE = tempfile.TemporaryDirectory(prefix="arxiv_cls-tests-")
os.environ["HF_HOME"] = _CACHE.name
os.environ["HF_DATASETS_CACHE"] = str(Path(_CACHE.name) / "datasets")
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

import pytest  # noqa: E402
from real_model import TRAINED, RealModel, export_real_model, trained_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def sample_csv() -> Path:
    """The committed synthetic sample."""
    return ROOT / "data" / "sample" / "arxiv_sample.csv"


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
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, sample_csv: Path) -> Path:
    """A BERT of 2 layers and 16 hidden units with random weights and a tokenizer of the sample's words."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    directory = tmp_path_factory.mktemp("tiny") / "encoder"
    with sample_csv.open(encoding="utf-8", newline="") as file:
        texts = [row["title"] + "\n\n" + row["summary"] for row in csv.DictReader(file)]
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(texts, vocab_size=800, show_progress=False)
    directory.mkdir()
    words.save(str(directory / "words.json"))
    tokenizer = BertTokenizerFast(tokenizer_file=str(directory / "words.json"), model_max_length=128)
    (directory / "words.json").unlink()
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def write_recipe(tiny_encoder: Path, sample_csv: Path) -> Callable[..., Path]:
    """Writes a recipe for the tiny encoder and the sample: `write_recipe(path, trainer={...})`."""
    import yaml

    def write(path: Path, **groups: dict) -> Path:
        recipe = {
            "model": {"name_or_path": str(tiny_encoder), "max_length": 64},
            "data": {"csv": str(sample_csv), "max_samples": 96},
            "trainer": {
                "num_train_epochs": 2,
                "per_device_train_batch_size": 16,
                "learning_rate": 1.0e-3,
                "logging_steps": 1,
                "use_cpu": True,
                "precision": "fp32",
                "cpu_threads": 1,
            },
        }
        for group, keys in groups.items():
            recipe.setdefault(group, {}).update(keys)
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return path

    return write


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
