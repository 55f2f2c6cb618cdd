"""The out-of-scope rule: is a paper likely to have none of the model's labels?

A logistic regression on the words that occur tells training papers inside the label set from those outside;
its threshold keeps 95% of the validation papers. `arxiv_cls.models.predictor` applies what is fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arxiv_cls.corpus.taxonomy import archive_of
from arxiv_cls.models.predictor import WORD_PATTERN, ScopeRule

if TYPE_CHECKING:
    from arxiv_cls.corpus.builder import Corpus

KEPT_IN_SCOPE = 0.95  # share of in-scope validation papers that the threshold keeps
# Chosen on the published file: 1,000 words lose 0.002 of AUROC and all 12,800 gain 0.001.
WORDS = 3000
FEWEST_PAPERS = 50
MOST_TRAINING_PAPERS = 20_000  # twice as many give the rule 0.002 more AUROC


@dataclass(frozen=True)
class OutsidePapers:
    """Papers of the file without a label of the model.

    Attributes:
        train: texts of training papers, at most `MOST_TRAINING_PAPERS`, in hash order.
        test: texts of test papers.
        test_archives: (n,) archive of each test paper.
    """

    train: list[str]
    test: list[str]
    test_archives: np.ndarray


def outside_papers(corpus: Corpus) -> OutsidePapers:
    """The papers of a corpus's file that its label set leaves out, split as the corpus is."""
    from arxiv_cls.corpus.splits import parse_time_boundaries, split_by_paper, split_by_time, split_positions

    table, report = corpus.outside_papers(), corpus.report
    positions = split_positions(table["arxiv_id"].to_pylist(), report.seed)
    if report.split == "time":
        days = np.asarray(table["published"]).astype("datetime64[D]")
        numbers = split_by_time(days, parse_time_boundaries(report.time_boundaries))
    else:
        numbers = split_by_paper(positions)
    order = np.argsort(positions, kind="stable")
    train = order[numbers[order] == 0][:MOST_TRAINING_PAPERS]
    test = order[numbers[order] == 2]

    def texts(rows: np.ndarray) -> list[str]:
        part = table.take(rows)
        pairs = zip(part["title"].to_pylist(), part["abstract"].to_pylist(), strict=True)
        return [f"{title}\n\n{abstract}" for title, abstract in pairs]

    archives = [archive_of(code) for code in table["category"].take(test).to_pylist()]
    return OutsidePapers(texts(train), texts(test), np.asarray(archives))


def fit_words(inside: list[str], outside: list[str], words: int = WORDS) -> tuple[dict[str, float], float]:
    """Weights of words and the intercept of a balanced, L2-regularised logistic regression.

    Fitted twice, on the texts of training papers inside and outside: on all words that 10 papers have (2 in a
    set of under 2,000), then on the `words` that matter most: large weight, in many papers.
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

    From the (n,) scores of in-scope papers and the (m,) scores of the others, both of at least 2: the share
    of pairs in which the in-scope paper scores higher (ties count half), and the ends of the interval.
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
    """What a rule does on the test papers, of which at most `MOST_TRAINING_PAPERS` in scope are scored.

    Returns:
        {auroc, auroc_interval, in_scope_kept, out_of_scope_caught, in_scope_papers, out_of_scope_papers,
        caught_by_archive: {archive: {n, caught}}} with shares of 1; and the scores, inside and outside.
    """
    scores = rule.scores(test[:MOST_TRAINING_PAPERS]), rule.scores(outside.test)
    area, low, high = auroc(*scores)
    caught = scores[1] < rule.threshold
    by_archive = {
        str(name): caught[outside.test_archives == name] for name in np.unique(outside.test_archives)
    }
    return {
        "auroc": area,
        "auroc_interval": [low, high],
        "in_scope_kept": float((scores[0] >= rule.threshold).mean()),
        "out_of_scope_caught": float(caught.mean()),
        "in_scope_papers": len(scores[0]),
        "out_of_scope_papers": len(caught),
        "caught_by_archive": {
            name: {"n": len(part), "caught": float(part.mean())} for name, part in by_archive.items()
        },
    }, scores


def fit_scope(
    train: list[str], validation: list[str], test: list[str], outside: OutsidePapers
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]] | None:
    """The rule with its figures, from in-scope texts of each split and the other papers of the file.

    Returns:
        The content of `eval/scope.json` less the sha256 of the weights, and the scores of `measure_scope`;
        None when there are fewer than `FEWEST_PAPERS` on a side.
    """
    if min(len(train), len(validation), len(test), len(outside.train), len(outside.test)) < FEWEST_PAPERS:
        return None
    weights, intercept = fit_words(train[:MOST_TRAINING_PAPERS], outside.train)
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
