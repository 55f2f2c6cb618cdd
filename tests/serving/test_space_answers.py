"""The page's model: engine, texts, replies, facts; its words and shades; the GPU that it borrows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from factories import LABELS, SURE, write_onnx_model

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import Prediction
from arxiv_cls.space import content as wording
from arxiv_cls.space import predictions as answers
from arxiv_cls.space.content import EXAMPLES, ModelFacts, read_facts, shades
from arxiv_cls.space.predictions import (
    MAX_CHARACTERS,
    as_reply,
    choose_engine,
    compose_text,
    load_space_model,
)

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"
HOSTILE = "<img src=x onerror=alert(1)>"


def prediction(**changes: object) -> Prediction:
    """A prediction of `cs.CV`."""
    fields = {"label": "cs.CV", "score": 0.9, "scores": {"cs.CV": 0.9, "cs.LG": 0.1}, "truncated": False}
    fields |= {"prediction_set": ("cs.CV",), "in_scope": True, "scope_score": 0.8, "answered_by": "onnx"}
    return Prediction(**(fields | changes))


class TestEngine:
    """ONNX where it is, else what else can compute the model."""

    def test_onnx_is_preferred(self, models_dir: Path) -> None:
        """Without a word, and also when another is asked for."""
        assert choose_engine(str(models_dir / "tiny")) == (models_dir / "tiny", "onnx")
        assert choose_engine(str(models_dir / "tiny"), wanted="int8")[1] == "int8"

    def test_torch_for_a_model_without_onnx_and_none_for_a_baseline(self) -> None:
        """The kinds that training leaves."""
        assert choose_engine(str(RELEASES / "tiny-transformer"))[1] == "torch"
        assert choose_engine(str(RELEASES / "tiny-tfidf"))[1] is None

    def test_nothing_can_compute_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message names the command that writes the ONNX file."""
        monkeypatch.setattr(answers.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"no onnx/model\.onnx, and torch is not installed") as refusal:
            choose_engine(str(RELEASES / "tiny-transformer"))
        assert "arxiv-cls export" in refusal.value.hint


class TestText:
    """What is read from the boxes."""

    @pytest.mark.parametrize(
        ("title", "abstract", "text"),
        [
            (" A  title\n", " An abstract.\n", "A title\n\nAn abstract."),
            ("", "A title\n\nand abstract", "A title\n\nand abstract"),
            (None, "abstract", "abstract"),
            ("title", None, "title"),
        ],
    )
    def test_composed(self, title: str | None, abstract: str | None, text: str) -> None:
        """Title, blank line, abstract, as in training; one pasted text stays as it is."""
        assert compose_text(title, abstract) == text

    def test_empty_and_too_long(self) -> None:
        """Each is told with what to do next."""
        with pytest.raises(UserError, match="nothing to classify"):
            compose_text(" ", "\n")
        with pytest.raises(UserError, match="this page takes 20,000"):
            compose_text("", "x" * (MAX_CHARACTERS + 1))

    def test_examples_are_whole_and_short_enough(self) -> None:
        """One for each label of top5 and one outside; each fits the page."""
        assert len(EXAMPLES) == len(LABELS) + 1
        for name, title, abstract in EXAMPLES:
            assert compose_text(title, abstract) == f"{title}\n\n{abstract}", name


class TestReply:
    """The API's reply is the predictor's answer."""

    def test_fields(self, models_dir: Path) -> None:
        """By hand: one known word gives its label a 4 among five logits, and the rules answer too."""
        space = load_space_model(str(models_dir / "tiny"))
        reply = as_reply(space, space.predict(["vision"])[0])
        assert (reply["label"], reply["name"]) == ("cs.CV", "Computer Vision and Pattern Recognition")
        assert reply["score"] == pytest.approx(SURE, abs=1e-6)
        assert (reply["prediction_set"], reply["in_scope"], reply["truncated"]) == (["cs.CV"], True, False)
        assert (reply["answered_by"], reply["model"]) == ("onnx", "tiny")
        assert next(iter(reply["scores"])) == "cs.CV"
        json.dumps(reply)

    def test_words(self, models_dir: Path) -> None:
        """The word that decides is the word that is shown."""
        space = load_space_model(str(models_dir / "tiny"))
        words = space.explain("a vision of nothing", "cs.CV")
        assert max(words, key=lambda pair: pair[1])[0] == "vision "


