"""The out-of-scope rule: is a paper likely to have none of the model's labels?

A logistic regression on the words that occur tells training papers inside the label set from those outside;
its threshold keeps 95% of the validation papers. `arxiv_cls.models.prediction` applies what is fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arxiv_cls.corpus.taxonomy import archive_of
from arxiv_cls.models.prediction import WORD_PATTERN, ScopeRule
from arxiv_cls.scoring.scored_papers import split_numbers, texts_of

if TYPE_CHECKING:
    from arxiv_cls.corpus.builder import Corpus

KEPT_IN_SCOPE = 0.95  # share of in-scope validation papers that the threshold keeps
# Chosen on the published file: 1,000 words lose 0.002 of AUROC and all 12,800 gain 0.001.
WORDS = 3000
FEWEST_PAPERS = 50
MOST_TRAINING_PAPERS = 20_000  # twice as many give the rule 0.002 more AUROC


@dataclass(frozen=True)
class OutsidePapers:
    """Texts of the papers without a label of the model, and the (n,) archives of those of the test split."""

    train: list[str]
    test: list[str]
    test_archives: np.ndarray


def outside_papers(corpus: Corpus) -> OutsidePapers:
    """The papers of a corpus's file that its label set leaves out, split as the corpus is."""
    table, report = corpus.outside_papers(), corpus.report
    days = np.asarray(table["published"]).astype("datetime64[D]")
    how = {"split": report.split, "seed": report.seed, "time_boundaries": report.time_boundaries}
    how["ratios"] = report.ratios
    numbers, positions = split_numbers(table["arxiv_id"].to_pylist(), days, how)
    order = np.argsort(positions, kind="stable")
    train = table.take(order[numbers[order] == 0][:MOST_TRAINING_PAPERS])
    test = table.take(order[numbers[order] == 2])
    archives = [archive_of(code) for code in test["category"].to_pylist()]
    return OutsidePapers(texts_of(train), texts_of(test), np.asarray(archives))


def _fit_words(inside: list[str], outside: list[str]) -> tuple[dict[str, float], float]:
    """Weights of words and the intercept of a balanced, L2-regularised logistic regression.

    Fitted twice, on the texts of training papers inside and outside: on all words that 10 papers have (2 in a
    set of under 2,000), then on the `WORDS` that matter most: large weight, in many papers.
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
    chosen = np.sort(np.argsort(-np.abs(everything.coef_[0]) * np.sqrt(shares), kind="stable")[:WORDS])
    final = fitted(chosen)
    names, weights = vectorizer.get_feature_names_out()[chosen].tolist(), final.coef_[0].round(4).tolist()
    return dict(zip(names, weights, strict=True)), round(float(final.intercept_[0]), 4)


def auroc(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
    """Area under the ROC curve with its 95% interval (DeLong, DeLong and Clarke-Pearson, 1988).

    From the scores of n papers in scope and of m others, both at least 2; ties count half.
    """
    from scipy.stats import rankdata

    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    above = (ranks[:n] - rankdata(inside)) / m
    below = 1 - (ranks[n:] - rankdata(outside)) / n
    area = float(above.mean())
    error = 1.959964 * np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m)
    return area, float(max(0.0, area - error)), float(min(1.0, area + error))


def measure_scope(
    rule: ScopeRule, test: list[str], outside: OutsidePapers
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of a rule on test papers, as shares of 1, and its scores of them inside and outside.

    At most `MOST_TRAINING_PAPERS` in scope are scored.
    """
    scores = rule.scores(test[:MOST_TRAINING_PAPERS]), rule.scores(outside.test)
    area, low, high = auroc(*scores)
    caught = scores[1] < rule.threshold
    by_archive = {name: caught[outside.test_archives == name] for name in sorted({*outside.test_archives})}
    return {
        "auroc": area,
        "auroc_interval": [low, high],
        "in_scope_kept": float((scores[0] >= rule.threshold).mean()),
        "out_of_scope_caught": float(caught.mean()),
        "in_scope_papers": len(scores[0]),
        "out_of_scope_papers": len(caught),
        "caught_by_archive": {
            str(name): {"n": len(part), "caught": float(part.mean())} for name, part in by_archive.items()
        },
    }, scores


def fit_scope(
    train: list[str], validation: list[str], test: list[str], outside: OutsidePapers
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]] | None:
    """The content of `eval/scope.json` less the sha256 of the weights, and the scores of `measure_scope`.

    From in-scope texts of each split and the other papers; None with under `FEWEST_PAPERS` on a side.
    """
    if min(len(train), len(validation), len(test), len(outside.train), len(outside.test)) < FEWEST_PAPERS:
        return None
    weights, intercept = _fit_words(train[:MOST_TRAINING_PAPERS], outside.train)
    validation_scores = ScopeRule(weights, intercept, 0.0).scores(validation)
    threshold = float(np.quantile(validation_scores, 1 - KEPT_IN_SCOPE, method="lower"))
    measured, scores = measure_scope(ScopeRule(weights, intercept, threshold), test, outside)
    record = {
        "schema_version": 1,
        "rule": "logistic regression on the words that occur",
        "threshold": threshold,
        **measured,
        "intercept": intercept,
        "weights": weights,
    }
    return record, scores
