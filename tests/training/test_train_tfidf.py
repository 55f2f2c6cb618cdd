"""Tests of arxiv_cls/train_tfidf.py: the fit, the model directory, a kill in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from factories import ROOT, SAMPLE, write_listed
from tqdm import tqdm

from arxiv_cls import train_tfidf
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.recipe import TfidfModelConfig, TfidfTrainerConfig
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.manifest import files_in, foreign_files, missing_files
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.training import tfidf_fit
from arxiv_cls.training.tfidf_fit import Split, fit_tfidf

XGBOOST, LINEAR = (ROOT / "recipes" / f"tfidf_{name}.yaml" for name in ("xgboost", "linear"))
TEXT = "Parsing sentences\n\nWe parse sentences of a language with a grammar."


def papers(count: int, labels: list[int], seed: int = 0) -> Split:
    """Papers of which half the words tell the label."""
    generator = np.random.default_rng(seed)
    numbers = np.array(labels)[np.arange(count) % len(labels)]
    common = [f"common{i}" for i in range(6)]
    words = [[*common, f"topic{n}", f"theme{n}", f"topic{generator.integers(3)}"] for n in numbers]
    return Split([" ".join(generator.choice(own, size=12)) for own in words], numbers)


def fit(train: Split, validation: Split, labels: str, **model):
    """Fits with at most 10 boosting rounds; returns the result and the rounds reported."""
    rounds: list[dict[str, float]] = []
    config = TfidfModelConfig(**{"folds": 3, "components": 3, "components_min_df": 2} | model)
    trainer = TfidfTrainerConfig(num_train_epochs=10, seed=1)
    return fit_tfidf(train, validation, list(labels), config, trainer, 1, rounds.append), rounds


class TestFit:
    """The whole fit."""

    @pytest.mark.parametrize("classifier", ["xgboost", "linear"])
    @pytest.mark.parametrize(("labels", "names"), [([0, 1, 2], "abc"), ([0, 1], "ab"), ([0, 2], "abc")])
    def test_learns(self, classifier, labels, names):
        """Far better than chance, also with two labels, where scikit-learn keeps one row of weights.

        A label of the set that has no training paper gets a small probability.
        """
        validation = papers(60, labels, seed=9)
        fitted, rounds = fit(papers(150, labels), validation, names, classifier=classifier)
        assert (fitted.validation_probabilities.argmax(1) == validation.labels).mean() > 0.7
        assert bool(rounds) == (classifier == "xgboost")
        assert fitted.rounds <= len(rounds)
        if labels == [0, 2]:
            assert 0 < fitted.validation_probabilities[:, 1].max() < 0.2

    def test_reported_losses_are_those_of_the_model(self):
        """The lowest validation loss reported is the log-loss of the kept trees before the temperature."""
        validation = papers(60, [0, 1, 2], seed=9)
        fitted, rounds = fit(papers(150, [0, 1, 2]), validation, "abc")
        logits = fitted.model.logits(fitted.model.terms.transform(validation.texts))
        logits -= logits.max(1, keepdims=True)
        log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = -log_probabilities[np.arange(60), validation.labels].mean()
        assert loss == pytest.approx(min(entry["eval_loss"] for entry in rounds), abs=1e-5)
        assert fitted.calibration["temperature"] == fitted.model.temperature > 0

    def test_labels_are_spread_evenly_over_the_folds(self):
        """No label has two papers more in one fold than in another; sizes differ by one at most."""
        labels = np.repeat([0, 1, 2], [50, 7, 3])
        folds = tfidf_fit._assign_folds(labels, 5, seed=0)
        for chosen in (labels == 0, labels == 1, labels == 2, labels >= 0):
            counts = np.bincount(folds[chosen], minlength=5)
            assert counts.max() - counts.min() <= 1

    def test_a_label_rarer_than_the_folds(self):
        """One single paper of a label does not stop the fit."""
        train = papers(100, [0, 1])
        train = Split([*train.texts, "topic2 theme2 topic2"], np.append(train.labels, 2))
        fitted, _ = fit(train, papers(40, [0, 1], seed=9), "abc")
        assert np.isfinite(fitted.validation_probabilities).all()

    def test_nothing_to_learn_from(self):
        """One label, or no term twice, is an error for a person."""
        with pytest.raises(UserError, match="one label"):
            fit(papers(20, [1]), papers(8, [1]), "ab")
        with pytest.raises(UserError, match="no term occurs in 2"):
            fit(Split(["one", "two", "three"], np.array([0, 1, 0])), papers(8, [0, 1]), "ab")


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


class TestMultiLabel:
    """`data.task: multi_label`, one against the rest."""

    @pytest.fixture(scope="class", params=["linear", "xgboost"])
    def model(self, request, tmp_path_factory):
        """A finished run of two rounds of the multi-label recipe."""
        folder = tmp_path_factory.mktemp("multi_label")
        listed = str(write_listed(folder / "listed.csv"))
        words = ["--data.csv", listed, "--data.config", "top5", "--model.classifier", request.param]
        train_tfidf.main(arguments(ROOT / "recipes" / "tfidf_multilabel.yaml", folder / "model", *words))
        return folder / "model"

    def test_model_directory(self, model):
        """The files of a multi-label model: no confusion matrix, no prediction sets, no reference."""
        assert missing_files(model, "tfidf") == []
        assert foreign_files(model, "tfidf") == []
        absent = {"eval/confusion_matrix.png", "eval/prediction_sets.json", "monitoring/reference.parquet"}
        assert not absent & {*files_in(model)}
        evaluation = json.loads((model / "eval" / "metrics.json").read_text())
        assert evaluation["task"] == "multi_label"
        assert {"lrap", "f1/cs.AI", "average_precision/cs.AI"} <= {*evaluation["intervals"]}
        assert evaluation["labels_per_paper"]["listed"] > 1.2
        record = json.loads((model / "run.json").read_text())
        assert record["data"]["task"] == "multi_label"
        assert record["metrics"]["test"] == evaluation["metrics"]

    def test_answers(self, model):
        """Scores do not add up to 1, and the labels given are those at or above their thresholds."""
        predictor = load_predictor(model)
        texts = [TEXT, "Bayes\n\nA posterior of a statistical model."]
        scores = predictor.predict_proba(texts)
        assert ((scores > 0) & (scores < 1)).all()
        assert np.abs(scores.sum(axis=1) - 1).min() > 1e-3
        for row, said in zip(scores, predictor.predict(texts), strict=True):
            given = {predictor.labels[column] for column in np.flatnonzero(row >= predictor.thresholds)}
            assert {*said.prediction_set} == given

    def test_evaluated_again(self, model):
        """The same figures from the files alone."""
        again = evaluate_model(model, data=model.parent / "listed.csv", out=model.parent / "again")
        recorded = json.loads((model / "eval" / "metrics.json").read_text())
        assert again["metrics"] == recorded["metrics"]
        assert again["intervals"] == recorded["intervals"]

    def test_a_file_is_measured_by_all_categories(self, model):
        """Of a CSV every paper with a listed label counts; one without the column is refused."""
        counts = evaluate_model(model, csv=model.parent / "listed.csv")
        assert counts["csv"]["rows_scored"] > counts["papers"] * 0.99
        with pytest.raises(UserError, match="measured by all of them"):
            evaluate_model(model, csv=SAMPLE)

    def test_older_programs_do_not_read_it(self, model):
        """They would take a softmax: format 2 tells them that it is not for them."""
        assert json.loads((model / "config.json").read_text())["format_version"] == 2


class TestModelDirectory:
    """What a run leaves behind."""

    def test_files_are_those_of_the_manifest(self, trained):
        """Nothing required is missing, nothing else is there, and the staging folder is empty."""
        assert missing_files(trained, "tfidf") == []
        assert foreign_files(trained, "tfidf") == []
        assert not (trained.parent / ".checkpoints" / "tfidf_xgboost" / "model").exists()

    def test_records(self, trained):
        """Data, weights, rounds, both splits' metrics; `recipe.yaml` holds the overrides; it predicts."""
        record = json.loads((trained / "run.json").read_text())
        assert record["kind"] == "tfidf"
        assert record["weights_sha256"] == file_sha256(trained / "model.skops")
        assert record["data"]["sha256"] == file_sha256(SAMPLE)
        assert record["training"]["rounds"] == 2
        assert record["calibration"]["temperature"] > 0
        assert set(record["metrics"]) == {"validation", "test"}
        evaluation = json.loads((trained / "eval" / "metrics.json").read_text())
        assert evaluation["weights_sha256"] == record["weights_sha256"]
        assert evaluation["metrics"] == record["metrics"]["test"]
        recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
        assert recipe["trainer"]["num_train_epochs"] == 2
        assert recipe["data"]["csv"] == "data/sample/arxiv_sample.csv"
        assert load_predictor(trained).predict([TEXT])[0].label == "cs.CL"

    def test_a_finished_run_is_in_the_way(self, trained):
        """Without --overwrite nothing is touched; with it, and the same seed, the bytes stay the same."""
        before = file_sha256(trained / "model.skops")
        with pytest.raises(UserError, match="finished run"):
            train_tfidf.main(arguments(XGBOOST, trained))
        train_tfidf.main(arguments(XGBOOST, trained, "--overwrite"))
        assert file_sha256(trained / "model.skops") == before

    @pytest.mark.parametrize(("recipe", "bars"), [(LINEAR, 0), (XGBOOST, 1)])
    def test_resume_starts_anew(self, tmp_path, monkeypatch, recipe, bars):
        """One line says so, another what became of the rows; a bar only where there are rounds."""
        shown = []
        monkeypatch.setattr(tfidf_fit, "tqdm", lambda **options: shown.append(options) or tqdm(**options))
        train_tfidf.main(arguments(recipe, tmp_path / "run", "--resume", "--no-evaluate"))
        log = (tmp_path / ".checkpoints" / "run" / "train.log").read_text()
        assert log.count("--resume: a baseline keeps no checkpoints, the run starts from the beginning") == 1
        assert log.count("925 rows read") == 1
        assert (tmp_path / "run" / "model.skops").is_file()
        assert len(shown) == bars

    def test_linear_recipe_with_data_from_elsewhere(self, tmp_path):
        """It says so in its config; no record tells where on this machine the data lay."""
        data, output = tmp_path / "papers.csv", tmp_path / "linear"
        data.write_bytes(SAMPLE.read_bytes())
        train_tfidf.main(arguments(LINEAR, output, "--data.csv", str(data)))
        assert missing_files(output, "tfidf") == []
        assert json.loads((output / "config.json").read_text())["classifier"] == "linear"
        assert yaml.safe_load((output / "recipe.yaml").read_text())["data"]["csv"] == "papers.csv"
        names = [name for name in files_in(output) if not name.endswith((".png", ".parquet", ".skops"))]
        assert len(names) > 5
        assert [name for name in names if str(tmp_path) in (output / name).read_text()] == []

        with pytest.raises(UserError, match="--data FILE"):
            evaluate_model(output)
        assert evaluate_model(output, data=data, rules=False)["papers"] > 0


@pytest.mark.slow
def test_kill_leaves_no_model_directory(trained, tmp_path):
    """Killed while the trees grow, a run leaves nothing that looks finished; the next one has its bytes."""
    output = tmp_path / "killed"
    script = [sys.executable, "arxiv_cls/train_tfidf.py"]
    endless = ["--num_train_epochs", "100000", "--early_stopping_patience", "100000"]
    log = tmp_path / ".checkpoints" / "killed" / "train.log"
    command = [*script, *arguments(XGBOOST, output), *endless]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 600
        while not (log.is_file() and "trees" in log.read_text()) and time.monotonic() < deadline:
            assert run.poll() is None
            time.sleep(0.1)
        run.send_signal(signal.SIGKILL)
    assert "trees" in log.read_text()
    assert not output.exists()
    subprocess.run([*script, *arguments(XGBOOST, output)], cwd=ROOT, check=True, capture_output=True)
    assert missing_files(output, "tfidf") == []
    assert file_sha256(output / "model.skops") == file_sha256(trained / "model.skops")
