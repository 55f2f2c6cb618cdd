"""Papers with the scores that a model gave them, and models with the papers that they were trained on."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arxiv_cls.corpus.fetch import local_file
from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import OWN_LABELS
from arxiv_cls.recipe import DataConfig, portable_path
from arxiv_cls.record.directory import ModelDirectory
from arxiv_cls.record.files import file_sha256, staged, write_record
from arxiv_cls.record.manifest import EXAMPLES, RECIPE, RUN_RECORD
from arxiv_cls.record.model_files import SCHEMAS, read_model_file

# Rows of a CSV whose texts are held at once.
ROWS_AT_A_TIME = 4096
# A row needs a text to be scored and a category to be right or wrong; id and date are used where given.
REQUIRED = ("title", "abstract", "category")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """One model's scores of n papers, as `eval/predictions.parquet` holds them."""

    label_names: list[str]  # the k categories, in the order of the columns of `probabilities`
    arxiv_ids: np.ndarray  # (n,) base ids, "" where unknown
    labels: np.ndarray  # (n,) int64, true category as a column number
    probabilities: np.ndarray  # (n, k) float64, rows add up to 1, but for a multi-label model
    # (n, k) bool, all categories of a paper, where the file has them
    listed: np.ndarray | None = field(default=None, kw_only=True)
    # (k,) of a multi-label model, which gives a paper the labels whose score reaches them; it has `listed`
    thresholds: np.ndarray | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """(n,) column number of the highest score."""
        return self.probabilities.argmax(axis=1)

    @property
    def multi_label(self) -> bool:
        """Whether a paper has any number of labels; `labels` are then the first that each of them lists."""
        return self.thresholds is not None


@dataclass(frozen=True)
class ScoredPapers(Predictions):
    """`Predictions` with what the papers are sliced by."""

    published: np.ndarray  # (n,) datetime64[D], NaT where it is not known
    words: np.ndarray  # (n,) int64, words of the text (title and abstract)


def texts_of(table: Any) -> list[str]:
    """The texts of a table of papers, in the form of the training texts: title, blank line, abstract."""
    pairs = zip(table["title"].to_pylist(), table["abstract"].to_pylist(), strict=True)
    return [f"{title}\n\n{abstract}" for title, abstract in pairs]


def score_papers(
    predictor: Any, papers: Any, label_names: list[str], *, progress: bool = False
) -> ScoredPapers:
    """Scores a split of a corpus with these labels; columns are in the order of the model's labels.

    Raises:
        UserError: when model and corpus have different labels, or the split has no papers.
    """
    if set(predictor.labels) != set(label_names):
        only = [sorted({*a} - {*b}) for a, b in itertools.permutations((predictor.labels, label_names))]
        raise UserError(
            f"model and data differ in labels: only the model has {only[0]}, only the data {only[1]}",
            hint="evaluate with the data the model was trained on, or score a file with --csv",
        )
    if predictor.multi_label != ("labels" in papers.column_names):
        raise UserError(
            "model and data differ in data.task: one is multi_label, the other single_label",
            hint="evaluate with the recipe that the model was trained by",
        )
    if len(papers) == 0:
        raise UserError("the split has no papers", hint="use a larger file or a larger data.max_samples")
    column_of = [predictor.labels.index(name) for name in label_names]
    texts = list(papers["text"])
    return ScoredPapers(
        label_names=list(predictor.labels),
        arxiv_ids=np.asarray(papers["arxiv_id"], dtype=object),
        labels=np.asarray(column_of)[np.asarray(papers["label"])],
        probabilities=np.asarray(predictor.predict_proba(texts, progress=progress), dtype=np.float64),
        published=np.asarray(papers["published"], dtype="datetime64[D]"),
        words=np.asarray([len(text.split()) for text in texts]),
        listed=listed_columns(papers["categories"], predictor.labels)
        if "categories" in papers.column_names
        else None,
        thresholds=predictor.thresholds,
    )


