"""A result in a clone of its own: train, put on record, write the tables; a changed tree is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_docs import blocks

pytestmark = pytest.mark.slow


def test_commands_of_the_page(make_clone):
    """`train_tfidf.py`, `arxiv-cls results add` and `make results` as docs/evaluation.md has them."""
    clone = make_clone()
    shutil.copy(clone.root / "data/sample/arxiv_sample.csv", clone.root / "data/raw/arxiv.csv")
    # Those on record are of other papers, which one recipe's row cannot mix.
    clone.git("rm", "-rq", *(f"results/tfidf_xgboost-{seed}" for seed in (42, 43, 44)))
    clone.commit("Only papers of the sample")
    (block,) = [block for block in blocks("docs/evaluation.md") if "results add" in block.code]
    clone.run("bash", "-euo", "pipefail", "-c", block.code)
    folder = clone.root / "results" / "tfidf_xgboost-45"
    assert "README.md" in clone.git("status", "--porcelain")
    assert clone.git("rev-parse", "HEAD") in (folder / "run.json").read_text(encoding="utf-8")
    refused = clone.run("arxiv-cls", "results", "add", "outputs/tfidf_xgboost-45", status=2)
    assert "tracked files differ from the commit" in refused
    assert Path(clone.root / "results/tfidf_linear-42/run.json").is_file()
