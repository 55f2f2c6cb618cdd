"""Push, and use from the Hub with an empty cache, in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from local_hub import LocalHub

from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.manifest import model_kind, release_files
from arxiv_cls.release.push_model import push_model

ROOT = Path(__file__).resolve().parents[2]

REPO = "user/arxiv-demo"

pytestmark = pytest.mark.slow

TEXTS = [
    "Parsing with sentence encoders\n\nWe fine-tune a language model for dependency parsing.",
    "Segmenting tumours\n\nA convolutional network labels every voxel of an image. "
    + "It works well. " * 200,
]
USE_FROM_HUB = """
    import json, sys
    from transformers import pipeline
    repo, texts = sys.argv[1], json.loads(sys.argv[2])
    named = pipeline("text-classification", model=repo, revision="v0.1.0")
    untold = pipeline(model=repo)
    options = {"truncation": True, "top_k": None}
    said = {"named": named(texts, **options), "untold": untold(texts, **options)}
    from arxiv_cls.models.predictor import load_predictor
    ours = [answer.scores for answer in load_predictor(f"{repo}@v0.1.0").predict(texts)]
    print(json.dumps(said | {"ours": ours}))
"""
LOAD_FROM_HUB = """
    import json, sys
    from arxiv_cls.models.predictor import load_predictor
    model = load_predictor(sys.argv[1])
    print(json.dumps([prediction.scores for prediction in model.predict(json.loads(sys.argv[2]))]))
"""


def in_new_process(program: str, *arguments: str, env: dict[str, str]) -> list | dict:
    """Runs a program that prints JSON, from another folder than the repository."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env=env,
        cwd=env["HF_HOME"],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def released(hub: LocalHub, name: str, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A fixture release that was pushed to the Hub, and the variables of a process to use it.

    The fixtures were evaluated before there were checksums, in a tree with uncommitted changes.
    """
    model_dir = shutil.copytree(ROOT / "tests/fixtures/releases/v0.1.0" / name, tmp_path / "outputs" / name)
    push_model(model_dir, REPO, overrides=["commit", "clean-tree", "checksums"])
    files = release_files(model_dir, model_kind(model_dir))
    assert set(hub.repository(REPO).files("v0.1.0")) == {".gitattributes", *files}
    (tmp_path / "home").mkdir()
    return model_dir, hub.environment(tmp_path / "home", token=None)


def test_transformer(hub: LocalHub, tmp_path: Path) -> None:
    """Labels and scores of plain `pipeline()` and of our loader are those of the directory."""
    model_dir, env = released(hub, "tiny-transformer", tmp_path)
    from_hub = in_new_process(USE_FROM_HUB, REPO, json.dumps(TEXTS), env=env)
    here = [answer.scores for answer in load_predictor(model_dir).predict(TEXTS)]
    for scores, named, untold in zip(here, from_hub["named"], from_hub["untold"], strict=True):
        assert {entry["label"]: entry["score"] for entry in named} == pytest.approx(scores, abs=1e-5)
        assert named[0]["label"] == max(scores, key=scores.get)
        assert named == untold
        assert set(scores) == {"cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"}
    assert from_hub["ours"] == [pytest.approx(scores, abs=1e-5) for scores in here]


def test_baseline(hub: LocalHub, tmp_path: Path) -> None:
    """One skops file, loaded by name from the Hub, bit for bit."""
    model_dir, env = released(hub, "tiny-tfidf", tmp_path)
    here = [answer.scores for answer in load_predictor(model_dir).predict(TEXTS)]
    assert in_new_process(LOAD_FROM_HUB, REPO, json.dumps(TEXTS), env=env) == here
