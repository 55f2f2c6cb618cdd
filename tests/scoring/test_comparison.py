"""Two models on the same papers: aligned by id, differences as worked out by hand, stale scores renewed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.scoring.comparison import align, compare_models, compare_predictions, predictions_of
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.scoring.scored_papers import Predictions


def predictions(ids: str, labels: str, first: list[float], names: str = "xy") -> Predictions:
    """Two classes; `first` is the score of the class named first."""
    return Predictions(
        label_names=list(names),
        arxiv_ids=np.asarray(list(ids), dtype=object),
        labels=np.asarray([names.index(label) for label in labels]),
        probabilities=np.column_stack([first, 1 - np.asarray(first)]),
    )


A = predictions("abcd", "xyxx", [0.9, 0.6, 0.8, 0.3])
B = predictions("edcba", "xxxyx", [0.5, 0.8, 0.1, 0.2, 0.7])


class TestAlign:
    """By arXiv id, whatever the order of rows or labels."""

    def test_rows(self):
        """Papers of one model only, and those that the other's data relabels, are left out."""
        a, b, counts = align(A, B)
        assert counts == {"papers": 4, "only_in_a": 0, "only_in_b": 1, "relabelled": 0}
        assert a.arxiv_ids.tolist() == b.arxiv_ids.tolist() == list("abcd")
        assert b.probabilities[:, 0].tolist() == pytest.approx([0.7, 0.2, 0.1, 0.8])
        a, _, counts = align(A, predictions("abcd", "yyxx", [0.9, 0.6, 0.8, 0.3]))
        assert (counts["relabelled"], a.arxiv_ids.tolist()) == (1, list("bcd"))

    def test_three_labels_in_a_cycle(self):
        """A permutation that is not its own inverse."""
        ids, names = np.asarray(list("pqr"), dtype=object), ["x", "y", "z"]
        scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])
        a = Predictions(names, ids, np.arange(3), scores)
        part_a, part_b, counts = align(
            a, Predictions(["z", "x", "y"], ids, np.array([1, 2, 0]), scores[:, [2, 0, 1]])
        )
        assert counts["relabelled"] == 0
        assert (part_a.probabilities == part_b.probabilities).all()

    @pytest.mark.parametrize("ids", ["aabc", ["", "", "b", "c"], ["", "a", "b", "c"]])
    def test_repeated_or_empty_ids_in_the_same_order(self, ids):
        """Two evaluations of one file: row by row, not every copy with the last one."""
        first = predictions(ids, "xyxx", [0.9, 0.6, 0.8, 0.3])
        a, b, counts = align(first, predictions(ids, "xyxx", [0.1, 0.2, 0.3, 0.4]))
        assert counts == {"papers": 4, "only_in_a": 0, "only_in_b": 0, "relabelled": 0}
        assert b.probabilities[:, 0].tolist() == [0.1, 0.2, 0.3, 0.4]
        assert (a.labels == first.labels).all()

    @pytest.mark.parametrize(
        ("a", "b", "why"),
        [
            (A, predictions("aabc", "xyxx", [0.5] * 4), "ids of B do not tell .* apart: 1 .*a among them"),
            (predictions(["", *"bcd"], "xyxx", [0.5] * 4), A, "ids of A .*: 1 .*an empty id among them"),
            (A, predictions("z", "x", [0.5]), "no paper was scored by both"),
            (A, predictions("a", "x", [0.5], names="xz"), "different labels"),
        ],
    )
    def test_refused(self, a, b, why):
        """Nobody knows which rows belong together."""
        with pytest.raises(UserError, match=why):
            align(a, b)


def test_figures_by_hand():
    """B less A. A is right on a and c; B on a, b and d: accuracy 0.5 and 0.75."""
    found = compare_predictions(A, B)
    accuracy = found["metrics"]["accuracy"]
    assert (accuracy["a"], accuracy["b"], accuracy["difference"]) == (0.5, 0.75, 0.25)
    assert found["mcnemar"] == {"only_a_right": 1, "only_b_right": 2, "p_value": 1.0}
    assert [paper["arxiv_id"] for paper in found["b_ahead"]] == ["d", "b"]
    assert [paper["arxiv_id"] for paper in found["a_ahead"]] == ["c", "a"]
    first = {"arxiv_id": "d", "label": "x", "predicted_a": "y", "predicted_b": "x"}
    assert found["b_ahead"][0] == pytest.approx(first | {"score_a": 0.3, "score_b": 0.8})
    same = compare_predictions(A, A)
    assert all(line["difference"] == 0 for line in same["metrics"].values())
    assert same["b_ahead"] == same["a_ahead"] == []


class TestModels:
    """From directories: scores on record when they belong to the weights."""

    def test_recorded_scores_are_read(self, model, monkeypatch):
        evaluate_model(model.home, rules=False)
        monkeypatch.setattr(model.predictor, "predict_proba", lambda *given, **named: 1 / 0)
        found = compare_models(model.home, Path(f"{model.home}/"))
        assert found["metrics"]["macro_f1"]["difference"] == 0

    def test_other_weights_are_scored_again(self, model, tmp_path, capsys):
        """The command prints what it writes."""
        evaluate_model(model.home, rules=False)
        kept = tmp_path / "kept.parquet"
        kept.write_bytes((model.home / "eval" / "predictions.parquet").read_bytes())
        model.predictor.weights_path.write_bytes(b"other weights")
        model.predictor.salt = "other"
        recorded, fresh = predictions_of(kept), predictions_of(model.home)
        assert fresh.arxiv_ids.tolist() == recorded.arxiv_ids.tolist()
        assert (fresh.probabilities != recorded.probabilities).any()
        main(["compare", str(kept), str(model.home), "--papers", "3", "--json", str(tmp_path / "found.json")])
        found, text = json.loads((tmp_path / "found.json").read_text()), capsys.readouterr().out
        assert f"{found['metrics']['accuracy']['difference']:+.4f}" in text
        assert "McNemar" in text
        assert f"https://arxiv.org/abs/{found['b_ahead'][0]['arxiv_id']}" in text
        assert len(found["b_ahead"]) == len(found["a_ahead"]) == 3

    @pytest.mark.parametrize(
        ("options", "record", "named"),
        [(["--papers", "-1"], "{}", "--papers -1"), ([], "[]", r"eval/metrics\.json: expected an object")],
    )
    def test_refused(self, model, options, record, named):
        (model.home / "eval").mkdir()
        (model.home / "eval" / "metrics.json").write_text(record)
        with pytest.raises(UserError, match=named):
            main(["compare", str(model.home), str(model.home), *options])
