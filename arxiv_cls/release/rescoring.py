"""Scores models again on the papers that a recipe gives: the gate and `verify` compare with what is recorded.

The gate scores a sample with every engine, as each will read the files, and the release on the Hub where its
predictions are of other papers; `verify` scores the whole test split.
"""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arxiv_cls.corpus.fetch import local_file
from arxiv_cls.errors import UserError
from arxiv_cls.export.handler import handler_source
from arxiv_cls.export.quantization import agreement
from arxiv_cls.models.prediction import ONNX_FILES
from arxiv_cls.recipe import portable_path
from arxiv_cls.record.directory import ModelDirectory, read_model_directory
from arxiv_cls.record.manifest import HANDLER, PREDICTIONS, TFIDF, model_kind
from arxiv_cls.record.run_record import data_record
from arxiv_cls.release.gate_checks import CheckResult, listed, metrics_of_predictions, resampler_of
from arxiv_cls.scoring.intervals import paired_differences
from arxiv_cls.scoring.scored_papers import (
    Predictions,
    ScoredPapers,
    data_options,
    read_predictions,
    score_papers,
    training_papers,
)

if TYPE_CHECKING:
    from arxiv_cls.corpus import Corpus

SAMPLE_PAPERS = 64
# Another processor or number of threads moves a float32 score by 1e-5, half precision on a GPU by 5e-4.
SCORE_TOLERANCE = 1e-3
# Check to the metric that it compares; -1 where less is better.
COMPARED = {"quality": ("macro_f1", 1), "calibration": ("expected_calibration_error", -1)}
# Each label has a calibration error of its own: what all of them together cost is the log-loss.
OF_MULTI_LABEL = {"calibration": ("log_loss", -1)}
# A sound int8 export shows so few equal labels in a sample once in a thousand pushes.
BY_CHANCE = 1e-3


def rebuild_corpus(model: ModelDirectory, csv: str | Path | None = None) -> Corpus:
    """The corpus of a model, from the data version that its records name; `csv` where it lies elsewhere.

    Raises:
        UserError: the file is missing or is another version, with how to get the right one.
    """
    from arxiv_cls.corpus import build_corpus

    record, options = model.run["data"], data_options(model.model_dir)
    pinned = record["csv"] if str(record.get("csv")).startswith("hf:") else options["csv"]
    path = str(csv or pinned)
    how = (
        f"get the file with md5 {record['md5']}: check out data/raw/arxiv.csv.dvc of the commit that "
        "names it and run `make data`, or name the file with --csv FILE (with make CSV=FILE)"
    )
    # An override puts the sentence on the card.
    shown = portable_path(path)
    if not local_file(path).is_file():
        raise UserError(f"{shown} is not there", hint=how)
    corpus = build_corpus(**options | {"csv": path})
    if (found := corpus.data.sha256) != (named := record["sha256"]):
        what = f"its sha256 is {found[:12]}, the release names {named[:12]}"
        raise UserError(f"{shown} is not the data of this release: {what}", hint=how)
    return corpus


def score_test_split(model_dir: Path, corpus: Corpus) -> ScoredPapers:
    """A model's scores on a test split.

    Raises:
        UserError: the model cannot be loaded, or has other labels than the data.
    """
    from arxiv_cls.models.predictor import load_predictor

    if model_kind(model_dir) != TFIDF and importlib.util.find_spec("torch") is None:
        message = "scoring a transformer again needs torch, which is not installed"
        raise UserError(message, 'pip install "arxiv_cls[train]"')
    return score_papers(load_predictor(model_dir), corpus.splits["test"], corpus.labels, progress=True)


