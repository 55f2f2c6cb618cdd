"""What tests are made of: CSV files, tiny models of each kind, model directories with their records.

Plain functions, each of which writes into the folder that it is given. Heavy libraries are imported where
they are needed, so that a test of the endpoint loads no torch. The fixtures of tests/conftest.py share what
is expensive.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.record.files import file_sha256, write_record, write_step_record
from arxiv_cls.record.manifest import METRICS, RECORD_COMMANDS, RECORD_OF, TFIDF, TRANSFORMER, WEIGHTS
from arxiv_cls.record.model_files import MULTI_LABEL, TFIDF_MODEL_TYPE
from arxiv_cls.record.run_record import git_state

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data" / "sample" / "arxiv_sample.csv"
LABELS = ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]
LABEL_NAMES = {
    "num_labels": len(LABELS),
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: number for number, label in enumerate(LABELS)},
}

# --- CSV files in the schema of the real one ---

COLUMNS = (
    "id", "title", "category", "category_code", "published_date", "updated_date", "authors", "first_author",
    "summary", "summary_word_count",
)  # fmt: skip
COUNT = 200  # papers in the CSV of the fixture


def paper(number: int = 0, **changes: str) -> dict[str, str]:
    """One row: paper `number` of a file, every paper different; `changes` replaces columns."""
    code = changes.get("category_code", LABELS[number % len(LABELS)])
    row = {
        "id": f"abs-{1501 + number // 90000}.{number % 90000:05d}v1",
        "title": f"On the {number}th problem, and others",
        "category": CATEGORY_NAMES.get(code, "Logic"),
        "category_code": code,
        "published_date": f"{number % 12 + 1}/{number % 28 + 1}/{15 + number % 5}",
        "updated_date": "8/1/19",
        "authors": "['A. One', 'B. Two']",
        "first_author": "'A. One'",
        "summary": f'We solve the {number}th problem, known as "hard".',
        "summary_word_count": "8",
    }
    return row | changes


def papers(count: int, start: int = 0) -> list[dict[str, str]]:
    """`count` different rows."""
    return [paper(number) for number in range(start, start + count)]


def to_csv(rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS, line_end: str = "\n") -> bytes:
    """The bytes of a CSV with a header; columns that a row lacks are empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator=line_end, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def write_csv(path: Path, rows: list[dict[str, str]], **options: Any) -> Path:
    """Writes `to_csv` and returns the path."""
    path.write_bytes(to_csv(rows, **options))
    return path


def write_listed(path: Path, source: Path = SAMPLE) -> Path:
    """The sample with its column of all categories: every third paper has a second label of the five."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        own = row["category_code"]
        second = LABELS[(LABELS.index(own) + 1) % len(LABELS)] if own in LABELS else LABELS[0]
        row["categories"] = f"{own} {second}" if number % 3 == 0 else own
    return write_csv(path, rows, columns=(*COLUMNS, "categories"))


# --- A TF-IDF baseline ---

TFIDF_LABELS = LABELS[:3]
_TOPIC_WORDS = {
    0: ["planning", "agent", "logic", "search"],
    1: ["language", "parsing", "word", "translation"],
    2: ["image", "pixel", "segmentation", "camera"],
}
_COMMON_WORDS = ["method", "results", "paper", "model", "data", "novel"]


def make_split(count: int, seed: int, label_count: int = 3):
    """`count` papers of three topics, some of them with words of another label's."""
    from arxiv_cls.training.tfidf_fit import Split

    generator = np.random.default_rng(seed)
    labels = np.arange(count) % label_count
    texts = []
    for label in labels:
        own = _TOPIC_WORDS[int(label)] + _TOPIC_WORDS[int(generator.integers(label_count))]
        words = list(generator.choice(own + 3 * _COMMON_WORDS, size=24))
        texts.append(" ".join(words[:4]) + "\n\n" + " ".join(words[4:]))
    return Split(texts, labels)


