"""`arxiv-cls data fetch|join|build|check|stats|diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import DEFAULT_LABEL_SET
from arxiv_cls.options import LabelSet as ConfigOption
from arxiv_cls.record.files import write_atomically

if TYPE_CHECKING:
    from arxiv_cls.corpus.builder import Corpus

app = typer.Typer(help="Fetch, build, check and describe the corpus.")

CsvOption = Annotated[
    str | None, typer.Option("--csv", "--path", metavar="FILE", help="The file. Default: data/raw/arxiv.csv.")
]
SplitOption = Annotated[Literal["paper", "time"], typer.Option(help="How papers are split.")]
RecipeOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Take file, label set and split from this recipe.")
]
RecordOption = Annotated[
    Path | None, typer.Option("--out", metavar="JSON", help="Also write the counts to this file.")
]


def _corpus(
    config: str, csv: str | None, split: str, recipe: str | None = None
) -> tuple[Corpus, dict[str, Any]]:
    """The corpus that the command line names, and the keywords that built it."""
    from arxiv_cls.corpus import build_corpus

    options: dict[str, Any] = {"config": config, "csv": csv, "split": split}
    if recipe:
        from arxiv_cls.corpus.stats import recipe_data

        if csv:
            raise UserError("a recipe was named, and a CSV", "leave one of them out")
        options = recipe_data(recipe)
    return build_corpus(**options), options


def _write(path: Path, content: str | dict[str, Any]) -> None:
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "name another file: --out") from None


@app.command()
def fetch(
    remote: Annotated[
        str | None,
        typer.Option(metavar="URL_OR_DIR", help="A DVC remote: its URL, directory or configured name."),
    ] = None,
    source: Annotated[
        Literal["dvc", "kaggle", "kaggle-full"],
        typer.Option(
            help="kaggle: the public original, also as data/raw/arxiv.csv if there is none; "
            "kaggle-full: arXiv's whole snapshot."
        ),
    ] = "dvc",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a data/raw/arxiv.csv that DVC does not know.")
    ] = False,
) -> None:
    """Bring data/raw/arxiv.csv and verify it; `make data` calls this."""
    from arxiv_cls.corpus.fetch import fetch_from_dvc, fetch_from_kaggle, fetch_snapshot

    if source != "dvc" and remote:
        raise UserError("a remote was named, and Kaggle as the source", "leave one of them out")
    if source == "dvc":
        print(fetch_from_dvc(remote, force=force))
    else:
        print(fetch_from_kaggle() if source == "kaggle" else fetch_snapshot())


@app.command()
def join(
    csv: Annotated[Path, typer.Argument(metavar="CSV", help="A CSV without the column `categories`.")],
    categories: Annotated[
        Path, typer.Argument(metavar="CATEGORIES", help="id, tab, codes with blanks between; also as .gz.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The CSV with the column.")],
) -> None:
    """Add the column of all categories of a paper to a CSV."""
    from arxiv_cls.corpus.papers import join_categories

    print(join_categories(csv, categories, out))


@app.command()
def build(
    csv: CsvOption = None,
    config: ConfigOption = DEFAULT_LABEL_SET,
    split: SplitOption = "paper",
    recipe: RecipeOption = None,
    out: RecordOption = None,
) -> None:
    """Build the splits and print the report."""
    corpus, options = _corpus(config, csv, split, recipe)
    print(corpus.report.summary())
    if out:
        from arxiv_cls.corpus.stats import build_record

        _write(out, build_record(corpus, options))


@app.command()
def check(
    csv: CsvOption = None,
    config: ConfigOption = DEFAULT_LABEL_SET,
    split: SplitOption = "paper",
    recipe: RecipeOption = None,
    out: RecordOption = None,
    threshold: Annotated[
        float,
        typer.Option(
            metavar="J", help="Jaccard similarity of word shingles from which two texts count as one."
        ),
    ] = 0.8,
    show: Annotated[int, typer.Option(metavar="N", help="Pairs to print.")] = 20,
) -> None:
    """Print the build report, and near-duplicates across splits."""
    from arxiv_cls.corpus.stats import check_record, find_near_duplicates

    corpus, _ = _corpus(config, csv, split, recipe)
    print(corpus.report.summary(), end="\n\n")
    found = find_near_duplicates(corpus, threshold=threshold)
    print(found.summary(show))
    if out:
        _write(out, check_record(corpus, found))


@app.command()
def stats(
    csv: CsvOption = None,
    config: ConfigOption = DEFAULT_LABEL_SET,
    split: SplitOption = "paper",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the plots.")] = Path(
        "outputs/data-stats"
    ),
) -> None:
    """Counts per split, label and year, text lengths; as tables and plots."""
    from arxiv_cls.corpus.stats import paper_table, summary, write_plots

    corpus, _ = _corpus(config, csv, split)
    table = paper_table(corpus)
    print(summary(table))
    for path in write_plots(table, config, out):
        print(path)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The CSV of before.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The CSV of after.")],
    config: ConfigOption = DEFAULT_LABEL_SET,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the Markdown there, not to the screen.")
    ] = None,
) -> None:
    """What changes between two CSV files: counts, papers, label shift."""
    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.corpus.stats import compare_corpora

    report = compare_corpora(*(build_corpus(config, csv=csv) for csv in (old, new))).markdown()
    if out:
        _write(out, report)
    else:
        print(report, end="")
