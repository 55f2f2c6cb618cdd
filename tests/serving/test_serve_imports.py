"""What serving brings into memory: no training, no trackers, and with the ONNX engine no torch."""

from __future__ import annotations

import json

import pytest

HEAVY = ("torch", "transformers", "wandb", "dvc", "datasets", "evaluate", "sklearn", "pandas", "pyarrow")
ANSWER_ONE = """
import json, sys, time
from starlette.testclient import TestClient
from arxiv_cls.serving.app import create_app
from arxiv_cls.serving.settings import ServingSettings
import arxiv_cls.serving.server
app = create_app(ServingSettings(model=sys.argv[1], threads=1))
with TestClient(app) as client:
    while client.get("/health").status_code == 503:
        assert app.state.endpoint.failure is None, app.state.endpoint.failure
        time.sleep(0.05)
    code = client.post("/predict", json={"text": "vision"}).json()["code"]
print(json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""


class TestImports:
    """The modules of a process that has answered a request."""

    def test_onnx(self, run_python, models_dir):
        """Neither torch nor transformers, nor anything that only training needs."""
        done = run_python("-c", ANSWER_ONE, models_dir / "tiny")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.splitlines()[-1])
        assert answer["code"] == "cs.CV"
        assert not set(HEAVY) & set(answer["modules"])
        assert not [name for name in answer["modules"] if name.startswith("arxiv_cls.training")]

    @pytest.mark.slow
    def test_baseline(self, run_python):
        """A baseline answers without torch, transformers, trackers and datasets."""
        done = run_python("-c", ANSWER_ONE, "tests/fixtures/releases/v0.1.0/tiny-tfidf")
        assert done.returncode == 0, done.stderr
        modules = set(json.loads(done.stdout.splitlines()[-1])["modules"])
        assert not {"torch", "transformers", "wandb", "dvc", "datasets", "evaluate"} & modules
