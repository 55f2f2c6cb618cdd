"""Scores a model, and the rules stored beside it, again on papers rebuilt from a recipe.

The gate scores a sample with every engine, as each will read the files; `verify` also the whole test split.
"""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.export.handler_file import handler_source
from arxiv_cls.models.prediction import ONNX_FILES, load_scope, set_members
from arxiv_cls.recipe import portable_path
from arxiv_cls.record.manifest import HANDLER, PREDICTIONS, TFIDF
from arxiv_cls.record.model_directory import Evidence, read_evidence
from arxiv_cls.release.check_result import listed
from arxiv_cls.scoring.intervals import Difference, paired_bootstrap
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.scored_papers import (
    DEFAULT_CSV,
    Predictions,
    ScoredPapers,
    data_options,
    read_predictions,
    score_papers,
    training_papers,
)

SAMPLE_PAPERS = 64
# Another processor or number of threads moves a float32 score by 1e-5, half precision on a GPU by 5e-4.
SCORE_TOLERANCE = 1e-3
# A sound int8 export shows so few equal labels in a sample once in a thousand pushes.
BY_CHANCE = 1e-3


@dataclass(frozen=True)
class RebuiltData:
    """The corpus that a recipe names, and the arguments of `build_corpus` that made it, with `config`."""

    corpus: Any
    options: dict[str, Any]


@dataclass(frozen=True)
class RescoredSplit:
    """A model's scores of a test split, with what the split was rebuilt from.

    Attributes:
        scored: the papers with their scores.
        corpus: the `Corpus`.
        options: the arguments of `build_corpus`, with `config`.
    """

    scored: ScoredPapers
    corpus: Any
    options: dict[str, Any]


def rebuild_data(evidence: Evidence, csv: str | Path | None = None) -> RebuiltData:
    """The corpus of a model, from the data version that its records name.

    Args:
        evidence: the records of the model.
        csv: the data file, where it is not at the path that the recipe names.

    Raises:
        UserError: when the file is missing or is another version; says how to get the right one.
    """
    from arxiv_cls.corpus import build_corpus

    record = evidence.run.get("data", {})
    options = {"config": "top5", "csv": DEFAULT_CSV} | data_options(evidence.model_dir)
    options["csv"] = str(csv or options["csv"])
    how = (
        f"get the file with md5 {record.get('md5')}: check out data/raw/arxiv.csv.dvc of the commit that "
        "names it and run `make data`, or name the file with --csv FILE (with make CSV=FILE)"
    )
    # An override puts the sentence on the card.
    shown = portable_path(options["csv"])
    if not Path(options["csv"]).is_file():
        raise UserError(f"{shown} is not there", hint=how)
    corpus = build_corpus(**options)
    if corpus.data.sha256 != record.get("sha256"):
        raise UserError(
            f"{shown} is not the data of this release: its sha256 is {corpus.data.sha256[:12]}, "
            f"the release names {str(record.get('sha256'))[:12]}",
            hint=how,
        )
    return RebuiltData(corpus, options)


def score_test_split(
    model_dir: Path,
    *,
    data: RebuiltData | None = None,
    recipe_dir: Path | None = None,
    csv: str | Path | None = None,
    progress: bool = False,
) -> RescoredSplit:
    """A model's scores on the test split that a recipe describes.

    Args:
        model_dir: the model.
        data: the corpus, where it is built already.
        recipe_dir: the model directory whose recipe names the split; None for the model's own.
        csv: the data file, where it is not at the path that the recipe names.
        progress: show a bar.

    Raises:
        UserError: when model, recipe or data cannot be had or do not fit together.
    """
    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.models.predictor import load_predictor

    if data is None:
        options = {"config": "top5"} | data_options(recipe_dir or model_dir)
        if csv is not None:
            options["csv"] = str(csv)
        data = RebuiltData(build_corpus(**options), options)
    papers, labels = data.corpus.splits["test"], data.corpus.labels
    scored = score_papers(load_predictor(model_dir), papers, labels, progress=progress)
    return RescoredSplit(scored, data.corpus, data.options)


