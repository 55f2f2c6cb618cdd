"""Arguments and options that several commands of `arxiv-cls` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import label_set

Engine = Literal["torch", "onnx", "int8"]
Split = Literal["train", "validation", "test"]


def _known_label_set(name: str) -> str:
    try:
        label_set(name)
    except ValueError as error:
        raise UserError(f"--config: {error}") from None
    return name


LabelSet = Annotated[
    str, typer.Option("--config", callback=_known_label_set, help="Label set: top<N>, archive or all.")
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model directory or Hub id, also user/name@v0.1.0.")
]
DirectoryArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A model directory.")]
EngineOption = Annotated[
    Engine | None,
    typer.Option(
        help="What computes a transformer; onnx and int8 need `arxiv-cls export MODEL`. No baseline uses it."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="FILE", help="CSV that the model's splits come from. Default: the recipe's."
    ),
]
RepoOption = Annotated[str, typer.Option("--repo", metavar="USER/NAME", help="The repository on the Hub.")]
VersionOption = Annotated[
    str | None,
    typer.Option("--version", metavar="VERSION", help="Such as v1.2.0. Default: the next minor one."),
]
PrivateOption = Annotated[bool, typer.Option("--private", help="Create the repository private.")]
