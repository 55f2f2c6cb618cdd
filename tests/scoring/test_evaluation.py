"""What an evaluation writes, what it records, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from arxiv_cls.cli import main
from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.scoring.evaluation import evaluate_loaded, evaluate_model, evaluation_table
from arxiv_cls.scoring.scored_papers import LoadedModel, read_predictions

PLOTS = {"confusion_matrix.png", "reliability.png", "accuracy_by_year.png"}


class TestTestSplit:
    """`evaluate MODEL`: metrics, predictions and plots in `eval/`."""

    def test_files_and_record(self, model):
        evaluation = evaluate_model(model.home, rules=False)
        folder = model.home / "eval"
        assert {path.name for path in folder.iterdir()} == {"metrics.json", "predictions.parquet"} | PLOTS
        assert json.loads((folder / "metrics.json").read_text()) == evaluation
        sample = model.sample.read_bytes()
        assert evaluation["data_sha256"] == hashlib.sha256(sample).hexdigest()
        assert evaluation["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
        assert (evaluation["split"], evaluation["kind"]) == ("test", "tfidf")
        corpus = build_corpus("top5", csv=model.sample)
        assert evaluation["papers"] == len(corpus.splits["test"])
        assert evaluation["data"]["rows"] == corpus.data.rows
        text, (low, high) = evaluation_table(evaluation), evaluation["intervals"]["macro_f1"]
        expected = f"macro_f1 {evaluation['metrics']['macro_f1']:.4f} {low:.3f} to {high:.3f}"
        assert expected in [" ".join(line.split()) for line in text.splitlines()]
        assert all(label in text for label in model.predictor.labels)

    def test_model_in_memory(self, model, monkeypatch):
        """The end of a run evaluates what it holds: no CSV is parsed, no weights are loaded or hashed."""
        corpus = build_corpus("top5", csv=model.sample)
        options = {"config": "top5", "csv": str(model.sample), "seed": 42}
        loaded = LoadedModel(
            model.home, model.predictor, corpus, options, hashlib.sha256(b"weights").hexdigest()
        )
        with monkeypatch.context() as patch:
            for name in ("papers.read_papers", "builder.read_papers", "builder.read_bytes"):
                patch.setattr(f"arxiv_cls.corpus.{name}", lambda *given, **named: pytest.fail("read again"))
            patch.setattr("arxiv_cls.scoring.scored_papers.file_sha256", lambda path: pytest.fail("hashed"))
            found = evaluate_loaded(loaded, folder=model.home / "eval")
        assert found["rules"]["prediction_sets"]["weights_sha256"] == loaded.weights_sha256
        expected = evaluate_model(model.home)
        assert {key: found[key] for key in ("metrics", "rules")} == {
            key: expected[key] for key in ("metrics", "rules")
        }

    def test_figures_are_those_of_the_predictions(self, model):
        """Accuracy worked out from the Parquet file, and each paper's label from the corpus."""
        evaluation = evaluate_model(model.home, rules=False)
        table = pq.read_table(model.home / "eval" / "predictions.parquet").to_pandas()
        test = build_corpus("top5", csv=model.sample).splits["test"]
        names = test.features["label"].names
        assert table["arxiv_id"].tolist() == test["arxiv_id"][:]
        assert table["label"].tolist() == [names[label] for label in test["label"]]
        assert (table["label"] == table["predicted"]).mean() == evaluation["metrics"]["accuracy"]
        assert 0.6 < evaluation["metrics"]["accuracy"] < 0.95
        scores = table[model.predictor.labels].to_numpy()
        assert np.allclose(scores.max(axis=1), table["score"])
        assert np.allclose(scores.sum(axis=1), 1)

    def test_slices_cover_every_paper(self, model):
        evaluation = evaluate_model(model.home, rules=False)
        for kind in ("year", "words"):
            parts = evaluation["slices"][kind].values()
            assert sum(part["n"] for part in parts) == evaluation["papers"]
            weighted = sum(part["n"] * part["accuracy"] for part in parts) / evaluation["papers"]
            assert weighted == pytest.approx(evaluation["metrics"]["accuracy"])

    def test_labels_in_another_order(self, model):
        """The model's own order of labels is kept, and each paper keeps its label."""
        expected = evaluate_model(model.home, rules=False)["metrics"]
        model.predictor.labels = model.predictor.labels[::-1]
        evaluation = evaluate_model(model.home, rules=False)
        assert evaluation["labels"] == model.predictor.labels
        support = {name: scores["support"] for name, scores in evaluation["metrics"]["per_class"].items()}
        assert support == {name: scores["support"] for name, scores in expected["per_class"].items()}
        assert evaluation["metrics"]["accuracy"] > 0.6

    def test_other_splits_are_written_only_where_asked(self, model, tmp_path):
        evaluate_model(model.home, split="validation")
        assert not (model.home / "eval").exists()
        evaluate_model(model.home, split="validation", out=tmp_path / "out")
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["split"] == "validation"


