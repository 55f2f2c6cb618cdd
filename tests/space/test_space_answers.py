"""What the page computes and says of one text: engine, text, facts, boxes, shades, a borrowed GPU."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from factories import LABELS, SURE, write_onnx_model

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import Prediction
from arxiv_cls.space import content, predictions
from arxiv_cls.space.content import EXAMPLES, ModelFacts, read_facts, shades
from arxiv_cls.space.page import build_page
from arxiv_cls.space.predictions import (
    MAX_CHARACTERS,
    SpaceModel,
    as_reply,
    choose_engine,
    compose_text,
    load_space_model,
    score_file,
)

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"
HOSTILE = "<img src=x onerror=alert(1)>"


class TestEngine:
    """ONNX where it is, else what else can compute the model."""

    def test_choice(self, tiny_model: Path) -> None:
        """ONNX for a model that has it, torch for one that has not, none for a baseline; or what is asked."""
        assert choose_engine(str(tiny_model)) == (tiny_model, "onnx")
        assert choose_engine(str(tiny_model), "int8")[1] == "int8"
        assert choose_engine(str(RELEASES / "tiny-transformer"))[1] == "torch"
        assert choose_engine(str(RELEASES / "tiny-tfidf"))[1] is None

    def test_nothing_can_compute_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message names the command that writes the ONNX file."""
        monkeypatch.setattr(predictions.importlib.util, "find_spec", lambda name: None)
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

    @pytest.mark.parametrize(
        ("abstract", "told"),
        [
            ("\n", "The text is empty"),
            ("\u200b\ufeff\u2060", "The text is empty"),
            ("half of a pair: \ud83d", "not UTF-8"),
            ("x" * (MAX_CHARACTERS + 1), "this page takes 20,000"),
        ],
    )
    def test_refused(self, abstract: str, told: str) -> None:
        """Each is told with what to do next, on the page and in its API."""
        with pytest.raises(UserError, match=told) as refusal:
            compose_text(" ", abstract)
        assert refusal.value.hint

    def test_examples(self) -> None:
        """One for each label of top5 and one outside; each is whole and fits the page."""
        assert len(EXAMPLES) == len(LABELS) + 1
        for name, title, abstract in EXAMPLES:
            assert compose_text(title, abstract) == f"{title}\n\n{abstract}", name


class TestReply:
    """The API's reply is the predictor's answer."""

    def test_fields(self, space: SpaceModel) -> None:
        """By hand: one known word gives its label a 4 among five logits, and the rules answer too."""
        reply = json.loads(json.dumps(as_reply(space, space.predict(["vision"])[0])))
        assert (reply["label"], reply["name"]) == ("cs.CV", "Computer Vision and Pattern Recognition")
        assert reply["score"] == pytest.approx(SURE, abs=1e-6)
        assert (reply["prediction_set"], reply["in_scope"], reply["truncated"]) == (["cs.CV"], True, False)
        assert (reply["answered_by"], reply["model"]) == ("onnx", "tiny")
        assert next(iter(reply["scores"])) == "cs.CV"

    def test_words(self, space: SpaceModel) -> None:
        """The word that decides is the word that is shown."""
        words = space.explain("a vision of nothing", "cs.CV")
        assert max(words, key=lambda pair: pair[1])[0] == "vision "

    def test_truncated(self, tmp_path: Path) -> None:
        """A model of four tokens, a text of six: all of it is shown."""
        space = load_space_model(str(write_onnx_model(tmp_path / "short", max_length=4)))
        text = "vision a b c d language"
        assert space.predict([text])[0].truncated
        assert "".join(word for word, _ in space.explain(text, "cs.CV")) == text


def test_nothing_to_judge_by() -> None:
    """No category, no scores, no 90% for a text without a known word; a text with such words has them."""
    space = load_space_model(str(RELEASES / "tiny-tfidf"))
    functions = [one.fn for one in build_page(space).fns.values()]
    answer = next(one for one in functions if getattr(one, "__name__", "") == "answer")
    boxes, *rest = answer("\u56fe\u795e\u7ecf", "\u7f51\u7edc")
    assert "nothing to judge by" in boxes
    assert rest == [None, None, None]
    assert as_reply(space, space.predict(["\u56fe\u795e\u7ecf"])[0])["no_known_words"]
    boxes, scores, _, said = answer("Graph neural networks", "We train deep models on language.")
    assert "nothing to judge by" not in boxes
    assert sum(scores.values()) == pytest.approx(1)
    assert said[0].startswith("Graph neural networks\n\n")