def listed_columns(categories: Sequence[list[str]], label_names: list[str]) -> np.ndarray:
    """(n, k) bool: the model's columns among all categories of each paper, as `true_columns` reads them."""
    every = [code for codes in categories for code in codes]
    papers = np.repeat(np.arange(len(categories)), np.array([len(codes) for codes in categories], dtype=int))
    columns = true_columns(every, label_names)
    listed = np.zeros((len(categories), len(label_names)), dtype=bool)
    listed[papers[columns >= 0], columns[columns >= 0]] = True
    return listed


def true_columns(categories: list[str], label_names: list[str]) -> np.ndarray:
    """The model's column of each category or, with labels such as `cs`, of its archive; -1: it has none."""
    from arxiv_cls.corpus.taxonomy import archive_of

    column_of = {name: column for column, name in enumerate(label_names)}
    known = {code: column_of.get(code, column_of.get(archive_of(code), -1)) for code in {*categories}}
    return np.asarray([known[code] for code in categories], dtype=np.int64)


def with_a_label(label_names: list[str], *, multi_label: bool = False) -> Callable[[Any], np.ndarray]:
    """Which papers of a table have one of these labels; for the argument `keep` of `read_papers`."""

    def keep(table: Any) -> np.ndarray:
        if multi_label and "categories" in table.column_names:
            return listed_columns(table["categories"].to_pylist(), label_names).any(axis=1)
        return true_columns(table["category"].to_pylist(), label_names) >= 0

    return keep


def score_csv(predictor: Any, csv: str | Path) -> tuple[ScoredPapers, dict[str, Any], Any]:
    """Scores the rows of a file in the schema of the data whose category is one of the model's labels.

    Versions of a paper are rows of their own here: the file is scored as it stands.

    Returns:
        The scored rows; {rows_read, rows_scored, rejected (by reason), other_labels (by category)}; and the
        file's `DataVersion`.

    Raises:
        UserError: when the file cannot be read or no row has a label of the model.
    """
    from tqdm import tqdm

    from arxiv_cls.corpus.papers import read_papers

    if not local_file(csv).exists():
        raise UserError(f"{csv}: no such file", hint="name a file in the schema of the data with --csv FILE")
    keep = with_a_label(predictor.labels, multi_label=predictor.multi_label)
    papers = read_papers(csv, required=REQUIRED, keep=keep)
    categories = papers.table["category"].to_pylist()
    columns = true_columns(categories, predictor.labels)
    if predictor.multi_label:
        columns = _first_listed(papers.table, predictor.labels, str(csv))
    rows = np.flatnonzero(columns >= 0)
    others = Counter(itertools.compress(categories, columns < 0))
    found = {
        "rows_read": papers.rows_read,
        "rows_scored": len(rows),
        "rejected": papers.rejected_by_reason(),
        "other_labels": dict(sorted(others.items(), key=lambda item: (-item[1], item[0]))),
    }
    if len(rows) == 0:
        raise UserError(
            f"{csv}: none of its {papers.rows_read:,} rows has a label of the model",
            hint=f"the model knows {', '.join(predictor.labels[:20])}",
        )
    # Only the rows to score, only the columns that scoring needs, and one batch of texts stay in memory.
    table = papers.table.select(["arxiv_id", "title", "abstract", "published"]).take(rows)
    listed = None
    if "categories" in papers.table.column_names:
        listed = listed_columns(papers.table["categories"].take(rows).to_pylist(), predictor.labels)
    data_version = papers.version
    del papers, categories
    probabilities = np.empty((len(rows), len(predictor.labels)))
    words: list[int] = []
    with tqdm(total=len(rows), desc="scoring", unit=" papers", disable=None) as bar:
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            texts = texts_of(table.slice(first, ROWS_AT_A_TIME))
            probabilities[first : first + len(texts)] = predictor.predict_proba(texts)
            words += [len(text.split()) for text in texts]
            bar.update(len(texts))
    scored = ScoredPapers(
        label_names=list(predictor.labels),
        arxiv_ids=np.asarray([name or "" for name in table["arxiv_id"].to_pylist()], dtype=object),
        labels=columns[rows],
        probabilities=probabilities,
        published=np.asarray(table["published"].to_pylist(), dtype="datetime64[D]"),
        words=np.asarray(words),
        # Where no paper lists a second category, the file says no more than the labels.
        listed=listed if listed is not None and (predictor.multi_label or listed.sum() > len(rows)) else None,
        thresholds=predictor.thresholds,
    )
    return scored, found, data_version


