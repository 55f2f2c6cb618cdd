"""What all predictors share: order of labels, what is refused, where a model is looked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import TEXTS, classifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText, ScopeRule, to_predictions
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.models.transformer import fold_label_calibration, fold_temperature
from arxiv_cls.record.model_files import MULTI_LABEL

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"


class TestPredictions:
    """Rows of probabilities in words."""

    def test_descending_with_ties_as_argmax(self):
        """Of equal scores the first label wins, so that the label is argmax's."""
        (said,) = to_predictions(
            np.array([[0.1, 0.4, 0.4, 0.1]]),
            ["a", "b", "c", "d"],
            [EncodedText("text", 1, truncated=True)],
            top_k=3,
            answered_by="torch",
        )
        assert (said.label, said.score, said.truncated) == ("b", 0.4, True)
        assert list(said.scores) == ["b", "c", "a"]
        assert (said.prediction_set, said.in_scope, said.scope_score) == (None, None, None)
        assert said.answered_by == "torch"

    def test_rules_see_all_scores(self):
        """The set is taken from every label, also when fewer are shown; scope is asked of the text."""
        rule = ScopeRule({"image": 1.0}, intercept=-0.5, threshold=0.5)
        inside, outside = to_predictions(
            np.array([[0.1, 0.5, 0.4], [0.2, 0.5, 0.3]]),
            ["a", "b", "c"],
            [EncodedText("an image", 2, False), EncodedText("a frog", 2, False)],
            top_k=1,
            answered_by="tfidf",
            set_threshold=0.3,
            scope_rule=rule,
        )
        assert (list(inside.scores), inside.prediction_set, inside.in_scope) == (["b"], ("b", "c"), True)
        assert inside.scope_score == pytest.approx(1 / (1 + np.exp(-0.5)))
        assert (outside.prediction_set, outside.in_scope) == (("b", "c"), False)

    def test_multi_label(self):
        """The labels at or above their own thresholds, maybe none; no set where no word is known."""
        several, none, unknown = to_predictions(
            np.array([[0.3, 0.9, 0.4], [0.2, 0.5, 0.3], [0.3, 0.9, 0.4]]),
            ["a", "b", "c"],
            [*[EncodedText("text", 1, False)] * 2, EncodedText("?", 1, False, no_known_words=True)],
            top_k=1,
            answered_by="torch",
            thresholds=np.array([0.3, 0.6, 0.5]),
        )  # fmt: skip
        assert (several.label, several.scores, several.prediction_set) == ("b", {"b": 0.9}, ("b", "a"))
        assert (none.label, none.prediction_set, unknown.prediction_set) == ("b", (), None)


