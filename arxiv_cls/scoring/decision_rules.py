"""Fits the thresholds of prediction sets; `arxiv_cls.models.prediction` applies them.

Split conformal prediction with the score of the true label as conformity (Sadinle, Lei and Wasserman, 2019:
the least ambiguous sets at a given coverage). A set is every label whose score reaches a threshold, and the
highest label in any case, so that no set is empty. The guarantee is marginal: over papers like those of the
validation split, not for each category.

Adaptive sets (Romano, Sesia and Candes, 2020) were larger at every level: 1.34, 1.65 and 2.01 labels against
1.05, 1.37 and 1.77 at 80, 90 and 95% (linear baseline on `top5`, thresholds from one half of the test split,
sizes from the other, 40 draws).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import WORD_PATTERN, ScopeRule, set_members
from arxiv_cls.record.checksums import file_sha256
from arxiv_cls.record.model_config import Record
from arxiv_cls.record.model_files import read_record
from arxiv_cls.record.writing import write_json
from arxiv_cls.scoring.plots import plot_out_of_scope
from arxiv_cls.scoring.scored_papers import ScoredPapers, score_papers

if TYPE_CHECKING:
    from arxiv_cls.corpus import Corpus

COVERAGES = (0.8, 0.9, 0.95)


def coverage_threshold(labels: np.ndarray, probabilities: np.ndarray, coverage: float) -> float:
    """The largest threshold whose sets hold the true label of a new paper with probability `coverage`.

    Args:
        labels: (n,) true class numbers of papers that were not trained on.
        probabilities: (n, k) their scores.
        coverage: wanted share, between 0 and 1.

    Returns:
        The floor((n + 1)(1 - coverage))-th smallest score of a true label; 0 (every label) when n is too
        small for the coverage.
    """
    true_scores = np.sort(probabilities[np.arange(len(labels)), labels])
    # Rounding before the floor: (n + 1) * (1 - 0.9) must not fall below a whole number by 1e-13.
    rank = int(np.floor(np.round((len(labels) + 1) * (1 - coverage), 9)))
    return float(true_scores[rank - 1]) if rank >= 1 else 0.0


def fit_prediction_sets(
    validation_labels: np.ndarray,
    validation_probabilities: np.ndarray,
    test_labels: np.ndarray,
    test_probabilities: np.ndarray,
) -> dict[str, Any]:
    """Thresholds from the validation split, coverage and size on the test split.

    Args:
        validation_labels: (n,) true class numbers.
        validation_probabilities: (n, k).
        test_labels: (m,).
        test_probabilities: (m, k).

    Returns:
        The content of `eval/prediction_sets.json` less the sha256 of the weights: `levels` maps each
        coverage, as text, to {threshold, coverage, mean_size}.
    """
    levels = {}
    for coverage in COVERAGES:
        threshold = coverage_threshold(validation_labels, validation_probabilities, coverage)
        members = set_members(test_probabilities, threshold)
        levels[str(coverage)] = {
            "threshold": threshold,
            "coverage": float(members[np.arange(len(test_labels)), test_labels].mean()),
            "mean_size": float(members.sum(axis=1).mean()),
        }
    return {
        "schema_version": 1,
        "method": "LAC",
        "calibration_split": "validation",
        "calibration_papers": len(validation_labels),
        "test_papers": len(test_labels),
        "levels": levels,
    }


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


logger = logging.getLogger(__name__)


# Each rule with the plot that shows it.
RULE_FILES = (("prediction_sets.json",), ("scope.json", "out_of_scope.png"))


def drop_stale_rules(folder: Path, weights_sha256: str) -> None:
    """Takes away rules that were fitted for other weights, so that no card shows them for these.

    Args:
        folder: `eval/` of the model directory.
        weights_sha256: of the weights that are there now.
    """
    for names in RULE_FILES:
        path = folder / names[0]
        if not path.is_file():
            continue
        try:
            fitted_for = read_record(path, Record).get("weights_sha256")
        except UserError:
            # Whatever a damaged one was fitted for, it is of no use.
            fitted_for = None
        if fitted_for != weights_sha256:
            for name in names:
                (folder / name).unlink(missing_ok=True)


def fit_rules(
    predictor: Any,
    corpus: Any,
    tested: ScoredPapers,
    folder: Path,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Fits the rules on the validation split and writes `prediction_sets.json` and `scope.json`.

    Args:
        predictor: the model.
        corpus: its corpus.
        tested: its scores of the test split.
        folder: `eval/` of the model directory.
        progress: show a bar.

    Returns:
        {"prediction_sets": ..., "scope": ... or None} as written; there is no scope rule when the label set
        leaves out too few papers of the file, and an older one is taken away.

    Raises:
        UserError: when the data cannot be read.
    """
    weights = file_sha256(Path(predictor.weights_path))
    held_out = score_papers(predictor, corpus.splits["validation"], corpus.labels, progress=progress)
    sets = fit_prediction_sets(held_out.labels, held_out.probabilities, tested.labels, tested.probabilities)
    sets["weights_sha256"] = weights
    write_json(sets, folder / "prediction_sets.json")

    texts = {
        name: list(corpus.splits[name].select(range(min(PAPERS_A_SIDE, len(corpus.splits[name]))))["text"])
        for name in ("train", "validation", "test")
    }
    outside = outside_papers(corpus)
    found = fit_scope(texts["train"], texts["validation"], texts["test"], outside)
    if found is None:
        logger.info("no out-of-scope rule: fewer than %s papers inside or outside the labels", FEWEST_PAPERS)
        for name in ("scope.json", "out_of_scope.png"):
            (folder / name).unlink(missing_ok=True)
        return {"prediction_sets": sets, "scope": None}
    scope, scores_in, scores_out = found
    scope["weights_sha256"] = weights
    write_json(scope, folder / "scope.json")
    plot_out_of_scope(scores_in, scores_out, scope["threshold"], folder / "out_of_scope.png")
    return {"prediction_sets": sets, "scope": scope}
