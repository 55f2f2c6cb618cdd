"""`arxiv-cls monitor reference`: what production is compared with."""

from __future__ import annotations

from typing import Annotated

import typer

from arxiv_cls.errors import UserError
from arxiv_cls.options import DataOption, DirectoryArgument

app = typer.Typer(help="Compare production with the test split, and act on it.")


@app.callback()
def monitor() -> None:
    """Compare production with the test split, and act on it."""


@app.command()
def reference(
    model: DirectoryArgument,
    data: DataOption = None,
    csv: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Papers that the model was not trained on, instead of the test split."
        ),
    ] = None,
    cascade: Annotated[
        str | None,
        typer.Option(metavar="BASELINE", help="Of a cascade: the baseline that answers before MODEL."),
    ] = None,
) -> None:
    """Make the reference of an older release.

    `arxiv-cls evaluate` and `arxiv-cls cascade` write it themselves.
    """
    from arxiv_cls.scoring.reference import make_cascade_reference, make_reference

    if cascade and csv:
        raise UserError("--cascade takes the test split: leave out --csv")
    if cascade:
        print(make_cascade_reference(model, cascade, data=data, progress=True))
    else:
        print(make_reference(model, data=data, csv=csv, progress=True))
