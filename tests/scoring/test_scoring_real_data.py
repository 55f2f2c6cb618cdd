"""The scoring of the real file: memory of `--csv` at its largest, and the out-of-scope rule of `top5`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from arxiv_cls.corpus import build_corpus
from arxiv_cls.scoring.metrics import listed_values
from arxiv_cls.scoring.out_of_scope import fit_scope, outside_papers
from arxiv_cls.scoring.scored_papers import listed_columns, read_predictions

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = ROOT.parent / "shared" / "data" / "categories.tsv.gz"

SCORE_ALL = """
import sys
import numpy as np
from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.record.run_record import peak_resident_bytes
from arxiv_cls.scoring.scored_papers import score_csv
from arxiv_cls.scoring.evaluation import evaluation_of

class Uniform:
    labels = list(CATEGORY_NAMES)
    multi_label, thresholds = False, None

    def predict_proba(self, texts):
        scores = np.random.default_rng(len(texts[0])).random((len(texts), len(self.labels)))
        return scores / scores.sum(axis=1, keepdims=True)

scored, counts, _ = score_csv(Uniform(), sys.argv[1])
print(len(scored), counts["rows_read"], evaluation_of(scored)["papers"])
print(peak_resident_bytes())
"""

EVALUATE_CSV = """
import logging, sys
from arxiv_cls.record.run_record import peak_resident_bytes
from arxiv_cls.scoring.evaluation import evaluate_model

logging.basicConfig()
evaluate_model(sys.argv[1], csv=sys.argv[2], out=sys.argv[3])
print(peak_resident_bytes())
"""


@pytest.mark.slow
def test_memory_of_the_whole_file_with_every_category(real_csv, run_python):
    """All 136,238 rows scored and measured for 155 labels: peak under 2 GB."""
    done = run_python("-c", SCORE_ALL, real_csv)
    counts, peak = done.stdout.splitlines()
    assert counts == "136238 136238 136238"
    assert int(peak) < 2e9


@pytest.mark.slow
def test_memory_of_the_whole_file_with_a_baseline(real_csv, tmp_path, run_python):
    """`evaluate --csv` of a linear baseline that knows all archives: 136,238 rows scored, peak under 2 GB."""
    trained = run_python(
        "arxiv_cls/train_tfidf.py", "recipes/tfidf_linear.yaml", "--output_dir", tmp_path / "archive",
        "--csv", real_csv, "--config", "archive", "--max_samples", 3000, "--no-evaluate",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-3000:]
    done = run_python("-c", EVALUATE_CSV, tmp_path / "archive", real_csv, tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    evaluation = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = evaluation["csv"]
    assert found["rows_read"] == found["rows_scored"] == evaluation["papers"] == 136_238
    # The file is the training data: its 3,000 training papers are known, whatever the hash alone would say.
    assert found["in_training_split_exact"] is True
    assert 3000 <= found["in_training_split"] < 3100
    assert "belong to the model's own training split" in done.stderr
    assert int(done.stdout.splitlines()[-1]) < 2e9


@pytest.mark.slow
def test_out_of_scope_rule(real_csv, tmp_path):
    """AUROC of `top5` against the file's other test papers; the threshold keeps 95% in scope."""
    corpus = build_corpus("top5", csv=real_csv, cache_dir=tmp_path)
    texts = [list(corpus.splits[name]["text"]) for name in ("train", "validation", "test")]
    record, *_ = fit_scope(*texts, outside_papers(corpus))
    assert record["out_of_scope_papers"] == 17_173
    assert record["auroc"] > 0.95
    assert record["in_scope_kept"] == pytest.approx(0.95, abs=0.015)
    assert record["out_of_scope_caught"] > 0.8


def test_listed_accuracy_by_hand():
    """The recorded XGBoost baseline, test split: 91% of its answers are categories that the paper lists."""
    if not CATEGORIES.is_file():
        pytest.skip("needs the categories of the CSV's papers")
    with gzip.open(CATEGORIES, "rt", encoding="utf-8") as lines:
        categories = dict(line.split("\t") for line in lines)
    papers = read_predictions(ROOT / "results/tfidf_xgboost-42/predictions.parquet")
    hits = singles = right_singles = errors = listed_errors = 0
    for paper, label, answer in zip(papers.arxiv_ids, papers.labels, papers.predicted, strict=True):
        of_paper = {*categories[paper].split()} & {*papers.label_names}
        hits += papers.label_names[answer] in of_paper
        singles += len(of_paper) == 1
        right_singles += len(of_paper) == 1 and label == answer
        errors += label != answer
        listed_errors += label != answer and papers.label_names[answer] in of_paper
    listed = listed_columns([categories[paper].split() for paper in papers.arxiv_ids], papers.label_names)
    values = listed_values(papers.labels, papers.probabilities, listed)
    shares = {name: float(value.mean()) for name, value in values.items()}
    assert shares["listed_accuracy"] == pytest.approx(hits / 3324)
    assert shares["single_listed_accuracy"] == pytest.approx(right_singles / singles)
    assert shares["errors_listed"] == pytest.approx(listed_errors / errors)
    assert 1 - errors / 3324 == pytest.approx(0.79, abs=0.006)
    assert shares["listed_accuracy"] == pytest.approx(0.91, abs=0.006)
    assert shares["single_listed_accuracy"] == pytest.approx(0.888, abs=0.006)