@dataclass(frozen=True)
class EngineAnswers:
    """How the answers of one engine to the sample lie to what is on record.

    Attributes:
        engine: "pipeline()", "onnx", "int8", "handler.py" or "tfidf".
        problem: what is wrong, or why it could not be tried; empty where the answers are as recorded.
        checked: False where it could not be tried here.
    """

    engine: str
    problem: str = ""
    checked: bool = True


def answers_of_engines(
    evidence: Evidence, predictions: Predictions, papers: Any, sample: int = SAMPLE_PAPERS
) -> list[EngineAnswers]:
    """Scores a sample of the test split with everything that a user of the release may score with.

    Args:
        evidence: the model's records.
        predictions: the recorded ones, of these papers.
        papers: the test split.
        sample: at most so many papers, spread over the split.
    """
    row_of = {name: row for row, name in enumerate(predictions.arxiv_ids)}
    known = [number for number, name in enumerate(papers["arxiv_id"]) if name in row_of]
    if not known:
        return [EngineAnswers("no engine", "was tried: the recorded predictions are of other papers")]
    step = max(1, len(known) // sample)
    chosen = papers.select(known[::step][:sample])
    texts = list(chosen["text"])
    recorded = predictions.probabilities[[row_of[name] for name in chosen["arxiv_id"]]]
    answers, scores, tokens = [], {}, None
    for engine, score in _engines(evidence):
        try:
            labels, found, ids = score(texts)
        except _NotTriedError as reason:
            answers.append(EngineAnswers(engine, str(reason), checked=False))
            continue
        # Whatever a broken file makes a library raise is the verdict on that file.
        except Exception as error:
            reason = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            reason = " ".join(reason.replace(f"{evidence.model_dir}/", "").split())
            answers.append(EngineAnswers(engine, f"cannot score: {reason[:300]}"))
            continue
        problem = f"has the labels {', '.join(labels)}, the record {', '.join(predictions.label_names)}"
        if set(labels) == set(predictions.label_names):
            scores[engine] = found[:, [labels.index(name) for name in predictions.label_names]]
            entry = evidence.exports.get(ONNX_FILES["int8"], {}) if engine == "int8" else None
            reference = recorded if entry is None else scores.get("onnx", recorded)
            problem = _difference(scores[engine], reference, entry)
            if ids is not None and ids != (tokens := tokens or ids):
                problem = "reads other tokens than pipeline(): tokenizer.json is not what the settings say"
        answers.append(EngineAnswers(engine, problem))
    return answers


def _difference(found: np.ndarray, recorded: np.ndarray, int8: Mapping[str, Any] | None) -> str:
    """Why scores are not those on record; empty where they are. int8 has the limits of its own record."""
    difference = float(np.abs(found - recorded).max())
    tolerance = SCORE_TOLERANCE if int8 is None else float(int8.get("tolerance", 0))
    equal = int((found.argmax(axis=1) == recorded.argmax(axis=1)).sum())
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


def _engines(evidence: Evidence) -> Iterator[tuple[str, Callable[[Sequence[str]], Scores]]]:
    """Each engine of the release, and what gives its labels, (texts, labels) probabilities, token ids."""
    folder = evidence.model_dir

    def baseline(texts: Sequence[str]) -> Scores:
        from arxiv_cls.models.predictor import load_predictor

        predictor = load_predictor(folder)
        return predictor.labels, predictor.predict_proba(texts), None

    def pipe(texts: Sequence[str]) -> Scores:
        if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
            raise _NotTriedError("torch and transformers are not installed (the extra `train`)")
        from transformers import pipeline

        classify = pipeline("text-classification", model=str(folder), device="cpu")
        answers = classify(list(texts), truncation=True, top_k=None)
        return _columns(answers, classify.tokenizer(list(texts), truncation=True)["input_ids"])

    def onnx(engine: str) -> Callable[[Sequence[str]], Scores]:
        def score(texts: Sequence[str]) -> Scores:
            from arxiv_cls.models.onnx_engine import TOKENS_PER_BATCH, OnnxEngine

            session = OnnxEngine(folder, ONNX_FILES[engine])
            ids = [tokens for tokens, _ in session.tokenize(texts)]
            per_batch = 1 if engine == "int8" else TOKENS_PER_BATCH
            return session.labels, session.probabilities(ids, per_batch), ids

        return score

    def handler(texts: Sequence[str]) -> Scores:
        if (folder / HANDLER).read_bytes() != handler_source().encode():
            raise _NotTriedError("it is not the one that this version writes, and foreign code is not run")
        answer = runpy.run_path(str(folder / HANDLER))["EndpointHandler"](str(folder))
        return _columns(answer({"inputs": list(texts), "parameters": {"top_k": None}}))

    if evidence.kind == TFIDF:
        yield TFIDF, baseline
        return
    yield "pipeline()", pipe
    for engine, file in ONNX_FILES.items():
        if (folder / file).is_file():
            yield engine, onnx(engine)
    if (folder / HANDLER).is_file():
        yield HANDLER, handler


def _columns(answers: list[list[dict[str, Any]]], ids: list[list[int]] | None = None) -> Scores:
    """Answers of a pipeline, all labels of each text, as labels and (texts, labels) probabilities."""
    labels = sorted(entry["label"] for entry in answers[0])
    rows = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
    return labels, np.asarray([[row[label] for label in labels] for row in rows], dtype=np.float64), ids


def remeasure_prediction_sets(record: Mapping[str, Any], scored: ScoredPapers) -> dict[str, Any]:
    """Coverage and mean size of the recorded thresholds on the papers, in the form of the record."""
    levels = {}
    for level, part in record["levels"].items():
        members = set_members(scored.probabilities, part["threshold"])
        levels[level] = {
            "coverage": float(members[np.arange(len(scored)), scored.labels].mean()),
            "mean_size": float(members.sum(axis=1).mean()),
        }
    return {"levels": levels}


def remeasure_scope(model_dir: Path, split: RescoredSplit) -> dict[str, Any]:
    """What the recorded out-of-scope rule does on the test papers inside and outside the labels.

    Raises:
        UserError: when the rule or the data cannot be read.
    """
    from arxiv_cls.scoring.decision_rules import PAPERS_A_SIDE, auroc, caught_by_archive, outside_papers

    rule = load_scope(model_dir)
    if rule is None:
        return {}
    inside = rule.scores(list(split.corpus.splits["test"]["text"][:PAPERS_A_SIDE]))
    papers = outside_papers(split.corpus)
    outside = rule.scores(papers.test)
    area, low, high = auroc(inside, outside)
    return {
        "auroc": area,
        "auroc_interval": [low, high],
        "in_scope_kept": float((inside >= rule.threshold).mean()),
        "out_of_scope_caught": float((outside < rule.threshold).mean()),
        "out_of_scope_papers": len(outside),
        "caught_by_archive": caught_by_archive(outside < rule.threshold, papers.test_archives),
    }


@dataclass(frozen=True)
class Comparison:
    """The release against the candidate on the same papers.

    Attributes:
        version: the release's.
        papers: how many papers both were scored on.
        left_out: test papers of the candidate that the release was, or can have been, trained on.
        before: the release's metrics on them.
        after: the candidate's.
        differences: candidate less release, with 95% intervals from a paired bootstrap.
        impossible: why the two cannot be compared; empty where they can.
        found: of what keeps them apart, what the candidate has.
        wanted: what the release has.
    """

    version: str
    papers: int = 0
    left_out: int = 0
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    impossible: str = ""
    found: str = ""
    wanted: str = ""


def _aligned(predictions: Predictions | ScoredPapers, ids: np.ndarray, labels: list[str]) -> np.ndarray:
    """The probabilities, rows in the order of `ids` and columns in the order of `labels`."""
    row_of = {arxiv_id: row for row, arxiv_id in enumerate(predictions.arxiv_ids)}
    rows = [row_of[arxiv_id] for arxiv_id in ids]
    columns = [predictions.label_names.index(label) for label in labels]
    return predictions.probabilities[rows][:, columns]


def compare_with_release(
    candidate: Evidence,
    release_dir: Path,
    version: str,
    *,
    csv: str | Path | None = None,
    data: RebuiltData | None = None,
) -> Comparison:
    """Compares a candidate with a downloaded release.

    The predictions recorded with both are paired when they are of the same papers; otherwise the release is
    scored again on the candidate's test split, less the papers that it was trained on, which it would know
    by heart (there are some where the two were split by other seeds, or one of them by time). What cannot be
    compared, because the release is none of this project, its labels are others or the data is not there, is
    told in the result: the person who releases may decide to go on.

    Args:
        candidate: records of an evaluated model.
        release_dir: the files of the release.
        version: the release's, for messages.
        csv: data to score the release again with, when that is needed; None for the candidate's own.
        data: the candidate's corpus, where it is built already.

    Raises:
        UserError: when the candidate's predictions are missing or unreadable.
    """
    new = read_predictions(candidate.model_dir / PREDICTIONS)
    try:
        released = read_evidence(release_dir)
        labels = released.labels
        recorded = (release_dir / PREDICTIONS).is_file()
        old: Predictions | ScoredPapers | None = (
            read_predictions(release_dir / PREDICTIONS) if recorded else None
        )
    except UserError as error:
        reason = f"{version} is no release of this project that can be read: {_without(error, release_dir)}"
        return Comparison(version, impossible=reason, found="a release", wanted="a release to compare with")
    if set(labels) != set(candidate.labels):
        return Comparison(
            version,
            impossible=f"its categories are not those of {version}: its users would be surprised",
            found=listed(candidate.labels),
            wanted=listed(labels),
        )
    same = old is not None and set(old.arxiv_ids) == set(new.arxiv_ids)
    known = np.zeros(len(new.labels), dtype=bool)
    if old is None or not same:
        shared = 0 if old is None else len(set(old.arxiv_ids) & set(new.arxiv_ids))
        tested = "no recorded papers" if old is None else f"{len(old.labels):,} papers of {version}"
        found = f"{len(new.labels):,} test papers, {shared:,} of them shared"
        path = Path(csv or (candidate.recipe.get("data") or {}).get("csv", ""))
        if not path.is_file():
            reason = (
                f"{version} was tested on other papers, and {path}, to score it again with, is not there: "
                "name the file with --csv FILE (with make CSV=FILE), or get it with `make data`"
            )
            return Comparison(version, impossible=reason, found=found, wanted=tested)
        try:
            old = score_test_split(
                release_dir, data=data, recipe_dir=candidate.model_dir, csv=path, progress=True
            ).scored
            known = _known_papers(release_dir, old, new.arxiv_ids, path)
        except UserError as error:
            reason = f"{version} was tested on other papers, and cannot be scored again: "
            reason += _without(error, release_dir)
            return Comparison(version, impossible=reason, found=found, wanted=tested)
    return _paired(new, old, version, known)


def _known_papers(release_dir: Path, scored: ScoredPapers, arxiv_ids: np.ndarray, csv: Path) -> np.ndarray:
    """Which of the candidate's test papers, (n,) in the order of `arxiv_ids`, taught the release."""
    found = training_papers(release_dir, scored.arxiv_ids, scored.published, csv)
    taught = set() if found is None else set(scored.arxiv_ids[found[0]])
    return np.fromiter((name in taught for name in arxiv_ids), bool, len(arxiv_ids))


def _without(error: UserError, folder: Path) -> str:
    """The message of an error less the place of the download, which says nothing to the reader of a card."""
    return error.message.replace(f"{folder}/", "").replace(str(folder), "it")


def _paired(new: Predictions, old: Predictions | ScoredPapers, version: str, known: np.ndarray) -> Comparison:
    old_ids = set(old.arxiv_ids)
    common = np.asarray([arxiv_id in old_ids for arxiv_id in new.arxiv_ids]) & ~known
    if not common.any():
        why = f"no test paper in common with {version}"
        if known.any():
            why += f", less those that it was trained on ({int(known.sum()):,} of {len(known):,})"
        return Comparison(
            version,
            impossible=why,
            found=f"{len(new.labels):,} test papers",
            wanted=f"{len(old.labels):,} papers of {version}",
        )
    labels, after = new.labels[common], new.probabilities[common]
    before = _aligned(old, new.arxiv_ids[common], new.label_names)
    return Comparison(
        version,
        papers=int(common.sum()),
        left_out=int(known.sum()),
        before=compute_metrics(labels, before, new.label_names),
        after=compute_metrics(labels, after, new.label_names),
        differences=paired_bootstrap(labels, before, after),
    )
