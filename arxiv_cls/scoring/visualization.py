"""A map of how a model sees the papers, and the terms that speak for each category in a baseline."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES, archive_of
from arxiv_cls.errors import UserError
from arxiv_cls.record.checksums import MAP, file_sha256, write_step_record
from arxiv_cls.record.writing import write_json
from arxiv_cls.scoring.evaluation import SPLITS
from arxiv_cls.scoring.plots import plot_map
from arxiv_cls.scoring.scored_papers import load_model_and_corpus

# A legend with more names than this is a wall of text: papers are then grouped by archive.
MOST_GROUPS = 24
TERMS = 15
_SEED = 0


def place_on_a_plane(embeddings: np.ndarray, method: str = "tsne") -> np.ndarray:
    """Two coordinates a paper; near neighbours stay near, distances between groups mean little.

    Args:
        embeddings: (n, d), n > 4.
        method: `tsne` (van der Maaten and Hinton, 2008), after a PCA to 50 dimensions; or `umap`
            (McInnes et al., 2018).

    Returns:
        (n, 2); the same for the same input.

    Raises:
        UserError: for `umap` without the package umap-learn.
    """
    if method == "umap":
        try:
            umap = importlib.import_module("umap")
        except ImportError:
            raise UserError(
                "--method umap needs the package umap-learn",
                hint="make setup EXTRAS=dev,umap (or pip install umap-learn), or leave the option out",
            ) from None
        return umap.UMAP(random_state=_SEED).fit_transform(embeddings)
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, width = embeddings.shape
    centred = embeddings - embeddings.mean(axis=0)
    if width > 50 and count > 50:
        centred = PCA(50, random_state=_SEED).fit_transform(centred)
    # scikit-learn asks for a perplexity below the number of papers; 30 is its default.
    perplexity = min(30.0, (count - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(centred)


def legend_groups(label_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """What the colours of the map stand for.

    Returns:
        Names for the legend, and (k,) the group of each label: the labels themselves with their long names,
        or their archives when there are more than `MOST_GROUPS`.
    """
    if len(label_names) <= MOST_GROUPS:
        long_names = [CATEGORY_NAMES.get(name, "") for name in label_names]
        names = [f"{name}  {long}".strip() for name, long in zip(label_names, long_names, strict=True)]
        return names, np.arange(len(label_names))
    archives = [archive_of(name) for name in label_names]
    names = sorted(set(archives))
    return names, np.asarray([names.index(archive) for archive in archives])


def visualize_model(
    model: str | Path,
    *,
    split: str = "test",
    method: str = "tsne",
    max_papers: int = 2000,
    data: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> list[str]:
    """Writes `embeddings.png`, and for a baseline `terms.json`; in `eval/` of a model also `embeddings.json`.

    Args:
        model: directory or Hub id.
        split: whose papers are shown.
        method: `tsne` or `umap`.
        max_papers: papers on the map, the first in hash order.
        data: the file that the split is rebuilt from; None for the path that the model's recipe names.
        out: folder; by default `eval/` of a local model directory, whose map is of the test split: another
            split needs another folder.
        progress: show a bar while embedding.

    Returns:
        Lines for the terminal: the files written, and the terms of each category.

    Raises:
        UserError: when the model or its data cannot be had, there are too few papers, or a Hub id comes
            or another split than test comes without a folder.
    """
    if split not in SPLITS:
        raise UserError(f"no split {split!r}", hint=f"name one of {', '.join(SPLITS)}")
    if max_papers < 5:
        raise UserError(f"a map of {max_papers} papers shows nothing", hint="ask for 5 or more")
    if out is None and not Path(model).is_dir():
        raise UserError(f"{model} is not a local directory", hint="name a folder for the plots with --out")
    own_folder = Path(model) / "eval"
    if split != "test" and (out is None or Path(out).resolve() == own_folder.resolve()):
        raise UserError(
            f"{own_folder} holds the map of the test split, which the card shows",
            hint=f"name another folder for the map of the {split} split with --out",
        )
    folder = Path(out) if out is not None else own_folder
    loaded = load_model_and_corpus(model, data)
    predictor, corpus = loaded.predictor, loaded.corpus
    papers = corpus.splits[split]
    if len(papers) < 5:
        raise UserError(f"the {split} split has {len(papers)} papers: too few for a map")
    papers = papers.select(range(min(max_papers, len(papers))))
    points = place_on_a_plane(np.asarray(predictor.embed(list(papers["text"]), progress=progress)), method)
    names, group_of = legend_groups(corpus.labels)
    title = f"{len(papers):,} papers of the {split} split, {'t-SNE' if method == 'tsne' else 'UMAP'}"
    plot_map(points, group_of[np.asarray(papers["label"])], names, title, folder / "embeddings.png")
    lines = [str(folder / "embeddings.png")]
    if hasattr(predictor, "top_terms"):
        lines += _write_terms(predictor, folder)
    if folder.resolve() == own_folder.resolve():
        record = {"weights_sha256": file_sha256(Path(predictor.weights_path)), "papers": len(papers)}
        write_step_record({"schema_version": 1, "method": method, **record}, folder.parent, MAP)
    return lines


def _write_terms(predictor: Any, folder: Path) -> list[str]:
    terms = {label: predictor.top_terms(label, TERMS) for label in predictor.labels}
    record = {
        "weights_sha256": file_sha256(Path(predictor.weights_path)),
        "terms": {label: {term: float(weight) for term, weight in found} for label, found in terms.items()},
    }
    write_json(record, folder / "terms.json")
    return [
        str(folder / "terms.json"),
        "",
        *(f"{label}: {', '.join(term for term, _ in found)}" for label, found in terms.items()),
    ]