def _first_listed(table: Any, label_names: list[str], csv: str) -> np.ndarray:
    """(n,) the model's column of the first category listed that it has, -1 without one.

    Raises:
        UserError: the file names one category a paper.
    """
    from arxiv_cls.corpus.splits import listed_labels

    if "categories" not in table.column_names:
        raise UserError(
            f"{csv}: names one category a paper, a multi-label model is measured by all of them",
            hint="take arXiv's full snapshot, or a CSV of `arxiv-cls data join`",
        )
    return listed_labels(label_names, table["categories"])[0]


def write_predictions(scored: ScoredPapers, path: Path) -> None:
    """Writes one row per paper: arxiv_id, label, predicted, score and a column per category.

    Those of a multi-label model end with `labels`, the list of all labels of the paper; its thresholds are in
    the metadata of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = np.asarray(scored.label_names, dtype=object)
    table = pa.table(
        {
            "arxiv_id": pa.array(scored.arxiv_ids, pa.string()),
            "label": pa.array(names[scored.labels], pa.string()),
            "predicted": pa.array(names[scored.predicted], pa.string()),
            "score": scored.probabilities.max(axis=1),
            **dict(zip(scored.label_names, scored.probabilities.T, strict=True)),
        }
    )
    if scored.thresholds is not None and scored.listed is not None:
        table = table.append_column("labels", pa.array([names[row].tolist() for row in scored.listed]))
        table = table.replace_schema_metadata({"label_thresholds": json.dumps(scored.thresholds.tolist())})
    with staged(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_predictions(path: Path) -> Predictions:
    """Reads a file of `write_predictions`.

    Raises:
        UserError: when it is missing or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    hint = "`arxiv-cls evaluate` on the model writes it"
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is missing or cannot be read: {error}", hint) from None
    metadata = table.schema.metadata or {}
    thresholds = json.loads(metadata.get(b"label_thresholds", b"null"))
    labels = table.column_names[-1:] if thresholds else []
    names = table.column_names[4 : len(table.column_names) - len(labels)]
    every = table[labels[0]].to_pylist() if labels == ["labels"] else []
    number_of = {name: number for number, name in enumerate(names)}
    if (
        table.column_names[:4] != ["arxiv_id", "label", "predicted", "score"]
        or table.num_rows == 0
        or set(table["label"].to_pylist()) - set(names)
        or not all(pa.types.is_floating(table.schema.field(name).type) for name in names)
        or (thresholds and (not every or len(thresholds) != len(names)))
        or {name for row in every for name in row} - set(names)
    ):
        raise UserError(
            f"{path} is no table of predictions with a column of scores for each label: its columns are "
            f"{table.column_names}",
            hint,
        )
    return Predictions(
        label_names=names,
        arxiv_ids=np.asarray(table["arxiv_id"].to_pylist(), dtype=object),
        labels=np.asarray([number_of[name] for name in table["label"].to_pylist()]),
        probabilities=np.column_stack([table[name].to_numpy() for name in names]),
        listed=np.array([[name in row for name in names] for row in every]) if thresholds else None,
        thresholds=np.asarray(thresholds) if thresholds else None,
    )


def _data_group(model_dir: Path, file: str) -> dict[str, Any] | None:
    record = read_model_file(model_dir, file)
    if record is not None and not record.get("data"):
        raise UserError(
            f"{model_dir / file}: data: not there, so that what the model was trained on is not known",
            hint=SCHEMAS[file].hint,
        )
    return None if record is None else record["data"]


