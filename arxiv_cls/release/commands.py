"""The verbs of this room: `card`, `push-model`, `push-dataset`, `releases`, `rollback`, `verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

CONFIGS = ("top5", "top10", "top20", "archive", "all")


def _parser(subparsers: argparse._SubParsersAction, name: str, help: str) -> argparse.ArgumentParser:
    return subparsers.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verbs."""
    card = _parser(subparsers, "card", "write the card of a model directory from its records")
    card.add_argument("model", type=Path, metavar="MODEL", help="a model directory")
    card.add_argument("--repo", metavar="USER/NAME", help="the repository that the card names")
    card.set_defaults(run=run_card)

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
    push.set_defaults(run=run_push_model)

    dataset = _parser(subparsers, "push-dataset", "release the corpus to the Hub as Parquet with its card")
    _add_push_arguments(dataset)
    dataset.add_argument("--csv", help="the CSV file (default: data/raw/arxiv.csv)")
    dataset.add_argument(
        "--config",
        action="append",
        choices=CONFIGS,
        help="a label set to publish (repeatable; default: all of them)",
    )
    dataset.set_defaults(run=run_push_dataset)

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
    verify.set_defaults(run=run_verify)


def _add_push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", required=True, metavar="USER/NAME", help="the repository on the Hub")
    parser.add_argument("--version", metavar="VERSION", help="such as v1.2.0 (default: the next minor one)")
    parser.add_argument("--private", action="store_true", help="create the repository private")


def run_card(arguments: argparse.Namespace) -> None:
    """`arxiv-cls card MODEL`."""
    from arxiv_cls.release.card import write_model_card

    print(write_model_card(arguments.model, repo_id=arguments.repo))


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
        configs=arguments.config or CONFIGS,
        version=arguments.version,
        private=arguments.private,
    )
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
