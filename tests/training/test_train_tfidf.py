"""Tests of arxiv_cls/train_tfidf.py: the model directory, determinism, a kill in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from factories import ROOT, SAMPLE
from tqdm import tqdm

from arxiv_cls import train_tfidf
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.manifest import files_in, foreign_files, missing_files
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.training import tfidf_fit

XGBOOST, LINEAR = (ROOT / "recipes" / f"tfidf_{name}.yaml" for name in ("xgboost", "linear"))
TEXT = "Parsing sentences\n\nWe parse sentences of a language with a grammar."


def arguments(recipe: Path, output: Path, *more: str) -> list[str]:
    """The command line of a short run on the sample."""
    overrides = ["--data.csv", str(SAMPLE), "--trainer.output_dir", str(output), "--num_train_epochs", "2"]
    return [str(recipe), *overrides, *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two rounds of the XGBoost recipe."""
    output = tmp_path_factory.mktemp("outputs") / "tfidf_xgboost"
    train_tfidf.main(arguments(XGBOOST, output))
    return output


class TestModelDirectory:
    """What a run leaves behind."""

    def test_files_are_those_of_the_manifest(self, trained):
        """Nothing required is missing, nothing else is there, and the staging folder is empty."""
        assert missing_files(trained, "tfidf") == []
        assert foreign_files(trained, "tfidf") == []
        assert not (trained.parent / ".checkpoints" / "tfidf_xgboost" / "model").exists()

    def test_run_record(self, trained):
        """The record names data, weights, rounds and calibration, and both splits' metrics."""
        record = json.loads((trained / "run.json").read_text())
        assert record["kind"] == "tfidf"
        assert record["weights_sha256"] == file_sha256(trained / "model.skops")
        assert record["data"]["sha256"] == file_sha256(SAMPLE)
        assert record["training"]["rounds"] == 2
        assert set(record["metrics"]) == {"validation", "test"}
        assert record["calibration"]["temperature"] > 0
        evaluation = json.loads((trained / "eval" / "metrics.json").read_text())
        assert evaluation["weights_sha256"] == record["weights_sha256"]
        assert evaluation["metrics"] == record["metrics"]["test"]

    def test_resolved_recipe(self, trained):
        """`recipe.yaml` holds the overrides and runs again as it is."""
        recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
        assert recipe["trainer"]["num_train_epochs"] == 2
        assert recipe["data"]["csv"] == "data/sample/arxiv_sample.csv"

    def test_it_predicts(self, trained):
        """`load_predictor` reads the directory; the probable label of a plain text is the right one."""
        assert load_predictor(trained).predict([TEXT])[0].label == "cs.CL"

    def test_a_finished_run_is_in_the_way(self, trained):
        """Without --overwrite nothing is touched; with it, and the same seed, the bytes stay the same."""
        before = file_sha256(trained / "model.skops")
        with pytest.raises(UserError, match="finished run"):
            train_tfidf.main(arguments(XGBOOST, trained))
        train_tfidf.main(arguments(XGBOOST, trained, "--overwrite"))
        assert file_sha256(trained / "model.skops") == before

    def test_resume_starts_anew(self, tmp_path):
        """A baseline keeps no checkpoints: one line says so, another what became of the rows."""
        output = tmp_path / "linear"
        train_tfidf.main(arguments(LINEAR, output, "--resume", "--no-evaluate"))
        log = (tmp_path / ".checkpoints" / "linear" / "train.log").read_text()
        assert log.count("--resume: a baseline keeps no checkpoints, the run starts from the beginning") == 1
        assert log.count("925 rows read") == 1
        assert (output / "model.skops").is_file()

    @pytest.mark.parametrize(("classifier", "bars"), [("linear", 0), ("xgboost", 1)])
    def test_bar_only_where_there_are_rounds(self, tmp_path, monkeypatch, classifier, bars):
        """The linear models are fitted in one go."""
        shown = []
        monkeypatch.setattr(tfidf_fit, "tqdm", lambda **options: shown.append(options) or tqdm(**options))
        recipe = ROOT / "recipes" / f"tfidf_{classifier}.yaml"
        train_tfidf.main(arguments(recipe, tmp_path / "run", "--no-evaluate"))
        assert len(shown) == bars

    def test_linear_recipe_with_data_from_elsewhere(self, tmp_path):
        """It says so in its config; no record tells where on this machine the data lay."""
        data, output = tmp_path / "papers.csv", tmp_path / "linear"
        data.write_bytes(SAMPLE.read_bytes())
        train_tfidf.main(arguments(LINEAR, output, "--data.csv", str(data)))
        assert missing_files(output, "tfidf") == []
        assert json.loads((output / "config.json").read_text())["classifier"] == "linear"
        assert yaml.safe_load((output / "recipe.yaml").read_text())["data"]["csv"] == "papers.csv"
        texts = [
            output / path for path in files_in(output) if not path.endswith((".png", ".parquet", ".skops"))
        ]
        assert len(texts) > 5
        assert [path.name for path in texts if str(tmp_path) in path.read_text()] == []

        with pytest.raises(UserError, match="--data FILE"):
            evaluate_model(output)
        assert evaluate_model(output, data=data, rules=False)["papers"] > 0


class TestProcesses:
    """What only separate processes can show."""

    @pytest.mark.slow
    def test_two_processes_write_the_same_weights(self, trained, tmp_path):
        """Same recipe, data and seed, another process, run as the README says: the same bytes."""
        command = [sys.executable, "arxiv_cls/train_tfidf.py", *arguments(XGBOOST, tmp_path / "again")]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        assert file_sha256(tmp_path / "again" / "model.skops") == file_sha256(trained / "model.skops")

    @pytest.mark.slow
    def test_kill_leaves_no_model_directory(self, tmp_path):
        """Killed while the trees grow, a run leaves nothing that looks finished; the next one just runs."""
        output = tmp_path / "killed"
        endless = ["--num_train_epochs", "100000", "--early_stopping_patience", "100000"]
        command = [sys.executable, "arxiv_cls/train_tfidf.py", *arguments(XGBOOST, output), *endless]
        log = tmp_path / ".checkpoints" / "killed" / "train.log"
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            deadline = time.monotonic() + 600
            while not (log.is_file() and "trees" in log.read_text()) and time.monotonic() < deadline:
                assert run.poll() is None
                time.sleep(0.1)
            run.send_signal(signal.SIGKILL)
        assert "trees" in log.read_text()
        assert not output.exists()
        train_tfidf.main(arguments(XGBOOST, output))
        assert missing_files(output, "tfidf") == []
        assert "model.skops" in files_in(output)
