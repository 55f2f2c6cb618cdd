"""Results on record: a folder of `results/` for each recipe and seed, and the tables that are made of them.

`arxiv-cls results add` copies run record, evaluation and predictions of a model whose provenance is complete;
`make results` writes every table between `<!-- results: NAME -->` and `<!-- /results -->` anew.
"""

from __future__ import annotations

import itertools
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from arxiv_cls.errors import UserError
from arxiv_cls.record.directory import read_model_directory
from arxiv_cls.record.files import checked_record, file_sha256, write_atomically
from arxiv_cls.record.manifest import METRICS, PREDICTIONS, RUN_RECORD
from arxiv_cls.record.model_files import SCHEMAS, read_record
from arxiv_cls.record.run_record import git_state
from arxiv_cls.release.gate_checks import (
    LOCAL_CHECKS,
    compare_numbers,
    listed,
    metrics_of_predictions,
    numbers,
    resampler_of,
)
from arxiv_cls.scoring.comparison import compare_predictions
from arxiv_cls.scoring.intervals import intervals_of
from arxiv_cls.scoring.multi_label import TASK
from arxiv_cls.scoring.scored_papers import Predictions, read_predictions

FILES = {RUN_RECORD: "run.json", METRICS: "metrics.json", PREDICTIONS: "predictions.parquet"}
"""Of a model directory, and their names in a folder of `results/`."""
LARGEST_FILE = 300_000  # bytes
LARGEST_MULTI_LABEL_FILE = 2_000_000  # the recipes' label set holds six times the papers of the others'
CHECKS = ("checksums", "weights", "data", "predictions", "commit", "clean-tree", "recipe")
# Another value of these is the same recipe; the data is known by its sha256.
FREE_KEYS = frozenset({"trainer.seed", "output_dir", "report_to", "cpu_threads", "csv", "path"})
PAGES = ("README.md", "docs/*.md")
REGION = re.compile(
    r"(?P<start><!-- results: (?P<name>[\w-]+) -->\n)(?P<table>.*?)(?P<end><!-- /results -->)", re.DOTALL
)
ROUNDING = 1e-9


class Result(NamedTuple):
    """One folder of `results/`."""

    folder: Path
    run: dict[str, Any]
    evaluation: dict[str, Any]
    predictions: Predictions

    @property
    def recipe(self) -> str:
        """The recipe's file name without suffix."""
        return self.run["recipe"]


def add_result(model_dir: str | Path, results: Path, *, overwrite: bool = False) -> Path:
    """Copies the records of a model into `results/<recipe>-<seed>/`; `overwrite`: also over another run.

    Raises:
        UserError: the tree has changes that are not committed, or did when the model was trained, the
            provenance is incomplete, the recipe was overridden, or a file is too large.
    """
    model = read_model_directory(model_dir)
    if git_state()["dirty"] is not False:
        raise UserError(
            "tracked files differ from the commit, or there is no repository", "commit them first"
        )
    verdicts = [LOCAL_CHECKS[name](model) for name in CHECKS]
    problems = [str(verdict) for verdict in verdicts if not (verdict.passed and verdict.checked)]
    overrides = model.run.get("overrides", ())
    if other := [key for key in overrides if not {key, key.rpartition(".")[2]} & FREE_KEYS]:
        problems.append(f"overrides: not the recipe as its file has it: {listed(other)}")
    sizes = {path: (model.model_dir / path).stat().st_size for path in FILES if not problems}
    largest = LARGEST_MULTI_LABEL_FILE if model.run["data"].get("task") == TASK else LARGEST_FILE
    if large := [path for path, size in sizes.items() if size >= largest]:
        problems.append(f"size: {listed(large)} has {largest:,} bytes or more")
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        hint = "train the recipe as it is committed, from a tree without changes, and evaluate it"
        raise UserError(f"{model_dir}: no result on record can be made of it:{lines}", hint)
    folder = results / f"{model.run['recipe']}-{model.run['seed']}"
    kept = folder / FILES[RUN_RECORD]
    if kept.is_file() and not overwrite and file_sha256(kept) != file_sha256(model.model_dir / RUN_RECORD):
        raise UserError(f"{folder} holds another run", "--overwrite replaces it")
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=results) as place:
        staging = Path(place, folder.name)
        staging.mkdir()
        for path, name in FILES.items():
            shutil.copyfile(model.model_dir / path, staging / name)
        read_result(staging)
        folder.mkdir(exist_ok=True)
        for name in FILES.values():
            (staging / name).replace(folder / name)
    return folder


