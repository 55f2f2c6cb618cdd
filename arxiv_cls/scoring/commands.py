"""The verbs of this room: `arxiv-cls evaluate|compare|visualize`."""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds `evaluate`, `compare` and `visualize`."""
    evaluate = subparsers.add_parser("evaluate", help="metrics with intervals, calibration, plots")
    evaluate.add_argument("model", metavar="MODEL", help="model directory or Hub id")
    evaluate.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="split of the model's own data (default: %(default)s)",
    )
    evaluate.add_argument("--csv", metavar="FILE", help="score the papers of this file instead")
    evaluate.add_argument(
        "--out",
        metavar="DIR",
        help="folder for metrics, predictions and plots (default: MODEL/eval for the test split, else none)",
    )
    evaluate.add_argument(
        "--no-rules",
        action="store_true",
        help="leave out prediction sets and the out-of-scope threshold, which score further papers",
    )
    evaluate.set_defaults(run=_evaluate)

    compare = subparsers.add_parser("compare", help="two models on the same papers")
    compare.add_argument("a", metavar="A", help="model directory, Hub id or predictions.parquet")
    compare.add_argument("b", metavar="B", help="the model that A is compared with, likewise")
    compare.add_argument(
        "--papers", type=int, default=5, metavar="N", help="papers to show (default: %(default)s)"
    )
    compare.add_argument("--json", metavar="FILE", help="also write everything to this file")
    compare.set_defaults(run=_compare)

    visualize = subparsers.add_parser("visualize", help="map of the embeddings; terms of a baseline")
    visualize.add_argument("model", metavar="MODEL", help="model directory or Hub id")
    visualize.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="split to show (default: %(default)s)",
    )
    visualize.add_argument(
        "--method",
        choices=("tsne", "umap"),
        default="tsne",
        help="umap needs the package umap-learn (default: %(default)s)",
    )
    visualize.add_argument(
        "--max-papers", type=int, default=2000, metavar="N", help="papers on the map (default: %(default)s)"
    )
    visualize.add_argument("--out", metavar="DIR", help="folder (default: MODEL/eval)")
    visualize.set_defaults(run=_visualize)


def _evaluate(arguments: argparse.Namespace) -> None:
    from arxiv_cls.scoring.evaluation import evaluate_model
    from arxiv_cls.scoring.report import evaluation_table

    evaluation = evaluate_model(
        arguments.model,
        split=arguments.split,
        csv=arguments.csv,
        out=arguments.out,
        rules=not arguments.no_rules,
        progress=True,
    )
    print(evaluation_table(evaluation))
    own = arguments.csv is None and arguments.split == "test" and Path(arguments.model).is_dir()
    folder = arguments.out or (Path(arguments.model) / "eval" if own else None)
    if folder:
        print(f"\nwritten to {folder}")


def _compare(arguments: argparse.Namespace) -> None:
    from arxiv_cls.scoring.comparison import compare_models, comparison_table
    from arxiv_cls.scoring.scored_papers import write_json

    comparison = compare_models(arguments.a, arguments.b, papers=arguments.papers, progress=True)
    print(comparison_table(comparison))
    if arguments.json:
        write_json(comparison, Path(arguments.json))


def _visualize(arguments: argparse.Namespace) -> None:
    from arxiv_cls.scoring.visualization import visualize_model

    for line in visualize_model(
        arguments.model,
        split=arguments.split,
        method=arguments.method,
        max_papers=arguments.max_papers,
        out=arguments.out,
        progress=True,
    ):
        print(line)
