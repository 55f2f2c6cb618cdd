"""What an evaluation of a split writes, what it records, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arxiv_cls.cli import main
from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.scoring import evaluation as evaluations
from arxiv_cls.scoring.evaluation import evaluate_loaded, evaluate_model, evaluation_table
from arxiv_cls.scoring.scored_papers import LoadedModel, read_predictions

FILES = {
    "metrics.json", "predictions.parquet", "confusion_matrix.png", "reliability.png", "accuracy_by_year.png",
}  # fmt: skip


def test_files_and_record(model):
    """`evaluate MODEL`: metrics, predictions and plots in `eval/`; the figures are of the predictions."""
    evaluation = evaluate_model(model.home, rules=False)
    folder = model.home / "eval"
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "metrics.json").read_text()) == evaluation
    assert evaluation["data_sha256"] == hashlib.sha256(model.sample.read_bytes()).hexdigest()
    assert evaluation["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert (evaluation["split"], evaluation["kind"]) == ("test", "tfidf")
    text, (low, high) = evaluation_table(evaluation), evaluation["intervals"]["macro_f1"]
    expected = f"macro_f1 {evaluation['metrics']['macro_f1']:.4f} {low:.3f} to {high:.3f}"
    assert expected in [" ".join(line.split()) for line in text.splitlines()]
    assert all(label in text for label in model.predictor.labels)

    corpus = build_corpus("top5", csv=model.sample)
    test, table = corpus.splits["test"], pq.read_table(folder / "predictions.parquet").to_pandas()
    assert evaluation["data"]["rows"] == corpus.data.rows
    assert evaluation["papers"] == len(test)
    assert table["arxiv_id"].tolist() == test["arxiv_id"][:]
    assert table["label"].tolist() == [test.features["label"].names[label] for label in test["label"]]
    assert (table["label"] == table["predicted"]).mean() == evaluation["metrics"]["accuracy"]
    assert 0.6 < evaluation["metrics"]["accuracy"] < 0.95
    scores = table[model.predictor.labels].to_numpy()
    assert np.allclose(scores.max(axis=1), table["score"])
    assert np.allclose(scores.sum(axis=1), 1)
    for slices in evaluation["slices"].values():
        assert sum(part["n"] for part in slices.values()) == evaluation["papers"]
        weighted = sum(part["n"] * part["accuracy"] for part in slices.values()) / evaluation["papers"]
        assert weighted == pytest.approx(evaluation["metrics"]["accuracy"])

    # The model's own order of labels is kept, and each paper keeps its label.
    model.predictor.labels = model.predictor.labels[::-1]
    other = evaluate_model(model.home, rules=False)
    assert other["labels"] == model.predictor.labels
    supports = [
        {k: v["support"] for k, v in of["metrics"]["per_class"].items()} for of in (evaluation, other)
    ]
    assert supports[0] == supports[1]
    assert other["metrics"]["accuracy"] > 0.6


def test_model_in_memory(model, monkeypatch):
    """The end of a run evaluates what it holds: no CSV is parsed, no weights are loaded or hashed."""
    corpus = build_corpus("top5", csv=model.sample)
    options = {"config": "top5", "csv": str(model.sample), "seed": 42}
    sha256 = hashlib.sha256(b"weights").hexdigest()
    loaded = LoadedModel(model.home, model.predictor, corpus, options, sha256)
    with monkeypatch.context() as patch:
        for name in ("papers.read_papers", "builder.read_papers", "builder.read_bytes"):
            patch.setattr(f"arxiv_cls.corpus.{name}", lambda *given, **named: pytest.fail("read again"))
        patch.setattr("arxiv_cls.scoring.scored_papers.file_sha256", lambda path: pytest.fail("hashed"))
        found = evaluate_loaded(loaded, folder=model.home / "eval")
    assert found["rules"]["prediction_sets"]["weights_sha256"] == sha256
    expected = evaluate_model(model.home)
    assert [found[key] for key in ("metrics", "rules")] == [expected[key] for key in ("metrics", "rules")]


@pytest.mark.parametrize("options", [{"split": "validation"}, {"csv": True}], ids=["split", "csv"])
def test_other_papers_are_written_only_where_asked(model, tmp_path, monkeypatch, options):
    """Their figures go to an open W&B run too, although no plot is drawn."""
    options = options if "split" in options else {"csv": model.sample}
    summary = {}
    run = SimpleNamespace(summary=summary, log=lambda plots: pytest.fail(f"nothing to log: {plots}"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", SimpleNamespace(run=run, Image=lambda path: path))
        evaluation = evaluate_model(model.home, **options)
    assert summary[f"{options.get('split', 'csv')}/macro_f1"] == evaluation["metrics"]["macro_f1"]
    assert not (model.home / "eval").exists()
    evaluate_model(model.home, **options, out=tmp_path / "out")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["split"] == options.get("split")


def test_other_data_is_told(model, caplog):
    (model.home / "run.json").write_text(json.dumps({"data": {"sha256": "0" * 64}}))
    evaluate_model(model.home, rules=False)
    assert "not the version the model was trained on" in caplog.text


def test_rules_of_other_weights_go_with_their_plot(model):
    """No picture of a rule stays that is not there any more."""
    folder = model.home / "eval"
    folder.mkdir()
    (folder / "scope.json").write_text("damaged")
    for name in ("prediction_sets.json", "out_of_scope.png"):
        (folder / name).write_text(
            json.dumps({"weights_sha256": "0" * 64, "schema_version": 1, "levels": {}})
        )
    evaluate_model(model.home, rules=False)
    assert {path.name for path in folder.iterdir()} == FILES


def test_interrupted_writing_leaves_the_old_metrics(model, monkeypatch):
    """`metrics.json` is replaced last and whole."""
    before = evaluate_model(model.home, rules=False)

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluations.plots, "plot_reliability", fail)
    model.home.joinpath("model.skops").write_bytes(b"new weights")
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(model.home, rules=False)
    assert json.loads((model.home / "eval" / "metrics.json").read_text()) == before


@pytest.mark.parametrize(
    ("file", "content", "options", "named"),
    [
        *(("recipe.yaml", of, {}, r"recipe\.yaml") for of in (None, "[]", "model: {}", "data: [", "data: 3")),
        # It would leave unsaid whether the data is that of the training.
        ("run.json", "{}", {}, r"run\.json: data: "),
        ("run.json", None, {"data": "none.csv"}, r"none\.csv is not there.*\n.*--data FILE"),
        ("run.json", None, {"split": "validation", "out": "{home}/eval/"}, "name another folder"),
        ("run.json", None, {"out": "{sample}"}, "sample.csv is no folder"),
        ("run.json", None, {"csv": "{sample}", "out": "{home}/eval"}, "holds the evaluation of"),
    ],
)  # fmt: skip
def test_refused(model, file, content, options, named):
    """Broken records, missing data, another evaluation in the place of that of the test split."""
    (model.home / file).unlink(missing_ok=True)
    if content:
        (model.home / file).write_text(content)
    places = {"home": model.home, "sample": model.sample}
    with pytest.raises(UserError, match=named):
        evaluate_model(model.home, **{key: value.format(**places) for key, value in options.items()})


def test_other_labels(model):
    model.predictor.labels = ["cs.AI", "math.AG"]
    with pytest.raises(UserError, match=r"only the model has \['math.AG'\]"):
        evaluate_model(model.home)


def test_no_table_of_predictions(tmp_path):
    """A damaged file, none, and one with other columns."""
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 not really")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    for name, why in (("damaged", "cannot be read"), ("none", "is missing"), ("other", "no table")):
        with pytest.raises(UserError, match=rf"{name}\.parquet .*{why}"):
            read_predictions(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--csv", "f.csv", "--split", "test"], "--split cannot apply"),
        (["--csv", "f.csv", "--dvc", "d"], "--dvc cannot apply"),
        (["--csv", "f.csv", "--split", "train", "--data", "d.csv"], "--split and --data cannot apply"),
        (["--split", "validation", "--dvc", "d"], "--split validation cannot apply"),
        (["--out", "o", "--dvc", "d"], "--out cannot apply"),
        (["--engine", "int8", "--dvc", "d"], "--engine int8 cannot apply"),
    ],
)
def test_contradictions(options, named):
    """Options of which one would be ignored are refused, before any work."""
    with pytest.raises(UserError, match=rf"{named}\n.*leave out --"):
        main(["evaluate", "nowhere", *options])


def test_command(model, tmp_path, capsys):
    """What the pipeline runs, with the split named or not."""
    for split in ([], ["--split", "test"]):
        main(["evaluate", str(model.home), "--no-rules", "--dvc", str(tmp_path / "dvc"), *split])
        assert (tmp_path / "dvc" / "metrics.json").is_file()
        assert f"written to {model.home / 'eval'}" in capsys.readouterr().out
