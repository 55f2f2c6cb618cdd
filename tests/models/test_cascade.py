"""The cascade: who answers which text, in which order; and which pair is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.models import cascade
from arxiv_cls.models.cascade import CascadePredictor, CascadeRule, load_cascade
from arxiv_cls.models.prediction import EncodedText, check_texts

# The baseline's score of "cs.CL" is the number that starts the text.
TEXTS = ["0.95 sure", "0.60 not sure", "0.10 sure of the other", "0.70 not sure either"]


class Baseline:
    """Reads its score from the text; its labels stand in another order than the transformer's."""

    kind = engine = "tfidf"
    multi_label = False
    labels = ("cs.CV", "cs.CL")

    def __init__(self, directory: Path) -> None:
        self.directory, self.weights_path = directory, directory / "model.skops"

    def encode(self, texts):
        check_texts(texts)
        return [EncodedText(text, 2, False, no_known_words="?" in text) for text in texts]

    def _encoded_proba(self, encoded):
        said = np.array([float(item.text.split()[0]) for item in encoded]).reshape(-1, 1)
        return np.hstack([1 - said, said])


class Transformer:
    """Says cs.CL with 0.8 of every text, and remembers what it had to read."""

    kind, engine = "transformer", "int8"
    multi_label = False
    labels = ("cs.CL", "cs.CV")
    max_length = 256

    def __init__(self, directory: Path) -> None:
        self.directory, self.weights_path = directory, directory / "onnx" / "model_int8.onnx"
        self.read: list[str] = []

    def limit_tokens(self, max_length):
        self.max_length = min(self.max_length, max_length)

    def encode(self, texts):
        """Two tokens a text; the second word decides whether it was cut."""
        return [EncodedText(text, 2, text.endswith("either"), no_known_words="??" in text) for text in texts]

    def _encoded_proba(self, encoded):
        return self.predict_proba([item.text for item in encoded])

    def predict_proba(self, texts, *, progress=False):
        self.read += list(texts)
        return np.tile([0.8, 0.2], (len(texts), 1))