def read_result(folder: Path) -> Result:
    """A folder of `results/`, once its files are those that were measured and its figures follow from them.

    Raises:
        UserError: a file is missing or not as recorded, or a figure is not that of the predictions.
    """
    run, evaluation = (
        read_record(folder / FILES[path], SCHEMAS[path], released=True) for path in (RUN_RECORD, METRICS)
    )
    predictions = read_predictions(folder / FILES[PREDICTIONS])
    intact, files = checked_record(folder / FILES[METRICS])
    wrong = [] if intact else [FILES[METRICS]]
    wrong += [
        name
        for path, name in FILES.items()
        if path != METRICS and file_sha256(folder / name) != files.get(path)
    ]
    wrong += [] if folder.name == f"{run['recipe']}-{run['seed']}" else ["the folder's name"]
    drawn = resampler_of(predictions), evaluation["seed"], evaluation["resamples"]
    measured = numbers(
        {
            "papers": len(predictions),
            "metrics": metrics_of_predictions(predictions),
            "intervals": intervals_of(*drawn),
        }
    )
    recorded = numbers({name: evaluation[name] for name in ("papers", "metrics", "intervals")})
    # A metric that came into the project later is not in an older record.
    known = {path: value for path, value in recorded.items() if path in measured}
    wrong += [check.field for check in compare_numbers(known, measured, ROUNDING) if not check.reproduced]
    if wrong or "metrics.macro_f1" not in known:
        hint = "`arxiv-cls results add MODEL` writes it; nothing in it is edited by hand"
        raise UserError(f"{folder}: not as it was recorded: {listed(wrong)}", hint)
    return Result(folder, run, evaluation, predictions)


def read_results(results: Path) -> list[Result]:
    """Every result on record, by recipe and seed.

    Raises:
        UserError: there is none, those of a recipe are of different papers, or as of `read_result`.
    """
    found = [read_result(path.parent) for path in sorted(results.glob("*/metrics.json"))]
    if not found:
        raise UserError(f"{results}: no result on record", "`arxiv-cls results add MODEL` adds one")
    found.sort(key=lambda result: (result.recipe, result.run["seed"]))
    for first, *others in _by_recipe(found).values():
        if other := [one.folder.name for one in others if _papers(one) != _papers(first)]:
            what = f"{first.folder}: was tested on other papers than {listed(other)}"
            raise UserError(what, "train each seed of a recipe on the same data, with the same split")
    return found


def _by_recipe(results: Sequence[Result]) -> dict[str, list[Result]]:
    groups = itertools.groupby(results, key=lambda result: result.recipe)
    found = {recipe: list(group) for recipe, group in groups}

    def place(item: tuple[str, list[Result]]) -> tuple[str, float]:
        return item[1][0].run["data"]["config"], -statistics.fmean(_values(item[1], "macro_f1"))

    return dict(sorted(found.items(), key=place))


def _values(group: Sequence[Result], metric: str) -> list[float]:
    return [one.evaluation["metrics"][metric] for one in group]


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}" if values else ""


def _seconds(group: Sequence[Result]) -> str:
    seconds = statistics.fmean(result.run["duration_seconds"] for result in group)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _table(header: str, rows: Sequence[Sequence[str]]) -> str:
    names = header.split(" | ")
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _recipes_table(results: Sequence[Result]) -> str:
    """Mean and deviation over the seeds of each recipe."""
    rows = []
    for recipe, group in _by_recipe(results).items():
        seeds = ", ".join(str(one.run["seed"]) for one in group)
        means = [_spread(_values(group, metric)) for metric in ("accuracy", "macro_f1", "log_loss")]
        labels = f"`{group[0].run['data']['config']}`"
        rows.append([f"`recipes/{recipe}.yaml`", labels, seeds, *means, _seconds(group)])
    return _table("recipe | labels | seeds | accuracy | macro-F1 | log-loss | training", rows)


def _multi_label_table(results: Sequence[Result]) -> str:
    """Mean and deviation over the seeds of each multi-label recipe."""
    names, rows = ("macro_f1", "micro_f1", "lrap", "macro_average_precision"), []
    for recipe, group in _by_recipe(results).items():
        seeds = ", ".join(str(one.run["seed"]) for one in group)
        means = [_spread(_values(group, metric)) for metric in names]
        labels = f"`{group[0].run['data']['config']}`"
        rows.append([f"`recipes/{recipe}.yaml`", labels, seeds, *means, _seconds(group)])
    header = "macro-F1 | micro-F1 | ranking precision (LRAP) | mean average precision"
    return _table(f"recipe | labels | seeds | {header} | training", rows)