def score_with_engines(
    model: ModelDirectory, corpus: Corpus, predictions: Predictions | None = None
) -> list[CheckResult]:
    """Scores a sample of the test split with everything that a user of the release may score with.

    A verdict for each engine ("pipeline()", "onnx", "int8", "handler.py" or "tfidf"), compared with the
    recorded predictions where none are given.

    Raises:
        UserError: the recorded predictions are missing or unreadable.
    """

    def verdict(engine: str, problem: str, checked: bool = True) -> CheckResult:
        found = problem or "as recorded"
        return CheckResult(engine, not problem, found, "the recorded scores", found, checked=checked)

    predictions = predictions or read_predictions(model.model_dir / PREDICTIONS)
    papers = corpus.splits["test"]
    row_of = {name: row for row, name in enumerate(predictions.arxiv_ids)}
    known = [number for number, name in enumerate(papers["arxiv_id"]) if name in row_of]
    if not known:
        return [verdict("no engine", "was tried: the recorded predictions are of other papers")]
    chosen = papers.select(known[:: max(1, len(known) // SAMPLE_PAPERS)][:SAMPLE_PAPERS])
    texts = list(chosen["text"])
    recorded = predictions.probabilities[[row_of[name] for name in chosen["arxiv_id"]]]
    results, scores, tokens = [], {}, None
    for engine, score in _engines(model):
        try:
            labels, found, ids = score(texts)
        except _NotTriedError as reason:
            results.append(verdict(engine, str(reason), checked=False))
            continue
        # Whatever a broken file makes a library raise is the verdict on that file.
        except Exception as error:
            reason = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            reason = " ".join(reason.replace(f"{model.model_dir}/", "").split())
            results.append(verdict(engine, f"cannot score: {reason[:300]}"))
            continue
        problem = f"has the labels {', '.join(labels)}, the record {', '.join(predictions.label_names)}"
        if set(labels) == set(predictions.label_names):
            scores[engine] = found[:, [labels.index(name) for name in predictions.label_names]]
            entry = model.exports.get(ONNX_FILES["int8"], {}) if engine == "int8" else None
            reference = recorded if entry is None else scores.get("onnx", recorded)
            problem = score_difference(scores[engine], reference, entry, predictions.thresholds)
            if ids is not None and ids != (tokens := tokens or ids):
                problem = "reads other tokens than pipeline(): tokenizer.json is not what the settings say"
        results.append(verdict(engine, problem))
    return results


def score_difference(
    found: np.ndarray,
    recorded: np.ndarray,
    int8: Mapping[str, Any] | None = None,
    thresholds: np.ndarray | None = None,
) -> str:
    """Why (papers, labels) scores are not those on record; empty where they are.

    int8 has its own limits; `thresholds` are (labels,), of a multi-label model.
    """
    difference = float(np.abs(found - recorded).max())
    tolerance = SCORE_TOLERANCE if int8 is None else float(int8.get("tolerance", 0))
    equal = round(agreement(found, recorded, None, thresholds).equal_labels * len(found))
    if not difference <= tolerance:
        return (
            f"scores differ from the recorded ones by up to {difference:.2g} (at most {tolerance:g}), "
            f"{equal} of {len(found)} labels are equal"
        )
    if int8 is not None and (share := int8.get("least_equal_labels")):
        from scipy.stats import binom

        least = int(binom.ppf(BY_CHANCE, len(found), share))
        if equal < least:
            return f"{equal} of {len(found)} labels are those of fp32, at least {least} were expected"
    return ""


class _NotTriedError(Exception):
    """An engine cannot be tried here; the message says why."""


Scores = tuple[list[str], np.ndarray, list[list[int]] | None]


def _engines(model: ModelDirectory) -> Iterator[tuple[str, Callable[[Sequence[str]], Scores]]]:
    """Each engine of the release, and what gives its labels, (texts, labels) probabilities, token ids."""
    folder = model.model_dir

    def ours(engine: str | None = None) -> Callable[[Sequence[str]], Scores]:
        def score(texts: Sequence[str]) -> Scores:
            from arxiv_cls.models.predictor import load_predictor

            predictor = load_predictor(folder, engine=engine)
            ids = [text.payload for text in predictor.encode(texts)] if engine else None
            return predictor.labels, predictor.predict_proba(texts), ids

        return score

    def pipe(texts: Sequence[str]) -> Scores:
        if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
            raise _NotTriedError("torch and transformers are not installed (the extra `train`)")
        from transformers import pipeline

        classify = pipeline("text-classification", model=str(folder), device="cpu")
        answers = classify(list(texts), truncation=True, top_k=None)
        return _columns(answers, classify.tokenizer(list(texts), truncation=True)["input_ids"])

    def handler(texts: Sequence[str]) -> Scores:
        if (folder / HANDLER).read_bytes() != handler_source().encode():
            raise _NotTriedError("it is not the one that this version writes, and foreign code is not run")
        answer = runpy.run_path(str(folder / HANDLER))["EndpointHandler"](str(folder))
        return _columns(answer({"inputs": list(texts), "parameters": {"top_k": None}}))

    if model.kind == TFIDF:
        yield TFIDF, ours()
        return
    yield "pipeline()", pipe
    for engine, file in ONNX_FILES.items():
        if (folder / file).is_file():
            yield engine, ours(engine)
    if (folder / HANDLER).is_file():
        yield HANDLER, handler


def _columns(answers: list[list[dict[str, Any]]], ids: list[list[int]] | None = None) -> Scores:
    """Answers of a pipeline, all labels of each text, as labels and (texts, labels) probabilities."""
    labels = sorted(entry["label"] for entry in answers[0])
    rows = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
    return labels, np.asarray([[row[label] for label in labels] for row in rows], dtype=np.float64), ids


def check_corpus(model: ModelDirectory, corpus: Corpus | None, problem: str = "") -> CheckResult:
    """What `run.json` and the predictions record of the data is what its CSV file gives.

    `corpus` is the data, rebuilt; None where it could not be, for the reason in `problem`.
    """
    if corpus is None:
        return CheckResult("corpus", False, "no data", "the data of its recipe", problem, checked=False)
    record, wrong = model.run["data"], {}
    for key, value in data_record(corpus, data_options(model.model_dir)).items():
        # The name of the file may be another, and what was counted while reading changes with the reader.
        if key not in {"csv", "report", "newest_training_paper"} and record.get(key) != value:
            wrong[f"data.{key}"] = (record.get(key), value)
    if set(model.labels) != set(corpus.labels):
        wrong["id2label of config.json"] = (listed(model.labels), listed(corpus.labels))
    path, test = model.model_dir / PREDICTIONS, corpus.splits["test"]
    if path.is_file() and not wrong:
        predictions = read_predictions(path)
        targets = predictions.labels if predictions.listed is None else predictions.listed
        found = dict(zip(predictions.arxiv_ids, _named(targets, predictions.label_names), strict=True))
        true = dict(zip(test["arxiv_id"], _named(corpus.targets("test"), corpus.labels), strict=True))
        if found != true or len(found) != len(predictions):
            same = len(found.items() & true.items())
            wrong[f"papers and categories of {PREDICTIONS}"] = (f"{same} of {len(true)}", len(true))
    csv = portable_path(str(corpus.data.csv))
    if not wrong:
        reason = f"data, splits and labels on record follow from {csv}"
        return CheckResult("corpus", True, f"{len(test)} test papers", f"{len(test)}", reason)
    found, expected = next(iter(wrong.values()))
    reason = f"not what {csv} gives: {listed(list(wrong))}"
    return CheckResult("corpus", False, str(found)[:80], str(expected)[:80], reason)


def _named(targets: np.ndarray, names: Sequence[str]) -> list[object]:
    """The category of each of n papers, given (n,) columns, or all its labels, given an (n, k) mask."""
    if targets.ndim == 1:
        return [names[column] for column in targets]
    return [frozenset(np.asarray(names)[row]) for row in targets]


def check_answers(model: ModelDirectory, corpus: Corpus | None, problem: str = "") -> CheckResult:
    """Every engine of the release gives the recorded predictions, on a sample of the test papers."""
    if corpus is None:
        return CheckResult("answers", False, "not scored", "the recorded scores", problem, checked=False)
    results = score_with_engines(model, corpus)
    wrong = [f"{result.check} {result.reason}" for result in results if not result.passed]
    names = ", ".join(result.check for result in results)
    reason = "; ".join(wrong) or f"{names} give the recorded scores"
    right = len(results) - len(wrong)
    return CheckResult("answers", not wrong, f"{right} of {len(results)} engines", f"{len(results)}", reason)


def compare_with_release(
    model: ModelDirectory, release_dir: Path, version: str, corpus: Corpus | None, problem: str = ""
) -> list[CheckResult]:
    """Macro-F1 and calibration are not significantly worse than those of the release now on the Hub.

    The predictions recorded with both are paired when they are of the same papers; otherwise the release is
    scored again on the candidate's test split, less the papers that it was trained on. Both checks fail where
    the two cannot be compared: the release is none of this project, has other labels, or the data is missing.
    `corpus` is the candidate's; None where it could not be rebuilt, for the reason in `problem`.
    """
    new = read_predictions(model.model_dir / PREDICTIONS)
    try:
        old, known = _predictions_of_release(model, new, release_dir, version, corpus, problem)
        if old.multi_label != new.multi_label:
            task = "multi-label" if old.multi_label else "single-label"
            raise UserError(f"{version} is a {task} model, unlike this one")
        row_of = {arxiv_id: row for row, arxiv_id in enumerate(old.arxiv_ids)}
        common = np.asarray([arxiv_id in row_of for arxiv_id in new.arxiv_ids]) & ~known
        if not common.any():
            left = f", less the {int(known.sum()):,} that it was trained on" if known.any() else ""
            raise UserError(f"no test paper in common with {version}{left}")
    except UserError as error:
        reason = error.message.replace(f"{release_dir}/", "").replace(str(release_dir), "it")
        wanted = f"a comparison with {version}"
        return [CheckResult(check, False, "none", wanted, reason) for check in COMPARED]
    rows = [row_of[arxiv_id] for arxiv_id in new.arxiv_ids[common]]
    columns = [old.label_names.index(label) for label in new.label_names]
    after = replace(
        new,
        arxiv_ids=new.arxiv_ids[common],
        labels=new.labels[common],
        probabilities=new.probabilities[common],
        listed=None if new.listed is None else new.listed[common],
    )
    thresholds = None if old.thresholds is None else old.thresholds[columns]
    before = replace(after, probabilities=old.probabilities[rows][:, columns], thresholds=thresholds)
    metrics = [metrics_of_predictions(scored) for scored in (after, before)]
    differences = paired_differences(resampler_of(before), resampler_of(after))
    left_out = f" (less {int(known.sum())} that {version} was trained on)" if known.any() else ""
    results = []
    for check, (metric, sign) in (COMPARED | (OF_MULTI_LABEL if new.multi_label else {})).items():
        difference = differences[metric]
        passed = (difference.high if sign == 1 else -difference.low) >= 0
        reason = (
            f"{metric} is {'not ' if passed else ''}significantly worse than {version}'s on the same "
            f"{int(common.sum())} papers{left_out}: difference {difference.difference:+.4f}, "
            f"95% interval {difference.low:+.4f} to {difference.high:+.4f}"
        )
        found, wanted = (f"{values[metric]:.4f}" for values in metrics)
        results.append(CheckResult(check, passed, found, wanted, reason))
    return results


def _predictions_of_release(
    model: ModelDirectory, new: Predictions, folder: Path, version: str, corpus: Corpus | None, problem: str
) -> tuple[Predictions | ScoredPapers, np.ndarray]:
    """The release's predictions, and which of the candidate's test papers, (n,), it was trained on."""
    old, said = None, f"{version} is no release of this project that can be read"
    try:
        labels = read_model_directory(folder).labels
        if (folder / PREDICTIONS).is_file():
            old = read_predictions(folder / PREDICTIONS)
        if set(labels) == set(model.labels):
            if old is not None and set(old.arxiv_ids) == set(new.arxiv_ids):
                return old, np.zeros(len(new), dtype=bool)
            shared = 0 if old is None else len(set(old.arxiv_ids) & set(new.arxiv_ids))
            said = f"{version} was tested on other papers ({shared:,} of the {len(new):,} here)"
            if corpus is None:
                raise UserError(f"it cannot be scored again: {problem}")
            scored = score_test_split(folder, corpus)
            known = training_papers(folder, scored.arxiv_ids, scored.published, corpus.data.csv)
            seen = set() if known is None else set(scored.arxiv_ids[known.seen])
            return scored, np.asarray([name in seen for name in new.arxiv_ids], dtype=bool)
    except UserError as error:
        raise UserError(f"{said}: {error.message}") from None
    raise UserError(f"its categories {listed(model.labels)} are not those of {version}: {listed(labels)}")
