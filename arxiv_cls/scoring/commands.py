"""The verbs of this room: `arxiv-cls evaluate|compare|visualize|cascade`."""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds `evaluate`, `compare`, `visualize` and `cascade`."""
    evaluate = subparsers.add_parser("evaluate", help="metrics with intervals, calibration, plots")
    evaluate.add_argument("model", metavar="MODEL", help="model directory or Hub id")
    evaluate.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="split of the model's own data (default: test)",
    )
    evaluate.add_argument("--csv", metavar="FILE", help="score the papers of this file instead")
    _add_data(evaluate)
    evaluate.add_argument(
        "--out",
        metavar="DIR",
        help="folder for metrics, predictions and plots (default: MODEL/eval for the test split, else none)",
    )
    evaluate.add_argument(
        "--engine",
        choices=("torch", "onnx", "int8"),
        help="what computes a transformer (default: torch); MODEL/eval belongs to the weights: the figures "
        "of an ONNX engine are printed, and written only to --out",
    )
    evaluate.add_argument(
        "--no-rules",
        action="store_true",
        help="leave out prediction sets and the out-of-scope threshold, which score further papers",
    )
    evaluate.add_argument(
        "--dvc",
        type=Path,
        metavar="DIR",
        help="also write headline figures and predictions as `dvc metrics` and `dvc plots` read them",
    )
    evaluate.set_defaults(run=_evaluate, narrated=True)

    compare = subparsers.add_parser("compare", help="two models on the same papers")
    compare.add_argument("a", metavar="A", help="model directory, Hub id or predictions.parquet")
    compare.add_argument("b", metavar="B", help="the model that A is compared with, likewise")
    compare.add_argument(
        "--papers", type=int, default=5, metavar="N", help="papers to show (default: %(default)s)"
    )
    _add_data(compare)
    compare.add_argument("--json", metavar="FILE", help="also write everything to this file")
    compare.set_defaults(run=_compare, narrated=True)

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
    _add_data(visualize)
    visualize.add_argument("--out", metavar="DIR", help="folder (default: MODEL/eval)")
    visualize.set_defaults(run=_visualize, narrated=True)
    _register_cascade(subparsers)


def _register_cascade(subparsers: argparse._SubParsersAction) -> None:
    cascade = subparsers.add_parser(
        "cascade",
        help="fit from which score a baseline answers before a transformer",
        description="Chooses on the validation split when the baseline answers alone and how many tokens the "
        "transformer reads of the rest, and writes MODEL/eval/cascade.json.",
    )
    cascade.add_argument("model", metavar="MODEL", help="directory of a transformer with its export")
    cascade.add_argument("baseline", metavar="BASELINE", help="directory or Hub id of a baseline")
    cascade.add_argument(
        "--engine",
        choices=("int8", "onnx"),
        default="int8",
        help="what computes the transformer (default: %(default)s)",
    )
    cascade.add_argument(
        "--max-accuracy-loss",
        type=float,
        default=0.002,
        metavar="SHARE",
        help="accuracy that may be lost against the best of the pair, never below the transformer alone less "
        "this (default: %(default)s)",
    )
    _add_data(cascade)
    cascade.set_defaults(run=_cascade)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="CSV file that the model's splits come from (default: the one that its recipe names)",
    )


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    """Options of which one would be ignored without a word.

    Raises:
        UserError: naming both.
    """
    from arxiv_cls.errors import UserError

    given = {
        "--split": arguments.split is not None,
        "--data": arguments.data is not None,
        "--dvc": arguments.dvc is not None,
    }
    if arguments.csv and (beside := [name for name, is_given in given.items() if is_given]):
        raise UserError(
            f"--csv scores a file, no split of the model's own data: {', '.join(beside)} cannot apply",
            hint=f"leave out --csv, or {' and '.join(beside)}",
        )
    elsewhere = {
        f"--split {arguments.split}": arguments.split not in (None, "test"),
        "--out": arguments.out is not None,
        f"--engine {arguments.engine}": arguments.engine in ("onnx", "int8"),
    }
    if arguments.dvc and (beside := [name for name, is_given in elsewhere.items() if is_given]):
        raise UserError(
            f"--dvc writes what MODEL/eval holds, the test split by the weights: {', '.join(beside)} "
            "is something else",
            hint=f"leave out --dvc, or {' and '.join(beside)}",
        )


def _evaluate(arguments: argparse.Namespace) -> None:
    _refuse_contradictions(arguments)
    from arxiv_cls.scoring.evaluation import evaluate_model
    from arxiv_cls.scoring.report import evaluation_table

    evaluation = evaluate_model(
        arguments.model,
        split=arguments.split or "test",
        csv=arguments.csv,
        data=arguments.data,
        out=arguments.out,
        engine=arguments.engine,
        rules=not arguments.no_rules,
        progress=True,
    )
    print(evaluation_table(evaluation))
    if arguments.dvc:
        from arxiv_cls.scoring.dvc_files import write_dvc_files

        write_dvc_files(evaluation, arguments.model, arguments.dvc)
    own = (
        arguments.csv is None
        and arguments.split in (None, "test")
        and Path(arguments.model).is_dir()
        and evaluation["engine"] in ("torch", "tfidf")
    )
    folder = arguments.out or (Path(arguments.model) / "eval" if own else None)
    if folder:
        print(f"\nwritten to {folder}")


def _compare(arguments: argparse.Namespace) -> None:
    from arxiv_cls.record.writing import write_json
    from arxiv_cls.scoring.comparison import compare_models, comparison_table

    comparison = compare_models(
        arguments.a, arguments.b, papers=arguments.papers, data=arguments.data, progress=True
    )
    print(comparison_table(comparison))
    if arguments.json:
        write_json(comparison, Path(arguments.json))


def _cascade(arguments: argparse.Namespace) -> None:
    from arxiv_cls.scoring.cascade_fitting import cascade_table, fit_cascade

    record = fit_cascade(
        arguments.model,
        arguments.baseline,
        engine=arguments.engine,
        max_accuracy_loss=arguments.max_accuracy_loss,
        data=arguments.data,
        progress=True,
    )
    print(cascade_table(record))
    print(f"\nwritten to {Path(arguments.model) / 'eval' / 'cascade.json'}")


def _visualize(arguments: argparse.Namespace) -> None:
    from arxiv_cls.scoring.visualization import visualize_model

    for line in visualize_model(
        arguments.model,
        split=arguments.split,
        method=arguments.method,
        max_papers=arguments.max_papers,
        data=arguments.data,
        out=arguments.out,
        progress=True,
    ):
        print(line)