def _runs_table(results: Sequence[Result]) -> str:
    """Each run with its 95% intervals, and the calibration error that chance alone would give."""
    rows = []
    for result in results:
        evaluation, device = result.evaluation, result.run["device"]
        cells = [
            f"{evaluation['metrics'][name]:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
            for name, ends in evaluation["intervals"].items()
            if name in ("accuracy", "macro_f1", "expected_calibration_error")
        ]
        cells[-1] += f", {evaluation['calibration']['chance_mean']:.3f}"
        machine = f"{device['name']}, {device['threads']} threads"
        rows.append([f"`{result.folder.name}`", *cells, machine, f"`{result.run['git']['commit'][:8]}`"])
    return _table("run | accuracy | macro-F1 | calibration error, by chance | machine | commit", rows)


def _labels_table(results: Sequence[Result]) -> str:
    """F1 of each label, mean and deviation over the seeds."""
    rows = []
    for recipe, group in _by_recipe(results).items():
        for label, scores in group[0].evaluation["metrics"]["per_class"].items():
            values = [one.evaluation["metrics"]["per_class"][label]["f1"] for one in group]
            rows.append([f"`{recipe}`", label, f"{scores['support']:,}", _spread(values)])
    return _table("recipe | label | test papers | F1", rows)


def _pairs_table(results: Sequence[Result]) -> str:
    """Two recipes on the same papers, at the smallest seed that both have: the better one less the other."""
    rows = []
    for (better, group_a), (other, group_b) in itertools.combinations(_by_recipe(results).items(), 2):
        by_seed = [{one.run["seed"]: one for one in group} for group in (group_b, group_a)]
        seed = min(by_seed[0].keys() & by_seed[1].keys(), default=None)
        if seed is None or not _same_papers(*(found[seed] for found in by_seed)):
            continue
        found = compare_predictions(*(found[seed].predictions for found in by_seed), papers=0)
        differences = [
            f"{line['difference']:+.3f} ({line['low']:+.3f} to {line['high']:+.3f}), p {line['p_value']:.3f}"
            for line in (found["metrics"][name] for name in ("accuracy", "macro_f1", "log_loss"))
        ]
        test = found["mcnemar"]
        right = f"{test['only_b_right']}, {test['only_a_right']}; p {test['p_value']:.3f}"
        rows.append([f"`{better}` less `{other}`, seed {seed}", *differences, right])
    return _table("pair | accuracy | macro-F1 | log-loss | only one is right", rows)


def _papers(result: Result) -> dict[str, Any]:
    """Which papers were tested; where their file was does not matter."""
    return {key: value for key, value in result.evaluation["data"].items() if key != "csv"}


def _same_papers(a: Result, b: Result) -> bool:
    return _papers(a) == _papers(b) and {*a.predictions.label_names} == {*b.predictions.label_names}


TABLES: dict[str, Callable[[Sequence[Result]], str]] = {
    "recipes": _recipes_table, "runs": _runs_table, "labels": _labels_table, "pairs": _pairs_table,
    "multi-label": _multi_label_table,
}  # fmt: skip


def pages(root: Path) -> dict[Path, str]:
    """The pages with tables of results, each with its text as `results/` makes it now.

    Raises:
        UserError: a page names a table that there is not, or as of `read_results`.
    """
    results, tables = read_results(root / "results"), {}

    def region(page: Path, match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise UserError(f"{page}: no table of results {name!r}", f"there are {', '.join(TABLES)}")
        of_task = [one for one in results if one.predictions.multi_label == (name == "multi-label")]
        tables.setdefault(name, TABLES[name](of_task))
        return f"{match['start']}{tables[name]}{match['end']}"

    found = [path for pattern in PAGES for path in sorted(root.glob(pattern))]
    texts = {path: path.read_text(encoding="utf-8") for path in found}
    return {
        path: REGION.sub(partial(region, path), text) for path, text in texts.items() if REGION.search(text)
    }


def write_tables(root: Path) -> list[Path]:
    """Writes every table of results anew; returns the pages that changed. Errors as of `pages`."""
    changed = [(path, text) for path, text in pages(root).items() if path.read_text(encoding="utf-8") != text]
    for path, text in changed:
        write_atomically(path, text)
    return [path for path, _ in changed]
