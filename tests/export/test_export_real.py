"""Parity on real papers: `pipeline()`, ONNX fp32 and int8 of a trained model."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from factories import FP32_TOLERANCE, INT8_EQUAL_LABELS, SEARCH_PAPERS, RealModel

from arxiv_cls.export.quantization import CANDIDATES, Candidate
from arxiv_cls.models.predictor import load_predictor

pytestmark = pytest.mark.slow


class TestTrainedModel:
    """A trained model, exported here, says what `pipeline()` says of 500 papers of the test split."""

    def test_both_engines(self, real_model: RealModel) -> None:
        """fp32: every label, and scores within 1e-4; int8: 99% of the labels, also of all unseen papers."""
        fp32, int8 = (
            load_predictor(real_model.directory, engine=engine).predict(real_model.unseen)
            for engine in ("onnx", "int8")
        )
        asked = len(real_model.labels)
        for said, scores in zip(fp32[:asked], real_model.expected, strict=True):
            assert said.label == next(iter(scores))
            assert said.scores == pytest.approx(scores, abs=FP32_TOLERANCE)
        # A model that guesses would agree with itself as well.
        right = [ours == true for ours, true in zip(real_model.labels, real_model.categories, strict=True)]
        assert np.mean(right) > 0.65
        equal = [one.label == other.label for one, other in zip(fp32, int8, strict=True)]
        assert np.mean(equal[:asked]) >= INT8_EQUAL_LABELS
        assert len(equal) > 1000
        assert np.mean(equal) >= INT8_EQUAL_LABELS

    def test_record(self, real_model: RealModel) -> None:
        """Every candidate was measured; an int8 file is there exactly when one was good enough."""
        record = json.loads((real_model.directory / "onnx" / "parity.json").read_text())
        fields = [field.name for field in dataclasses.fields(Candidate)]
        tried = [Candidate(**{name: row[name] for name in fields}) for row in record["candidates"]]
        assert tried == list(CANDIDATES)
        for row in record["candidates"]:
            assert row["papers"] == SEARCH_PAPERS
            assert row["milliseconds_per_paper"] > 0
            assert row["equal_labels"] > 0.9
        int8 = "onnx/model_int8.onnx"
        assert (real_model.directory / int8).is_file() == (int8 in record["exports"])