class TestMultiLabel:
    """Several labels, each with its own bar and threshold; or none."""

    @pytest.fixture(scope="class")
    def several(self, tmp_path_factory: pytest.TempPathFactory) -> SpaceModel:
        """Sigmoids of the logits; `vision` alone gives cs.CV 0.98."""
        thresholds = [0.6, 0.6, 0.75, 0.6, 0.6]
        return load_space_model(
            str(write_onnx_model(tmp_path_factory.mktemp("several") / "m", thresholds=thresholds))
        )

    def test_answers(self, several: SpaceModel) -> None:
        """Named are the labels at or above their thresholds; the bars are all scores, with the thresholds."""
        functions = [one.fn for one in build_page(several).fns.values()]
        answer = next(one for one in functions if getattr(one, "__name__", "") == "answer")
        boxes, scores, *_ = answer("Vision", "learning")
        assert (
            "Categories: Computer Vision and Pattern Recognition (cs.CV) and Machine Learning (cs.LG)."
            in boxes
        )
        assert scores["Computer Vision and Pattern Recognition (cs.CV), from 75%"] == pytest.approx(
            0.8808, abs=1e-4
        )
        assert sum(scores.values()) == pytest.approx(2 * 0.8808 + 3 * 0.5, abs=1e-3)
        boxes, scores, *_ = answer("Vision", "of a b c d e f g")
        assert "No label is above its threshold." in boxes
        assert len(scores) == 5

    def test_words_and_file(self, several: SpaceModel, tmp_path: Path) -> None:
        """A lone word is told from a text of nothing; the preview of a file shows the named labels."""
        assert several.explain("vision", "cs.CV") == [("vision", pytest.approx(4))]
        source = tmp_path / "papers.csv"
        source.write_text("id,text\n1,vision learning\n2,vision of a b c d e f g h\n")
        scored = score_file(several, source, tmp_path, lambda done, rows: None)
        assert scored.preview == [["1", "cs.CV cs.LG", ""], ["2", "", ""]]

    def test_wording(self, several: SpaceModel) -> None:
        """What the model does is said as it is."""
        facts = several.facts
        assert "Names the categories of a paper" in content.heading("T", facts)
        about = content.about(facts, LABELS, "onnx", 256)
        assert "gives each paper any number of 5 categories" in about
        assert "a threshold of its own" in about


class TestFacts:
    """What is said of the model is read from its records."""

    def test_of_a_release(self) -> None:
        """Metrics with intervals, F1 per label, weights for a version; no card address for a directory."""
        directory = RELEASES / "tiny-tfidf"
        record = json.loads((directory / "eval" / "metrics.json").read_text())
        facts = read_facts(str(directory), directory)
        assert (facts.name, facts.card) == ("tiny-tfidf", None)
        assert facts.version == f"weights {record['weights_sha256'][:12]}"
        accuracy = record["metrics"]["accuracy"], *record["intervals"]["accuracy"]
        assert facts.metrics["Accuracy"] == accuracy
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

    def test_results_of_another_split_are_not_test_results(self, tmp_path: Path) -> None:
        """An evaluation on validation stays off the page."""
        (tmp_path / "eval").mkdir()
        record = json.loads((RELEASES / "tiny-tfidf" / "eval" / "metrics.json").read_text())
        (tmp_path / "eval" / "metrics.json").write_text(json.dumps(record | {"split": "validation"}))
        facts = read_facts(str(tmp_path), tmp_path)
        assert (facts.metrics, facts.f1, facts.test_papers) == ({}, {}, None)


def verdict(whole: bool = True, **changes: object) -> str:
    """The boxes under a prediction of `cs.CV`."""
    fields = {"label": "cs.CV", "score": 0.9, "scores": {"cs.CV": 0.9, "cs.LG": 0.1}, "truncated": False}
    fields |= {"prediction_set": ("cs.CV",), "in_scope": True, "scope_score": 0.8, "answered_by": "onnx"}
    return content.verdict(Prediction(**(fields | changes)), LABELS, 256, whole)


