"""The pictures of an evaluation, of a training run and of the embeddings, as PNG files.

Figures are made without pyplot: no display, no global state, safe in threads. Colours are those of Okabe
and Ito (2008), which people with any of the common colour deficiencies tell apart.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES, archive_of
from arxiv_cls.errors import UserError
from arxiv_cls.record.files import staged, write_json, write_step_record
from arxiv_cls.record.manifest import MAP_RECORD
from arxiv_cls.scoring.calibration import binary_reliability
from arxiv_cls.scoring.intervals import wilson_interval
from arxiv_cls.scoring.scored_papers import load_model_and_corpus

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#000000"
_CLASSES_WITH_NUMBERS = 25  # at most: in smaller cells they cannot be read
# Eight colours that everybody tells apart, then the same with another shape: 24 groups in all. With more
# labels than that the papers of a map are grouped by archive.
_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK)
_SHAPES = "o^s"
_FEWEST_ON_A_MAP = 5
_TERMS = 15
_TERMS_OF_A_CHART = 10
_SEED = 0


@contextlib.contextmanager
def _picture(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure, sizes in inches, that is written as a PNG in the end; folders are made."""
    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    for axes in figure.axes:
        axes.title.set_fontsize(10)
        if axes.get_legend():
            axes.get_legend().set_frame_on(False)
    with staged(Path(path)) as partial:
        figure.savefig(partial, dpi=130, format="png")


def _plain(axes: Axes) -> Axes:
    """Takes away the box, adds a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _accuracy_panels(
    figure: Figure, x: np.ndarray, accuracy: np.ndarray, ends: np.ndarray, label: str
) -> tuple[Axes, Axes]:
    """Accuracies with (n, 2) intervals above, and empty axes for numbers of papers below."""
    upper, lower = map(_plain, figure.subplots(2, 1, sharex=True, height_ratios=[3, 1]))
    upper.errorbar(
        x, accuracy, yerr=[accuracy - ends[:, 0], ends[:, 1] - accuracy],
        color=BLUE, marker="o", markersize=4, linewidth=1.4, elinewidth=0.9, capsize=2, label=label,
    )  # fmt: skip
    upper.set_ylabel("accuracy")
    lower.set_ylabel("papers")
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return upper, lower


def plot_confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, label_names: Sequence[str], path: str | Path
) -> None:
    """Draws counts of (n,) class numbers, rows being true categories, read both ways.

    The shade is the share of the row (recall on the diagonal) on the left, of the column (precision) on the
    right.
    """
    classes = len(label_names)
    matrix = np.zeros((classes, classes), dtype=int)
    np.add.at(matrix, (labels, predicted), 1)
    side = min(16.0, max(5.0, 0.85 * classes if classes <= _CLASSES_WITH_NUMBERS else 0.16 * classes))
    small = min(9.0, 45 * side / classes)  # points; a row is 72 * side / classes high, less the margins
    with _picture(path, 2.2 * side + 1.0, side) as figure:
        figure.suptitle("Confusion matrix: papers")
        for axis, of, axes in zip((1, 0), ("true", "predicted"), figure.subplots(1, 2), strict=True):
            totals = matrix.sum(axis=axis, keepdims=True)
            shares = matrix / np.maximum(totals, 1)
            image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            axes.set_xticks(range(classes), label_names, rotation=45 if classes <= 6 else 90, fontsize=small)
            axes.set_yticks(range(classes), label_names, fontsize=small)
            axes.set(xlabel="predicted category", ylabel="true category")
            axes.set_title(f"share of the {of} category")
            for row, column in np.ndindex(*matrix.shape) if classes <= _CLASSES_WITH_NUMBERS else ():
                share = shares[row, column]
                text = f"{matrix[row, column]:,}"
                if classes <= 10 and np.broadcast_to(totals, matrix.shape)[row, column]:
                    text += f"\n{share:.0%}"
                colour = "white" if share > 0.55 else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
            figure.colorbar(image, ax=axes, shrink=0.7, fraction=0.03)


def plot_reliability(
    scores: np.ndarray,
    correct: np.ndarray,
    path: str | Path,
    what: str = "the predicted category",
    counted: str = "papers",
) -> None:
    """Accuracy against score in bins of equal mass, with 95% intervals; below, the scores given.

    `scores` are (n,), of `what`, one of each of the `counted`; `correct` is the (n,) mask of the right ones.
    """
    found = binary_reliability(scores, correct)
    hits = np.rint(found.accuracy * found.papers)
    ends = np.array([wilson_interval(*pair) for pair in zip(hits, found.papers, strict=True)])
    error = float(np.abs(found.accuracy - found.confidence) @ found.papers / found.papers.sum())
    with _picture(path, 5.6, 6.2) as figure:
        label = f"{len(found.papers)} bins of equal mass, 95% intervals"
        upper, lower = _accuracy_panels(figure, found.confidence, found.accuracy, ends, label)
        upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfectly calibrated")
        upper.set_title(f"Reliability: expected calibration error {error:.3f}, {len(scores):,} {counted}")
        upper.set_ylim(0, 1)
        upper.legend(loc="upper left", fontsize=8)
        lower.hist(scores, bins=np.linspace(0, 1, 41), color=SKY, edgecolor="white")
        lower.set(xlabel=f"score of {what}", xlim=(0, 1))


def plot_accuracy_by_year(slices: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Accuracy of each year's papers with intervals, and their number; `slices.year` of `metrics.json`."""
    place = np.arange(len(slices))
    accuracy, ends, counts = (
        np.array([part[key] for part in slices.values()]) for key in ("accuracy", "accuracy_interval", "n")
    )
    overall = (accuracy @ counts) / counts.sum()
    with _picture(path, max(5.6, 0.42 * len(slices) + 2), 5.0) as figure:
        upper, lower = _accuracy_panels(figure, place, accuracy, ends, "95% intervals")
        label = f"all these years: {overall:.3f}"
        upper.axhline(overall, color=VERMILION, linestyle="--", linewidth=1, label=label)
        upper.legend(fontsize=8)
        upper.set_title("Accuracy by year of publication")
        lower.bar(place, counts, color=SKY)
        lower.set_xticks(place, list(slices), rotation=45 if len(slices) > 8 else 0, fontsize=8)