def fit_small(classifier: str = "xgboost", seed: int = 3, labels: list[str] = TFIDF_LABELS, **model: object):
    """A fit on 120 papers with at most 12 boosting rounds; under a second."""
    from arxiv_cls.recipe import TfidfModelConfig, TfidfTrainerConfig
    from arxiv_cls.training.tfidf_fit import fit_tfidf

    config = TfidfModelConfig(classifier=classifier, folds=3, components=4, components_min_df=3, **model)
    return fit_tfidf(
        make_split(120, 0),
        make_split(60, 1),
        labels,
        config,
        TfidfTrainerConfig(num_train_epochs=12, seed=seed),
        threads=1,
        on_round=lambda losses: None,
    )


def small_model(classifier: str = "xgboost"):
    """The `TfidfModel` of `fit_small`."""
    return fit_small(classifier).model


# --- A transformer with random weights ---

TEXTS = [
    "Parsing with sentence encoders\n\nWe fine-tune a language model.",
    "Segmenting tumours\n\n" + "A network labels every voxel of an image. " * 40,
    "images",
]


def write_encoder(
    directory: Path, *, layers: int = 2, vocabulary: int = 800, max_length: int = 128, sample: Path = SAMPLE
) -> Path:
    """A BERT of 16 hidden units with random weights and a tokenizer of the sample's words."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with sample.open(encoding="utf-8", newline="") as file:
        texts = [row["title"] + "\n\n" + row["summary"] for row in csv.DictReader(file)]
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(texts, vocab_size=vocabulary, show_progress=False)
    directory.mkdir(parents=True)
    words.save(str(directory / "words.json"))
    tokenizer = BertTokenizerFast(tokenizer_file=str(directory / "words.json"), model_max_length=max_length)
    (directory / "words.json").unlink()
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(directory)
    return directory


def write_transformer_recipe(path: Path, encoder: Path, csv_path: Path = SAMPLE, **groups: dict) -> Path:
    """A recipe that trains an encoder on the sample in seconds; `trainer={...}` and so on replace keys."""
    trainer = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 1.0e-3}
    trainer |= {"logging_steps": 1, "use_cpu": True, "precision": "fp32", "cpu_threads": 1}
    recipe = {
        "model": {"name_or_path": str(encoder), "max_length": 64},
        "data": {"csv": str(csv_path), "max_samples": 96},
        "trainer": trainer,
    }
    for group, keys in groups.items():
        recipe.setdefault(group, {}).update(keys)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def classifier(kind: str, encoder: Path):
    """A BERT or DistilBERT of two layers with random weights whose scores differ from text to text."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, DistilBertConfig

    bert = AutoConfig.from_pretrained(encoder)
    if kind == "bert":
        config = AutoConfig.from_pretrained(encoder, **LABEL_NAMES)
    else:
        config = DistilBertConfig(
            vocab_size=bert.vocab_size, dim=16, n_layers=2, n_heads=2, hidden_dim=32,
            max_position_embeddings=128, pad_token_id=bert.pad_token_id, **LABEL_NAMES,
        )  # fmt: skip
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config)
    torch.nn.init.normal_(model.classifier.weight, std=5.0)
    return model.eval()


