"""`arxiv-cls evaluate|compare|visualize|cascade|local-distilbert`: what measures models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from arxiv_cls.errors import UserError
from arxiv_cls.options import DataOption, EngineOption, ModelArgument, Split

app = typer.Typer()


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
