"""`arxiv-cls predict`: texts, a CSV, or files of any size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from arxiv_cls.errors import UserError
from arxiv_cls.options import EngineOption, ModelArgument

app = typer.Typer()


@app.command()
def predict(
    model: ModelArgument,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Title and abstract. None: a text per line of standard input."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Score the rows of this file instead.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --csv: the file to write.")] = None,
    top_k: Annotated[int, typer.Option(metavar="K", help="Labels shown per text.")] = 3,
    engine: EngineOption = None,
    paths: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="PATH...",
            help="Files, folders or globs of CSV, JSON Lines, Parquet; also in buckets.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="With --input: folder or bucket for the Parquet files.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes. Default: one for each 4 cores.")
    ] = None,
    runner: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes here, or tasks of Ray.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, such as auto. Default: RAY_ADDRESS, or one started here.")
    ] = None,
    shard_rows: Annotated[int, typer.Option(metavar="N", min=1, help="Most rows of an output file.")] = 5000,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="The model's features instead of labels and scores.")
    ] = False,
) -> None:
    """Name the category of texts, of the rows of a CSV, or of files of any size.

    Texts are arguments or lines of standard input. A run over --input that was interrupted goes on when the
    same command runs again.

    \b
    Examples:
      arxiv-cls predict outputs/minilm "Attention is all you need. We propose ..."
      arxiv-cls predict user/name@v1.2.0 --csv papers.csv --out predictions.csv --engine int8
      arxiv-cls predict user/name --input 'gs://my_bucket/*.jsonl' --output gs://my_bucket/scores
    """
    if bool(paths) != bool(output) or (paths and (csv or out)):
        raise UserError("predict: --input PATH... goes with --output DIR, and without --csv and --out")
    if not paths:
        of_files = {
            "--address": address,
            "--workers": workers,
            "--embeddings": embeddings,
            "--runner ray": runner == "ray",
        }
        if given := [name for name, value in of_files.items() if value]:
            raise UserError(f"predict: {' and '.join(given)} go with --input PATH... --output DIR")
        _predict_here(model, texts, csv, out, top_k, engine)
        return
    if address and runner == "local":
        raise UserError("predict: --address is of --runner ray")
    from arxiv_cls.batch.runs import predict_files

    # A shell's glob leaves the further files behind the option.
    summary = predict_files(
        model, [*paths, *(texts or [])], output or "", engine=engine, workers=workers, runner=runner,
        address=address, shard_rows=shard_rows, embeddings=embeddings, progress=sys.stderr.isatty(),
    )  # fmt: skip
    print("\n".join(summary.lines(output or "")))


def _predict_here(
    model: str, texts: list[str] | None, csv: Path | None, out: Path | None, top_k: int, engine: str | None
) -> None:
    """Texts to the screen, or a CSV to a CSV."""
    from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES

    if bool(csv) != bool(out) or (csv and texts):
        raise UserError("predict: --csv FILE goes with --out FILE, and without texts")
    if csv and csv.suffix.lower() in {".json", ".jsonl", ".ndjson", ".parquet", ".pq", ".gz", ".zst"}:
        raise UserError(f"predict: --csv {csv}: no CSV", f"--input {csv} --output DIR reads every format")
    if top_k < 1:
        raise UserError(f"predict: --top-k {top_k} is below 1")
    if not csv and not texts and sys.stdin.isatty():
        raise UserError("predict: no text", hint='arxiv-cls predict MODEL "title and abstract"')
    try:
        texts = texts or ([] if csv else [line.strip() for line in sys.stdin if line.strip()])
        "".join(texts).encode()
    except UnicodeError:
        raise UserError(
            "predict: a text is not UTF-8", hint="convert it first, for example with iconv"
        ) from None
    if not csv and not texts:
        raise UserError("predict: standard input is empty")
    from arxiv_cls.models.predictor import load_predictor

    predictor = load_predictor(model, engine=engine)
    if csv and out:
        from arxiv_cls.models.predict_csv import predict_csv

        scored, failed = predict_csv(predictor, csv, out, progress=sys.stderr.isatty())
        print(f"{out}: {scored:,} rows scored, {failed:,} with an error")
        return
    for text, prediction in zip(texts, predictor.predict(texts, top_k=top_k), strict=True):
        first_line = text.splitlines()[0]
        print(first_line if len(first_line) <= 80 else first_line[:77] + "...")
        for label, score in prediction.scores.items():
            print(f"  {score:6.3f}  {label:<16} {CATEGORY_NAMES.get(label, '')}".rstrip())
        if prediction.prediction_set is not None and predictor.multi_label:
            named = ", ".join(prediction.prediction_set) or "none"
            print(f"  labels at or above their thresholds: {named}")
        elif prediction.prediction_set is not None:
            print(f"  with 90% probability one of: {', '.join(prediction.prediction_set)}")
        if prediction.no_known_words:
            print("  nothing to judge by: the model knows none of the words")
        if prediction.in_scope is False:
            print(
                f"  out of scope: likely none of the model's categories (scope {prediction.scope_score:.3f})"
            )
        if prediction.truncated:
            print("  (longer than the model reads: the end was cut)")