def export_tiny(folder: Path, encoder: Path, csv_path: Path = SAMPLE) -> Path:
    """A tiny BERT classifier with its recipe, exported on 40 papers of the sample."""
    import pytest
    from transformers import AutoTokenizer

    from arxiv_cls.export import quantization
    from arxiv_cls.export.onnx_export import export_model

    classifier("bert", encoder).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    recipe = {"data": {"csv": str(csv_path), "config": "top5"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        # Random weights leave papers between two labels; two candidates show what all would.
        patch.setattr(quantization, "WANTED_EQUAL_LABELS", 0.5)
        patch.setattr(quantization, "LEAST_EQUAL_LABELS", 0.5)
        patch.setattr(quantization, "LARGEST_ACCURACY_FALL", 0.5)
        patch.setattr(quantization, "CANDIDATES", quantization.CANDIDATES[1:3])
        export_model(folder, papers=40, search_papers=20)
    return folder


# --- An ONNX model whose answers can be worked out by hand ---

# A text's logits are the mean of its words' rows: `vision` gives cs.CV a 4, `language` gives it to cs.CL, and
# so on; any other word gives nothing.
WORDS = {"planning": "cs.AI", "language": "cs.CL", "vision": "cs.CV", "learning": "cs.LG", "bayes": "stat.ML"}
MAX_LENGTH = 32
WEIGHT = 4.0
# Softmax of one 4 among five logits.
SURE = math.exp(WEIGHT) / (math.exp(WEIGHT) + 4)


def write_onnx_model(
    directory: Path,
    *,
    turned: int = 0,
    busy: int = 0,
    max_length: int = MAX_LENGTH,
    seed: float = 0,
    positions: int | None = None,
    thresholds: list[float] | None = None,
) -> Path:
    """Writes a model directory as `arxiv-cls export` leaves it, less the torch weights.

    Args:
        directory: a new directory.
        turned: by how many labels the answers are shifted, to tell two models apart.
        busy: products with a 256 x 256 matrix per token that change nothing but the time an answer takes.
        max_length: tokens that the model reads.
        seed: changes the bytes of the weights and nothing else; NaN makes every answer one.
        positions: rows of a table of positions, which fails on a longer text; None for no such table.
        thresholds: of a multi-label model, whose scores are sigmoids of the logits; None for a single-label
            one.
    """
    import onnx
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {word: 2 + at for at, word in enumerate(WORDS)}
    rows = np.zeros((len(vocabulary), len(LABELS)), dtype=np.float32)
    for word, label in WORDS.items():
        rows[vocabulary[word], (LABELS.index(label) + turned) % len(LABELS)] = WEIGHT
    constants = {
        "rows": rows,
        "one": np.array([1], dtype=np.int64),
        "two": np.array([2], dtype=np.int64),
        "seed": np.array([seed], dtype=np.float32),
        "nothing": np.array([0], dtype=np.float32),
    }
    nodes = """
        scores = Gather (rows, input_ids)
        mask = Cast <to = 1> (attention_mask)
        wide_mask = Unsqueeze (mask, two)
        kept = Mul (scores, wide_mask)
        sum = ReduceSum <keepdims = 0> (kept, one)
        count = ReduceSum <keepdims = 1> (mask, one)
        mean = Div (sum, count)
        no_seed = Mul (seed, nothing)"""
    last = "no_seed"
    if busy:
        constants["wide"] = np.full((len(vocabulary), 256), 0.01, dtype=np.float32)
        constants["product"] = np.eye(256, dtype=np.float32)
        products = "".join(f"\nhidden_{at + 1} = MatMul (hidden_{at}, product)" for at in range(busy))
        nodes += f"""
        hidden_0 = Gather (wide, input_ids){products}
        largest = ReduceMax <keepdims = 0> (hidden_{busy})
        no_work = Mul (largest, nothing)
        no_change = Add (no_seed, no_work)"""
        last = "no_change"
    if positions:
        constants["positions"] = np.zeros(positions, dtype=np.float32)
        nodes += f"""
        shape = Shape (input_ids)
        length = Gather (shape, one)
        position = Gather (positions, length)
        placed = Add ({last}, position)"""
        last = "placed"
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]>
        tiny (int64[batch, length] input_ids, int64[batch, length] attention_mask)
        => (float[batch, {len(LABELS)}] logits) {{{nodes}
        logits = Add (mean, {last})
        }}"""
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    onnx.checker.check_model(model)
    (directory / "onnx").mkdir(parents=True)
    onnx.save(model, str(directory / "onnx" / "model.onnx"))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    id2label = {str(number): label for number, label in enumerate(LABELS)}
    run = {
        "data": {"csv": "tiny.csv", "config": "top5", "md5": "0" * 32},
        "metrics": {"test": {"accuracy": 0.5, "per_class": {}}},
    }
    config = {"model_type": "bert", "id2label": id2label, "pad_token_id": 0}
    if thresholds:
        config |= {"problem_type": MULTI_LABEL, "label_thresholds": thresholds}
    # Known words score 1 / (1 + exp(-2)) and more, texts without any 1 / (1 + exp(2)).
    scope = {"schema_version": 1, "weights": dict.fromkeys(WORDS, 4.0), "intercept": -2.0, "threshold": 0.5}
    for name, content in {
        "config.json": config,
        "tokenizer_config.json": {"model_max_length": max_length},
        "run.json": run,
        "eval/prediction_sets.json": {"schema_version": 1, "levels": {"0.9": {"threshold": 0.3}}},
        "eval/scope.json": scope,
    }.items():
        write_json(directory / name, content)
    return directory


def write_cascade_rule(transformer: Path, baseline: Path, threshold: float) -> None:
    """Writes the record that joins an ONNX model of `write_onnx_model` with a baseline, fitted for fp32."""
    record = {"schema_version": 1, "engine": "onnx", "threshold": threshold, "max_tokens": 16}
    record |= {"set_threshold": 0.2, "transformer_sha256": file_sha256(transformer / "onnx/model.onnx")}
    write_json(
        transformer / "eval/cascade.json", record | {"baseline_sha256": file_sha256(baseline / "model.skops")}
    )


# --- Model directories with real records around weights that nobody loads ---

RELEASED_LABELS = ["cs.CL", "cs.CV", "stat.ML"]
DATA_SHA256 = "d" * 64
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)
# The last two are of a model that gives one label.
_PLOTS = ("training_curve", "eval/reliability", "eval/confusion_matrix", "eval/accuracy_by_year")


def scored_papers(accuracy: float = 0.8, papers: int = 400, seed: int = 0):
    """Papers whose label the scores name with this probability, the scores being calibrated."""
    from arxiv_cls.scoring.scored_papers import ScoredPapers

    generator = np.random.default_rng(seed)
    truth = np.random.default_rng(7).integers(0, len(RELEASED_LABELS), papers)
    right = generator.random(papers) < accuracy
    named = np.where(
        right, truth, (truth + generator.integers(1, len(RELEASED_LABELS), papers)) % len(RELEASED_LABELS)
    )
    probabilities = np.full((papers, len(RELEASED_LABELS)), (1 - accuracy) / (len(RELEASED_LABELS) - 1))
    probabilities += generator.uniform(0, 0.01, probabilities.shape)
    probabilities[np.arange(papers), named] = accuracy
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return ScoredPapers(
        label_names=RELEASED_LABELS,
        arxiv_ids=np.asarray([f"{1000 + number}.0001" for number in range(papers)], dtype=object),
        labels=truth,
        probabilities=probabilities,
        published=np.datetime64("2015-01-01") + np.random.default_rng(8).integers(0, 1400, papers),
        words=np.random.default_rng(9).integers(60, 300, papers),
    )


_measured: dict[bytes, dict[str, Any]] = {}


def several_labels():
    """Four papers with one or two labels, to work figures out by hand.

    Given are: both labels of the first; one right and one wrong; none; one of two.
    """
    from arxiv_cls.scoring.scored_papers import ScoredPapers

    return ScoredPapers(
        label_names=RELEASED_LABELS,
        arxiv_ids=np.asarray([f"1501.0000{number}" for number in range(4)], dtype=object),
        labels=np.asarray([0, 0, 1, 1]),
        probabilities=np.asarray([[0.9, 0.1, 0.7], [0.6, 0.65, 0.2], [0.2, 0.3, 0.1], [0.1, 0.8, 0.5]]),
        published=np.full(4, np.datetime64("2015-03-01")),
        words=np.full(4, 120),
        listed=np.asarray([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=bool),
        thresholds=np.asarray([0.5, 0.4, 0.6]),
    )


def evaluation_record(scored, weights_sha256: str) -> dict[str, Any]:
    """What `eval/metrics.json` holds for these scores; the same scores are measured once a session."""
    from arxiv_cls.scoring.evaluation import evaluation_of

    listed = b"" if scored.listed is None else scored.listed.tobytes()
    key = hashlib.sha256(scored.probabilities.tobytes() + scored.labels.tobytes() + listed).digest()
    if key not in _measured:
        _measured[key] = evaluation_of(scored, resamples=200)
    identity = {"weights_sha256": weights_sha256, "data_sha256": DATA_SHA256}
    return {"schema_version": 1, "split": "test", **identity, **_measured[key]}


def run_record(kind: str, weights_sha256: str) -> dict[str, Any]:
    """A `run.json` as training writes it."""
    return yaml.safe_load(f"""
        schema_version: 1
        kind: {kind}
        recipe: tiny
        data: {{csv: data/sample/arxiv_sample.csv, md5: {"a" * 32}, sha256: {DATA_SHA256}, bytes: 500000,
          rows: 600, config: top5, split: paper, seed: 42, labels: {RELEASED_LABELS},
          splits: {{train: 1400, validation: 300, test: 400}}}}
        git: {{commit: {git_state()["commit"]!r}, dirty: false}}
        versions: {{python: 3.11.9, torch: 2.13.0}}
        seed: 7
        device: {{type: cpu, name: a processor, processes: 1, threads: 2, precision: fp32,
          peak_memory_of: process}}
        started: "2026-03-04T05:06:07+00:00"
        duration_seconds: 300.0
        papers_per_second: 12.34
        peak_memory_bytes: 1500000000
        calibration: {{temperature: 1.25, expected_calibration_error_before: 0.08,
          expected_calibration_error_after: 0.02}}
        metrics: {{}}
        weights_sha256: {weights_sha256!r}
        """)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def record_again(folder: Path) -> Path:
    """Records the files as they are now, as if the steps that write them had written them so."""
    for record in RECORD_COMMANDS:
        path = folder / record
        named = [name for name, owner in RECORD_OF.items() if owner == record != name]
        if record != METRICS and any((folder / name).is_file() for name in named):
            weights = json.loads((folder / "run.json").read_text(encoding="utf-8"))["weights_sha256"]
            path.is_file() or write_json(path, {"weights_sha256": weights})
        if path.suffix == ".json" and path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if named:
                write_step_record(content, folder, record)
            else:
                write_record(content, path)
    return folder


def change_json(path: Path, **changes: Any) -> None:
    """Replaces top-level keys of a JSON file; `run.json` counts as written so by the training."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)
    if path.name == "run.json":
        record_again(path.parent)


def make_model_dir(
    folder: Path,
    kind: str = TRANSFORMER,
    *,
    accuracy: float = 0.8,
    weights: bytes = b"weights" * 100,
    seed: int = 0,
    scored: Any = None,
) -> Path:
    """A whole model directory except for the card, with weights that nothing loads.

    The recorded predictions are `scored`, or drawn with this accuracy and seed.
    """
    from arxiv_cls.scoring.scored_papers import write_predictions

    folder.mkdir(parents=True)
    id2label = {str(number): label for number, label in enumerate(RELEASED_LABELS)}
    model_type = TFIDF_MODEL_TYPE if kind == TFIDF else "bert"
    scored = scored or scored_papers(accuracy, seed=seed)
    config = {"model_type": model_type, "id2label": id2label}
    if scored.multi_label:
        config |= {"problem_type": MULTI_LABEL, "label_thresholds": scored.thresholds.tolist()}
    write_json(folder / "config.json", config)
    (folder / WEIGHTS[kind]).write_bytes(weights)
    if kind == TRANSFORMER:
        write_json(folder / "tokenizer.json", {})
        write_json(folder / "tokenizer_config.json", {"model_max_length": 256})
    release = {"license": "apache-2.0", "language": "en", "tags": ["demo"]}
    release |= {"base_model": "user/base"} if kind == TRANSFORMER else {}
    recipe = {"data": {"csv": "data/sample/arxiv_sample.csv", "config": "top5"}, "release": release}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    sha256 = hashlib.sha256(weights).hexdigest()
    write_json(folder / "run.json", run_record(kind, sha256))
    write_json(folder / "eval/metrics.json", evaluation_record(scored, sha256))
    write_predictions(scored, folder / "eval/predictions.parquet")
    scores = {"cs.CV": 0.7, "cs.CL": 0.2, "stat.ML": 0.1}
    examples = [{"title": "A title", "text": "A title\n\nAn abstract.", "scores": scores}]
    write_json(folder / "eval/examples.json", {"weights_sha256": sha256, "examples": examples})
    for name in _PLOTS[: 2 if scored.multi_label else 4]:
        (folder / f"{name}.png").write_bytes(PNG)
    return record_again(folder)


def add_every_section(folder: Path) -> Path:
    """Adds what only some models have: rules of both kinds, a cut split by time."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    boundaries = ["2018-07-15", "2019-02-15"]
    run["data"] |= {"max_samples": 1400, "split": "time", "time_boundaries": boundaries}
    write_json(folder / "run.json", run)
    rules = {"schema_version": 1, "weights_sha256": run["weights_sha256"]}
    levels = {
        "0.8": {"threshold": 0.5, "coverage": 0.81, "mean_size": 1.04},
        "0.9": {"threshold": 0.25, "coverage": 0.9, "mean_size": 1.4},
    }
    write_json(folder / "eval/prediction_sets.json", rules | {"levels": levels})
    scope = {"rule": "logistic regression on the words that occur", "threshold": 0.3471}
    scope |= {"auroc": 0.9642, "auroc_interval": [0.9611, 0.9664], "in_scope_kept": 0.9612}
    scope |= {"out_of_scope_caught": 0.848, "out_of_scope_papers": 17173}
    write_json(folder / "eval/scope.json", rules | scope)
    (folder / "eval/out_of_scope.png").write_bytes(PNG)
    return record_again(folder)


def add_export(folder: Path, difference: float | None = 3.2e-7, tolerance: float = 1e-4) -> Path:
    """Adds an ONNX file that nobody loads, and the record of its parity."""
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_bytes(b"graph" * 500_000)
    weights = json.loads((folder / "run.json").read_text(encoding="utf-8"))["weights_sha256"]
    digest = hashlib.sha256((folder / "onnx/model.onnx").read_bytes()).hexdigest()
    record = {"sha256": digest, "max_difference": difference, "tolerance": tolerance, "reference": "torch"}
    record |= {"papers": 3293, "equal_labels": 1.0, "accuracy_fall": 0.0}
    parity = {"weights_sha256": weights, "exports": {"onnx/model.onnx": record}}
    write_json(folder / "onnx/parity.json", parity)
    return record_again(folder)


# --- A predictor that is right four times in five ---


class FixedPredictor:
    """Knows the true label of each text of the sample and errs on a fixed fifth of them."""

    kind = "tfidf"
    engine = "tfidf"
    multi_label, thresholds = False, None

    def __init__(self, weights_path: Path, labels: list[str] = LABELS, salt: str = "") -> None:
        self.weights_path, self.labels, self.salt = weights_path, list(labels), salt
        self.directory = weights_path.parent
        self.largest_batch = 0
        with SAMPLE.open(newline="", encoding="utf-8") as file:
            self.truth = {
                f"{row['title'].strip()}\n\n{row['summary'].strip()}": row["category_code"]
                for row in csv.DictReader(file)
            }

    def predict_proba(self, texts, *, progress=False):
        """0.76 for one label, 0.06 for each other."""
        self.largest_batch = max(self.largest_batch, len(texts))
        columns = []
        for text in texts:
            draw = zlib.crc32((text + self.salt).encode())
            label = self.truth.get(text)
            column = self.labels.index(label) if label in self.labels else draw % len(self.labels)
            columns.append((column + (draw % 5 == 0)) % len(self.labels))
        rest = 0.3 / len(self.labels)
        return np.eye(len(self.labels))[columns] * 0.7 + rest

    def encode(self, texts):
        """As a baseline."""
        from arxiv_cls.models.prediction import EncodedText

        return [EncodedText(text, len(text.split()), False) for text in texts]

    def embed(self, texts, *, progress=False):
        """The probabilities with a little noise."""
        noise = np.random.default_rng(0).normal(scale=0.05, size=(len(texts), len(self.labels)))
        return (self.predict_proba(texts) + noise).astype(np.float32)


# --- The real model that parity is proven on ---

# It is `outputs/minilm` where that was trained, else the model that lies beside the checkout. The papers that
# the export is measured on and those that the tests ask about are different ones, all of the test split.
TRAINED = (ROOT / "outputs" / "minilm", ROOT.parent / "shared" / "models" / "minilm-top5")
PAPERS = 500
# Enough to tell 99% from 98%: the choice has to hold on the papers that are asked about.
EXPORT_PAPERS, SEARCH_PAPERS = 2000, 100
FP32_TOLERANCE = 1e-4
INT8_EQUAL_LABELS = 0.99
# What belongs to one training on one machine; the export writes its own beside the weights.
LEFT_BEHIND = ("onnx", "recipe.yaml", "run.json", "handler.py", "requirements.txt", "eval")


@dataclass(frozen=True)
class RealModel:
    """A trained transformer with its exports, and n test papers that its export was not measured on."""

    directory: Path
    papers: list[tuple[str, str]]  # title and abstract
    categories: list[str]  # the true label of each paper
    expected: list[dict[str, float]]  # what `pipeline()` gives each paper, highest score first
    unseen: list[str]  # texts of all test papers that the export was not measured on, those n first

    @property
    def texts(self) -> list[str]:
        """Title, blank line, abstract."""
        return self.unseen[: len(self.papers)]

    @property
    def labels(self) -> list[str]:
        """The label with the highest score of `pipeline()` for each paper."""
        return [next(iter(scores)) for scores in self.expected]


def trained_model() -> Path | None:
    """The first real model that is whole; None when there is none."""
    return next((path for path in TRAINED if (path / "model.safetensors").is_file()), None)


def export_real_model(source: Path, real_csv: Path, folder: Path) -> RealModel:
    """Copies a model into an empty folder, exports the copy, and asks `pipeline()` about `PAPERS` papers."""
    from transformers import pipeline

    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.export.onnx_export import export_model

    directory = folder / source.name
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    corpus = build_corpus("top5", csv=str(real_csv))
    rows = corpus.splits["test"].to_list()
    asked, measured = rows[:PAPERS], rows[PAPERS : PAPERS + EXPORT_PAPERS]
    unseen = [row["text"] for row in asked + rows[PAPERS + EXPORT_PAPERS :]]
    lines = [
        {"id": row["arxiv_id"], "title": row["title"], "summary": row["abstract"],
         "category_code": corpus.labels[row["label"]]}
        for row in measured
    ]  # fmt: skip
    write_csv(folder / "measured.csv", lines, columns=tuple(lines[0]))
    export_model(directory, csv=folder / "measured.csv", search_papers=SEARCH_PAPERS)
    classify = pipeline(
        "text-classification", model=str(directory), truncation=True, top_k=None, device="cpu"
    )
    # Papers of like length pad each other little.
    by_length = sorted(range(PAPERS), key=lambda at: len(asked[at]["text"]))
    said = classify([asked[at]["text"] for at in by_length], batch_size=16)
    answers = dict(zip(by_length, said, strict=True))
    return RealModel(
        directory,
        [(row["title"], row["abstract"]) for row in asked],
        [corpus.labels[row["label"]] for row in asked],
        [{one["label"]: one["score"] for one in answers[at]} for at in range(PAPERS)],
        unseen,
    )
