"""Prediction sets and the out-of-scope rule: by hand, against references, and as `evaluate` leaves them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ScopeRule, load_scope, load_set_threshold, prediction_set, set_members
from arxiv_cls.scoring import out_of_scope
from arxiv_cls.scoring.calibration import coverage_threshold
from arxiv_cls.scoring.evaluation import COVERAGES, evaluate_model, evaluation_table, fit_prediction_sets
from arxiv_cls.scoring.out_of_scope import OutsidePapers, auroc, fit_scope, outside_papers
from arxiv_cls.scoring.scored_papers import Predictions

RULE = ScopeRule({"vision": 2.0, "image": 1.0, "frogs": -3.0}, intercept=-0.5, threshold=0.5)
OUTSIDE = ("frog", "pond", "manifold", "galaxy", "learning")
INSIDE = ("vision", "speech", "learning", "agent", "manifold")


def drawn(seed: int, papers: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the softmax of logits that the scores overstate twice over."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(papers, 6)) * 1.5
    likely = softmax(logits, axis=1).cumsum(axis=1)
    return (likely > generator.random((papers, 1))).argmax(axis=1), softmax(2 * logits, axis=1)


def predictions(seed: int, papers: int) -> Predictions:
    """The same as a model's predictions."""
    return Predictions(list("abcdef"), np.full(papers, "", dtype=object), *drawn(seed, papers))


def test_threshold_by_hand():
    """Nine papers at 90%: (9 + 1) * 0.1 = 1, the smallest; at 80% the second; at 95% every label."""
    true = np.array([0.9, 0.3, 0.5, 0.7, 0.8, 0.6, 0.4, 0.95, 0.85])
    scores, labels = np.column_stack([true, 1 - true]), np.zeros(9, dtype=int)
    assert [coverage_threshold(labels, scores, share) for share in (0.9, 0.8, 0.95)] == [0.3, 0.4, 0.0]


@pytest.mark.parametrize("coverage", COVERAGES)
def test_mean_coverage_is_the_one_asked_for(coverage):
    """Over many splits the coverage is between the wanted one and 1 / (n + 1) above it."""
    covered = []
    for seed in range(150):
        labels, probabilities = drawn(seed, 400)
        threshold = coverage_threshold(labels[:200], probabilities[:200], coverage)
        covered.append((probabilities[np.arange(200, 400), labels[200:]] >= threshold).mean())
    error = np.std(covered) / np.sqrt(len(covered))
    assert coverage - 3 * error < np.mean(covered) < coverage + 1 / 201 + 3 * error


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.99, ["a"]), (0.36, ["a"]), (0.3, ["a", "c"]), (0.0, ["a", "c", "b"])]
)
def test_members(threshold, expected):
    """A set is never empty, and the two ways to ask for one agree."""
    assert prediction_set({"b": 0.25, "a": 0.4, "c": 0.35}, threshold) == expected
    (members,) = set_members(np.array([[0.4, 0.25, 0.35]]), threshold)
    assert sorted(expected) == [label for label, is_in in zip("abc", members, strict=True) if is_in]


def test_sets_on_record(tmp_path):
    """Figures are of the test split; the threshold of a level is read back, None where there is none."""
    record = fit_prediction_sets(predictions(0, 2000), predictions(1, 3000))
    assert (record["calibration_papers"], record["test_papers"]) == (2000, 3000)
    levels = [record["levels"][str(coverage)] for coverage in COVERAGES]
    assert [level["coverage"] for level in levels] == pytest.approx(COVERAGES, abs=0.03)
    sizes = [level["mean_size"] for level in levels]
    assert 1 <= sizes[0] < sizes[1] < sizes[2] <= 6
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "prediction_sets.json").write_text(json.dumps(record))
    found = [load_set_threshold(tmp_path, level) for level in ("0.9", "0.95", "0.5")]
    assert found == [levels[1]["threshold"], levels[2]["threshold"], None]


