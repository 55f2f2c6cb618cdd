"""Tests of arxiv_cls/models/tfidf.py: scores, the file on disk, the terms of each category."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import skops.io
from factories import TFIDF_LABELS as LABELS
from factories import make_split, small_model

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.models.tfidf import TermFeatures, TfidfPredictor, title_of

TEXTS = make_split(20, 5).texts


@pytest.fixture(scope="module", params=["xgboost", "linear"])
def saved(request, tmp_path_factory):
    """A model of each kind with the directory it was saved to."""
    model = small_model(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    model.save(directory)
    return model, directory


class TestPredictor:
    """What every kind of model has."""

    def test_a_loaded_model_gives_the_same_scores(self, saved):
        """The round trip over the disk changes no bit of the logits, and `load_predictor` finds the class."""
        model, directory = saved
        predictor = load_predictor(f"{directory}/")
        assert isinstance(predictor, TfidfPredictor)
        assert predictor.kind == "tfidf"
        assert predictor.labels == LABELS
        rows = model.terms.transform(TEXTS)
        loaded = predictor.model
        assert np.array_equal(loaded.terms.transform(TEXTS).toarray(), rows.toarray())
        assert np.array_equal(loaded.logits(rows), model.logits(rows))

    def test_probabilities(self, saved):
        """Rows add up to 1, the label is the argmax, and one text scores as it does in a batch."""
        predictor = TfidfPredictor.load(saved[1])
        probabilities = predictor.predict_proba(TEXTS)
        assert probabilities.shape == (20, 3)
        assert probabilities.dtype == np.float64
        assert np.allclose(probabilities.sum(axis=1), 1)
        logits = predictor.model.logits(predictor.model.terms.transform(TEXTS)) / predictor.model.temperature
        assert np.allclose(probabilities, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
        assert np.allclose(predictor.predict_proba(TEXTS[3:4]), probabilities[3:4], atol=1e-7)
        for row, prediction in zip(probabilities, predictor.predict(TEXTS), strict=True):
            assert prediction.label == LABELS[row.argmax()]
            assert prediction.scores[prediction.label] == prediction.score == row.max()
            assert list(prediction.scores.values()) == sorted(row, reverse=True)
        assert [len(prediction.scores) for prediction in predictor.predict(TEXTS, top_k=2)] == [2] * 20

    def test_texts_with_nothing_known(self, saved):
        """Unknown words and no text at all still give finite scores."""
        predictor = TfidfPredictor.load(saved[1])
        assert np.isfinite(predictor.predict_proba(["zzz qqq"])).all()
        assert predictor.predict_proba([]).shape == (0, 3)
        assert predictor.predict([]) == []

    def test_embeddings(self, saved):
        """Nine linear scores, and four dimensions of analysis where there are trees."""
        model, directory = saved
        embedded = TfidfPredictor.load(directory).embed(TEXTS)
        assert embedded.shape == (20, 9 if model.booster is None else 13)
        assert embedded.dtype == np.float32

    def test_chunks_do_not_change_scores(self, saved, monkeypatch):
        """Long lists are scored in pieces, with the same result."""
        predictor = TfidfPredictor.load(saved[1])
        whole = predictor.predict_proba(TEXTS)
        monkeypatch.setattr("arxiv_cls.models.tfidf.TEXTS_AT_A_TIME", 7)
        assert np.allclose(predictor.predict_proba(TEXTS), whole, atol=1e-7)


class TestTopTerms:
    """The terms that speak for a category."""

    def test_numbers_are_the_margin_of_a_linear_model(self, saved):
        """Summed over a text's terms, the numbers of all terms give the centred margin, up to a constant."""
        model, directory = saved
        predictor = TfidfPredictor.load(directory)
        rows = model.terms.transform(TEXTS)
        names = model.terms.names()
        margin = model.linear.margin(model.linear.scores(rows))
        centred = margin - margin.mean(axis=1, keepdims=True)
        for column, label in enumerate(LABELS):
            effects = dict(predictor.top_terms(label, n=len(names)))
            contributions = rows @ np.array([effects[name] for name in names])
            offset = centred[:, column] - contributions
            assert np.allclose(offset, offset[0], atol=1e-4)
        with pytest.raises(UserError, match=r"cs\.CL"):
            predictor.top_terms("math.AG")