class TestFacts:
    """What is said of the model is read from its records."""

    def test_of_a_release(self) -> None:
        """Metrics with intervals, F1 per label, weights for a version; no card address for a directory."""
        directory = RELEASES / "tiny-tfidf"
        record = json.loads((directory / "eval" / "metrics.json").read_text())
        facts = read_facts(str(directory), directory)
        assert (facts.name, facts.card) == ("tiny-tfidf", None)
        assert facts.version == f"weights {record['weights_sha256'][:12]}"
        assert facts.metrics["Accuracy"] == (
            record["metrics"]["accuracy"],
            *record["intervals"]["accuracy"],
        )
        assert facts.f1 == {label: row["f1"] for label, row in record["metrics"]["per_class"].items()}
        assert facts.test_papers == record["papers"]

    def test_of_a_hub_model(self, tmp_path: Path) -> None:
        """The tag is the version, the card's address has it; a bare id is known by its commit."""
        facts = read_facts("user/name@v0.3.0", tmp_path)
        assert (facts.name, facts.version) == ("user/name", "v0.3.0")
        assert facts.card.endswith("/user/name/tree/v0.3.0")
        snapshot = tmp_path / ("ab" * 20)
        snapshot.mkdir()
        facts = read_facts("user/name", snapshot)
        assert (facts.version, facts.card[-40:]) == (("ab" * 20)[:12], "ab" * 20)
        assert facts.metrics == {}

    def test_damaged_record(self, tmp_path: Path) -> None:
        """The message names the command that writes it anew."""
        (tmp_path / "eval").mkdir()
        (tmp_path / "eval" / "metrics.json").write_text('{"metrics": {"accuracy": "high"}, "intervals": 3}')
        with pytest.raises(UserError, match="damaged"):
            read_facts(str(tmp_path), tmp_path)

    def test_results_of_another_split_are_not_test_results(self, tmp_path: Path) -> None:
        """An evaluation on validation stays off the page."""
        (tmp_path / "eval").mkdir()
        record = json.loads((RELEASES / "tiny-tfidf" / "eval" / "metrics.json").read_text())
        (tmp_path / "eval" / "metrics.json").write_text(json.dumps(record | {"split": "validation"}))
        facts = read_facts(str(tmp_path), tmp_path)
        assert (facts.metrics, facts.f1, facts.test_papers) == ({}, {}, None)


class TestWording:
    """Sentences, and HTML with nothing foreign in it."""

    def test_prediction_set_in_words(self) -> None:
        """One, several, none."""
        assert "One category is enough" in wording.set_sentence(prediction())
        several = wording.set_sentence(prediction(prediction_set=("cs.CV", "cs.LG", "stat.ML")))
        assert several == (
            "With 90% certainty it is one of 3: Computer Vision and Pattern Recognition (cs.CV), Machine "
            "Learning (cs.LG) or Machine Learning (Statistics) (stat.ML)."
        )
        assert wording.set_sentence(prediction(prediction_set=None)) == ""

    def test_out_of_scope_is_said_and_no_set_with_it(self) -> None:
        """A certainty among categories that do not apply would mislead."""
        html = wording.verdict(prediction(in_scope=False), LABELS, 256, whole=True)
        assert "Out of scope" in html
        assert "warning" in html
        assert "certainty" not in html
        assert "Out of scope" not in wording.verdict(prediction(in_scope=None), LABELS, 256, whole=True)

    def test_cut_and_partial_texts_are_said(self) -> None:
        """The limit in tokens, and that a title alone is little."""
        html = wording.verdict(prediction(truncated=True), LABELS, 256, whole=False)
        assert "(256 tokens)" in html
        assert "only one of them" in html

    def test_nothing_foreign_is_markup(self) -> None:
        """What a visitor, a file or a model directory says is shown as text."""
        facts = ModelFacts(
            HOSTILE, HOSTILE, f"https://x/'{HOSTILE}", 3, {HOSTILE: (1, 1, 1)}, {HOSTILE: 1}, 0.9
        )
        for html in (
            wording.notice("error", HOSTILE),
            wording.error_notice(UserError(HOSTILE, hint=HOSTILE)),
            wording.about(facts, [HOSTILE], HOSTILE, 3),
            wording.heading(HOSTILE, facts),
            wording.verdict(prediction(prediction_set=(HOSTILE,)), [HOSTILE], 3, whole=True),
        ):
            assert "<img" not in html
            assert "&lt;img" in html
            assert "x/'<" not in html

    def test_bytes_that_are_no_text(self) -> None:
        """Control characters and halves of surrogate pairs, which JSON could not carry."""
        html = wording.notice("error", "found \x00\udc80 here")
        html.encode("utf-8")
        assert "found \ufffd\ufffd here" in html


class TestShades:
    """Weights as colours."""

    def test_by_hand(self) -> None:
        """The heaviest is full, faint ones and white space have no colour, neighbours without are one."""
        words = [("a ", 0.01), ("pixel ", 1.0), ("of\n\n", 0.0), ("logic", -0.5)]
        assert shades(words) == [("a ", None), ("pixel", 1.0), (" of\n\n", None), ("logic", -0.5)]

    def test_light_words_stay_pale(self) -> None:
        """Where nothing decides, nothing shines."""
        assert shades([("word", 0.15)]) == [("word", 0.5)]
        assert shades([]) == []


class TestTruncation:
    """Long texts."""

    def test_reply_says_so(self, tmp_path: Path) -> None:
        """A model of four tokens, a text of six."""
        space = load_space_model(str(write_onnx_model(tmp_path / "short", max_length=4)))
        assert space.predict(["vision a b c d language"])[0].truncated
        assert "".join(word for word, _ in space.explain("vision a b c d language", "cs.CV")).endswith(
            "language"
        )
