"""`arxiv-cls predict|evaluate|compare|visualize|cascade|local-distilbert`: what scores papers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from arxiv_cls.errors import UserError
from arxiv_cls.options import DataOption, EngineOption, ModelArgument, Split

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
) -> None:
    """Name the category of texts or of the rows of a CSV.

    Texts are arguments or lines of standard input.

    \b
    Examples:
      arxiv-cls predict outputs/minilm "Attention is all you need. We propose ..."
      arxiv-cls predict user/name@v1.2.0 --csv papers.csv --out predictions.csv --engine int8
    """
    from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES

    if bool(csv) != bool(out) or (csv and texts):
        raise UserError("predict: --csv FILE goes with --out FILE, and without texts")
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
        if prediction.prediction_set is not None:
            print(f"  with 90% probability one of: {', '.join(prediction.prediction_set)}")
        if prediction.no_known_words:
            print("  nothing to judge by: the model knows none of the words")
        if prediction.in_scope is False:
            print(
                f"  out of scope: likely none of the model's categories (scope {prediction.scope_score:.3f})"
            )
        if prediction.truncated:
            print("  (longer than the model reads: the end was cut)")


@app.command()
def evaluate(
    model: ModelArgument,
    split: Annotated[Split | None, typer.Option(help="Split of the model's own data. Default: test.")] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Score this file's papers instead.")] = None,
    data: DataOption = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="For all files. Default: MODEL/eval for the test split, else none."),
    ] = None,
    engine: EngineOption = None,
    no_rules: Annotated[
        bool, typer.Option("--no-rules", help="Fit no prediction sets and no out-of-scope rule.")
    ] = False,
    dvc: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write what `dvc metrics` and `dvc plots` read.")
    ] = None,
) -> None:
    """Measure a model on a split or a CSV.

    Metrics with intervals, calibration, plots.

    MODEL/eval belongs to the weights: the figures of an ONNX engine are printed, and written only to --out.

    \b
    Examples:
      arxiv-cls evaluate outputs/minilm
      arxiv-cls evaluate user/name --csv papers.csv --out outputs/check
    """
    if csv:
        given = {"--split": split, "--data": data, "--dvc": dvc}
        _refuse("--csv scores a file, no split of the model's own data", given)
    if dvc:
        other = {
            f"--split {split}": split not in (None, "test"),
            "--out": out,
            f"--engine {engine}": engine in ("onnx", "int8"),
        }
        _refuse("--dvc writes what MODEL/eval holds, the test split by the weights", other)
    from arxiv_cls.scoring.evaluation import evaluate_model, evaluation_table, write_dvc_files

    evaluation = evaluate_model(
        model, split=split or "test", csv=csv, data=data, out=out, engine=engine, rules=not no_rules
    )
    print(evaluation_table(evaluation))
    if dvc:
        write_dvc_files(evaluation, model, dvc)
    own = evaluation["split"] == "test" and evaluation["engine"] in ("torch", "tfidf")
    if folder := out or (Path(model) / "eval" if own and Path(model).is_dir() else None):
        print(f"\nwritten to {folder}")


def _refuse(why: str, options: dict[str, Any]) -> None:
    """Options that another one would leave without effect."""
    if given := [name for name, value in options.items() if value]:
        names = " and ".join(given)
        raise UserError(f"{why}: {names} cannot apply", f"leave out {why.split()[0]}, or {names}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Model directory, Hub id or predictions.parquet.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The model that A is compared with, likewise.")],
    papers: Annotated[int, typer.Option(metavar="N", help="Papers to show.")] = 5,
    data: DataOption = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write all to this file.")] = None,
) -> None:
    """Compare two models on the same papers."""
    from arxiv_cls.record.files import write_json
    from arxiv_cls.scoring.comparison import compare_models, comparison_table

    comparison = compare_models(a, b, papers=papers, data=data)
    print(comparison_table(comparison))
    if json:
        write_json(comparison, json)


@app.command()
def visualize(
    model: ModelArgument,
    split: Annotated[Split, typer.Option(help="Split to show.")] = "test",
    method: Annotated[
        Literal["tsne", "umap"], typer.Option(help="umap needs the package umap-learn.")
    ] = "tsne",
    max_papers: Annotated[int, typer.Option(metavar="N", help="Papers on the map.")] = 2000,
    data: DataOption = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Folder. Default: MODEL/eval.")] = None,
) -> None:
    """Map the embeddings; list a baseline's terms."""
    from arxiv_cls.scoring.plots import visualize_model

    lines = visualize_model(model, split=split, method=method, max_papers=max_papers, data=data, out=out)
    print("\n".join(lines))


@app.command()
def cascade(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Directory of a transformer with its export.")
    ],
    baseline: Annotated[str, typer.Argument(metavar="BASELINE", help="Directory or Hub id of a baseline.")],
    engine: Annotated[Literal["int8", "onnx"], typer.Option(help="What computes the transformer.")] = "int8",
    max_accuracy_loss: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Accuracy to lose to the best of the pair, or the transformer."),
    ] = 0.002,
    data: DataOption = None,
) -> None:
    """Fit when a baseline answers first.

    Chooses on the validation split when the baseline answers alone and how many tokens the transformer reads
    of the rest, and writes MODEL/eval/cascade.json, and the reference of both halves for monitoring.
    """
    from arxiv_cls.scoring.cascade_fitting import cascade_table, fit_cascade
    from arxiv_cls.scoring.reference import make_cascade_reference

    record = fit_cascade(model, baseline, engine=engine, max_accuracy_loss=max_accuracy_loss, data=data)
    make_cascade_reference(model, baseline, data=data)
    print(cascade_table(record))
    print(f"\nwritten to {Path(model) / 'eval' / 'cascade.json'}")


@app.command()
def local_distilbert(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New directory.")],
    source: Annotated[
        str | None, typer.Option(help="Directory, Hub id or package: of the BERT. Default: MiniLM.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
) -> None:
    """Make a DistilBERT from MiniLM's weights.

    Works without the Hub; --source names the weights of another BERT.
    """
    from arxiv_cls.models.loading import DEFAULT_SOURCE, write_local_distilbert

    written = write_local_distilbert(out, source or DEFAULT_SOURCE, overwrite=overwrite)
    print(f"{written}: a DistilBERT; train it with --model.name_or_path {written}")
