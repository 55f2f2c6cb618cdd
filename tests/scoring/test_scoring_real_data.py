"""The scoring of the real file: memory of `--csv` at its largest, and the out-of-scope rule of `top5`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from arxiv_cls.corpus import build_corpus
from arxiv_cls.scoring.scope_fitting import fit_scope, outside_papers

SCORE_ALL = """
import resource, sys
import numpy as np
from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.scoring.csv_evaluation import score_csv
from arxiv_cls.scoring.evaluation import evaluation_of

class Uniform:
    labels = list(CATEGORY_NAMES)

    def predict_proba(self, texts):
        scores = np.random.default_rng(len(texts[0])).random((len(texts), len(self.labels)))
        return scores / scores.sum(axis=1, keepdims=True)

scored, counts, _ = score_csv(Uniform(), sys.argv[1])
print(len(scored), counts.read, evaluation_of(scored)["papers"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_of_the_whole_file_with_every_category(real_csv):
    """All 136,238 rows scored and measured for 155 labels: peak under 2 GB."""
    done = subprocess.run(
        [sys.executable, "-c", SCORE_ALL, str(real_csv)], capture_output=True, text=True, check=True
    )
    counts, peak = done.stdout.splitlines()
    assert counts == "136238 136238 136238"
    assert int(peak) < 2e9


@pytest.mark.slow
def test_out_of_scope_rule(real_csv, tmp_path):
    """AUROC of `top5` against the file's other test papers; the threshold keeps 95% in scope."""
    corpus = build_corpus("top5", csv=real_csv, cache_dir=tmp_path)
    outside = outside_papers(corpus.labels, {"config": "top5", "csv": str(real_csv)})
    texts = [list(corpus.splits[name]["text"]) for name in ("train", "validation", "test")]
    record, *_ = fit_scope(*texts, outside)
    assert record["out_of_scope_papers"] == 17_173
    assert record["auroc"] > 0.95
    assert record["in_scope_kept"] == pytest.approx(0.95, abs=0.015)
    assert record["out_of_scope_caught"] > 0.8