class TestLoading:
    """What is not a model is said in one error."""

    @pytest.mark.parametrize("name", ["outputs/none", "./none", "none", "a/b/c", "user/name/"])
    def test_nowhere(self, name):
        """Neither a directory nor a Hub id."""
        with pytest.raises(UserError, match="no such model directory"):
            load_predictor(name)

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (None, r"no config.json"),
            ("{", "not JSON"),
            ('{"model_type": "bert"}', "id2label: Field required"),
        ],
    )
    def test_broken_directory(self, tmp_path, config, expected):
        """A folder without, with a broken, and with only a configuration."""
        if config is not None:
            (tmp_path / "config.json").write_text(config)
        with pytest.raises(UserError, match=expected):
            load_predictor(tmp_path)

    def test_pickled_weights_are_not_read(self, tmp_path, tiny_encoder):
        """A model whose only weights are a pickle is refused; the pickle is not opened."""
        for file in tiny_encoder.iterdir():
            if file.name != "model.safetensors":
                (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text()) | {"id2label": {"0": "a", "1": "b"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
        with pytest.raises(UserError, match="is a pickle"):
            load_predictor(tmp_path)


def test_temperature_divides_the_logits(tiny_encoder):
    """Weight and bias of the last layer both; the order of the scores stays."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=5).eval()
    torch.nn.init.normal_(model.classifier.bias)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        fold_temperature(model, 2.5)
        assert torch.allclose(model(input_ids=ids).logits, before / 2.5, atol=1e-6)
    with pytest.raises(ValueError, match="above 0"):
        fold_temperature(model, 0.0)


class TestMultiLabel:
    """A transformer whose `config.json` says that each label has a sigmoid."""

    @pytest.fixture
    def directory(self, tmp_path: Path, tiny_encoder: Path) -> Path:
        """Random weights whose calibration is folded into the last layer."""
        model = classifier("bert", tiny_encoder)
        fold_label_calibration(model, np.array([0.5, 1, 2, 1, 1]), np.array([0, 0.5, 0, -1, 0]))
        model.config.update({"problem_type": MULTI_LABEL, "label_thresholds": [0.5, 0.4, 0.3, 0.2, 0.1]})
        model.save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
        return tmp_path

    def test_pipeline_gives_the_same_scores(self, directory: Path, tiny_encoder: Path) -> None:
        """Without arguments of its own; they are sigmoids of scaled and shifted logits."""
        predictor = load_predictor(directory)
        scores = predictor.predict_proba(TEXTS)
        answers = pipeline("text-classification", str(directory), top_k=None)(TEXTS, truncation=True)
        said = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        expected = [[answer[label] for label in predictor.labels] for answer in said]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        inputs = AutoTokenizer.from_pretrained(tiny_encoder)(TEXTS[0], return_tensors="pt")
        with torch.no_grad():
            logits = classifier("bert", tiny_encoder)(**inputs).logits[0].numpy()
        by_hand = 1 / (1 + np.exp(-(logits * [0.5, 1, 2, 1, 1] + [0, 0.5, 0, -1, 0])))
        np.testing.assert_allclose(scores[0], by_hand, atol=1e-5)
        assert predictor.multi_label
        assert predictor.thresholds.tolist() == [0.5, 0.4, 0.3, 0.2, 0.1]
        given = {predictor.labels[column] for column in np.flatnonzero(scores[0] >= predictor.thresholds)}
        assert {*predictor.predict(TEXTS)[0].prediction_set} == given

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"label_thresholds": [0.5] * 4}, "expected 5, as many as id2label has labels"),
            ({"label_thresholds": None}, "expected with `problem_type: multi_label_classification`"),
            ({"problem_type": None}, "expected with `problem_type: multi_label_classification`"),
            ({"label_thresholds": [0.5] * 4 + [1.5]}, "less than or equal to 1"),
        ],
    )
    def test_contradictions_are_refused(self, directory: Path, change: dict, problem: str) -> None:
        """Nothing is guessed where problem type and thresholds do not fit."""
        config = json.loads((directory / "config.json").read_text()) | change
        (directory / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"label_thresholds.*{problem}"):
            load_predictor(directory)


class TestTexts:
    """Texts that no engine judges, and those that a model knows no word of."""

    @pytest.mark.parametrize("engine", ["torch", "onnx", "tfidf"])
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "is empty"),
            (" \u200b\u2060\ufeff\n\x00", "is empty"),
            ("a paper \ud83d", "not UTF-8"),
            ("caf\udce9", "not UTF-8"),
            (None, "is not a string"),
        ],
    )
    def test_refused(self, exported: Path, engine: str, text: object, problem: str) -> None:
        """One rule and one message for every engine."""
        model = RELEASES / "tiny-tfidf" if engine == "tfidf" else exported
        predictor = load_predictor(model, engine=None if engine == "tfidf" else engine)
        with pytest.raises(UserError, match=f"text 2 of 2 .*{problem}"):
            predictor.predict(["a paper", text])

    def test_no_known_word(self, capsys: pytest.CaptureFixture[str]) -> None:
        """No set, which would promise something, and a word to the reader."""
        model = str(RELEASES / "tiny-tfidf")
        known, unknown = load_predictor(model).predict(["a model of language", "\u4f60\u597d"])
        assert (known.no_known_words, unknown.no_known_words) == (False, True)
        assert known.prediction_set
        assert unknown.prediction_set is None
        main(["predict", model, "\u4f60\u597d"])
        shown = capsys.readouterr().out
        assert "nothing to judge by: the model knows none of the words" in shown
        assert "with 90% probability" not in shown

    def test_a_baseline_has_no_engine(self, caplog: pytest.LogCaptureFixture) -> None:
        """One that is named is said to be unused; the default of the caller is not."""
        model = str(RELEASES / "tiny-tfidf")
        load_predictor(model, default="onnx")
        main(["predict", model, "a text"])
        assert not caplog.messages
        main(["predict", model, "a text", "--engine", "onnx"])
        assert caplog.messages == [f"{model} is a TF-IDF baseline: the engine onnx is not used"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["outputs/none", "a text"], "no such model directory"),
        (["m", "--csv", "in.csv"], "goes with --out"),
        (["m", "text", "--csv", "in.csv", "--out", "out.csv"], "without texts"),
        (["m", "--csv", "in.jsonl.gz", "--out", "out.csv"], "in.jsonl.gz: no CSV"),
        (["m", "text", "--top-k", "0"], "below 1"),
    ],
)
def test_predict_command_refuses(words, expected):
    """Before anything heavy is loaded."""
    with pytest.raises(UserError, match=expected):
        main(["predict", *words])
