"""Train, push, and use from the Hub with an empty cache, in real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from local_hub import LocalHub

from arxiv_cls.record.manifest import TFIDF, TRANSFORMER, release_files

ROOT = Path(__file__).resolve().parents[2]

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
    print(json.dumps({"named": named(texts, **options), "untold": untold(texts, **options)}))
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


def push(hub: LocalHub, model_dir: Path, repo: str, kind: str, home: Path, *overrides: str) -> None:
    """`arxiv-cls push-model` puts exactly the files of the manifest there.

    A tree with uncommitted changes does not stop these tests.
    """
    options = [f"--override={name}" for name in ("commit", "clean-tree", *overrides)]
    pushed = subprocess.run(
        [sys.executable, "-m", "arxiv_cls.cli", "push-model", str(model_dir), "--repo", repo, *options],
        env=hub.environment(home),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert pushed.returncode == 0, pushed.stderr[-3000:]
    released = set(hub.repository(repo).files("v0.1.0"))
    assert released == {".gitattributes", *release_files(model_dir, kind)}


class TestTrainPushUse:
    """The same scores here and from the Hub."""

    @pytest.mark.parametrize("trained", ["here", "earlier"])
    def test_transformer(
        self,
        hub: LocalHub,
        tmp_path: Path,
        run_python: Callable[..., subprocess.CompletedProcess],
        trained: str,
    ) -> None:
        """The demo recipe's model, and the fixture release: labels and scores of plain `pipeline()`."""
        model_dir, home = tmp_path / "outputs" / "demo", tmp_path / "home"
        home.mkdir()
        if trained == "here":
            done = run_python(
                "arxiv_cls/train.py", "recipes/demo.yaml", "--trainer.output_dir", model_dir,
                "--data.max_samples", 32, "--trainer.num_train_epochs", 1, "--trainer.precision", "fp32",
                "--trainer.cpu_threads", 1,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
        else:
            shutil.copytree(ROOT / "tests/fixtures/releases/v0.1.0/tiny-transformer", model_dir)
        # The fixture was evaluated before there were checksums.
        overrides = () if trained == "here" else ("checksums",)
        push(hub, model_dir, "user/arxiv-demo", TRANSFORMER, tmp_path / "pusher", *overrides)
        assert len(hub.repository("user/arxiv-demo").history("main")) == 2

        env = hub.environment(home, token=None)
        from_hub = in_new_process(USE_FROM_HUB, "user/arxiv-demo", json.dumps(TEXTS), env=env)
        here = in_new_process(LOAD_FROM_HUB, str(model_dir), json.dumps(TEXTS), env=env)
        for scores, named, untold in zip(here, from_hub["named"], from_hub["untold"], strict=True):
            assert {entry["label"]: entry["score"] for entry in named} == pytest.approx(scores, abs=1e-5)
            assert named[0]["label"] == max(scores, key=scores.get)
            assert named == untold
            assert set(scores) == {"cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"}
        ours = in_new_process(LOAD_FROM_HUB, "user/arxiv-demo@v0.1.0", json.dumps(TEXTS), env=env)
        assert ours == [pytest.approx(scores, abs=1e-5) for scores in here]

    def test_baseline(
        self, hub: LocalHub, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess]
    ) -> None:
        """The same for TF-IDF: one skops file, loaded by name from the Hub, bit for bit."""
        model_dir, home = tmp_path / "outputs" / "tfidf", tmp_path / "home"
        home.mkdir()
        trained = run_python(
            "arxiv_cls/train_tfidf.py", "recipes/tfidf_linear.yaml", "--trainer.output_dir", model_dir,
            "--data.csv", "data/sample/arxiv_sample.csv", "--trainer.cpu_threads", 1,
        )  # fmt: skip
        assert trained.returncode == 0, trained.stderr[-3000:]
        push(hub, model_dir, "user/arxiv-tfidf", TFIDF, tmp_path / "pusher")
        env = hub.environment(home, token=None)
        here = in_new_process(LOAD_FROM_HUB, str(model_dir), json.dumps(TEXTS), env=env)
        assert in_new_process(LOAD_FROM_HUB, "user/arxiv-tfidf", json.dumps(TEXTS), env=env) == here
