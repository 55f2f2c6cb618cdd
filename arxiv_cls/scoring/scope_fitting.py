"""Fits and measures the out-of-scope rule: the papers of the file that have none of the model's labels.

Fitted on the training split, threshold from the validation split, figures from the test split; the split
rule of the model holds for the papers outside its label set as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arxiv_cls.models.scope import WORD_PATTERN, ScopeRule

if TYPE_CHECKING:
    from arxiv_cls.corpus import Corpus

# Share of in-scope validation papers that the threshold keeps.
KEPT_IN_SCOPE = 0.95
# Chosen on the published file: 1,000 words lose 0.002 of AUROC and all 12,800 gain 0.001; twice the papers
# gain 0.002.
WORDS = 3000
PAPERS_A_SIDE = 20_000
FEWEST_PAPERS = 50


@dataclass(frozen=True)
class OutsidePapers:
    """Papers of the file without a label of the model.

    Attributes:
        train: texts of training papers, at most `PAPERS_A_SIDE`, in hash order.
        test: texts of test papers.
        test_archives: (n,) archive of each test paper.
    """

    train: list[str]
    test: list[str]
    test_archives: np.ndarray


def outside_papers(corpus: Corpus) -> OutsidePapers:
    """The papers of a corpus's file that its label set leaves out, split as the corpus is."""
    from arxiv_cls.corpus.splits import parse_time_boundaries, split_by_paper, split_by_time, split_positions
    from arxiv_cls.corpus.taxonomy import archive_of

    table, report = corpus.outside_papers(), corpus.report
    positions = split_positions(table["arxiv_id"].to_pylist(), report.seed)
    if report.split == "time":
        days = np.asarray(table["published"]).astype("datetime64[D]")
        numbers = split_by_time(days, parse_time_boundaries(report.time_boundaries))
    else:
        numbers = split_by_paper(positions)
    order = np.argsort(positions, kind="stable")
    train = order[numbers[order] == 0][:PAPERS_A_SIDE]
    test = order[numbers[order] == 2]

    def texts(rows: np.ndarray) -> list[str]:
        part = table.take(rows)
        pairs = zip(part["title"].to_pylist(), part["abstract"].to_pylist(), strict=True)
        return [f"{title}\n\n{abstract}" for title, abstract in pairs]

    archives = [archive_of(code) for code in table["category"].take(test).to_pylist()]
    return OutsidePapers(texts(train), texts(test), np.asarray(archives))


def fit_words(inside: list[str], outside: list[str], words: int = WORDS) -> tuple[dict[str, float], float]:
    """Weights of words and the intercept of a balanced, L2-regularised logistic regression.

    Fitted twice: on all words that 10 papers have (fewer in a small set), then on those that matter most:
    large weight, in many papers.

    Args:
        inside: texts of in-scope training papers.
        outside: texts of the others.
        words: how many to keep.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    smallest = 10 if len(inside) + len(outside) >= 2000 else 2
    vectorizer = CountVectorizer(token_pattern=WORD_PATTERN, min_df=smallest, binary=True, dtype=np.float64)
    present = vectorizer.fit_transform([*inside, *outside])
    is_inside = np.arange(present.shape[0]) < len(inside)

    def fitted(columns: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(class_weight="balanced", solver="liblinear", random_state=0)
        return model.fit(normalize(present[:, columns]), is_inside)

    everything = fitted(np.arange(present.shape[1]))
    shares = np.asarray(present.mean(axis=0)).ravel()
    chosen = np.sort(np.argsort(-np.abs(everything.coef_[0]) * np.sqrt(shares), kind="stable")[:words])
    final = fitted(chosen)
    names = vectorizer.get_feature_names_out()[chosen]
    weights = {str(name): round(float(weight), 4) for name, weight in zip(names, final.coef_[0], strict=True)}
    return weights, round(float(final.intercept_[0]), 4)


def auroc(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
    """Area under the ROC curve with its 95% interval (DeLong, DeLong and Clarke-Pearson, 1988).

    Args:
        inside: (n,) scores of in-scope papers, n > 1.
        outside: (m,) scores of the others, m > 1.

    Returns:
        The share of pairs in which the in-scope paper scores higher (ties count half), and the interval.
    """
    from scipy.stats import rankdata

    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    above = (ranks[:n] - rankdata(inside)) / m
    below = 1 - (ranks[n:] - rankdata(outside)) / n
    area = float(above.mean())
    error = 1.959964 * np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m)
    return area, float(max(0.0, area - error)), float(min(1.0, area + error))


def caught_by_archive(caught: np.ndarray, archives: np.ndarray) -> dict[str, dict[str, Any]]:
    """Papers outside the labels, `n`, and the share of them that the rule catches, by archive.

    Args:
        caught: (n,) bool, the rule calls the paper out of scope.
        archives: (n,) archive of each paper.
    """
    return {
        str(archive): {
            "n": int((archives == archive).sum()),
            "caught": float(caught[archives == archive].mean()),
        }
        for archive in np.unique(archives)
    }


def fit_scope(
    train: list[str], validation: list[str], test: list[str], outside: OutsidePapers
) -> tuple[dict[str, Any], np.ndarray, np.ndarray] | None:
    """The rule with its figures, or None when there are fewer than 50 papers on a side.

    Args:
        train: in-scope training texts.
        validation: in-scope validation texts.
        test: in-scope test texts.
        outside: the other papers of the file.

    Returns:
        The content of `eval/scope.json` less the sha256 of the weights, and the scores of the test papers
        in scope and outside.
    """
    if min(len(train), len(validation), len(test), len(outside.train), len(outside.test)) < FEWEST_PAPERS:
        return None
    weights, intercept = fit_words(train[:PAPERS_A_SIDE], outside.train)
    unset = ScopeRule(weights, intercept, 0.0)
    threshold = float(np.quantile(unset.scores(validation), 1 - KEPT_IN_SCOPE, method="lower"))
    scores_in, scores_out = unset.scores(test), unset.scores(outside.test)
    area, low, high = auroc(scores_in, scores_out)
    caught = scores_out < threshold
    record = {
        "schema_version": 1,
        "rule": "logistic regression on the words that occur",
        "threshold": threshold,
        "auroc": area,
        "auroc_interval": [low, high],
        "in_scope_kept": float((scores_in >= threshold).mean()),
        "out_of_scope_caught": float(caught.mean()),
        "in_scope_papers": len(test),
        "out_of_scope_papers": len(outside.test),
        "caught_by_archive": caught_by_archive(caught, outside.test_archives),
        "intercept": intercept,
        "weights": weights,
    }
    return record, scores_in, scores_out
