"""What words add to a category: exact for a linear model, what is lost without them for any other."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from factories import TFIDF_LABELS as LABELS
from factories import small_model

from arxiv_cls.errors import UserError
from arxiv_cls.models import attribution
from arxiv_cls.models.attribution import attribute
from arxiv_cls.models.prediction import EncodedText, to_predictions
from arxiv_cls.models.tfidf import TfidfPredictor

TEXT = (
    "Planning with language,\n\n a search:   agent planning.\nData of a camera, a novel IMAGE. Nothing zzz."
)
UNKNOWN = "qqqq wwww"


@pytest.fixture(scope="module")
def linear() -> TfidfPredictor:
    """A linear baseline on words and word pairs, titles apart."""
    return TfidfPredictor(small_model("linear"), Path("none"))


def centred_logits(predictor: TfidfPredictor, text: str) -> np.ndarray:
    """Log probabilities above their mean: logits up to what softmax does not see."""
    logs = np.log(predictor.predict_proba([text])[0])
    return logs - logs.mean()


class WordPredictor:
    """Two labels; the log-odds of `cs.CV` are the sum of its words' numbers, of what is read."""

    kind, engine, labels = "transformer", "torch", ["cs.AI", "cs.CV"]
    multi_label = False

    def __init__(self, max_length: int | None = None) -> None:
        self.max_length, self.calls = max_length, []
        self.numbers = {"pixel": 2.0, "camera": 0.75, "logic": -1.5}

    def words(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    def encode(self, texts):
        return [EncodedText(t, len(self.read(t)), len(self.words(t)) > len(self.read(t))) for t in texts]

    def read(self, text: str) -> list[str]:
        return self.words(text)[: self.max_length]

    def predict_proba(self, texts, *, progress=False):
        self.calls.append(list(texts))
        odds = np.asarray([sum(self.numbers.get(word, 0.0) for word in self.read(text)) for text in texts])
        share = 1 / (1 + np.exp(-odds))
        return np.column_stack([1 - share, share])

    def predict(self, texts, top_k=None):
        return to_predictions(
            self.predict_proba(texts), self.labels, self.encode(texts), top_k, answered_by=self.engine
        )


class TestLinear:
    """A linear baseline: nothing is left over."""

    @pytest.mark.parametrize("label", LABELS)
    def test_weights_add_up_to_the_logit(self, linear: TfidfPredictor, label: str) -> None:
        """Less the logit of a text that has no known word, which is the intercept."""
        column = LABELS.index(label)
        words = attribute(linear, TEXT, label)
        expected = centred_logits(linear, TEXT)[column] - centred_logits(linear, UNKNOWN)[column]
        assert sum(weight for _, weight in words) == pytest.approx(expected, abs=1e-5)
        assert abs(expected) > 0.01

    def test_words_are_the_text(self, linear: TfidfPredictor) -> None:
        """Joined, they give it back; unknown words weigh nothing."""
        words = attribute(linear, "  " + TEXT + "\n", "cs.CV")
        assert "".join(word for word, _ in words) == TEXT
        weights = {word.strip().lower(): weight for word, weight in words}
        assert weights["zzz."] == 0
        assert weights["image."] > max(0.05, weights["planning"])

    def test_a_title_counts_as_a_title(self, linear: TfidfPredictor) -> None:
        """The same word weighs more before the blank line, where it has columns of its own."""
        assert linear.model.terms.title is not None
        words = attribute(linear, "image\n\nimage", "cs.CV")
        assert words[0][1] > words[1][1] > 0

    def test_lower_case_that_grows(self, linear: TfidfPredictor) -> None:
        """A capital I with a dot has two letters in lower case; the words after it stay in their places."""
        words = attribute(linear, "\u0130\u0130 image\n\nImage camera", "cs.CV")
        assert [word for word, weight in words if weight > 0.01] == ["image\n\n", "Image ", "camera"]


class TestOcclusion:
    """Any other model: asked again without the words."""

    def test_weight_is_what_the_log_odds_lose(self) -> None:
        """By hand, for the sum that the model is; the sign turns with the label."""
        text = "A pixel camera\n\nof logic"
        for label, sign in (("cs.CV", 1), ("cs.AI", -1)):
            words = attribute(WordPredictor(), text, label)
            assert "".join(word for word, _ in words) == text
            found = {word.strip(): weight for word, weight in words}
            expected = {"A": 0, "pixel": 2, "camera": 0.75, "of": 0, "logic": -1.5}
            assert found == pytest.approx({word: sign * number for word, number in expected.items()})

    def test_trees_are_asked_again(self) -> None:
        """A boosted baseline is no sum; its weights are the differences of its own answers."""
        predictor = TfidfPredictor(small_model(), Path("none"))
        text = "image pixel\n\ncamera"
        words = dict(attribute(predictor, text, "cs.CV"))
        odds = [math.log(p / (1 - p)) for p in predictor.predict_proba([text, "image\n\ncamera"])[:, 2]]
        assert words["pixel\n\n"] == pytest.approx(odds[0] - odds[1], abs=1e-6)

    def test_long_text_is_cut_into_phrases_that_fit_the_budget(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The tokens of all variants stay near the budget; no phrase crosses the end of the title."""
        monkeypatch.setattr(attribution, "TOKEN_BUDGET", 1200)
        text = (
            "A title of six words here\n\n" + "One two three four five pixel. " * 4 + "One two three. " * 32
        )
        predictor = WordPredictor()
        words = attribute(predictor, text, "cs.CV")
        assert "".join(word for word, _ in words) == text.strip()
        tokens = sum(len(predictor.words(variant)) for variant in predictor.calls[-1])
        assert 0.7 * 1200 < tokens < 1.5 * 1200
        assert not [phrase for phrase, _ in words if re.search(r"\n\n\s*\S", phrase)]
        assert sum(weight for _, weight in words) == pytest.approx(4 * 2)

    def test_what_is_not_read_weighs_nothing(self) -> None:
        """Words after the model's limit are one piece of weight 0, and no word moves up to take a place."""
        words = attribute(WordPredictor(max_length=3), "a b pixel camera logic pixel", "cs.CV")
        assert words[-1] == ("camera logic pixel", 0.0)
        assert dict(words[:-1]) == pytest.approx({"a ": 0, "b ": 0, "pixel ": 2})


@pytest.mark.parametrize(("text", "expected"), [("pixel", r"no label 'math\.GT'"), (" \n", "empty")])
def test_refused(text: str, expected: str) -> None:
    """A label that the model does not know, and an empty text."""
    with pytest.raises(UserError, match=expected):
        attribute(WordPredictor(), text, "math.GT")
