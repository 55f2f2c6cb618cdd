"""`arxiv-cls export|card|push-model|push-dataset|push-space|releases|rollback|verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arxiv_cls.options import DataOption, DirectoryArgument, PrivateOption, RepoOption, VersionOption

app = typer.Typer()
results_app = typer.Typer(help="Results on record: results/ and its tables.")
app.add_typer(results_app, name="results")

HubModel = Annotated[str, typer.Argument(metavar="USER/NAME", help="A model repository on the Hub.")]


@app.command()
def card(
    model: DirectoryArgument,
    repo: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="The repository that the card names.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take the release group from this recipe, where it changed since the training.",
        ),
    ] = None,
) -> None:
    """Write the model card from the records."""
    from arxiv_cls.release.card import write_model_card

    if recipe:
        from arxiv_cls.record.directory import write_release_group

        write_release_group(model, recipe)
    print(write_model_card(model, repo_id=repo))


@app.command()
def export(
    model: DirectoryArgument,
    data: DataOption = None,
    csv: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Measure on the rows of this file instead of the validation split."
        ),
    ] = None,
    no_int8: Annotated[bool, typer.Option("--no-int8", help="fp32 only; needs no papers.")] = False,
    papers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Measure on at most N papers. Default: all.")
    ] = None,
    search_papers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Papers that tell the int8 candidates apart.")
    ] = 300,
) -> None:
    """Write ONNX files and the endpoint handler.

    fp32 and int8, beside the weights, compared with them on validation papers.

    \b
    Examples:
      arxiv-cls export outputs/minilm
      arxiv-cls export outputs/minilm --no-int8
    """
    from arxiv_cls.export.onnx_export import export_model, export_report

    record = export_model(
        model,
        data=data,
        csv=csv,
        int8=not no_int8,
        papers=papers,
        search_papers=search_papers,
        progress=True,
    )
    print(export_report(model, record))


@app.command()
def push_model(
    model: DirectoryArgument,
    repo: RepoOption,
    version: VersionOption = None,
    private: PrivateOption = False,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK",
            help="Release although this check of the gate fails; the card says so (repeatable).",
        ),
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request; run again once it is merged.")
    ] = False,
    csv: Annotated[
        str | None,
        typer.Option(help="Data to score both models with, where their predictions do not pair."),
    ] = None,
) -> None:
    """Release a model to the Hub.

    The gate first, then one commit and a tag.

    \b
    Examples:
      arxiv-cls push-model outputs/minilm --repo user/arxiv-minilm
      arxiv-cls push-model outputs/minilm --repo user/arxiv-minilm --version v1.2.0 --create-pr
    """
    from arxiv_cls.release.push_model import push_model as push

    outcome = push(
        model, repo, version=version, overrides=override or [], create_pr=create_pr, private=private, csv=csv
    )
    if outcome.gate is not None:
        print("gate:")
        print(outcome.gate.summary())
    print(outcome.release.describe())


@app.command()
def push_dataset(
    repo: RepoOption,
    version: VersionOption = None,
    private: PrivateOption = False,
    csv: Annotated[str | None, typer.Option(help="The CSV file. Default: data/raw/arxiv.csv.")] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(help="A label set to publish (repeatable). Default: all of them."),
    ] = None,
) -> None:
    """Release the corpus to the Hub as Parquet."""
    from arxiv_cls.label_sets import LABEL_SETS
    from arxiv_cls.release.push_dataset import push_dataset as push

    print(
        push(repo, csv=csv, configs=config or list(LABEL_SETS), version=version, private=private).describe()
    )


@app.command()
def push_space(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hub id of the model, also user/name@v0.1.0.")
    ],
    repo: Annotated[str, typer.Option(metavar="USER/SPACE", help="The Space on the Hub.")],
    torch: Annotated[bool, typer.Option("--torch", help="Compute with torch, for ZeroGPU hardware.")] = False,
    private: PrivateOption = False,
) -> None:
    """Show a model of the Hub in a Gradio Space."""
    from arxiv_cls.release.push_space import push_space as push

    print(push(repo, model, torch=torch, private=private).describe())


@app.command()
def download(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="wandb:ENTITY/PROJECT/NAME:ALIAS, user/name@v1.0.0.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: outputs/NAME.")] = None,
) -> None:
    """Download a model and verify its checksums."""
    from arxiv_cls.release.download import download_model

    print(f"{download_model(model, out)}: downloaded, no file has another checksum than its record")


@app.command()
def releases(repo: HubModel) -> None:
    """List the released versions of a model."""
    from arxiv_cls.release.releases import list_releases

    print(list_releases(repo))


@app.command()
def rollback(
    repo: HubModel, version: Annotated[str, typer.Argument(metavar="VERSION", help="Such as v1.2.0.")]
) -> None:
    """Make an older version current, with a new commit."""
    from arxiv_cls.release.releases import rollback as roll_back

    commit = roll_back(repo, version)
    print(f"{repo} serves {version} now (commit {commit[:12]})")


@app.command()
def verify(
    release: Annotated[
        str, typer.Argument(metavar="USER/NAME@VERSION", help="A release, or a model directory.")
    ],
    csv: Annotated[
        str | None, typer.Option(help="The CSV file. Default: the one that the recipe names.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference that other hardware explains by rounding.")
    ] = 5e-4,
) -> int:
    """Score a release again and compare its numbers.

    The exit status is 1 when a number differs.
    """
    from arxiv_cls.release.verify import verify_release

    report = verify_release(release, csv=csv, tolerance=tolerance)
    print(report.summary())
    return 0 if report.reproduced else 1


@results_app.command()
def add(
    model: DirectoryArgument,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the record of another run of this recipe and seed.")
    ] = False,
) -> None:
    """Put a model's test results on record.

    Copies run record, metrics and predictions into results/RECIPE-SEED; needs that no tracked file differs
    from its commit, now and when the model was trained.
    """
    from arxiv_cls.release.results import add_result

    print(
        f"{add_result(model, Path('results'), overwrite=overwrite)}: added; `make results` writes the tables"
    )


@results_app.command()
def tables() -> None:
    """Write the tables of README and docs anew."""
    from arxiv_cls.release.results import write_tables

    print("\n".join(str(path) for path in write_tables(Path())) or "every table is as results/ has it")
