"""The out-of-scope rule: its score by hand, its fit, its record, its AUROC."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ScopeRule, load_scope, load_set_threshold
from arxiv_cls.scoring.decision_rules import OutsidePapers, auroc, fit_scope, outside_papers
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.scoring.report import evaluation_table

RULE = ScopeRule({"vision": 2.0, "image": 1.0, "frogs": -3.0}, intercept=-0.5, threshold=0.5)


class TestRule:
    """A logistic regression on the words that occur, each counted once."""

    @pytest.mark.parametrize(
        ("text", "logit"),
        [
            ("Vision! An IMAGE of image and vision", -0.5 + (2.0 + 1.0) / math.sqrt(2)),
            ("frogs of an image", -0.5 + (1.0 - 3.0) / math.sqrt(2)),
            ("42, \u043b\u044f\u0433\u0443\u0448\u043a\u0430", -0.5),
            ("", -0.5),
        ],
    )
    def test_by_hand(self, text, logit):
        """A text without a known word has the intercept."""
        assert RULE.score(text) == pytest.approx(1 / (1 + math.exp(-logit)))
        assert RULE.in_scope(text) == (logit > 0)


def synthetic(seed: int, papers: int, words: list[str]) -> list[str]:
    """Texts of ten words, half of them common to all papers."""
    generator = np.random.default_rng(seed)
    common = ["result", "method", "show", "new", "paper", "we"]
    return [" ".join([*generator.choice(words, 2), *generator.choice(common, 8)]) for _ in range(papers)]


class TestFit:
    """Words of one side tell it from the other."""

    OUTSIDE = ("frog", "pond", "manifold", "galaxy", "learning")
    INSIDE = ("vision", "speech", "learning", "agent", "manifold")

    def fit(self, papers: int = 300):
        inside = [synthetic(seed, papers, self.INSIDE) for seed in range(3)]
        test = synthetic(8, papers, self.OUTSIDE)
        outside = OutsidePapers(synthetic(7, papers, self.OUTSIDE), test, np.asarray(["math"] * papers))
        return inside, outside, fit_scope(*inside, outside)

    def test_record(self):
        inside, outside, (record, scores_in, scores_out) = self.fit()
        rule = ScopeRule(record["weights"], record["intercept"], record["threshold"])
        assert np.allclose(rule.scores(inside[2]), scores_in)
        assert record["auroc"] == pytest.approx(
            roc_auc_score([1] * 300 + [0] * 300, np.concatenate([scores_in, scores_out]))
        )
        assert record["auroc"] > 0.8
        kept_on_validation = (rule.scores(inside[1]) >= rule.threshold).mean()
        assert 0.95 <= kept_on_validation < 0.99
        assert record["out_of_scope_caught"] == pytest.approx(
            np.mean([not rule.in_scope(text) for text in outside.test])
        )
        assert record["caught_by_archive"] == {"math": {"n": 300, "caught": record["out_of_scope_caught"]}}
        assert rule.weights["vision"] > 0 > rule.weights["frog"]

    def test_too_few_papers(self):
        *_, found = self.fit(papers=49)
        assert found is None


class TestAuroc:
    """The area against scikit-learn, its interval against the bootstrap."""

    def test_area_with_ties(self):
        generator = np.random.default_rng(0)
        inside, outside = generator.normal(0.5, 1, 80).round(1), generator.normal(0, 1, 60).round(1)
        area, low, high = auroc(inside, outside)
        expected = roc_auc_score([1] * 80 + [0] * 60, np.concatenate([inside, outside]))
        assert area == pytest.approx(expected, abs=1e-12)
        assert low < area < high

    def test_interval(self):
        generator = np.random.default_rng(1)
        inside, outside = generator.normal(1, 1, 150), generator.normal(0, 1, 200)
        _, low, high = auroc(inside, outside)
        drawn = []
        for _ in range(300):
            a, b = generator.choice(inside, 150), generator.choice(outside, 200)
            drawn.append(roc_auc_score([1] * 150 + [0] * 200, np.concatenate([a, b])))
        assert high - low == pytest.approx(np.diff(np.quantile(drawn, [0.025, 0.975]))[0], rel=0.25)


class TestWithAnEvaluation:
    """`evaluate` of the test split also leaves the rules beside the model."""

    def test_files(self, model):
        evaluation = evaluate_model(model.home)
        folder = model.home / "eval"
        sets = json.loads((folder / "prediction_sets.json").read_text())
        assert sets["weights_sha256"] == evaluation["weights_sha256"]
        assert set(sets["levels"]) == {"0.8", "0.9", "0.95"}
        assert "rules" not in json.loads((folder / "metrics.json").read_text())
        assert evaluation["rules"]["prediction_sets"] == sets
        text = evaluation_table(evaluation)
        assert f"{sets['levels']['0.9']['coverage']:.3f}" in text
        rule = load_scope(model.home)
        if evaluation["rules"]["scope"] is None:
            assert rule is None
        else:
            assert rule.threshold == evaluation["rules"]["scope"]["threshold"]
            assert (folder / "out_of_scope.png").is_file()
            assert f"AUROC {evaluation['rules']['scope']['auroc']:.3f}" in text

    def test_outside_papers_are_those_without_a_label(self, model):
        corpus = build_corpus("top5", csv=model.sample)
        outside = outside_papers(corpus)
        inside = {text for name in corpus.splits for text in corpus.splits[name]["text"]}
        assert not inside & {*outside.train, *outside.test}
        counted = corpus.report.to_dict()
        assert 0 < len(outside.train) + len(outside.test) <= counted["outside_config"]

    def test_old_rule_goes_when_there_is_no_new_one(self, model, monkeypatch):
        from arxiv_cls.scoring import decision_rules as rules

        folder = model.home / "eval"
        folder.mkdir()
        (folder / "scope.json").write_text("{}")
        monkeypatch.setattr(rules, "fit_scope", lambda *arguments: None)
        assert evaluate_model(model.home)["rules"]["scope"] is None
        assert not (folder / "scope.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1}'])
@pytest.mark.parametrize(
    ("load", "name"), [(load_scope, "scope.json"), (load_set_threshold, "prediction_sets.json")]
)
def test_damaged_record(tmp_path, load, name, content):
    """One clear error that names the file; no file is no rule."""
    assert load(tmp_path) is None
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / name).write_text(content)
    with pytest.raises(UserError, match=name):
        load(tmp_path)
