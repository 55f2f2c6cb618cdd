"""The TF-IDF baseline: linear models on tf-idf terms, and gradient-boosted trees that start from their score.

In order: text to sparse rows (words and word pairs of the whole text, then those of its title again, since a
title says more per word), the weights on disk (a skops file of plain arrays), the model, its predictor.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText, Predictor, check_texts, one_error, scores_of
from arxiv_cls.record.directory import check_directory
from arxiv_cls.record.model_files import (
    MULTI_LABEL,
    TFIDF_MODEL_TYPE,
    ClassifierConfig,
    labels_of,
    read_record,
)

if TYPE_CHECKING:
    import xgboost

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.skops"
# A multi-label model has version 2: programs that know no sigmoid must not read it.
FORMAT_VERSION, SINGLE_LABEL_VERSION = 2, 1
TEXTS_AT_A_TIME = 4096
# Arrays of floats shrink little; 1.9 MB of zeros unpack to 1.6 GB.
UNPACKED_RATIO, UNPACKED_ALLOWANCE = 20, 64 << 20
MOST_MEMBERS = 1000
_SCHEMA = "schema.json"
_HINT = "train the model again, or download it again"


def title_of(text: str) -> str:
    """The part before the first blank line; an empty string when there is none."""
    parts = re.split(r"\n\s*\n", text.strip(), maxsplit=1)
    return parts[0].strip() if len(parts) == 2 else ""


@dataclass
class TermFeatures:
    """The vocabulary and weights of both blocks of columns.

    Attributes:
        text: fitted vectoriser of the whole text.
        title: fitted vectoriser of the title; None when titles get no columns of their own.
        title_weight: factor on the title's columns; each block's rows have length 1 before it.
    """

    text: TfidfVectorizer
    title: TfidfVectorizer | None
    title_weight: float

    @classmethod
    def fit(
        cls, texts: Sequence[str], *, ngram_max: int, min_df: int, title_weight: float
    ) -> tuple[TermFeatures, sp.csr_matrix]:
        """Learns vocabulary and idf from n training texts; also gives their (n, features) float32 rows.

        Args:
            texts: the training texts.
            ngram_max: longest term, in words.
            min_df: a term must occur in this many texts.
            title_weight: see the class; 0 leaves the titles out.

        Raises:
            ValueError: no term is frequent enough.
        """
        text, title = _vectorizer((1, ngram_max), min_df=min_df), None
        blocks = [text.fit_transform(texts)]
        titles = [title_of(text_) for text_ in texts]
        # So few titles that no term repeats: the whole text has to do.
        with contextlib.suppress(ValueError):
            if title_weight > 0 and any(titles):
                fitted = _vectorizer((1, ngram_max), min_df=min_df)
                blocks.append(fitted.fit_transform(titles) * np.float32(title_weight))
                title = fitted
        return cls(text, title, title_weight), sp.hstack(blocks, format="csr")

    def transform(self, texts: Sequence[str]) -> sp.csr_matrix:
        """(n, features) float32 rows; terms outside the vocabulary are left out."""
        blocks = [self.text.transform(texts)]
        if self.title is not None:
            titles = self.title.transform([title_of(text) for text in texts])
            blocks.append(titles * np.float32(self.title_weight))
        return sp.hstack(blocks, format="csr")

    @property
    def text_terms(self) -> int:
        """Number of columns of the whole text; the title's follow."""
        return len(self.text.idf_)

    @property
    def idf(self) -> np.ndarray:
        """(features,) inverse document frequencies."""
        return np.concatenate([block.idf_ for block in (self.text, self.title) if block is not None])

    def names(self) -> list[str]:
        """The term of each column; those of titles start with `title:`."""
        names = list(self.text.get_feature_names_out())
        if self.title is not None:
            names += [f"title:{name}" for name in self.title.get_feature_names_out()]
        return names

    def state(self) -> dict[str, Any]:
        """Plain arrays and numbers from which `from_state` makes the same features."""
        return {
            "text": _vectorizer_state(self.text),
            "title": None if self.title is None else _vectorizer_state(self.title),
            "title_weight": float(self.title_weight),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TermFeatures:
        """The features that `state` was taken from.

        Raises:
            ValueError: the terms are not as many as their idf.
        """
        text, title = (state[name] and _vectorizer_from_state(state[name]) for name in ("text", "title"))
        return cls(text, title, state["title_weight"])


def _vectorizer(ngram_range: tuple[int, int], **settings: Any) -> TfidfVectorizer:
    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, ngram_range=ngram_range, **settings)