class TestWording:
    """Sentences, and HTML with nothing foreign in it."""

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            ({}, "One category is enough for 90% certainty: Computer Vision"),
            (
                {"prediction_set": ("cs.CV", "cs.LG", "stat.ML")},
                "With 90% certainty it is one of 3: Computer Vision and Pattern Recognition (cs.CV), Machine "
                "Learning (cs.LG) or Machine Learning (Statistics) (stat.ML).",
            ),
            ({"in_scope": False}, '<div class="notice warning"><p>Out of scope'),
            ({"in_scope": None}, "One category is enough"),
            ({"truncated": True}, "(256 tokens)"),
            ({"whole": False}, "only one of them"),
        ],
    )
    def test_told(self, answer: dict, told: str) -> None:
        """The prediction set in words, and what limits the answer."""
        assert told in verdict(**answer)

    def test_not_told(self) -> None:
        """A certainty among categories that do not apply would mislead; no rules, no words of them."""
        assert "certainty" not in verdict(in_scope=False)
        assert verdict(prediction_set=None, in_scope=None) == ""

    def test_nothing_foreign_is_markup(self) -> None:
        """What a visitor, a file or a model directory says is shown as text."""
        metrics = {HOSTILE: (1, 1, 1)}
        facts = ModelFacts(HOSTILE, HOSTILE, f"https://x/'{HOSTILE}", 3, metrics, {HOSTILE: 1}, 0.9)
        for html in (
            content.error_notice(UserError(HOSTILE, hint=HOSTILE)),
            content.about(facts, [HOSTILE], HOSTILE, 3),
            content.heading(HOSTILE, facts),
            verdict(prediction_set=(HOSTILE,)),
        ):
            assert "<img" not in html
            assert "&lt;img" in html
            assert "x/'<" not in html

    def test_bytes_that_are_no_text(self) -> None:
        """Control characters and halves of surrogate pairs, which JSON could not carry."""
        html = content.notice("error", "found \x00\udc80 here")
        html.encode("utf-8")
        assert "found \ufffd\ufffd here" in html

    @pytest.mark.parametrize(
        ("words", "shown"),
        [
            (
                [("a ", 0.01), ("pixel ", 1.0), ("of\n\n", 0.0), ("logic", -0.5)],
                [("a ", None), ("pixel", 1.0), (" of\n\n", None), ("logic", -0.5)],
            ),
            ([("word", 0.15)], [("word", 0.5)]),
            ([], []),
        ],
    )
    def test_shades(self, words: list, shown: list) -> None:
        """The heaviest word is full, faint ones and white space have no colour, light ones stay pale."""
        assert shades(words) == shown


class TestZeroGpu:
    """`spaces.GPU` where the hardware is ZeroGPU: who borrows a GPU, how long, and when it is refused."""

    @pytest.fixture
    def decorated(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """A stand-in for the package `spaces` that notes what is called through it, and for how long."""
        called: list[str] = []

        def gpu(duration: Callable[..., int]):
            def decorate(function):
                def wrapped(*arguments):
                    called.append(f"{function.__name__} {duration(*arguments)}")
                    return function(*arguments)

                return wrapped

            return decorate

        stand_in = types.ModuleType("spaces")
        stand_in.GPU = gpu
        stand_in.__spec__ = types.SimpleNamespace(name="spaces")
        monkeypatch.setitem(sys.modules, "spaces", stand_in)
        monkeypatch.setenv("SPACES_ZERO_GPU", "true")
        return called

    @pytest.fixture
    def on_torch(self, decorated: list[str], tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> SpaceModel:
        """A model that counts as one of torch."""
        predictor = load_space_model(str(tiny_model)).predictor
        monkeypatch.setattr(predictor, "engine", "torch", raising=False)
        monkeypatch.setattr(predictions, "load_predictor", lambda directory, engine: predictor)
        return load_space_model(str(tiny_model), engine="torch")

    def test_torch_borrows(self, on_torch: SpaceModel, decorated: list[str]) -> None:
        """For a time that fits what is asked."""
        assert on_torch.predict(["a vision"])[0].label == "cs.CV"
        on_torch.explain("a vision", "cs.CV")
        assert decorated == ["predict 16", "explain 25"]

    def test_onnx_does_not(self, decorated: list[str], tiny_model: Path) -> None:
        """The share of GPU time is the visitor's: an engine that computes on the CPU leaves it alone."""
        load_space_model(str(tiny_model)).predict(["vision"])
        assert decorated == []

    def test_a_file_asks_for_few_gpus(
        self, decorated: list[str], on_torch: SpaceModel, tmp_path: Path
    ) -> None:
        """2,000 rows are four chunks, each for a time that fits its texts."""
        source = tmp_path / "papers.csv"
        source.write_text("text\n" + "vision\n" * 2000)
        assert score_file(on_torch, source, tmp_path, lambda done, rows: None).scored == 2000
        assert decorated == ["predict 40"] * 4

    @pytest.mark.parametrize(
        ("title", "message", "told"),
        [
            ("ZeroGPU quota exceeded", "", True),
            ("", "You have exceeded your GPU quota", True),
            ("ZeroGPU worker error", "RuntimeError", False),
        ],
    )
    def test_a_share_that_is_used_up(
        self, on_torch: SpaceModel, monkeypatch: pytest.MonkeyPatch, title: str, message: str, told: bool
    ) -> None:
        """One sentence and what to do; any other error stays what it is."""
        error = type("GradioError", (Exception,), {"title": title})(message)

        def fail(texts: list[str]) -> list:
            raise error

        monkeypatch.setattr(on_torch.predictor, "predict", fail)
        with pytest.raises(UserError if told else type(error)) as refused:
            on_torch.predict(["vision"])
        assert "Sign in" in refused.value.hint if told else refused.value is error
