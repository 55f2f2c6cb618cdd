"""Fits the baseline: linear models with out-of-fold scores, latent semantic analysis, trees, temperature.

The trees read scores of linear models. On its own training papers a linear model is nearly always right, so
they are grown on scores of models fitted without the paper's fold (Wolpert 1992, "Stacked generalization").

`labels` are (n,) numbers, or an (n, k) bool array for `task: multi_label`: then every label is a problem of
its own, one against the rest, and the scores of all of them enter the combination of each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import scores_of
from arxiv_cls.models.tfidf import LinearScores, TermFeatures, TfidfModel
from arxiv_cls.recipe import TfidfModelConfig, TfidfTrainerConfig
from arxiv_cls.record.run_record import available_cores
from arxiv_cls.scoring import multi_label
from arxiv_cls.scoring.calibration import calibrate
from arxiv_cls.scoring.metrics import compute_metrics

# A boosting round on 15,000 papers takes 20 ms: threads would mostly wait for each other.
PAPERS_PER_THREAD = 20_000
# Of both linear solvers: their default of 1e-4 takes half as long again and scores no better on top5.
TOLERANCE = 1e-2
# liblinear draws from one generator for the whole process: two fits at a time would not be reproducible.
_LIBLINEAR = threading.Lock()
_NO_COMPONENTS = (np.empty(0, dtype=np.int32), np.empty((0, 0), dtype=np.float32))

logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """n texts with (n,) label numbers, or (n, k) bool for `task: multi_label`."""

    texts: Sequence[str]
    labels: np.ndarray


class Fitted(NamedTuple):
    """The model, and what goes on record with it; `metrics` are those of the validation split."""

    model: TfidfModel
    calibration: dict[str, Any]
    validation_probabilities: np.ndarray
    metrics: dict[str, Any]
    history: list[dict[str, float]]  # `epoch`, `loss` and `eval_loss` of each round, metrics in the last one
    rounds: int
    seconds: float


def fit_tfidf(
    train: Split, validation: Split, labels: list[str], config: TfidfModelConfig,
    trainer_config: TfidfTrainerConfig, threads: int, on_round: Callable[[dict[str, float]], None],
) -> Fitted:  # fmt: skip
    """Fits everything; the same arguments give the same model.

    Args:
        train: training papers.
        validation: papers that stop the boosting and set the temperature, or calibration and thresholds.
        labels: the k category codes, in the order of the label numbers.
        config, trainer_config: groups `model` and `trainer` of the recipe.
        threads: of the linear fits and of XGBoost; another number can change the trees' last digits.
        on_round: gets `epoch`, `loss` and `eval_loss` (mean log-loss) after every boosting round.

    Raises:
        UserError: when the training papers have one label only or no term that repeats.
    """
    several = train.labels.ndim == 2
    if (train.labels.any(axis=0).sum() if several else len(np.unique(train.labels))) < 2:
        raise UserError("the training split has papers of one label only", hint="raise data.max_samples")
    start = time.perf_counter()
    history: list[dict[str, float]] = []

    def log(message: str, *values: object) -> None:
        logger.info("%5.1f s  " + message, time.perf_counter() - start, *values)

    def note(losses: dict[str, float]) -> None:
        history.append(losses)
        on_round(losses)

    log("terms")
    try:
        terms, rows = _fit_terms(train.texts, config)
    except ValueError as error:
        message = f"no term occurs in {config.min_df} training papers"
        raise UserError(message, hint="lower model.min_df or use more papers") from error

    log("linear models")
    grows_trees = config.classifier == "xgboost"
    size, seed = len(labels), trainer_config.seed
    # One thread per task, none within a task: the results are the same for any number of threads.
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        fitting = pool.submit(_fit_linear, rows, train.labels, size, config, seed)
        analysing = pool.submit(_components, rows, terms, config, seed) if grows_trees else None
        transforming = pool.submit(terms.transform, validation.texts)
        out_of_fold = _out_of_fold_scores(rows, train.labels, size, config, seed, pool)
        linear, held_out_rows = fitting.result(), transforming.result()
        linear.combination, linear.combination_bias = _combine_scores(out_of_fold, train.labels, size)
        columns, components = analysing.result() if analysing else _NO_COMPONENTS

    model = TfidfModel(list(labels), terms, linear, columns, components)
    rounds = 0
    if grows_trees:
        dense = model.dense(rows)
        # The analysis never saw a label; the scores did, so they give way to those out of fold.
        dense[:, : out_of_fold.shape[1]] = out_of_fold
        log("trees")
        model.booster = _grow(
            (dense, linear.margin(out_of_fold), train.labels),
            (model.dense(held_out_rows), linear.margin(linear.scores(held_out_rows)), validation.labels),
            config, trainer_config, threads, note,
        )  # fmt: skip
        rounds = model.booster.num_boosted_rounds()

    logits = model.logits(held_out_rows)
    if several:
        calibration, fitted, probabilities = multi_label.calibrate(logits, validation.labels)
        model.calibration = np.stack([fitted.scale, fitted.shift])
        model.label_thresholds = fitted.thresholds.tolist()
        metrics = multi_label.compute_metrics(validation.labels, probabilities, fitted.thresholds, labels)
    else:
        calibration, probabilities = calibrate(logits, validation.labels)
        model.temperature = calibration["temperature"]
        metrics = compute_metrics(validation.labels, probabilities, list(labels))
    curves = ("lrap" if several else "accuracy", "macro_f1")
    scores = {f"eval_{name}": metrics[name] for name in curves}
    history[-1:] = [(history[-1] if history else {"epoch": 0.0}) | scores]
    log("fitted, %d boosting rounds kept", rounds)
    seconds = time.perf_counter() - start
    return Fitted(model, calibration, probabilities, metrics, history, rounds, seconds)


def _fit_terms(texts: Sequence[str], config: TfidfModelConfig) -> tuple[TermFeatures, sp.csr_matrix]:
    return TermFeatures.fit(
        texts, ngram_max=config.ngram_max, min_df=config.min_df, title_weight=config.title_weight
    )


def _out_of_fold_scores(
    rows: sp.csr_matrix, labels: np.ndarray, label_count: int, config: TfidfModelConfig, seed: int,
    pool: Executor,
) -> np.ndarray:  # fmt: skip
    # (n, 3 * k) float32 scores of (n, features) rows by the linear models fitted without the row's fold.
    scores = np.zeros((len(labels), 3 * label_count), dtype=np.float32)
    # Of several labels the first decides, which keeps each of them about as frequent in every fold.
    folds = _assign_folds(labels.argmax(axis=1) if labels.ndim == 2 else labels, config.folds, seed)

    def score_fold(fold: int) -> None:
        seen, held_out = folds != fold, folds == fold
        if held_out.any() and (labels.ndim == 2 or len(np.unique(labels[seen])) > 1):
            linear = _fit_linear(rows[seen], labels[seen], label_count, config, seed)
            scores[held_out] = linear.scores(rows[held_out])

    # list: an error of a thread is raised here.
    list(pool.map(score_fold, range(config.folds)))
    return scores


def out_of_fold_probabilities(
    texts: Sequence[str], labels: np.ndarray, label_count: int, seed: int
) -> np.ndarray:
    """(n, k) float64 probabilities of the linear part for its n training texts, each without its own fold."""
    config = TfidfModelConfig()
    _, rows = _fit_terms(texts, config)
    with threadpool_limits(1), ThreadPoolExecutor(available_cores()) as pool:
        scores = _out_of_fold_scores(rows, labels, label_count, config, seed, pool)
    coefficients, intercepts = _combine_scores(scores, labels, label_count)
    logits = (scores @ coefficients + intercepts).astype(np.float64)
    return scores_of(logits, multi_label=labels.ndim == 2)


def _assign_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(n,) fold numbers; every label is spread over the folds as evenly as its count allows."""
    generator = np.random.default_rng(seed)
    assigned = np.empty(len(labels), dtype=np.int64)
    start = 0
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        # Each label goes on where the last one stopped, so that rare labels do not all meet in fold 0.
        assigned[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    return assigned


def _fit_linear(
    rows: sp.csr_matrix, labels: np.ndarray, label_count: int, config: TfidfModelConfig, seed: int
) -> LinearScores:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.naive_bayes import ComplementNB
    from sklearn.svm import LinearSVC

    weights = np.zeros((3 * label_count, rows.shape[1]), dtype=np.float32)
    bias = np.zeros(len(weights), dtype=np.float32)

    def fit(targets: np.ndarray, label: int | None = None) -> None:
        """Fits all labels at once, or one against the rest."""
        svm = LinearSVC(C=config.svm_cost, class_weight="balanced", tol=TOLERANCE, random_state=seed)
        with _LIBLINEAR:
            svm.fit(rows, targets)
        ridge = RidgeClassifier(alpha=config.ridge_penalty, tol=TOLERANCE).fit(rows, targets)
        bayes = ComplementNB(alpha=config.naive_bayes_smoothing).fit(rows, targets)
        # Only differences between the labels matter, and they are easier to combine.
        bayes_weights = bayes.feature_log_prob_ - bayes.feature_log_prob_.mean(axis=0)
        none = np.zeros(len(bayes_weights))
        parts = [(svm.coef_, svm.intercept_), (ridge.coef_, ridge.intercept_), (bayes_weights, none)]
        for number, part in enumerate(parts):
            if label is None:
                columns = number * label_count + svm.classes_
                weights[columns], bias[columns] = _one_per_label(*part)
            else:
                # The only row, or the last of two, is that of the papers with the label.
                row = number * label_count + label
                weights[row], bias[row] = np.atleast_2d(part[0])[-1], part[1][-1]

    if labels.ndim == 1:
        fit(labels)
    else:
        for label in _told_apart(labels):
            fit(labels[:, label], label)
    empty = np.empty((0, 0), dtype=np.float32)
    return LinearScores(weights, bias, empty, empty)


def _told_apart(labels: np.ndarray) -> np.ndarray:
    """The columns of an (n, k) bool array that hold papers with the label and papers without."""
    return np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))