def _vectorizer_state(vectorizer: TfidfVectorizer) -> dict[str, Any]:
    # One array of bytes instead of a dictionary of 200,000 entries: skops writes a node per entry.
    joined = "\n".join(vectorizer.get_feature_names_out())
    return {
        "terms": np.frombuffer(joined.encode("utf-8"), dtype=np.uint8),
        "idf": np.asarray(vectorizer.idf_, dtype=np.float32),
        "ngram_max": int(vectorizer.ngram_range[1]),
    }


def _vectorizer_from_state(state: dict[str, Any]) -> TfidfVectorizer:
    terms = state["terms"].tobytes().decode("utf-8").split("\n")
    vocabulary = {term: column for column, term in enumerate(terms)}
    if not len(vocabulary) == len(terms) == len(state["idf"]):
        raise ValueError(f"{len(vocabulary)} different terms among {len(terms)}, {len(state['idf'])} of idf")
    vectorizer = _vectorizer((1, state["ngram_max"]), vocabulary=vocabulary)
    vectorizer.idf_ = state["idf"]
    return vectorizer


def _write_state(state: dict[str, Any], path: Path) -> None:
    """Writes a nested dictionary of arrays, lists, strings and numbers, always as the same bytes."""
    source = zipfile.ZipFile(io.BytesIO(_import_skops_io().dumps(state)))
    schema = json.loads(source.read(_SCHEMA))
    members: dict[str, str] = {}
    _number(schema, {}, members)
    contents = {new: source.read(old) for old, new in members.items()}
    contents[_SCHEMA] = json.dumps(schema, sort_keys=True).encode()
    with zipfile.ZipFile(path, "w") as target:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o600 << 16
            target.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=6)


def _read_state(path: Path) -> dict[str, Any]:
    """Reads what `_write_state` wrote.

    Raises:
        UserError: the file is missing, damaged, far larger unpacked than a baseline is, of a later format, or
            names types that are not plain.
    """
    _refuse_bomb(path)
    skops_io = _import_skops_io()
    with one_error(path, "cannot be read", _HINT):
        if untrusted := skops_io.get_untrusted_types(file=path):
            raise UserError(
                f"{path} holds types that could run code: {', '.join(sorted(untrusted))}; it was not loaded",
                hint="a baseline's file holds plain arrays only: get it again from a source you trust",
            )
        state = skops_io.load(path, trusted=[])
    version = state.get("format_version") if isinstance(state, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is not a baseline's file", hint=_HINT)
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format {version}, this version reads up to {FORMAT_VERSION}",
            hint="upgrade arxiv_cls",
        )
    return state


