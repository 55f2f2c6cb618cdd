"""`predict --csv`: one row out per row in, in the same order, also for rows that cannot be scored."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

from arxiv_cls.corpus.csv_reader import cell_text, open_csv, records
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import Predictor
from arxiv_cls.record.files import staged, text_cell

ROWS_AT_A_TIME = 2048


def predict_csv(
    predictor: Predictor,
    source: Path,
    out: Path,
    *,
    progress: bool = True,
    rows_at_a_time: int = ROWS_AT_A_TIME,
    on_rows: Callable[[int], None] | None = None,
) -> tuple[int, int]:
    """Scores each row of a CSV with `title` and `summary` (or `abstract`) columns, or a `text` column.

    Args:
        predictor: either kind of model.
        source: the CSV; other columns are not read, but for `id`.
        out: gets `id` (of the source, else the number of the row; one that a spreadsheet would execute, since
            it starts with = + - @ tab or carriage return, gets a `'` before it), `label, score`, the labels
            of the prediction set (of a multi-label model those given) with blanks between them, `in_scope`
            (yes, no), a column per label, and `error`; a rule that the model does not have leaves its column
            empty. The file appears when it is whole.
        progress: show a bar.
        rows_at_a_time: rows that are held and scored together.
        on_rows: called after each of those with the number of rows that are done.

    Returns:
        Rows scored and rows with an error.

    Raises:
        UserError: the file cannot be read, or has none of the columns.
    """
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out}: is the input itself", hint="Name another file with --out.")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such directory for --out")
    scored = failed = 0
    with staged(out) as partial, partial.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        scores = [f"score:{label}" for label in predictor.labels]
        header = ["id", "label", "score", "prediction_set", "in_scope", *scores, "error"]
        writer.writerow(header)
        for rows in _chunks(_read(source), progress, rows_at_a_time):
            good = [text for _, text, error in rows if not error]
            predictions = iter(predictor.predict(good) if good else [])
            for identifier, _, error in rows:
                if error:
                    failed += 1
                    writer.writerow([identifier, *[""] * (len(header) - 2), error])
                    continue
                scored += 1
                said = next(predictions)
                scores = [f"{said.scores[label]:.6f}" for label in predictor.labels]
                rules = [" ".join(said.prediction_set or ()), _yes_or_no(said.in_scope)]
                writer.writerow([identifier, said.label, f"{said.score:.6f}", *rules, *scores, ""])
            if on_rows is not None:
                on_rows(scored + failed)
    return scored, failed


def count_rows(source: Path) -> int:
    """How many rows `predict_csv` would write.

    Raises:
        UserError: as `predict_csv`.
    """
    return sum(1 for _ in _read(source))


def _yes_or_no(answer: bool | None) -> str:
    return "" if answer is None else "yes" if answer else "no"


def _read(source: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (id, text, error) per record: the rows, and the reasons, of `data build`."""
    if not source.exists():
        raise UserError(f"{source}: no such file")
    file = open_csv(source, ("title", "abstract"), instead="text")
    whole = {"title", "abstract"} <= file.columns.keys()
    columns = [file.columns[key] for key in (("title", "abstract") if whole else ("text",))]
    place_of_id = file.columns.get("id", sys.maxsize)
    for position, record in enumerate(records(file), start=1):
        has_id = place_of_id < len(record.fields)
        identifier = record.fields[place_of_id].decode("utf-8", "replace") if has_id else str(position)
        parts, reason = [], record.reason
        for column in () if reason else columns:
            part, wrong = cell_text(record.fields[column])
            parts.append(part)
            if wrong and not reason:
                reason = f"{file.names[column]}: {wrong}"
        error = f"line {record.line}: {reason}" if reason else ""
        yield text_cell(identifier.replace("\0", "")), "\n\n".join(parts), error


def _chunks(
    rows: Iterator[tuple[str, str, str]], progress: bool, size: int
) -> Iterator[list[tuple[str, str, str]]]:
    with tqdm(desc="predict", unit="paper", disable=not progress, file=sys.stderr) as bar:
        while chunk := list(itertools.islice(rows, size)):
            yield chunk
            bar.update(len(chunk))
