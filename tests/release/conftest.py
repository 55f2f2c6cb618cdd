"""The local Hub for one test, with this process's client pointed at it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
from factories import DATA_SHA256, make_model_dir
from huggingface_hub import constants
from huggingface_hub.utils import _http
from local_hub import TOKEN, LocalHub

from arxiv_cls.release import hub as hub_client
from arxiv_cls.release import push_model as gate
from arxiv_cls.release.gate_checks import CheckResult


@pytest.fixture(autouse=True)
def _nobody_scores_with_made_up_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of `make_model_dir` have no real weights and data: the checks that need them pass."""
    for name in ("check_corpus", "check_answers"):
        real = getattr(gate, name)

        def check(model, data, problem="", *, name=name, real=real):
            made_up = model.run["data"]["sha256"] == DATA_SHA256
            passed = CheckResult(name.removeprefix("check_"), True, "-", "-", "made up")
            return passed if made_up else real(model, data, problem)

        monkeypatch.setattr(gate, name, check)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that passes the gate."""
    return make_model_dir(tmp_path / "model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub on loopback; the client of this process uses it, with an empty cache and no waits."""
    patient = SimpleNamespace(**{name: getattr(time, name) for name in dir(time) if name[0] != "_"})
    patient.sleep = lambda seconds: None
    monkeypatch.setattr(_http, "time", patient)
    monkeypatch.setattr(hub_client, "time", patient)
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
def whole_model(exported: Path, sample_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `exported` with every file that a release may hold; tests change copies of it."""
    from factories import PNG, run_record, write_json

    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.record.directory import read_model_directory, write_release_group
    from arxiv_cls.record.files import file_sha256, update_file, write_step_record
    from arxiv_cls.record.manifest import CASCADE, CASCADE_REFERENCE, REFERENCE, ROBUSTNESS, ROBUSTNESS_PLOT
    from arxiv_cls.record.run_record import data_record
    from arxiv_cls.scoring import out_of_scope
    from arxiv_cls.scoring.evaluation import evaluate_model
    from arxiv_cls.scoring.plots import visualize_model
    from arxiv_cls.scoring.scored_papers import data_options, ensure_examples

    folder = tmp_path_factory.mktemp("whole") / "model"
    shutil.copytree(exported, folder)
    for name in ("vocab.txt", "merges.txt", "spiece.model"):
        (folder / name).write_text("[PAD]\n")
    for name in ("special_tokens_map.json", "added_tokens.json", "vocab.json"):
        write_json(folder / name, {})
    (folder / "training_curve.png").write_bytes(PNG)
    weights, options = file_sha256(folder / "model.safetensors"), {"config": "top5"} | data_options(folder)
    run = run_record("transformer", weights)
    write_json(folder / "run.json", run | {"data": data_record(build_corpus(**options), options)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(out_of_scope, "FEWEST_PAPERS", 5)
        evaluate_model(folder)
    visualize_model(folder, max_papers=20)
    cascade = {
        "schema_version": 1, "engine": "onnx", "transformer_sha256": weights, "baseline_sha256": "0" * 64,
        "threshold": 0.9, "max_tokens": 64, "set_threshold": 0.9,
    }  # fmt: skip
    shutil.copy(folder / REFERENCE, folder / CASCADE_REFERENCE)
    change = {"change": "typos", "severity": 0.1, "accuracy": 0.7, "macro_f1": 0.6, "risk": "low"}
    robustness = {"schema_version": 1, "weights_sha256": weights, "papers": 20, "accuracy": 0.75}
    changes = [change | {"accuracy_change": [-0.05, -0.1, 0.0], "noticed": 0.5}]
    write_json(folder / ROBUSTNESS, robustness | {"changes": changes})
    (folder / ROBUSTNESS_PLOT).write_bytes(PNG)
    update_file(folder, ROBUSTNESS)
    update_file(folder, ROBUSTNESS_PLOT)
    write_step_record(cascade, folder, CASCADE)
    write_release_group(folder, folder / "recipe.yaml")
    ensure_examples(read_model_directory(folder))
    return folder
