"""The verbs of this room: what makes, checks, releases and deploys a model or the data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from arxiv_cls.label_sets import LABEL_SETS
from arxiv_cls.release import deploy_commands


def _parser(subparsers: argparse._SubParsersAction, name: str, help: str) -> argparse.ArgumentParser:
    return subparsers.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verbs."""
    card = _parser(subparsers, "card", "write the card of a model directory from its records")
    card.add_argument("model", type=Path, metavar="MODEL", help="a model directory")
    card.add_argument("--repo", metavar="USER/NAME", help="the repository that the card names")
    card.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="take the release group from this recipe, where it changed since the training",
    )
    card.set_defaults(run=run_card)

    export = _parser(
        subparsers, "export", "write ONNX (fp32 and int8) and the endpoint handler beside the weights"
    )
    export.add_argument("model", type=Path, metavar="MODEL", help="a model directory with a transformer")
    export.add_argument(
        "--data", metavar="FILE", help="CSV file that the model's splits come from (default: its recipe's)"
    )
    export.add_argument(
        "--csv", metavar="FILE", help="measure on the rows of this file instead of the validation split"
    )
    export.add_argument("--no-int8", action="store_true", help="fp32 only; needs no papers")
    export.add_argument("--papers", type=int, metavar="N", help="measure on at most N papers (default: all)")
    export.add_argument(
        "--search-papers",
        type=int,
        default=300,
        metavar="N",
        help="papers that tell the int8 candidates apart (default: %(default)s)",
    )
    export.set_defaults(run=run_export)

    push = _parser(subparsers, "push-model", "release a model directory to the Hub")
    push.add_argument("model", type=Path, metavar="MODEL", help="a model directory")
    _add_push_arguments(push)
    push.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="CHECK",
        help="release although this check of the gate fails; the card will say so (repeatable)",
    )
    push.add_argument("--create-pr", action="store_true", help="open a pull request; run again once merged")
    push.add_argument("--csv", help="data to score both models with, where their predictions do not pair")
    push.set_defaults(run=run_push_model, narrated=True)

    dataset = _parser(subparsers, "push-dataset", "release the corpus to the Hub as Parquet with its card")
    _add_push_arguments(dataset)
    dataset.add_argument("--csv", help="the CSV file (default: data/raw/arxiv.csv)")
    dataset.add_argument(
        "--config",
        action="append",
        choices=LABEL_SETS,
        help="a label set to publish (repeatable; default: all of them)",
    )
    dataset.set_defaults(run=run_push_dataset, narrated=True)

    space = _parser(subparsers, "push-space", "show a model of the Hub in a Gradio Space")
    space.add_argument("model", metavar="MODEL", help="Hub id of the model, also user/name@v0.1.0")
    space.add_argument("--repo", required=True, metavar="USER/SPACE", help="the Space on the Hub")
    space.add_argument("--torch", action="store_true", help="compute with torch, for ZeroGPU hardware")
    space.add_argument("--private", action="store_true", help="create the Space private")
    space.set_defaults(run=run_push_space)

    releases = _parser(subparsers, "releases", "list the versions of a model on the Hub with their numbers")
    releases.add_argument("repo", metavar="USER/NAME")
    releases.set_defaults(run=run_releases)

    back = _parser(subparsers, "rollback", "make an older version current, with a new commit")
    back.add_argument("repo", metavar="USER/NAME")
    back.add_argument("version", metavar="VERSION", help="such as v1.2.0")
    back.set_defaults(run=run_rollback)

    verify = _parser(subparsers, "verify", "score a release again and hold its card against the result")
    verify.add_argument("release", metavar="USER/NAME@VERSION", help="a release, or a model directory")
    verify.add_argument("--csv", help="the CSV file (default: the one that the recipe names)")
    verify.add_argument(
        "--tolerance",
        type=float,
        default=5e-4,
        help="largest difference that is put down to rounding on other hardware (default: %(default)s)",
    )
    verify.set_defaults(run=run_verify, narrated=True)

    deploy_commands.register(subparsers)


def _add_push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", required=True, metavar="USER/NAME", help="the repository on the Hub")
    parser.add_argument("--version", metavar="VERSION", help="such as v1.2.0 (default: the next minor one)")
    parser.add_argument("--private", action="store_true", help="create the repository private")


def run_card(arguments: argparse.Namespace) -> None:
    """`arxiv-cls card MODEL`."""
    from arxiv_cls.release.card import write_model_card

    if arguments.recipe:
        from arxiv_cls.release.evidence import write_release_group

        write_release_group(arguments.model, arguments.recipe)
    print(write_model_card(arguments.model, repo_id=arguments.repo))


def run_export(arguments: argparse.Namespace) -> None:
    """`arxiv-cls export MODEL`."""
    from arxiv_cls.errors import UserError
    from arxiv_cls.release.onnx_export import export_model, export_report

    for name in ("papers", "search_papers"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is below 1")
    record = export_model(
        arguments.model,
        data=arguments.data,
        csv=arguments.csv,
        int8=not arguments.no_int8,
        papers=arguments.papers,
        search_papers=arguments.search_papers,
        progress=True,
    )
    print(export_report(arguments.model, record))


def run_push_model(arguments: argparse.Namespace) -> None:
    """`arxiv-cls push-model MODEL --repo USER/NAME`."""
    from arxiv_cls.release.hub_push import push_model

    outcome = push_model(
        arguments.model,
        arguments.repo,
        version=arguments.version,
        overrides=arguments.override,
        create_pr=arguments.create_pr,
        private=arguments.private,
        csv=arguments.csv,
    )
    if outcome.gate is not None:
        print("gate:")
        print(outcome.gate.summary())
    print(outcome.release.describe())


def run_push_dataset(arguments: argparse.Namespace) -> None:
    """`arxiv-cls push-dataset --repo USER/NAME`."""
    from arxiv_cls.release.dataset_push import push_dataset

    result = push_dataset(
        arguments.repo,
        csv=arguments.csv,
        configs=arguments.config or list(LABEL_SETS),
        version=arguments.version,
        private=arguments.private,
    )
    print(result.describe())


def run_push_space(arguments: argparse.Namespace) -> None:
    """`arxiv-cls push-space USER/NAME --repo USER/SPACE`."""
    from arxiv_cls.release.space_push import push_space

    result = push_space(arguments.repo, arguments.model, torch=arguments.torch, private=arguments.private)
    print(result.describe())


def run_releases(arguments: argparse.Namespace) -> None:
    """`arxiv-cls releases USER/NAME`."""
    from arxiv_cls.release.releases import format_releases, list_releases

    lines = list_releases(arguments.repo)
    print(format_releases(lines) if lines else f"{arguments.repo} has no releases")


def run_rollback(arguments: argparse.Namespace) -> None:
    """`arxiv-cls rollback USER/NAME VERSION`."""
    from arxiv_cls.release.releases import rollback

    commit = rollback(arguments.repo, arguments.version)
    print(f"{arguments.repo} serves {arguments.version} now (commit {commit[:12]})")


def run_verify(arguments: argparse.Namespace) -> int:
    """`arxiv-cls verify USER/NAME@VERSION`; status 1 when a number does not reproduce."""
    from arxiv_cls.release.verify import verify_release

    report = verify_release(arguments.release, csv=arguments.csv, tolerance=arguments.tolerance)
    print(report.summary())
    return 0 if report.reproduced else 1
