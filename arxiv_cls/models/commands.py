"""The verbs of this room: predict, local-distilbert."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verbs to the parser of `arxiv-cls`."""
    predict = subparsers.add_parser(
        "predict",
        help="name the category of texts or of the rows of a CSV",
        description="Names the category of each text: arguments, lines of standard input, or rows of a CSV.",
    )
    predict.add_argument("model", metavar="MODEL", help="model directory or Hub id, also user/name@v0.1.0")
    predict.add_argument(
        "texts", metavar="TEXT", nargs="*", help="title and abstract; none: a text per line of stdin"
    )
    predict.add_argument("--csv", type=Path, help="score the rows of this file instead")
    predict.add_argument("--out", type=Path, help="with --csv: the file to write")
    predict.add_argument(
        "--top-k", type=int, default=3, metavar="K", help="labels shown per text (default 3)"
    )
    predict.add_argument(
        "--engine",
        choices=("torch", "onnx", "int8"),
        help="what computes a transformer (default: torch); onnx and int8 need `arxiv-cls export MODEL`",
    )
    predict.set_defaults(run=_predict)

    distilbert = subparsers.add_parser(
        "local-distilbert",
        help="make a DistilBERT from MiniLM's weights, without the Hub",
        description="Writes a DistilBERT with the weights of a BERT, by default the installed MiniLM.",
    )
    distilbert.add_argument("out", metavar="OUT", type=Path, help="new directory")
    distilbert.add_argument("--source", help="directory, Hub id or package: of the BERT")
    distilbert.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    distilbert.set_defaults(run=_local_distilbert)


def _predict(arguments: argparse.Namespace) -> int:
    from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
    from arxiv_cls.errors import UserError
    from arxiv_cls.models.predictor import load_predictor

    if bool(arguments.csv) != bool(arguments.out) or (arguments.csv and arguments.texts):
        raise UserError("predict: --csv FILE goes with --out FILE, and without texts")
    if arguments.top_k < 1:
        raise UserError(f"predict: --top-k {arguments.top_k} is below 1")
    texts = arguments.texts
    if not arguments.csv and not texts:
        if sys.stdin.isatty():
            raise UserError("predict: no text", hint='arxiv-cls predict MODEL "title and abstract"')
        texts = [line.strip() for line in sys.stdin if line.strip()]
        if not texts:
            raise UserError("predict: standard input is empty")
    predictor = load_predictor(arguments.model, engine=arguments.engine)
    if arguments.csv:
        from arxiv_cls.models.predict_csv import predict_csv

        scored, failed = predict_csv(predictor, arguments.csv, arguments.out, progress=sys.stderr.isatty())
        print(f"{arguments.out}: {scored:,} rows scored, {failed:,} with an error")
        return 0
    for text, said in zip(texts, predictor.predict(texts, top_k=arguments.top_k), strict=True):
        first_line = text.splitlines()[0]
        print(first_line if len(first_line) <= 80 else first_line[:77] + "...")
        for label, score in said.scores.items():
            print(f"  {score:6.3f}  {label:<16} {CATEGORY_NAMES.get(label, '')}".rstrip())
        if said.prediction_set is not None:
            print(f"  with 90% probability one of: {', '.join(said.prediction_set)}")
        if said.in_scope is False:
            print(f"  out of scope: likely none of the model's categories (scope {said.scope_score:.3f})")
        if said.truncated:
            print("  (longer than the model reads: the end was cut)")
    return 0


def _local_distilbert(arguments: argparse.Namespace) -> int:
    from arxiv_cls.models.local_distilbert import DEFAULT_SOURCE, write_local_distilbert

    out = write_local_distilbert(
        arguments.out, arguments.source or DEFAULT_SOURCE, overwrite=arguments.overwrite
    )
    print(f"{out}: a DistilBERT; train it with --model.name_or_path {out}")
    return 0