def data_options(model_dir: Path) -> dict[str, Any]:
    """The arguments of `build_corpus` that rebuild a model's splits, all of them, from its `recipe.yaml`.

    Raises:
        UserError: when the recipe is missing or has no `data` group.
    """
    group = _data_group(model_dir, RECIPE)
    if group is None:
        raise UserError(
            f"{model_dir} has no recipe.yaml: which papers it was trained on is not known",
            hint="`arxiv-cls evaluate MODEL --csv FILE` scores any file",
        )
    usual = asdict(DataConfig())
    return usual | {key: value for key, value in group.items() if key in usual and value is not None}


@dataclass(frozen=True)
class LoadedModel:
    """A `Predictor` with the corpus of its recipe, and the arguments of `build_corpus` that made it.

    Recipe, run record and `eval/` are looked for in `directory`. The weights are hashed here where the caller
    does not know their sha256.
    """

    directory: Path
    predictor: Any
    corpus: Any
    options: dict[str, Any]
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        if not self.weights_sha256:
            object.__setattr__(self, "weights_sha256", file_sha256(Path(self.predictor.weights_path)))

    def score(self, split: str) -> ScoredPapers:
        """The model's scores of a split of its corpus; errors as `score_papers`."""
        papers, progress = self.corpus.splits[split], sys.stderr.isatty()
        return score_papers(self.predictor, papers, self.corpus.labels, progress=progress)


def load_model_and_corpus(
    model: str | Path, csv: str | Path | None = None, engine: str | None = None
) -> LoadedModel:
    """A model (directory or Hub id) with the corpus that its recipe names.

    `csv` is the data file where it is not at the recipe's path; `engine` computes a transformer, None: torch.

    Raises:
        UserError: when model, recipe or data cannot be had.
    """
    from arxiv_cls.models.predictor import load_predictor

    predictor = load_predictor(model, engine=engine)
    directory = Path(predictor.directory)
    return LoadedModel(directory, predictor, *load_corpus(directory, csv))


def load_corpus(model_dir: Path, csv: str | Path | None = None) -> tuple[Any, dict[str, Any]]:
    """The `Corpus` that a recipe names, and the options that built it; see `load_model_and_corpus`."""
    from arxiv_cls.corpus import build_corpus

    options = data_options(model_dir)
    if csv is not None:
        options["csv"] = str(csv)
    if not local_file(options["csv"]).is_file():
        named = "" if csv is not None else ", which the recipe of the model names,"
        raise UserError(
            f"{options['csv']}{named} is not there",
            hint="name the data file with --data FILE, or `make data` gets it",
        )
    corpus = build_corpus(**options)
    trained_on, found = (_data_group(model_dir, RUN_RECORD) or {}).get("sha256"), corpus.data.sha256
    if trained_on not in (None, found):
        changed = f"sha256 {trained_on[:12]}, now {found[:12]}"
        logger.warning("the data is not the version the model was trained on (%s)", changed)
    return corpus, options


