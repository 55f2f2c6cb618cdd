"""Releases the corpus to the Hub: Parquet splits of each label set and a card, in one commit with a tag."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCardData
from tqdm import tqdm

from arxiv_cls.corpus.fetch import local_file
from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import DEFAULT_LABEL_SET, LABEL_SETS, label_set
from arxiv_cls.recipe import DataConfig
from arxiv_cls.record.manifest import CARD
from arxiv_cls.release.card import is_synthetic, template
from arxiv_cls.release.hub import Content
from arxiv_cls.release.releases import ReleaseResult, begin_release, plan_release, publish

if TYPE_CHECKING:
    from arxiv_cls.corpus import Corpus

COLUMNS = (
    ("text", "string", "title, blank line, abstract: what the models read"),
    ("title", "string", "title"),
    ("abstract", "string", "abstract"),
    ("label", "class label", "category code"),
    ("arxiv_id", "string", "arXiv id without the version"),
    ("published", "date", "day of first submission"),
)
# Of a file that lists several categories of a paper.
CATEGORIES = ("categories", "list of strings", "all category codes, the primary one first")
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


@dataclass(frozen=True)
class ConfigFiles:
    """One label set, written to Parquet: papers of each split, columns as the Hub's card spells them, files.

    `files` is path in the repository to local file.
    """

    name: str
    labels: list[str]
    sizes: dict[str, int]
    features: list[dict[str, Any]]
    files: dict[str, Path]


def _write_config(corpus: Corpus, name: str, folder: Path) -> ConfigFiles:
    files, sizes = {}, {}
    for split, papers in corpus.splits.items():
        path = f"{name}/{split}-00000-of-00001.parquet"
        (folder / path).parent.mkdir(exist_ok=True)
        # The features travel in the Parquet schema: label names and dates come back as they are here.
        papers.to_parquet(folder / path)
        files[path], sizes[str(split)] = folder / path, len(papers)
    features = corpus.splits["train"].features._to_yaml_list()
    return ConfigFiles(name, list(corpus.labels), sizes, features, files)


def render_dataset_card(repo_id: str, version: str | None, configs: Sequence[ConfigFiles], data: Any) -> str:
    """The dataset's card; the default label set is the first of `configs`, `data` the `DataVersion`."""
    papers = max(sum(config.sizes.values()) for config in configs)
    synthetic = is_synthetic(data.csv)
    files, information = [], []
    for config in configs:
        splits = [{"split": Path(path).name.split("-")[0], "path": path} for path in config.files]
        default = {"default": True} if config is configs[0] else {}
        files.append({"config_name": config.name, **default, "data_files": splits})
        sizes = [{"name": split, "num_examples": size} for split, size in config.sizes.items()]
        information.append({"config_name": config.name, "features": config.features, "splits": sizes})
    metadata = DatasetCardData(
        language=["en"],
        # The sample was written for this project and is under its licence.
        license="apache-2.0" if synthetic else "cc0-1.0",
        pretty_name=f"{'Synthetic' if synthetic else 'arXiv'} papers by category",
        task_categories=["text-classification"],
        task_ids=["multi-class-classification"],
        tags=["arxiv", "scientific-papers", *(["synthetic"] if synthetic else [])],
        size_categories=[next((n for most, n in SIZE_CATEGORIES.items() if papers < most), "1M<n<10M")],
        configs=files,
        dataset_info=information,
    )
    listed = any(feature["name"] == CATEGORIES[0] for config in configs for feature in config.features)
    author, title = repo_id.split("/")
    return template("dataset_card.md.j2").render(
        metadata=metadata.to_yaml(),
        title=title,
        repo_id=repo_id,
        version=version,
        papers=papers,
        synthetic=synthetic,
        configs=configs,
        label_sets={config.name: label_set(config.name) for config in configs},
        columns=[*COLUMNS, *([CATEGORIES] if listed else [])],
        csv=Path(data.csv).name,
        data=data,
        author=author,
        citation_key=title.replace("-", "_").replace(".", "_"),
    )


def push_dataset(
    repo_id: str,
    *,
    csv: str | Path | None = None,
    configs: Sequence[str] = tuple(LABEL_SETS),
    version: str | None = None,
    private: bool = False,
) -> ReleaseResult:
    """Builds the label sets and releases them to `user/name`, which is created when it does not exist.

    Without a version it is v0.1.0, then the next minor one; `top5`, where asked for, is the default
    configuration.

    Raises:
        UserError: the CSV is missing or malformed, the version exists with other content, the token is
            missing or refused, or the Hub cannot be reached (before any work, with exit code 3).
    """
    repository, state = begin_release(repo_id, version, "dataset")
    from arxiv_cls.corpus import build_corpus

    path = csv or DataConfig().csv
    if not local_file(path).is_file():
        hint = "`make data` gets it, or name another with --csv FILE (with make CSV=FILE)"
        raise UserError(f"{path}: no such file", hint)
    names = sorted(dict.fromkeys(configs), key=lambda name: name != DEFAULT_LABEL_SET)
    with tempfile.TemporaryDirectory(prefix="arxiv-papers-") as folder:
        written = []
        for name in tqdm(names, desc="label sets", unit="set", disable=None):
            corpus = build_corpus(name, csv=csv)
            written.append(_write_config(corpus, name, Path(folder)))
        files: dict[str, Content] = {path: file for config in written for path, file in config.files.items()}
        plan = plan_release(repository, state, version, files)
        files[CARD] = render_dataset_card(repo_id, plan.version, written, corpus.data).encode()
        return publish(repository, plan, files, private=private)