class TestFile:
    """`model.skops`: plain arrays, the same bytes for the same model, nothing that runs code."""

    def test_same_model_same_bytes(self, saved, tmp_path):
        """Saved twice, and saved again after loading, the file is the same."""
        model, directory = saved
        digest = hashlib.sha256((directory / "model.skops").read_bytes()).hexdigest()
        for source in (model, TfidfPredictor.load(directory).model):
            source.save(tmp_path)
            assert hashlib.sha256((tmp_path / "model.skops").read_bytes()).hexdigest() == digest
        assert skops.io.get_untrusted_types(file=tmp_path / "model.skops") == []

    def test_foreign_types_are_refused_by_name(self, tmp_path):
        """A file with an object in it is not loaded, and the error names its type."""
        skops.io.dump({"format_version": 1, "trap": TermFeatures(None, None, 0.5)}, tmp_path / "model.skops")
        with pytest.raises(UserError, match="TermFeatures"):
            TfidfPredictor.load(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn", None])
    def test_damaged_files(self, saved, tmp_path, content):
        """A foreign file, or half of a real one, is one clear error; so is none."""
        with pytest.raises(UserError, match=r"model\.skops is missing"):
            TfidfPredictor.load(tmp_path)
        if content is None:
            real = (saved[1] / "model.skops").read_bytes()
            content = real[: len(real) // 2]
        (tmp_path / "model.skops").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            TfidfPredictor.load(tmp_path)

    def test_other_formats(self, tmp_path):
        """A file of a later version asks for an upgrade; one without a version is not ours."""
        skops.io.dump({"format_version": 99}, tmp_path / "model.skops")
        with pytest.raises(UserError, match="format 99"):
            TfidfPredictor.load(tmp_path)
        skops.io.dump({"labels": []}, tmp_path / "model.skops")
        with pytest.raises(UserError, match="not a baseline's file"):
            TfidfPredictor.load(tmp_path)


class TestTerms:
    """Text to columns."""

    @pytest.mark.parametrize(
        ("text", "title"),
        [
            ("A title\n\nAn abstract\n\nin two parts", "A title"),
            ("A title\r\n\r\nAn abstract", "A title"),
            ("\n\nA title\n \nAn abstract", "A title"),
            ("An abstract alone\nover two lines", ""),
            ("", ""),
        ],
    )
    def test_title(self, text, title):
        """The title ends at the first blank line; without one there is no title."""
        assert title_of(text) == title

    def test_title_terms_have_their_own_columns(self):
        """Blocks have unit length, the title's scaled by its weight."""
        texts = ["red blue\n\nred green green", "red blue\n\ngreen blue", "no title here red green"]
        terms, rows = TermFeatures.fit(texts, ngram_max=1, min_df=1, title_weight=0.5)
        names = terms.names()
        assert names[terms.text_terms :] == ["title:blue", "title:red"]
        titles = rows[:, terms.text_terms :].toarray()
        assert np.allclose(np.linalg.norm(titles, axis=1), [0.5, 0.5, 0])
        assert np.allclose(np.linalg.norm(rows[:, : terms.text_terms].toarray(), axis=1), 1)

    def test_without_titles(self):
        """A weight of 0, or texts without titles, leave the block out."""
        for texts, weight in ((["a b\n\nword one", "b c\n\nword two"], 0.0), (["word one", "word two"], 0.5)):
            terms, rows = TermFeatures.fit(texts, ngram_max=1, min_df=1, title_weight=weight)
            assert terms.title is None
            assert rows.shape[1] == terms.text_terms