def _one_per_label(coefficients: np.ndarray, intercepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # With two labels scikit-learn keeps the second one's row only.
    if len(coefficients) == 1:
        return np.vstack([-coefficients, coefficients]), np.concatenate([-intercepts, intercepts])
    return coefficients, intercepts


def _combine_scores(
    scores: np.ndarray, labels: np.ndarray, label_count: int
) -> tuple[np.ndarray, np.ndarray]:
    # Logistic regression on (n, features) scores: (features, k) coefficients and (k,) intercepts.
    from sklearn.linear_model import LogisticRegression

    combination = np.zeros((scores.shape[1], label_count), dtype=np.float32)
    if labels.ndim == 2:
        # The odds of a label without a training paper are those of half a paper.
        odds = (labels.sum(axis=0) + 0.5) / ((~labels).sum(axis=0) + 0.5)
        bias = np.log(odds).astype(np.float32)
        for label in _told_apart(labels):
            fitted = LogisticRegression(C=10.0, max_iter=2000).fit(scores, labels[:, label])
            combination[:, label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
        return combination, bias
    fitted = LogisticRegression(C=10.0, max_iter=2000).fit(scores, labels)
    coefficients, intercepts = _one_per_label(fitted.coef_, fitted.intercept_)
    # A label without a training paper is not impossible: it gets the odds of half a paper.
    bias = np.full(label_count, intercepts.min() - np.log(2 * len(labels)), dtype=np.float32)
    combination[:, fitted.classes_] = coefficients.T
    bias[fitted.classes_] = intercepts
    return combination, bias


def _components(
    rows: sp.csr_matrix, terms: TermFeatures, config: TfidfModelConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.utils.extmath import randomized_svd

    columns = np.arange(terms.text_terms)
    document_frequency = np.bincount(rows.indices, minlength=rows.shape[1])[columns]
    columns = columns[document_frequency >= config.components_min_df].astype(np.int32)
    count = min(config.components, len(columns) - 1, rows.shape[0] - 1)
    if count < 1:
        return _NO_COMPONENTS
    _, _, components = randomized_svd(rows[:, columns], count, n_iter=2, random_state=seed)
    return columns, components.astype(np.float32)


def _grow(
    train: tuple[np.ndarray, np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray, np.ndarray],
    config: TfidfModelConfig, trainer: TfidfTrainerConfig, threads: int,
    on_round: Callable[[dict[str, float]], None],
) -> Any:  # fmt: skip
    """Trees that start from margins; both splits are features (n, m), margins (n, k) and labels (n,)."""
    import xgboost

    class Report(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            losses = {name: log[metric][-1] for name, log in evals_log.items()}
            on_round({"epoch": epoch + 1, "loss": losses["train"], "eval_loss": losses["validation"]})
            bar.update()
            return False

    features, margin, labels = train
    several = labels.ndim == 2
    metric = "logloss" if several else "mlogloss"
    # A fitted constant would be added to margins that already are one.
    objective = (
        {"objective": "binary:logistic", "base_score": 0.5}
        if several
        else {"objective": "multi:softprob", "num_class": margin.shape[1], "base_score": 0.0}
    )
    train_matrix = xgboost.QuantileDMatrix(features, labels, base_margin=margin, max_bin=config.max_bin)
    features, margin, labels = validation
    validation_matrix = xgboost.DMatrix(features, labels, base_margin=margin)
    parameters = {
        **objective, "eval_metric": metric, "tree_method": "hist",
        "eta": trainer.learning_rate, "seed": trainer.seed,
        "max_depth": config.max_depth, "min_child_weight": config.min_child_weight,
        "subsample": config.subsample, "colsample_bytree": config.colsample_bytree,
        "alpha": config.reg_alpha, "lambda": config.reg_lambda, "max_bin": config.max_bin,
        "nthread": min(threads, 1 + len(train[2]) // PAPERS_PER_THREAD),
    }  # fmt: skip
    stop = xgboost.callback.EarlyStopping(rounds=trainer.early_stopping_patience, save_best=True)
    with tqdm(total=trainer.num_train_epochs, desc="trees", leave=False) as bar:
        return xgboost.train(
            parameters, train_matrix, trainer.num_train_epochs,
            evals=[(train_matrix, "train"), (validation_matrix, "validation")],
            callbacks=[stop, Report()], verbose_eval=False,
        )  # fmt: skip
