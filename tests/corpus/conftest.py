"""Fixtures of the corpus tests: a small CSV, and a build with a cache of its own."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))  # make_sample

from factories import COUNT, papers, write_csv

from arxiv_cls.corpus import build_corpus


@pytest.fixture
def csv(tmp_path):
    """A CSV of 200 papers of the five labels."""
    return write_csv(tmp_path / "papers.csv", papers(COUNT))


@pytest.fixture
def build(tmp_path):
    """`build_corpus` with a cache of the test's own."""
    return lambda config="top5", **options: build_corpus(config, cache_dir=tmp_path / "cache", **options)