def plot_training_curve(history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Losses on the left, accuracy (or LRAP) and macro-F1 of the validation split on the right, over epochs.

    `history` is in the form of `Trainer.state.log_history`; `eval_log_loss` stands in for `eval_loss`.
    """
    eval_loss = "eval_loss" if any("eval_loss" in entry for entry in history) else "eval_log_loss"
    multi_label = any("eval_lrap" in entry for entry in history)
    ranking = ("eval_lrap", "LRAP", GREEN) if multi_label else ("eval_accuracy", "accuracy", GREEN)
    panels = (
        ("loss", (("loss", "training", BLUE), (eval_loss, "validation", VERMILION))),
        ("validation split", (ranking, ("eval_macro_f1", "macro-F1", PURPLE))),
    )
    with _picture(path, 9.6, 3.8) as figure:
        for axes, (title, curves) in zip(figure.subplots(1, 2), panels, strict=True):
            _plain(axes).set(title=title, xlabel="epoch")
            epochs = set()
            for key, name, colour in curves:
                if points := {entry["epoch"]: entry[key] for entry in history if {key, "epoch"} <= {*entry}}:
                    marker = "o" if len(points) <= 40 else None
                    axes.plot(*zip(*points.items(), strict=True), color=colour, label=name, marker=marker)
                    axes.legend(fontsize=8)
                    epochs |= {*points}
            if not epochs:
                axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color="0.5")
            if len(epochs) <= 1:
                # One evaluation only: a scale of thousandths of an epoch around it would mislead.
                axes.set_xticks(list(epochs))


def plot_terms(terms: Mapping[str, Sequence[tuple[str, float]]], path: str | Path) -> None:
    """A bar chart for each category: its terms with their weights, the most telling one on top."""
    columns = min(3, len(terms))
    rows = -(-len(terms) // columns)
    with _picture(path, 3.4 * columns, 2.6 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for (label, weights), axes in zip(terms.items(), panels, strict=False):
            names, values = zip(*weights[:_TERMS_OF_A_CHART], strict=True)
            axes.barh(range(len(names)), values, color=BLUE)
            axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=7)
            axes.invert_yaxis()
            axes.set_title(label)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(axis="x", labelsize=7)
        for axes in panels:
            axes.set_axis_off()
        figure.supxlabel("weight per unit of tf-idf; ordered by weight and frequency", fontsize=8)


def plot_out_of_scope(inside: np.ndarray, outside: np.ndarray, threshold: float, path: str | Path) -> None:
    """How the out-of-scope rule scores test papers inside and outside the label set, 0 to 1."""
    with _picture(path, 6.4, 3.8) as figure:
        axes = _plain(figure.subplots())
        for scores, name, colour in ((outside, "outside", ORANGE), (inside, "inside", BLUE)):
            axes.hist(
                scores, bins=np.linspace(0, 1, 51), weights=np.full(len(scores), 1 / len(scores)),
                color=colour, alpha=0.65, label=f"{name} the label set, {len(scores):,} papers",
            )  # fmt: skip
        axes.axvline(threshold, color=BLACK, linestyle="--", linewidth=1, label=f"threshold {threshold:.3f}")
        axes.set(xlim=(0, 1), xlabel="score of the out-of-scope rule (1 is inside)")
        axes.set(ylabel="share of the papers", title="Test papers inside and outside the label set")
        axes.legend(fontsize=8, loc="upper center")


def project_embeddings(embeddings: np.ndarray, method: str = "tsne") -> np.ndarray:
    """(n, 2) coordinates of (n, d) embeddings, n > 4; the same for the same input.

    Near neighbours stay near, distances between groups mean little. `tsne` (van der Maaten and Hinton, 2008)
    goes after a PCA to 50 dimensions; `umap` (McInnes et al., 2018) needs umap-learn.
    """
    if method == "umap":
        # `run_main` names the extra that brings it.
        return importlib.import_module("umap").UMAP(random_state=_SEED).fit_transform(embeddings)
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, width = embeddings.shape
    if width > 50 and count > 50:
        embeddings = PCA(50, random_state=_SEED).fit_transform(embeddings)
    # scikit-learn asks for a perplexity below the number of papers; 30 is its default.
    perplexity = min(30.0, (count - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(embeddings)


def legend_groups(label_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names for the legend of a map, and (k,) the group of each label.

    The labels with their long names, or their archives when there are more than colours and shapes.
    """
    if len(label_names) <= len(_COLOURS) * len(_SHAPES):
        names = [f"{name}  {CATEGORY_NAMES.get(name, '')}".strip() for name in label_names]
        return names, np.arange(len(label_names))
    names, groups = np.unique([archive_of(name) for name in label_names], return_inverse=True)
    return names.tolist(), groups


def _plot_map(points: np.ndarray, groups: np.ndarray, names: Sequence[str], title: str, path: Path) -> None:
    """One dot a paper at its (n, 2) point, coloured by its (n,) group; groups without papers are left out."""
    looks = [
        {"color": _COLOURS[group % len(_COLOURS)], "marker": _SHAPES[group // len(_COLOURS)]}
        for group in range(len(names))
    ]
    size = 14 if len(points) <= 2500 else 6
    with _picture(path, 9.2, 5.8) as figure:
        axes = figure.subplots()
        # Drawn in one shuffled order, no group hides another.
        for block in np.array_split(np.random.default_rng(0).permutation(len(points)), 12):
            for group in np.unique(groups[block]):
                x, y = points[block[groups[block] == group]].T
                axes.scatter(x, y, s=size, linewidths=0, alpha=0.8, **looks[group])
        for group, count in zip(*np.unique(groups, return_counts=True), strict=True):
            axes.scatter([], [], s=40, label=f"{names[group]} ({count:,})", **looks[group])
        axes.set(title=title, xticks=[], yticks=[])
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def visualize_model(
    model: str | Path,
    *,
    split: str = "test",
    method: str = "tsne",
    max_papers: int = 2000,
    data: str | Path | None = None,
    out: str | Path | None = None,
) -> list[str]:
    """Writes `embeddings.png`, and for a baseline `terms.json`; in `eval/` of a model also `embeddings.json`.

    Args:
        model: directory or Hub id.
        split: the split that is shown.
        method: of `project_embeddings`.
        max_papers: papers on the map, the first in hash order.
        data: as `csv` of `load_model_and_corpus`.
        out: folder; by default `eval/` of a local model directory, whose map is of the test split.

    Returns:
        Lines for the terminal: the files written, and the terms of each category.
    """
    if max_papers < _FEWEST_ON_A_MAP:
        raise UserError(f"a map of {max_papers} papers shows nothing", hint="ask for 5 or more")
    if out is None and not Path(model).is_dir():
        raise UserError(f"{model} is not a local directory", hint="name a folder for the plots with --out")
    own_folder = Path(model) / "eval"
    folder = own_folder if out is None else Path(out)
    is_own = folder.resolve() == own_folder.resolve()
    if split != "test" and is_own:
        raise UserError(
            f"{own_folder} holds the map of the test split, which the card shows",
            hint=f"name another folder for the map of the {split} split with --out",
        )
    loaded = load_model_and_corpus(model, data)
    predictor, papers = loaded.predictor, loaded.corpus.splits[split][:max_papers]
    count = len(papers["text"])
    if count < _FEWEST_ON_A_MAP:
        raise UserError(f"the {split} split has {count} papers: too few for a map")
    embeddings = predictor.embed(papers["text"], progress=sys.stderr.isatty())
    points = project_embeddings(embeddings, method)
    names, group_of = legend_groups(loaded.corpus.labels)
    title = f"{count:,} papers of the {split} split, {'t-SNE' if method == 'tsne' else 'UMAP'}"
    _plot_map(points, group_of[papers["label"]], names, title, folder / "embeddings.png")
    lines = [str(folder / "embeddings.png")]
    weights = {"weights_sha256": loaded.weights_sha256}
    if hasattr(predictor, "top_terms"):
        terms = {
            label: {term: float(weight) for term, weight in predictor.top_terms(label, _TERMS)}
            for label in predictor.labels
        }
        write_json(weights | {"terms": terms}, folder / "terms.json")
        lines += [str(folder / "terms.json"), ""]
        lines += [f"{label}: {', '.join(of)}" for label, of in terms.items()]
    if is_own:
        record = {"schema_version": 1, "method": method, **weights, "papers": count}
        write_step_record(record, folder.parent, MAP_RECORD)
    return lines
