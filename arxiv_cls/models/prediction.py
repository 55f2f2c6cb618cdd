"""What a predictor answers, and what all predictors share.

Beside the scores, a model directory may hold two rules: prediction sets (`eval/prediction_sets.json`: every
label whose score reaches a threshold, and the highest label in any case) and out-of-scope detection
(`eval/scope.json`). `arxiv_cls.scoring` fits both. A multi-label model has no prediction sets of a coverage:
its `config.json` has a threshold for each label instead.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UNREACHABLE, UserError, is_out_of_memory
from arxiv_cls.record.model_files import Scope, read_model_file

ONNX_FILES = {"onnx": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}
# Coverage of the sets that a predictor answers with.
SERVED_COVERAGE = "0.9"
WORD_PATTERN = r"[a-z][a-z]+"
_WORD = re.compile(WORD_PATTERN)
# Configuration and tokenizer, and the weights: never a pickle.
HUB_FILES = ["config.json", "tokenizer*", "vocab*", "special_tokens*"]
HUB_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]


def set_members(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """(n, k) mask of the labels in each paper's set."""
    members = probabilities >= threshold
    members[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return members


def prediction_set(scores: Mapping[str, float], threshold: float) -> list[str]:
    """The set of one paper, highest score first, from the scores of all its labels."""
    ordered = sorted(scores, key=lambda label: -scores[label])
    return ordered[:1] + [label for label in ordered[1:] if scores[label] >= threshold]


def load_set_threshold(model_dir: str | Path, coverage: str = SERVED_COVERAGE) -> float | None:
    """The score from which a label is in a set of this coverage; None when the model has no such sets.

    Raises:
        UserError: the file is damaged or of a later version.
    """
    record = read_model_file(model_dir, "eval/prediction_sets.json")
    level = record["levels"].get(coverage) if record else None
    return None if level is None else float(level["threshold"])


def load_label_thresholds(model_dir: str | Path) -> np.ndarray | None:
    """(k,) scores from which a multi-label model gives each of its k labels; None for a single-label model.

    Raises:
        UserError: `config.json` is damaged.
    """
    thresholds = (read_model_file(model_dir, "config.json") or {}).get("label_thresholds")
    return None if thresholds is None else np.asarray(thresholds, dtype=np.float64)


def scores_of(logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """(n, k) scores of (n, k) logits: a sigmoid for each label, or a softmax over the labels."""
    # Not at the top: an ONNX engine, and with it the endpoint, does without scipy here.
    from scipy.special import expit, softmax

    return expit(logits) if multi_label else softmax(logits, axis=1)


@dataclass(frozen=True)
class ScopeRule:
    """Scores texts by their words.

    Attributes:
        weights: what each known word adds.
        intercept: the score of a text without any known word.
        threshold: score from which a text counts as in scope.
    """

    weights: Mapping[str, float]
    intercept: float
    threshold: float

    def score(self, text: str) -> float:
        """0 (outside) to 1 (inside): the logistic function of intercept + sum / sqrt(known words)."""
        known = [self.weights[word] for word in set(_WORD.findall(text.lower())) if word in self.weights]
        # fsum: the order of a set differs from process to process, the score must not.
        logit = self.intercept + (math.fsum(known) / np.sqrt(len(known)) if known else 0.0)
        return float(1 / (1 + np.exp(-logit)))

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) scores of n texts."""
        return np.fromiter((self.score(text) for text in texts), dtype=np.float64, count=len(texts))


def load_scope(model_dir: str | Path) -> ScopeRule | None:
    """The rule of a model directory; None when it has none.

    Raises:
        UserError: the file is damaged or of a later version.
    """
    record = read_model_file(model_dir, "eval/scope.json")
    if record is None:
        return None
    if record.get("weights") is None or record.get("intercept") is None:
        path = Path(model_dir) / "eval/scope.json"
        raise UserError(f"{path}: expected `weights` and `intercept`, the rule itself", hint=Scope.hint)
    return ScopeRule(record["weights"], record["intercept"], record["threshold"])


@dataclass(frozen=True)
class EncodedText:
    """A text as one engine reads it, so that a queue can weigh it before it is scored.

    Attributes:
        tokens: how many the model will read, after truncation; words for a baseline.
        truncated: whether the text was longer than the model reads.
        payload: the engine's own, such as token ids.
        answered: whether it was scored when it was encoded, by the baseline of a cascade: computing the
            answer costs nothing any more, however many tokens it has.
        no_known_words: the model knows none of the words: there is nothing to judge the text by.
    """

    text: str
    tokens: int
    truncated: bool
    payload: Any = None
    answered: bool = False
    no_known_words: bool = False


@dataclass(frozen=True)
class Prediction:
    """What a model answers for one text.

    Attributes:
        label: category code with the highest score.
        score: its calibrated probability, 0 to 1.
        scores: every label (or the top k) with its probability, descending.
        truncated: whether the text was longer than the model reads.
        prediction_set: labels that hold the right one with 90% probability, highest score first; None when
            the model has no `eval/prediction_sets.json` or knows no word of the text. Of a multi-label model:
            the labels that it gives, whose score reaches their own threshold; maybe none.
        in_scope: whether the text belongs to the model's categories; None without `eval/scope.json`.
        scope_score: 0 (outside) to 1 (inside), what `in_scope` was decided by; None without the rule.
        answered_by: "torch", "onnx", "int8" or "tfidf".
        no_known_words: the model knows none of the words: the scores are those of an empty text.
    """

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool
    prediction_set: tuple[str, ...] | None
    in_scope: bool | None
    scope_score: float | None
    answered_by: str
    no_known_words: bool = False


class Predictor(ABC):
    """A model of any kind on any engine.

    Args:
        labels: category codes, in the order of the columns of `predict_proba`.
        directory: the model directory; its prediction sets and out-of-scope rule are read.
        weights: path in it of the file that holds the weights this engine computes with.
        engine: "torch", "onnx", "int8", "tfidf", or two of them, "tfidf+int8".
        max_length: tokens that the model reads of a text; None when there is no limit.

    Attributes:
        kind: "transformer", "tfidf" or "cascade".
        set_threshold: score from which a label is in the 90% prediction set; None for a model without.
        scope_rule: tells papers inside the model's categories from others; None for a model without.
        thresholds: (labels,) scores from which a multi-label model gives each label; None for a single-label
            model.
    """

    kind: str

    def __init__(
        self, labels: Sequence[str], directory: Path, weights: str, engine: str, max_length: int | None = None
    ) -> None:
        self.labels, self.directory, self.engine = list(labels), directory, engine
        self.max_length = max_length
        self.weights_path = directory / weights
        self.thresholds = load_label_thresholds(directory)
        self.set_threshold = None if self.multi_label else load_set_threshold(directory)
        self.scope_rule = load_scope(directory)

    @property
    def multi_label(self) -> bool:
        """Whether each label has a score of its own, from a sigmoid, and a paper any number of labels."""
        return self.thresholds is not None

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text as the engine reads it.

        Raises:
            UserError: as of `check_texts`.
        """

    @abstractmethod
    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities, (texts, labels) float64; rows sum to 1, but for a multi-label model."""

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """The model's own features of each text, (texts, features) float32.

        Raises:
            UserError: the engine gives none.
        """
        raise UserError(f"the engine {self.engine} gives no embeddings", hint="use the engine torch")

    @abstractmethod
    def _encoded_proba(self, encoded: Sequence[EncodedText]) -> np.ndarray:
        """`predict_proba` of texts that this predictor encoded."""

    def predict_encoded(self, encoded: Sequence[EncodedText], top_k: int | None = None) -> list[Prediction]:
        """One prediction per encoded text of this predictor, in the same order."""
        return to_predictions(
            self._encoded_proba(encoded), self.labels, encoded, top_k,
            answered_by=self.engine, set_threshold=self.set_threshold, scope_rule=self.scope_rule,
            thresholds=self.thresholds,
        )  # fmt: skip

    def predict(self, texts: Sequence[str], top_k: int | None = None) -> list[Prediction]:
        """One prediction per text, in the same order: `predict_encoded(encode(texts))`.

        Raises:
            UserError: as of `check_texts`.
        """
        return self.predict_encoded(self.encode(texts), top_k)


def text_problem(text: object) -> str | None:
    """Why a text cannot be judged: no string, no visible character, or not writable as UTF-8; else None."""
    if not isinstance(text, str):
        return "is not a string"
    # Format characters, such as zero-width spaces and joiners, show nothing by themselves.
    if all(character.isspace() or unicodedata.category(character) in {"Cc", "Cf"} for character in text):
        return "is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds characters that are not UTF-8"
    return None


def check_texts(texts: Sequence[str]) -> None:
    """Refuses what no model should guess about.

    Raises:
        UserError: a text has a `text_problem`, with its position.
    """
    for position, text in enumerate(texts, start=1):
        if problem := text_problem(text):
            raise UserError(
                f"text {position} of {len(texts)} {problem}", hint="Pass a title and an abstract."
            )


def to_predictions(
    probabilities: np.ndarray,
    labels: Sequence[str],
    encoded: Sequence[EncodedText],
    top_k: int | None = None,
    *,
    answered_by: str,
    set_threshold: float | None = None,
    scope_rule: ScopeRule | None = None,
    thresholds: np.ndarray | None = None,
) -> list[Prediction]:
    """Rows of probabilities, (texts, labels), as `Prediction`s.

    Args:
        probabilities: columns as `labels`, rows as `encoded`.
        top_k: how many labels to keep in `scores`; None keeps all.
        answered_by: the engine.
        set_threshold: of prediction sets; None for a model without.
        scope_rule: None for a model without.
        thresholds: (labels,) of a multi-label model.
    """
    # A stable sort of the negated scores: of equal ones the first label wins, as argmax has it.
    orders = np.argsort(-probabilities, axis=1, kind="stable")
    predictions = []
    for row, order, item in zip(probabilities, orders, encoded, strict=True):
        scores = {labels[column]: float(row[column]) for column in order}
        best = labels[order[0]]
        scope_score = in_scope = None
        if scope_rule is not None:
            scope_score = scope_rule.score(item.text)
            in_scope = scope_score >= scope_rule.threshold
        members = None
        if thresholds is not None and not item.no_known_words:
            members = tuple(labels[column] for column in order if row[column] >= thresholds[column])
        elif set_threshold is not None and not item.no_known_words:
            members = tuple(prediction_set(scores, set_threshold))
        predictions.append(
            Prediction(
                label=best,
                score=scores[best],
                scores=dict(list(scores.items())[:top_k]),
                truncated=item.truncated,
                prediction_set=members,
                in_scope=in_scope,
                scope_score=scope_score,
                answered_by=answered_by,
                no_known_words=item.no_known_words,
            )
        )
    return predictions


@contextlib.contextmanager
def one_error(where: Path, problem: str, hint: str | None = None) -> Iterator[None]:
    """Makes one `UserError` of whatever a library raises for a damaged file, unless memory ran out."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{where}: {problem}: {reason}", hint=hint) from error


def download_from_hub(repo_id: str, revision: str | None, allow_patterns: list[str]) -> Path:
    """The cached snapshot of a Hub model repository, downloaded when it is not there yet.

    Raises:
        UserError: no such repository or revision, or the Hub cannot be reached and the cache does not
            hold it (exit code 3).
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = f"{repo_id}@{revision}" if revision else repo_id
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=allow_patterns))
    except HFValidationError:
        raise UserError(f"{repo_id}: neither a directory nor a Hub id") from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        kind = "revision" if isinstance(error, RevisionNotFoundError) else "model"
        raise UserError(
            f"{named}: no such {kind} on the Hub, or no access to it",
            hint="A private model needs a token: `hf auth login`, or HF_TOKEN in the environment.",
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise UserError(
            f"the model {named} cannot be reached at {endpoint} and is not in the cache "
            f"({type(error).__name__}); pass a directory with a model instead "
            "(`arxiv-cls local-distilbert OUT` makes a DistilBERT to train from)",
            exit_code=UNREACHABLE,
        ) from None
