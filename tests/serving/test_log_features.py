"""Features of a text in the request log, against values worked out by hand."""

from __future__ import annotations

from arxiv_cls.serving.request_log import text_features


class TestTextFeatures:
    """Counts and shares of small texts."""

    def test_by_hand(self):
        """`Übung 42\\n\\nGNNs` has 14 characters, 3 words of 5, 2 and 4 characters, 9 letters, 4 capitals."""
        assert text_features("Übung 42\n\nGNNs", tokens=6) == {
            "characters": 14,
            "words": 3,
            "tokens": 6,
            "mean_word_length": 3.667,
            "non_ascii_share": round(1 / 14, 5),
            "digit_share": round(2 / 14, 5),
            "upper_case_share": round(4 / 9, 5),
            "line_breaks": 2,
        }

    def test_without_words_or_letters(self):
        """Nothing divides by zero."""
        features = text_features("!?", tokens=2)
        assert (features["words"], features["mean_word_length"], features["upper_case_share"]) == (0, 0, 0)

    def test_characters_of_other_scripts(self):
        """`²` is a digit, `Ж` a capital, `中` a letter without case: as Python's own strings have it."""
        features = text_features("Ж中²a", tokens=1)
        assert features["digit_share"] == 0.25
        assert features["upper_case_share"] == round(1 / 3, 5)
        assert features["non_ascii_share"] == 0.75