@pytest.mark.parametrize(
    ("text", "logit"),
    [
        ("Vision! An IMAGE of image and vision", -0.5 + (2.0 + 1.0) / math.sqrt(2)),
        ("frogs of an image", -0.5 + (1.0 - 3.0) / math.sqrt(2)),
        ("42, \u043b\u044f\u0433\u0443\u0448\u043a\u0430", -0.5),
        ("", -0.5),
    ],
)
def test_scope_by_hand(text, logit):
    """A logistic regression on the words that occur, each counted once; without any, the intercept."""
    assert RULE.score(text) == pytest.approx(1 / (1 + math.exp(-logit)))


def synthetic(seed: int, papers: int, words: tuple[str, ...]) -> list[str]:
    """Texts of ten words, most of them common to all papers."""
    generator = np.random.default_rng(seed)
    common = ["result", "method", "show", "new", "paper", "we"]
    return [" ".join([*generator.choice(words, 2), *generator.choice(common, 8)]) for _ in range(papers)]


def test_fit_of_scope():
    """Words of one side tell it from the other; no rule on fewer than 50 papers a side."""
    inside = [synthetic(seed, 300, INSIDE) for seed in range(3)]
    outside = OutsidePapers(*(synthetic(seed, 300, OUTSIDE) for seed in (7, 8)), np.full(300, "math"))
    record, scores = fit_scope(*inside, outside)
    rule = ScopeRule(record["weights"], record["intercept"], record["threshold"])
    assert np.allclose(rule.scores(inside[2]), scores[0])
    area = roc_auc_score([1] * 300 + [0] * 300, np.concatenate(scores))
    assert record["auroc"] == pytest.approx(area)
    assert area > 0.8
    assert 0.95 <= (rule.scores(inside[1]) >= rule.threshold).mean() < 0.99
    caught = np.mean(rule.scores(outside.test) < rule.threshold)
    assert record["out_of_scope_caught"] == pytest.approx(caught)
    assert record["caught_by_archive"] == {"math": {"n": 300, "caught": record["out_of_scope_caught"]}}
    assert rule.weights["vision"] > 0 > rule.weights["frog"]
    assert fit_scope(inside[0], inside[1][:49], inside[2], outside) is None


def test_auroc():
    """The area against scikit-learn, with ties; its interval against the bootstrap."""
    generator = np.random.default_rng(1)
    inside, outside = generator.normal(1, 1, 150).round(1), generator.normal(0, 1, 200).round(1)
    area, low, high = auroc(inside, outside)
    truth = [1] * 150 + [0] * 200
    assert area == pytest.approx(roc_auc_score(truth, np.concatenate([inside, outside])), abs=1e-12)
    areas = []
    for _ in range(300):
        again = generator.choice(inside, 150), generator.choice(outside, 200)
        areas.append(roc_auc_score(truth, np.concatenate(again)))
    assert high - low == pytest.approx(np.diff(np.quantile(areas, [0.025, 0.975]))[0], rel=0.25)


def test_files_of_an_evaluation(model, monkeypatch):
    """Neither rule is in `metrics.json`; the papers outside the labels are those of the build."""
    monkeypatch.setattr(out_of_scope, "FEWEST_PAPERS", 5)
    evaluation = evaluate_model(model.home)
    folder = model.home / "eval"
    sets = json.loads((folder / "prediction_sets.json").read_text())
    assert sets["weights_sha256"] == evaluation["weights_sha256"]
    assert "rules" not in json.loads((folder / "metrics.json").read_text())
    assert evaluation["rules"]["prediction_sets"] == sets
    scope, text = evaluation["rules"]["scope"], evaluation_table(evaluation)
    assert f"{sets['levels']['0.9']['coverage']:.3f}" in text
    assert f"AUROC {scope['auroc']:.3f}" in text
    assert load_scope(model.home).threshold == scope["threshold"]
    assert (folder / "out_of_scope.png").is_file()
    corpus = build_corpus("top5", csv=model.sample)
    inside = {text for name in corpus.splits for text in corpus.splits[name]["text"]}
    outside = outside_papers(corpus)
    assert not inside & {*outside.train, *outside.test}
    assert len(outside.test) == len(outside.test_archives) == scope["out_of_scope_papers"]
    assert 0 < len(outside.train) + len(outside.test) <= corpus.report.outside_config
    # An old rule goes where there is no new one.
    monkeypatch.setattr(out_of_scope, "FEWEST_PAPERS", 5000)
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