def _refuse_bomb(path: Path) -> None:
    """Makes sure, before anything is unpacked, that a file holds no more than a baseline of its size can."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except FileNotFoundError:
        raise UserError(f"{path} is missing", hint=_HINT) from None
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", hint=_HINT) from None
    size = path.stat().st_size
    unpacked, most = sum(member.file_size for member in members), UNPACKED_ALLOWANCE + UNPACKED_RATIO * size
    if unpacked > most or len(members) > MOST_MEMBERS:
        raise UserError(
            f"{path}: {len(members):,} members of {unpacked:,} bytes in a file of {size:,} bytes: a baseline "
            f"has at most {MOST_MEMBERS:,} members and {most:,} bytes; it was not read",
            hint=_HINT,
        )


def _import_skops_io() -> ModuleType:
    # skops lists scikit-learn's estimators by importing all its submodules; one of them is an adapter for
    # torch, which would cost seconds and 200 MB in a process that only scores texts. So this thread, and no
    # other, is told that torch is not installed.
    thread = threading.get_ident()

    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name == "torch" and threading.get_ident() == thread:
            raise ModuleNotFoundError("torch is hidden while skops looks for estimators", name=name)

    finder: Any = SimpleNamespace(find_spec=find_spec)
    sys.meta_path.insert(0, finder)
    try:
        import skops.io

        return skops.io
    finally:
        sys.meta_path.remove(finder)


def _number(node: Any, numbers: dict[int, int], members: dict[str, str]) -> None:
    """Renames what skops names by address or at random, in the order of the state."""
    if isinstance(node, dict):
        if "__id__" in node:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
        if isinstance(node.get("file"), str) and "__loader__" in node:
            suffix = Path(node["file"]).suffix
            node["file"] = members.setdefault(node["file"], f"{len(members)}{suffix}")
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _number(item, numbers, members)


@dataclass
class LinearScores:
    """m linear models and how their scores add up to one score per label.

    Attributes:
        weights: (m * k, features) float32, the models one after another; `bias` (m * k,).
        combination: (m * k, k) float32; `combination_bias` (k,).
    """

    weights: np.ndarray
    bias: np.ndarray
    combination: np.ndarray
    combination_bias: np.ndarray

    def __post_init__(self) -> None:
        # A product with sparse rows copies a transposed matrix unless its columns lie together: 13 MB for
        # each call, which is most of the time of a single text.
        self.weights = np.asfortranarray(self.weights)

    def scores(self, rows: sp.csr_matrix) -> np.ndarray:
        """(n, m * k) scores of the single models."""
        return rows @ self.weights.T + self.bias

    def margin(self, scores: np.ndarray) -> np.ndarray:
        """(n, k) combined scores."""
        return scores @ self.combination + self.combination_bias


@dataclass
class TfidfModel:
    """Everything that turns texts into probabilities.

    Attributes:
        labels: the k category codes, in the order of the outputs.
        component_columns: (c,) int32, the columns of the whole text's terms that the analysis reads.
        components: (d, c) float32; d is 0 when the model has no analysis.
        booster: the trees; None for a linear model.
        temperature: what the logits are divided by.
        calibration: (2, k) scale and shift of each label's logit in a multi-label model, else None.
        label_thresholds: the k scores from which a multi-label model gives a label, else None.
    """

    labels: list[str]
    terms: TermFeatures
    linear: LinearScores
    component_columns: np.ndarray
    components: np.ndarray
    booster: xgboost.Booster | None = None
    temperature: float = 1.0
    calibration: np.ndarray | None = None
    label_thresholds: list[float] | None = None

    def dense(self, rows: sp.csr_matrix) -> np.ndarray:
        """(n, m * k + d) float32: the scores of the linear models, then the analysis."""
        scores = self.linear.scores(rows)
        if not len(self.components):
            return scores.astype(np.float32)
        analysis = rows[:, self.component_columns] @ self.components.T
        return np.hstack([scores, analysis]).astype(np.float32)

    def logits(self, rows: sp.csr_matrix) -> np.ndarray:
        """(n, k) float64 logits before the temperature."""
        dense = self.dense(rows)
        margin = self.linear.margin(dense[:, : len(self.linear.bias)])
        if self.booster is None:
            return margin.astype(np.float64)
        import xgboost

        matrix = xgboost.DMatrix(dense, base_margin=margin)
        return self.booster.predict(matrix, output_margin=True).astype(np.float64)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """(n, k) calibrated scores of (n, k) logits."""
        if self.calibration is None:
            return scores_of(logits / self.temperature, multi_label=False)
        scale, shift = self.calibration
        return scores_of(logits * scale + shift, multi_label=True)

    def combination_of(self, column: int) -> np.ndarray:
        """(m * k,) what the linear scores add to a label, above the mean label where a softmax follows."""
        own = self.linear.combination[:, column]
        return own - self.linear.combination.mean(axis=1) if self.calibration is None else own

    def save(self, directory: Path) -> None:
        """Writes `config.json` and `model.skops` into an existing directory."""
        version = SINGLE_LABEL_VERSION if self.calibration is None else FORMAT_VERSION
        config = {
            "model_type": TFIDF_MODEL_TYPE,
            "format_version": version,
            "classifier": "linear" if self.booster is None else "xgboost",
            "num_labels": len(self.labels),
            "id2label": {str(number): label for number, label in enumerate(self.labels)},
            "label2id": {label: number for number, label in enumerate(self.labels)},
            "features": int(self.linear.weights.shape[1]),
            "components": len(self.components),
            "temperature": self.temperature,
        }
        if self.calibration is not None:
            config |= {"problem_type": MULTI_LABEL, "label_thresholds": self.label_thresholds}
        trees = None
        if self.booster is not None:
            trees = np.frombuffer(bytes(self.booster.save_raw("ubj")), dtype=np.uint8)
        state = {
            "format_version": version,
            "labels": list(self.labels),
            "terms": self.terms.state(),
            "linear": vars(self.linear) | {"weights": np.ascontiguousarray(self.linear.weights)},
            "component_columns": self.component_columns,
            "components": self.components,
            "trees": trees,
            "temperature": float(self.temperature),
        }
        if self.calibration is not None:
            state["calibration"] = self.calibration
        _write_state(state, directory / WEIGHTS_FILE)
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> TfidfModel:
        """Reads what `save` wrote.

        Raises:
            UserError: the file is missing, damaged, of a later format, holds a type that could run code, or
                contradicts itself or `config.json`.
        """
        path = directory / WEIGHTS_FILE
        state = _read_state(path)
        config = read_record(directory / CONFIG_FILE, ClassifierConfig)
        with one_error(path, "does not hold a baseline", _HINT):
            booster = None
            if state["trees"] is not None:
                import xgboost

                booster = xgboost.Booster(model_file=bytearray(state["trees"].tobytes()))
            model = cls(
                labels=state["labels"],
                terms=TermFeatures.from_state(state["terms"]),
                linear=LinearScores(**state["linear"]),
                component_columns=state["component_columns"],
                components=state["components"],
                booster=booster,
                temperature=state["temperature"],
                calibration=state.get("calibration"),
                label_thresholds=config.get("label_thresholds"),
            )
            problems = model._contradictions(config)
        if problems:
            raise UserError(f"{path}: {'; '.join(problems)}", hint=_HINT)
        return model

    def _contradictions(self, config: dict[str, Any]) -> list[str]:
        """Where the parts do not fit each other or `config.json`; one sentence each."""
        linear, labels, trees = self.linear, len(self.labels), self.booster
        features, scores = linear.weights.shape[1], len(linear.bias)
        read_by_trees = scores + len(self.components)
        recorded = {
            "features": features,
            "components": len(self.components),
            "classifier": "linear" if trees is None else "xgboost",
        }
        expected: dict[str, tuple[Any, Any]] = {
            "labels, and those of config.json": (list(self.labels), labels_of(config)),
            **{f"{name} of config.json": (config.get(name, own), own) for name, own in recorded.items()},
            "terms of the vocabulary, and of the weights": (len(self.terms.idf), features),
            "shape of `weights`": (linear.weights.shape, (scores, features)),
            "shape of `bias`": (linear.bias.shape, (scores,)),
            "shape of `combination`": (linear.combination.shape, (scores, labels)),
            "shape of `combination_bias`": (linear.combination_bias.shape, (labels,)),
            "columns that the components read lie among the terms": (
                bool(np.isin(self.component_columns, np.arange(self.terms.text_terms)).all()),
                True,
            ),
            "a temperature above 0": (bool(0 < self.temperature < np.inf), True),
            "shape of `calibration`": (
                np.shape(self.calibration), () if self.label_thresholds is None else (2, labels)
            ),
        }  # fmt: skip
        if len(self.components):
            columns = (len(self.component_columns),)
            expected["columns of the components"] = (self.components.shape[1:], columns)
        if trees is not None:
            expected["columns that the trees read"] = (trees.num_features(), read_by_trees)
            if self.calibration is not None or labels > 2:
                model = json.loads(trees.save_config())["learner"]["learner_model_param"]
                outputs = "num_class" if self.calibration is None else "num_target"
                expected["classes of the trees"] = (int(model[outputs]), labels)
        return [
            f"{what}: found {str(found)[:80]}, expected {str(wanted)[:80]}"
            for what, (found, wanted) in expected.items()
            if found != wanted
        ]


class TfidfPredictor(Predictor):
    """A baseline as a predictor; it reads a text of any length."""

    kind = "tfidf"

    def __init__(self, model: TfidfModel, directory: Path) -> None:
        super().__init__(model.labels, directory, WEIGHTS_FILE, "tfidf")
        self.model = model

    @classmethod
    def load(cls, directory: str | Path) -> TfidfPredictor:
        """Reads a model directory that `train_tfidf.py` wrote.

        Raises:
            UserError: its weights cannot be read, or something in the directory could run code.
        """
        check_directory(directory)
        return cls(TfidfModel.load(Path(directory)), Path(directory))

    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities, (texts, labels) float64; rows sum to 1, but for a multi-label model."""
        return self.model.scores(self._per_chunk(texts, self.model.logits, len(self.labels), progress))

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text with its row of terms and the number of its words.

        Raises:
            UserError: as of `check_texts`.
        """
        check_texts(texts)
        if not len(texts):
            return []
        rows = self.model.terms.transform(texts)
        return [
            EncodedText(
                text,
                tokens=len(text.split()),
                truncated=False,
                payload=(rows.data[start:stop], rows.indices[start:stop]),
                no_known_words=bool(start == stop),
            )
            for text, (start, stop) in zip(texts, pairwise(rows.indptr), strict=True)
        ]

    def _encoded_proba(self, encoded: Sequence[EncodedText]) -> np.ndarray:
        if not encoded:
            return np.empty((0, len(self.labels)))
        values, columns = zip(*(item.payload for item in encoded), strict=True)
        starts = np.cumsum([0, *map(len, values)])
        shape = (len(encoded), self.model.linear.weights.shape[1])
        rows = sp.csr_matrix((np.concatenate(values), np.concatenate(columns), starts), shape=shape)
        return self.model.scores(self.model.logits(rows))

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """(n, d) float32: what the trees read, the linear scores and the latent semantic analysis."""
        width = len(self.model.linear.bias) + len(self.model.components)
        return self._per_chunk(texts, self.model.dense, width, progress).astype(np.float32)

    def top_terms(self, label: str, n: int = 20) -> list[tuple[str, float]]:
        """The terms with the largest weights for a category in the linear part.

        A term's number is what it adds to the category's margin, above its mean over the categories unless
        the model is multi-label, for each unit of tf-idf; for a linear model that is the whole of its part in
        the decision. Terms are
        ranked by that number times the fourth root of the share of training papers that have the term, so
        that neither words met twice nor words met everywhere hide the ones that decide. Terms of
        titles start with `title:`.

        Raises:
            UserError: the model has no such label.
        """
        if label not in self.labels:
            raise UserError(f"no label {label!r}", hint=f"the model knows {', '.join(self.labels)}")
        linear = self.model.linear
        effect = self.model.combination_of(self.labels.index(label)) @ linear.weights
        # idf = 1 + ln((1 + n) / (1 + df)), scikit-learn's smooth form: exp(1 - idf) is the share.
        rank = effect * np.exp((1 - self.model.terms.idf) / 4)
        best = np.argsort(-rank, kind="stable")[:n]
        names = self.model.terms.names()
        return [(names[column], float(effect[column])) for column in best]

    def _per_chunk(self, texts: Sequence[str], function: Any, width: int, progress: bool) -> np.ndarray:
        from tqdm import tqdm

        starts = range(0, len(texts), TEXTS_AT_A_TIME)
        results = [np.empty((0, width))]
        for start in tqdm(starts, desc="scoring", disable=not progress, leave=False):
            chunk = list(texts[start : start + TEXTS_AT_A_TIME])
            results.append(function(self.model.terms.transform(chunk)))
        return np.concatenate(results)
