"""The commands `arxiv-cls data fetch|build|check|stats|diff`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import DEFAULT_LABEL_SET, LABEL_SETS

if TYPE_CHECKING:
    from arxiv_cls.corpus.builder import Corpus


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds `data` and its commands."""
    data = subparsers.add_parser("data", help="fetch, build, check and describe the corpus")
    verbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)

    fetch = verbs.add_parser("fetch", help="bring data/raw/arxiv.csv and verify it (`make data` calls this)")
    fetch.add_argument(
        "--remote",
        metavar="URL_OR_DIR",
        help="a DVC remote url, a directory, or the name of a configured remote",
    )
    fetch.add_argument(
        "--source",
        choices=("dvc", "kaggle"),
        default="dvc",
        help="kaggle: the public original, as data/raw/arxiv_kaggle.csv and, if there is none, as "
        "data/raw/arxiv.csv (default: %(default)s)",
    )
    fetch.add_argument(
        "--force", action="store_true", help="replace a data/raw/arxiv.csv that DVC does not know"
    )
    fetch.set_defaults(run=_fetch)

    build = verbs.add_parser("build", help="build the splits and print the report")
    _add_corpus_arguments(build)
    _add_stage_arguments(build)
    build.set_defaults(run=_build)

    check = verbs.add_parser("check", help="the build report, and near-duplicates across splits")
    _add_corpus_arguments(check)
    _add_stage_arguments(check)
    check.add_argument(
        "--threshold",
        type=float,
        default=0.8,
        metavar="J",
        help="Jaccard similarity of word shingles from which two texts count as one (default: %(default)s)",
    )
    check.add_argument(
        "--show", type=int, default=20, metavar="N", help="pairs to print (default: %(default)s)"
    )
    check.set_defaults(run=_check)

    stats = verbs.add_parser(
        "stats", help="counts per split, label and year, text lengths; as tables and plots"
    )
    _add_corpus_arguments(stats)
    stats.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("outputs/data-stats"),
        help="folder for the plots (default: %(default)s)",
    )
    stats.set_defaults(run=_stats)

    diff = verbs.add_parser("diff", help="what changes between two CSV files: counts, papers, label shift")
    diff.add_argument("old", metavar="OLD", help="the CSV of before")
    diff.add_argument("new", metavar="NEW", help="the CSV of after")
    diff.add_argument(
        "--config", choices=LABEL_SETS, default=DEFAULT_LABEL_SET, help="label set (default: %(default)s)"
    )
    diff.add_argument("--out", type=Path, metavar="FILE", help="write the Markdown there, not to the screen")
    diff.set_defaults(run=_diff)


def _add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", metavar="FILE", help="the CSV (default: data/raw/arxiv.csv)")
    parser.add_argument(
        "--config", choices=LABEL_SETS, default=DEFAULT_LABEL_SET, help="label set (default: %(default)s)"
    )
    parser.add_argument(
        "--split",
        choices=("paper", "time"),
        default="paper",
        help="how papers are split (default: %(default)s)",
    )


def _add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", metavar="FILE", help="take file, label set and split from this recipe")
    parser.add_argument("--out", type=Path, metavar="JSON", help="also write the counts to this file")


def _corpus(arguments: argparse.Namespace) -> tuple[Corpus, dict]:
    """The corpus that the command line names, and the keywords that built it."""
    from arxiv_cls.corpus import build_corpus

    options = {"config": arguments.config, "csv": arguments.csv, "split": arguments.split}
    if getattr(arguments, "recipe", None):
        from arxiv_cls.corpus.stats import recipe_data

        if arguments.csv:
            raise UserError("a recipe was named, and a CSV", "leave one of them out")
        options = recipe_data(arguments.recipe)
    return build_corpus(**options), options


def _fetch(arguments: argparse.Namespace) -> None:
    if arguments.source == "kaggle":
        if arguments.remote:
            raise UserError("a remote was named, and Kaggle as the source", "leave one of them out")
        from arxiv_cls.corpus.fetch import fetch_from_kaggle

        print(fetch_from_kaggle())
    else:
        from arxiv_cls.corpus.fetch import fetch_from_dvc

        print(fetch_from_dvc(arguments.remote, force=arguments.force))


def _build(arguments: argparse.Namespace) -> None:
    corpus, options = _corpus(arguments)
    print(corpus.report.summary())
    if arguments.out:
        from arxiv_cls.corpus.stats import build_record, write_record

        write_record(build_record(corpus, options), arguments.out)


def _check(arguments: argparse.Namespace) -> None:
    from arxiv_cls.corpus.stats import find_near_duplicates

    corpus, _ = _corpus(arguments)
    print(corpus.report.summary())
    print()
    found = find_near_duplicates(corpus, threshold=arguments.threshold)
    print(found.summary(arguments.show))
    if arguments.out:
        from arxiv_cls.corpus.stats import check_record, write_record

        write_record(check_record(corpus, found), arguments.out)


def _stats(arguments: argparse.Namespace) -> None:
    from arxiv_cls.corpus.stats import paper_table, summary, write_plots

    corpus, _ = _corpus(arguments)
    table = paper_table(corpus)
    print(summary(table))
    for path in write_plots(table, corpus.report.config, arguments.out):
        print(path)


def _diff(arguments: argparse.Namespace) -> None:
    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.corpus.stats import compare_corpora

    old, new = (build_corpus(arguments.config, csv=csv) for csv in (arguments.old, arguments.new))
    report = compare_corpora(old, new).markdown()
    if arguments.out is None:
        print(report, end="")
        return
    try:
        arguments.out.write_text(report, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {arguments.out}: {error.strerror}", "name another file") from None