@pytest.fixture
def pair(tmp_path):
    """A baseline and a transformer in directories of their own, with weights."""
    for path in ("baseline/model.skops", "model/onnx/model_int8.onnx"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(path.encode())
    return SimpleNamespace(
        baseline=Baseline(tmp_path / "baseline"), transformer=Transformer(tmp_path / "model")
    )


@pytest.fixture
def joined(pair):
    """The pair as a cascade with a threshold of 0.9, 128 tokens, sets from 0.25."""
    return CascadePredictor(pair.baseline, pair.transformer, CascadeRule(0.9, 128, 0.25))


class TestWhoAnswers:
    """The baseline where its highest score reaches the threshold, whatever the label."""

    def test_predictions(self, joined):
        """In the order of the texts; only the unsure ones reach the transformer."""
        said = joined.predict(TEXTS)
        assert [one.answered_by for one in said] == ["tfidf", "int8", "tfidf", "int8"]
        assert [one.label for one in said] == ["cs.CL", "cs.CL", "cs.CV", "cs.CL"]
        assert [one.score for one in said] == pytest.approx([0.95, 0.8, 0.9, 0.8])
        assert [one.truncated for one in said] == [False, False, False, True]
        assert joined.transformer.read == [TEXTS[1], TEXTS[3]]

    def test_threshold_is_reached_by_equality(self, pair):
        """A score of exactly the threshold is sure."""
        cascade_at = CascadePredictor(pair.baseline, pair.transformer, CascadeRule(0.6, 128, 0.25))
        assert cascade_at.predict(["0.60 x"])[0].answered_by == "tfidf"

    def test_probabilities_are_the_predictions(self, joined):
        """Columns in the transformer's order, although the baseline has another."""
        assert joined.predict_proba(TEXTS) == pytest.approx(
            np.array([[0.95, 0.05], [0.8, 0.2], [0.1, 0.9], [0.8, 0.2]])
        )
        assert joined.predict_proba([]).shape == (0, 2)

    @pytest.mark.parametrize("kept", [[0, 2], [1, 3], []])
    def test_one_kind_of_answer_only(self, joined, kept):
        """All by one of the two, or none at all."""
        assert len(joined.predict([TEXTS[position] for position in kept])) == len(kept)

    def test_unknown_words(self, joined):
        """The baseline is not sure of a text that it knows no word of; if neither does, there is no set."""
        said = joined.predict(["0.95 ?", "0.95 ??"])
        assert [one.answered_by for one in said] == ["int8", "int8"]
        assert [one.no_known_words for one in said] == [False, True]
        assert [one.prediction_set for one in said] == [("cs.CL",), None]
        assert joined.predict_proba(["0.95 ?"]) == pytest.approx(np.array([[0.8, 0.2]]))

    def test_prediction_sets_are_the_cascades_own(self, joined):
        """One threshold for both kinds of answer, also where fewer scores are shown."""
        said = joined.predict(TEXTS, top_k=1)
        assert [one.prediction_set for one in said] == [("cs.CL",), ("cs.CL",), ("cs.CV",), ("cs.CL",)]
        assert [len(one.scores) for one in said] == [1, 1, 1, 1]
        wide = CascadePredictor(joined.baseline, joined.transformer, CascadeRule(0.9, 128, 0.1))
        assert wide.predict(TEXTS)[1].prediction_set == ("cs.CL", "cs.CV")
        assert wide.predict(TEXTS)[2].prediction_set == ("cs.CV", "cs.CL")

    def test_encoding_says_what_is_left_to_do(self, joined):
        """Whether the baseline has answered; blanks are refused; the transformer reads what was fitted."""
        assert [item.answered for item in joined.encode(TEXTS)] == [True, False, True, False]
        with pytest.raises(UserError, match="text 2 of 2 is empty"):
            joined.predict(["0.9 a", " "])
        assert (joined.kind, joined.engine, joined.labels) == ("cascade", "tfidf+int8", ["cs.CL", "cs.CV"])
        assert joined.max_length == joined.transformer.max_length == 128

    def test_other_labels(self, pair):
        """Two models of different label sets are no cascade."""
        pair.baseline.labels = ("cs.CV", "math")
        with pytest.raises(UserError, match="different labels"):
            CascadePredictor(pair.baseline, pair.transformer, CascadeRule(0.9, 128, 0.25))


class TestLoading:
    """Only a pair that was fitted is loaded."""

    @pytest.mark.parametrize("half", ["baseline", "transformer"])
    def test_multi_label(self, fitted, half):
        """The sureness of one score says nothing of the other labels."""
        getattr(fitted, half).multi_label = True
        with pytest.raises(UserError, match="multi-label model: a cascade has one label a paper"):
            load_cascade("outputs/model", "outputs/baseline")

    @pytest.fixture
    def fitted(self, pair, monkeypatch):
        """A record for the pair, and `load_predictor` giving the two."""
        places = {"outputs/model": pair.transformer, "outputs/baseline": pair.baseline}
        monkeypatch.setattr(cascade, "load_predictor", lambda model, **_: places[model])
        record = {
            "schema_version": 1,
            "engine": "int8",
            "threshold": 0.9,
            "max_tokens": 96,
            "set_threshold": 0.2,
            "transformer_sha256": hashlib.sha256(b"model/onnx/model_int8.onnx").hexdigest(),
            "baseline_sha256": hashlib.sha256(b"baseline/model.skops").hexdigest(),
        }
        path = pair.transformer.directory / "eval" / "cascade.json"
        path.parent.mkdir()
        path.write_text(json.dumps(record))
        return SimpleNamespace(path=path, record=record, **vars(pair))

    def test_fitted_pair(self, fitted):
        """The rule is the one on record."""
        loaded = load_cascade("outputs/model", "outputs/baseline")
        assert loaded.rule == CascadeRule(0.9, 96, 0.2)
        assert [one.answered_by for one in loaded.predict(TEXTS[:2])] == ["tfidf", "int8"]

    @pytest.mark.parametrize(
        ("change", "message", "hint"),
        [
            (lambda f: f.path.unlink(), "has no cascade", "arxiv-cls cascade outputs/model outputs/baseline"),
            (
                lambda f: f.transformer.weights_path.write_bytes(b"trained again"),
                "other weights than .*model_int8.onnx",
                "arxiv-cls cascade",
            ),
            (
                lambda f: f.baseline.weights_path.write_bytes(b"trained again"),
                "other weights than .*model.skops",
                "arxiv-cls cascade",
            ),
            (
                lambda f: f.path.write_text(json.dumps(f.record | {"engine": "onnx"})),
                "fitted for the engine onnx, not int8",
                "--engine onnx",
            ),
            *(
                (lambda f, content=content: f.path.write_text(content), r"cascade\.json(:| is)", "")
                for content in ("{", "[]", "{}")
            ),
            *(
                (lambda f, changes=changes: f.path.write_text(json.dumps(f.record | changes)), message, "")
                for changes, message in (
                    ({"schema_version": 2}, "reads version 1, found 2"),
                    ({"threshold": "high"}, r"cascade\.json:"),
                )
            ),
        ],
    )
    def test_refused(self, fitted, change, message, hint):
        """No record, models that were trained or exported again, another engine, a damaged file."""
        change(fitted)
        with pytest.raises(UserError, match=message) as caught:
            load_cascade("outputs/model", "outputs/baseline")
        assert hint in (caught.value.hint or "")

    def test_places(self, fitted):
        """A baseline comes first, a transformer second, on an ONNX engine."""
        with pytest.raises(UserError, match="is no baseline"):
            load_cascade("outputs/baseline", "outputs/model")
        with pytest.raises(UserError, match="is no transformer"):
            load_cascade("outputs/baseline", "outputs/baseline")
        with pytest.raises(UserError, match="does not run on the engine 'torch'"):
            load_cascade("outputs/model", "outputs/baseline", engine="torch")