def evaluated_data(data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """A `DataVersion` and how it was split, as `metrics.json` records them."""
    keys = ("config", "split", "seed", "time_boundaries", "max_samples")
    how = {key: options.get(key) for key in keys}
    # Keys that few recipes have.
    how |= {"ratios": options["ratios"]} if options.get("ratios") else {}
    how |= {"task": "multi_label"} if options.get("task") == "multi_label" else {}
    how |= {"config": OWN_LABELS} if options.get("labels") else {}
    path = data.csv if data.csv.startswith("hf:") else portable_path(options["csv"])
    return asdict(data) | {"csv": path} | how


def split_numbers(
    arxiv_ids: Sequence[str], published: np.ndarray, options: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) number of each paper's split (0 trains, 2 tests) by the rule of these options; (n,) positions."""
    from arxiv_cls.corpus import splits

    positions = splits.split_positions(arxiv_ids, options["seed"])
    if options["split"] == "paper":
        return splits.split_by_paper(positions, options.get("ratios")), positions
    return splits.split_by_time(
        published, splits.parse_time_boundaries(options["time_boundaries"])
    ), positions


class TrainedOn(NamedTuple):
    """Which of n papers a model was trained on."""

    seen: np.ndarray  # (n,) bool
    unknown: np.ndarray  # (n,) bool: without a readable id, or without the date that a split by time needs
    exact: bool  # looked up in the training data; else `seen` marks all that can have been in it


def training_papers(
    model_dir: Path, arxiv_ids: np.ndarray, published: np.ndarray, csv: str | Path
) -> TrainedOn | None:
    """Which of the papers of a file a model was trained on; None when the model has no recipe.

    `arxiv_ids` and `published` are as of `ScoredPapers`; `csv`, the file that the papers come from, may be
    the training data. Where that is not at hand the rule of the split decides. It knows nothing of what the
    data held: it also marks papers that came later, unless the run record has the date of the newest.

    Raises:
        UserError: when the recipe cannot be read, or the training data is there and cannot be built.
    """
    if not (model_dir / RECIPE).is_file():
        return None
    from arxiv_cls.corpus import build_corpus

    options, data = data_options(model_dir), _data_group(model_dir, RUN_RECORD) or {}
    unknown = arxiv_ids == ""
    for named in (options["csv"], csv):
        try:
            path = local_file(named)
        except UserError:  # the Hub does not answer: the rule decides
            continue
        if path.is_file() and file_sha256(path) == data.get("sha256"):
            # From the cache, where this data was built before.
            corpus = build_corpus(**options | {"csv": str(path)})
            ids = set(corpus.splits["train"]["arxiv_id"][:])
            return TrainedOn(np.asarray([name in ids for name in arxiv_ids]), unknown, True)
    if options["split"] == "time":
        unknown |= np.isnat(published)
    seen = ~unknown & (split_numbers(arxiv_ids, published, options)[0] == 0)
    if newest := data.get("newest_training_paper"):
        seen &= ~(published > np.datetime64(newest, "D"))
    return TrainedOn(seen, unknown, False)


@dataclass(frozen=True)
class ExamplePaper:
    """A made-up paper on a card: no test paper is singled out and nobody's text is copied."""

    title: str
    abstract: str

    @property
    def text(self) -> str:
        """In the form of the training texts."""
        return f"{self.title}\n\n{self.abstract}"

    @property
    def opening(self) -> str:
        """Title and first sentence as they stand in a Python string, for a snippet of one line."""
        return f"{self.title}\\n\\n{self.abstract.split('. ')[0]}. ..."


EXAMPLE_PAPERS = (
    ExamplePaper(
        "Sparse attention for translating long documents",
        "We study machine translation of whole documents. A sparse attention pattern links every sentence to "
        "its neighbours and to the headings, and keeps pronouns consistent across paragraphs.",
    ),
    ExamplePaper(
        "Segmenting road scenes in rain",
        "Cameras lose contrast in heavy rain. We train a convolutional network on paired dry and wet images "
        "and improve the segmentation of lanes and pedestrians without extra sensors.",
    ),
    ExamplePaper(
        "Posterior contraction for deep Gaussian processes",
        "We prove rates at which the posterior of a deep Gaussian process concentrates around a composite "
        "regression function, and derive priors that adapt to unknown smoothness.",
    ),
)


def ensure_examples(model: ModelDirectory) -> list[dict[str, Any]]:
    """The examples on record, {title, text, scores ({label: score}, descending)} each.

    They are scored again, and `eval/examples.json` is written, when they belong to other weights.
    """
    weights = model.weights_sha256()
    recorded = model.optional_json(EXAMPLES)
    if recorded and recorded.get("weights_sha256") == weights and "record_sha256" in recorded:
        return recorded["examples"]
    from arxiv_cls.models.predictor import load_predictor

    return write_examples(load_predictor(model.model_dir), weights)


def write_examples(predictor: Any, weights_sha256: str) -> list[dict[str, Any]]:
    """Scores the examples, writes `eval/examples.json` of the predictor's directory, and returns them."""
    predictions = predictor.predict([paper.text for paper in EXAMPLE_PAPERS])
    examples = [
        {"title": paper.title, "text": paper.text, "scores": prediction.scores}
        for paper, prediction in zip(EXAMPLE_PAPERS, predictions, strict=True)
    ]
    record = {"weights_sha256": weights_sha256, "examples": examples}
    write_record(record, Path(predictor.directory) / EXAMPLES)
    return examples
