"""The reference that production is compared with: what is in it, its checksums, what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import arxiv_cls.scoring.reference as reference_module
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText
from arxiv_cls.record.files import changed_files, file_sha256
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.scoring.reference import (
    FEATURES,
    load_references,
    make_cascade_reference,
    make_reference,
    read_reference,
)
from arxiv_cls.scoring.scored_papers import read_predictions

PATH = "monitoring/reference.parquet"


@pytest.fixture
def evaluated(model):
    """The model directory after `evaluate`."""
    labels = {str(number): label for number, label in enumerate(model.predictor.labels)}
    (model.home / "config.json").write_text(json.dumps({"model_type": "arxiv_cls-tfidf", "id2label": labels}))
    evaluate_model(model.home)
    return model.home


class TestContent:
    """`evaluate` writes it."""

    def test_rows(self, evaluated):
        """A row per test paper with its scores, true label and features; the text is not in it."""
        predictions = read_predictions(evaluated / "eval/predictions.parquet")
        reference = load_references(evaluated)[False, "baseline"]
        assert reference.rows.scores == pytest.approx(predictions.probabilities, abs=1e-6)
        assert (reference.truth == predictions.labels).all()
        assert set(pq.read_table(evaluated / PATH).column_names) == {
            "answered_by", "label", *(f"score:{label}" for label in reference.labels), *FEATURES, "in_scope",
        }  # fmt: skip
        assert reference.rows.features[:, FEATURES.index("words")].min() > 10

    def test_it_is_recorded(self, evaluated):
        """metrics.json has its checksum; the file names weights, data and split."""
        files = json.loads((evaluated / "eval/metrics.json").read_text())["files"]
        assert files[PATH] == file_sha256(evaluated / PATH)
        identity = load_references(evaluated)[False, "baseline"].identity
        assert identity["split"] == "test"
        assert identity["weights_sha256"] == file_sha256(evaluated / "model.skops")

    def test_an_older_release(self, evaluated):
        """Made later it is the same file, and recorded."""
        before = (evaluated / PATH).read_bytes()
        (evaluated / PATH).unlink()
        with pytest.raises(UserError, match=r"has no reference.*\n.*monitor reference"):
            load_references(evaluated)
        make_reference(evaluated)
        assert (evaluated / PATH).read_bytes() == before
        assert PATH not in changed_files(evaluated, [PATH])[0]

    def test_of_a_csv(self, evaluated, sample_csv):
        """Papers of a file take the place of the test split; there is no split then."""
        make_reference(evaluated, csv=sample_csv)
        reference = load_references(evaluated)[False, "baseline"]
        assert reference.identity["split"] is None
        assert len(reference.rows) > 400

    def test_a_cascade(self, evaluated, monkeypatch, tmp_path):
        """Each half has the papers that it answers, with its own scores; cascade.json has the checksum."""
        directory = tmp_path / "transformer"
        shutil.copytree(evaluated, directory)
        (directory / "config.json").write_text(
            json.dumps({"id2label": json.loads((evaluated / "config.json").read_text())["id2label"]})
        )
        (directory / "model.safetensors").write_bytes(b"weights")
        shutil.rmtree(directory / "eval")
        rule = {"schema_version": 1, "engine": "int8", "max_tokens": 64, "set_threshold": 0.2}
        rule |= {"transformer_sha256": "a", "baseline_sha256": "b", "threshold": 0.7}
        (directory / "eval").mkdir()
        (directory / "eval/cascade.json").write_text(json.dumps(rule))

        class Cascade:
            """The baseline answers short texts."""

            kind, engine, scope_rule = "cascade", "tfidf+int8", None
            labels = ("cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML")
            multi_label, thresholds = False, None

            def __init__(self):
                self.directory = directory
                self.baseline, self.transformer = (
                    type("Half", (), {"engine": name}) for name in ("tfidf", "int8")
                )

            def encode(self, texts):
                return [EncodedText(text, 10, len(text) % 3 == 0, answered=len(text) % 2 == 0)
                        for text in texts]  # fmt: skip

            def predict_proba(self, texts, *, progress=False):
                return np.array([np.eye(5)[len(text) % 2] * 0.5 + 0.1 for text in texts])

        monkeypatch.setattr(reference_module, "load_cascade", lambda *_, **__: Cascade())
        make_cascade_reference(directory, "baseline")
        (directory / PATH).unlink()
        halves = load_references(directory)
        assert set(halves) == {(True, "baseline"), (True, "transformer")}
        assert set(halves[True, "baseline"].rows.scores.argmax(axis=1)) == {0}
        assert set(halves[True, "transformer"].rows.scores.argmax(axis=1)) == {1}
        # What was cut has no tokens per word.
        of_tokens = halves[True, "baseline"].rows.features[:, FEATURES.index("tokens_per_word")]
        assert 0 < np.isnan(of_tokens).sum() < len(of_tokens)
        record = json.loads((directory / "eval/cascade.json").read_text())
        assert record["files"] == {
            "monitoring/cascade.parquet": file_sha256(directory / "monitoring/cascade.parquet")
        }
        (directory / "eval/cascade.json").write_text(json.dumps(rule | {"threshold": 0.8}))
        with pytest.raises(UserError, match="of another threshold"):
            load_references(directory)


class TestRefused:
    """A reference that is not of this model."""

    def test_other_weights(self, evaluated):
        """After another training."""
        (evaluated / "model.skops").write_bytes(b"other")
        with pytest.raises(UserError, match=r"of another weights.*\n.*makes it anew"):
            load_references(evaluated)

    def test_other_data(self, evaluated):
        """After an evaluation on other data."""
        path = evaluated / "eval/metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data_sha256": "f" * 64}))
        with pytest.raises(UserError, match="of another data"):
            load_references(evaluated)

    def test_a_changed_file(self, evaluated):
        """Written anew by somebody else."""
        table = pq.read_table(evaluated / PATH)
        pq.write_table(table.slice(1), evaluated / PATH)
        with pytest.raises(UserError, match="not the file that was recorded"):
            load_references(evaluated)

    @pytest.mark.parametrize("content", [b"", b"PAR1", None])
    def test_no_reference(self, evaluated, content):
        """Damaged files, and another table."""
        if content is None:
            shutil.copy(evaluated / "eval/predictions.parquet", evaluated / PATH)
        else:
            (evaluated / PATH).write_bytes(content)
        with pytest.raises(UserError, match="is no reference"):
            read_reference(evaluated / PATH)