class TestRecords:
    """What the directory's own records change."""

    def test_other_data_is_told(self, model, caplog):
        (model.home / "run.json").write_text(json.dumps({"data": {"sha256": "0" * 64}}))
        evaluate_model(model.home, rules=False)
        assert "not the version the model was trained on" in caplog.text

    @pytest.mark.parametrize("options", [{"split": "validation"}, {"csv": True}], ids=["split", "csv"])
    def test_open_wandb_run(self, model, monkeypatch, options):
        """Figures of another split or of a file go there too, although no plot is drawn."""
        summary = {}
        run = SimpleNamespace(summary=summary, log=lambda plots: pytest.fail(f"nothing to log: {plots}"))
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run, Image=lambda path: path))
        if "csv" in options:
            options = {"csv": model.sample}
        evaluation = evaluate_model(model.home, **options)
        name = options.get("split", "csv")
        assert summary[f"{name}/macro_f1"] == evaluation["metrics"]["macro_f1"]
        assert not (model.home / "eval").exists()

    def test_rules_of_other_weights_go_with_their_plot(self, model):
        """No picture of a rule stays that is not there any more."""
        folder = model.home / "eval"
        folder.mkdir()
        stale = json.dumps({"weights_sha256": "0" * 64})
        for name in ("scope.json", "prediction_sets.json", "out_of_scope.png"):
            (folder / name).write_text(stale)
        evaluate_model(model.home, rules=False)
        assert {path.name for path in folder.iterdir()} == {"metrics.json", "predictions.parquet"} | PLOTS

    def test_interrupted_writing_leaves_the_old_metrics(self, model, monkeypatch):
        """`metrics.json` is replaced last and whole."""
        from arxiv_cls.scoring import evaluation

        before = evaluate_model(model.home, rules=False)

        def fail(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(evaluation.plots, "plot_reliability", fail)
        model.home.joinpath("model.skops").write_bytes(b"new weights")
        with pytest.raises(KeyboardInterrupt):
            evaluate_model(model.home, rules=False)
        assert json.loads((model.home / "eval" / "metrics.json").read_text()) == before


class TestRefusals:
    """One clear error each."""

    @pytest.mark.parametrize("recipe", [None, "- a list", "model: {}", "data: [", "data: 3"])
    def test_broken_recipe(self, model, recipe):
        (model.home / "recipe.yaml").unlink()
        if recipe:
            (model.home / "recipe.yaml").write_text(recipe)
        with pytest.raises(UserError, match=r"recipe\.yaml"):
            evaluate_model(model.home)

    def test_other_labels(self, model):
        model.predictor.labels = ["cs.AI", "math.AG"]
        with pytest.raises(UserError, match=r"only the model has \['math.AG'\]"):
            evaluate_model(model.home)

    def test_another_split_in_the_place_of_the_test_split(self, model):
        with pytest.raises(UserError, match="name another folder"):
            evaluate_model(model.home, split="validation", out=f"{model.home}/eval/")

    def test_run_record_without_data(self, model):
        """It would leave unsaid whether the data is that of the training."""
        (model.home / "run.json").write_text("{}")
        with pytest.raises(UserError, match=r"run\.json: data: "):
            evaluate_model(model.home)

    def test_no_table_of_predictions(self, tmp_path):
        (tmp_path / "predictions.parquet").write_bytes(b"PAR1 not really")
        with pytest.raises(UserError, match="cannot be read"):
            read_predictions(tmp_path / "predictions.parquet")
        with pytest.raises(UserError, match="is missing"):
            read_predictions(tmp_path / "none.parquet")


class TestContradictions:
    """Options of which one would be ignored are refused, before any work."""

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (["--csv", "f.csv", "--split", "test"], "--split cannot apply"),
            (["--csv", "f.csv", "--data", "d.csv"], "--data cannot apply"),
            (["--csv", "f.csv", "--dvc", "d"], "--dvc cannot apply"),
            (["--csv", "f.csv", "--split", "train", "--data", "d.csv"], "--split, --data cannot apply"),
            (["--split", "validation", "--dvc", "d"], "--split validation is something else"),
            (["--out", "o", "--dvc", "d"], "--out is something else"),
            (["--engine", "int8", "--dvc", "d"], "--engine int8 is something else"),
        ],
    )
    def test_refused(self, options, named):
        with pytest.raises(UserError, match=named) as refusal:
            main(["evaluate", "nowhere", *options])
        assert "leave out" in str(refusal.value)

    def test_test_split_for_dvc(self, model, tmp_path):
        """What the pipeline runs, with the split named or not."""
        for split in ([], ["--split", "test"]):
            main(["evaluate", str(model.home), "--no-rules", "--dvc", str(tmp_path / "dvc"), *split])
            assert (tmp_path / "dvc" / "metrics.json").is_file()
