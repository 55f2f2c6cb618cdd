"""Fitting a cascade: the arithmetic by hand, the choice, the record, what is refused."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from factories import LABELS

import arxiv_cls.models.cascade as cascade_module
import arxiv_cls.models.predictor as predictors
from arxiv_cls.cli import main
from arxiv_cls.corpus import build_corpus
from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import load_rule
from arxiv_cls.models.prediction import EncodedText
from arxiv_cls.scoring import reference
from arxiv_cls.scoring.cascade_fitting import (
    NEVER,
    cascade_scores,
    fastest,
    fit_cascade,
    threshold_rows,
)

# Four papers of class 0, 1, 0, 1. The baseline is right on the first two, sure of the first and the third.
TRUTH = np.array([0, 1, 0, 1])
BASELINE = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.55, 0.45]])
TRANSFORMER = np.array([[0.7, 0.3], [0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])


def test_rows_by_hand():
    """Share, accuracy, speed: every paper costs the baseline 1 ms, the rest 9 ms more."""
    rows = threshold_rows(TRUTH, BASELINE, TRANSFORMER, (0.001, 0.009), 128, (0.5, 0.6, 0.85, NEVER))
    assert [row["answered_by_baseline"] for row in rows] == [1.0, 0.75, 0.25, 0.0]
    # Right: papers 1 and 2; 1, 2 and 4; 1, 3 and 4; 1, 3 and 4.
    assert [row["accuracy"] for row in rows] == [0.5, 0.75, 0.75, 0.75]
    speeds = [1000, 1000 / 3.25, 1000 / 7.75, 100]
    assert [row["papers_per_second"] for row in rows] == pytest.approx(speeds)
    assert {row["max_tokens"] for row in rows} == {128}


def test_fastest_that_is_accurate_enough():
    """Accuracy first, then speed; equality is enough."""
    rows = [
        {"accuracy": 0.70, "papers_per_second": 900},
        {"accuracy": 0.80, "papers_per_second": 300},
        {"accuracy": 0.81, "papers_per_second": 200},
    ]
    assert [fastest(rows, least) for least in (0.5, 0.80, 0.801)] == rows
    with pytest.raises(UserError, match=r"0\.9000 on the validation split; the best has 0\.8100"):
        fastest(rows, 0.9)


def known(text):
    """Whether the baseline knows a word of the text; where it does not, the transformer answers."""
    return len(text) % 7 > 0


class FakeBaseline:
    """Right with a score of 0.95 on two texts of three, wrong with 0.55 on the third."""

    kind = engine = "tfidf"
    multi_label, thresholds = False, None

    def __init__(self, directory, truth, labels=LABELS):
        self.directory, self.weights_path, self.truth = directory, directory / "model.skops", truth
        self.labels = labels

    def score(self, text):
        """Whether the answer is right, and its score."""
        return len(text) % 3 > 0, 0.95 if len(text) % 3 else 0.55

    def encode(self, texts):
        """As a baseline."""
        return [EncodedText(text, 3, False, no_known_words=not known(text)) for text in texts]

    def predict_proba(self, texts, *, progress=False):
        """(n, 5)."""
        scores = [self.score(text) for text in texts]
        result = np.array([[(1 - score) / 4] * 5 for _, score in scores])
        for row, text, (right, score) in zip(result, texts, scores, strict=True):
            row[(self.labels.index(self.truth[text]) + (not right)) % 5] = score
        return result


class FakeTransformer(FakeBaseline):
    """Right on everything but a tenth, and on two more tenths with fewer than 128 tokens."""

    kind = "transformer"

    def __init__(self, directory, truth, engine):
        # Another order than the corpus: the fit must go by name.
        super().__init__(directory, truth, LABELS[::-1])
        self.engine, self.max_length = engine, 256
        self.weights_path = directory / "onnx" / f"{engine}.onnx"

    def limit_tokens(self, max_length):
        """As an ONNX predictor."""
        self.max_length = min(self.max_length, max_length)

    def score(self, text):
        """Whether the answer is right, and its score."""
        return len(text) % 10 >= (1 if self.max_length >= 128 else 3), 0.8


@pytest.fixture
def pair(tmp_path, monkeypatch, sample_csv):
    """Two model directories with recipes and weights; `load_predictor` gives the fakes."""
    corpus = build_corpus(csv=sample_csv)
    papers = corpus.splits["validation"]
    truth = {text: corpus.labels[label] for text, label in zip(papers["text"], papers["label"], strict=True)}
    recipe = {"data": {"config": "top5", "csv": str(sample_csv), "seed": 42}}
    for path in ("baseline/model.skops", "model/onnx/int8.onnx", "model/onnx/onnx.onnx"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    for name in ("baseline", "model"):
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def load(model, revision=None, *, engine=None, threads=None):
        if str(model).endswith("baseline"):
            return FakeBaseline(tmp_path / "baseline", truth, pair.labels)
        return FakeTransformer(tmp_path / "model", truth, engine)

    monkeypatch.setattr(predictors, "load_predictor", load)
    monkeypatch.setattr(cascade_module, "load_predictor", load)
    pair = SimpleNamespace(
        model=tmp_path / "model", baseline=tmp_path / "baseline", load=load, texts=list(truth), recipe=recipe,
        labels=LABELS,
    )  # fmt: skip
    return pair


def test_choice_and_record(pair):
    """The threshold lies between the sure and the unsure; what the file holds is what comes back."""
    record = fit_cascade(pair.model, pair.baseline, max_accuracy_loss=0.0)
    assert json.loads((pair.model / "eval" / "cascade.json").read_text()) == record
    assert 0.55 < record["threshold"] <= 0.95
    assert record["engine"] == "int8"
    assert record["baseline_sha256"] == hashlib.sha256(b"baseline/model.skops").hexdigest()
    assert record["transformer_sha256"] == hashlib.sha256(b"model/onnx/int8.onnx").hexdigest()
    found = record["validation"]
    left = [text for text in pair.texts if len(text) % 3 == 0 or not known(text)]
    sure = 1 - len(left) / len(pair.texts)
    right = len(pair.texts) - len(left) + sum(len(text) % 10 >= 1 for text in left)
    assert found["chosen"]["answered_by_baseline"] == pytest.approx(sure)
    assert found["chosen"]["accuracy"] == pytest.approx(right / len(pair.texts))
    alone = np.mean([len(text) % 10 >= 1 for text in pair.texts])
    assert found["accuracy_of_the_transformer"] == pytest.approx(alone)
    assert found["papers"] == len(pair.texts)
    # The rule is read back for this pair, and for no other engine.
    first, second = pair.load(pair.baseline), pair.load(pair.model, engine="int8")
    rule = load_rule(first, second, "m b")
    assert (rule.threshold, rule.max_tokens) == (record["threshold"], record["max_tokens"])
    with pytest.raises(UserError, match="fitted for the engine int8"):
        load_rule(first, pair.load(pair.model, engine="onnx"), "m b")
    # The sets of the cascade's scores hold the label of nine validation papers in ten.
    second.limit_tokens(record["max_tokens"])
    scores = cascade_scores(
        first.predict_proba(pair.texts)[:, ::-1], second.predict_proba(pair.texts), record["threshold"]
    )
    truth = [second.labels.index(second.truth[text]) for text in pair.texts]
    assert (scores[np.arange(len(truth)), truth] >= record["set_threshold"]).mean() >= 0.9


def test_command(pair, capsys, monkeypatch):
    """The pair is better than the transformer alone: the loss counts from the pair; the choice is marked."""
    referenced = []
    monkeypatch.setattr(reference, "make_cascade_reference", lambda *pair, data: referenced.append(pair))
    main(["cascade", str(pair.model), str(pair.baseline), "--max-accuracy-loss", "0.01"])
    assert referenced == [(str(pair.model), str(pair.baseline))]
    found = json.loads((pair.model / "eval" / "cascade.json").read_text())["validation"]
    assert found["least_accuracy"] > found["accuracy_of_the_transformer"] - 0.01
    assert found["chosen"]["accuracy"] >= found["least_accuracy"]
    printed = capsys.readouterr().out
    assert printed.count("<- chosen") == 1
    assert f"{found['accuracy_of_the_transformer']:.4f}" in printed


@pytest.mark.parametrize(("loss", "tokens", "tried"), [(0.0, 128, 96), (0.9, 64, 64)])
def test_token_budget(pair, loss, tokens, tried):
    """The fewest tokens that lose no more than is allowed; fewer than the first that do are not tried."""
    record = fit_cascade(pair.model, pair.baseline, max_accuracy_loss=loss)
    assert record["max_tokens"] == record["validation"]["chosen"]["max_tokens"] == tokens
    alone = {row["max_tokens"]: row["accuracy"] for row in record["validation"]["transformer_alone"]}
    assert alone.keys() == {budget for budget in (64, 96, 128, 160, 192, 224, 256) if budget >= tried}
    assert alone[256] == alone[128] > alone[96]


@pytest.mark.parametrize(
    ("model", "changes", "labels", "loss", "why"),
    [
        ("model", {"seed": 7}, LABELS, 0, r"data\.seed 7 and 42"),
        ("model", {"config": "archive"}, ["cs", "math"], 0, "different labels: cs, math and "),
        ("model", {}, LABELS, -0.1, "not between 0 and 1"),
        ("model", {}, LABELS, 1.0, "not between 0 and 1"),
        ("none", {}, LABELS, 0, "written into the model's directory"),
    ],
    ids=["seed", "labels", "negative", "one", "no directory"],
)
def test_refused(pair, model, changes, labels, loss, why):
    """What would give a threshold that means nothing; another seed has trained on the validation papers."""
    (pair.baseline / "recipe.yaml").write_text(yaml.safe_dump({"data": pair.recipe["data"] | changes}))
    pair.labels = labels
    with pytest.raises(UserError, match=why):
        fit_cascade(pair.model.parent / model, pair.baseline, max_accuracy_loss=loss)
    assert not (pair.model / "eval").exists()
