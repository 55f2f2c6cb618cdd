"""`arxiv-cls monitor ...`: production beside the test split, once or as a service, and what to do next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.settings import MonitorSettings
from arxiv_cls.options import DataOption, DirectoryArgument, EngineOption, ModelArgument
from arxiv_cls.serving.commands import with_settings

# Of `drift`: 2 is an error, whatever its kind, so that a script can tell an alarm from it.
ALARM_STATUS = 3

LogOption = Annotated[
    str,
    typer.Option("--log", metavar="LOG", help="Request log: a directory, one file or gs://bucket/prefix."),
]
VersionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--version", metavar="NAME", help="Also what the log calls this model, such as v1.2.0; repeatable."
    ),
]


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Names the extra that brings all of a command's libraries, not only the first that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        install = f'pip install "arxiv_cls[{name}]", or in a checkout: make setup'
        raise UserError(f"this needs {error.name}, which is not installed", install) from None


app = typer.Typer(help="Compare production with the test split, and act on it.")


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
        print(make_cascade_reference(model, cascade, data=data))
    else:
        print(make_reference(model, data=data, csv=csv))


@app.command()
def drift(
    model: ModelArgument,
    log: LogOption,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="An age (7d, 12h, 30m) or a date. Default: the whole log."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Likewise. Default: now.")] = None,
    window: Annotated[int, typer.Option(metavar="N", help="Distinct texts that are tested together.")] = 300,
    version: VersionsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for drift.json, report.html and the history of windows."),
    ] = None,
    evidently: Annotated[
        bool, typer.Option("--evidently", help="Also write Evidently's report there (extra `monitor`).")
    ] = False,
) -> None:
    """Compare the request log with the test split.

    One verdict: ok, watch, alarm or too_few. The exit status is 3 for an alarm, 2 for an error, else 0.

    \b
    Examples:
      arxiv-cls monitor drift outputs/minilm --log logs --out outputs/drift
      arxiv-cls monitor drift user/name@v1.2.0 --log gs://bucket/requests --since 7d
    """
    try:
        if evidently and out is None:
            raise UserError("--evidently writes a file: name a folder with --out")
        with _extra("monitor" if evidently else "drift"):
            from arxiv_cls.monitoring.check import check_drift, drift_table

            record = check_drift(
                model, log, since=since, until=until, window=window, versions=version or (), out=out,
                evidently=evidently,
            )  # fmt: skip
    except UserError as error:
        error.exit_code = 2
        raise
    print(drift_table(record))
    if out:
        print(f"\nwritten to {out}")
    if record["verdict"] == "alarm":
        raise typer.Exit(ALARM_STATUS)


@app.command()
def feedback(
    model: ModelArgument,
    log: LogOption,
    labels: Annotated[
        str,
        typer.Option(
            metavar="LABELS",
            help="CSV or JSON Lines: request_id, index, and category or categories (the primary one first). "
            "A file, or the endpoint's --feedback-log.",
        ),
    ],
    version: VersionsOption = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for feedback.json.")] = None,
) -> None:
    """Measure accuracy with labels that came later.

    Says whether it is worse than released, and what drop so many labels can show.

    \b
    Example:
      arxiv-cls monitor feedback outputs/minilm --log logs --labels labels.csv
    """
    from arxiv_cls.monitoring.feedback import feedback_table, measure_feedback

    record = measure_feedback(model, log, labels, versions=version or (), out=out)
    print(feedback_table(record))
    if out:
        print(f"\nwritten to {out}")


@app.command()
def robustness(
    model: ModelArgument,
    severity: Annotated[
        str, typer.Option(metavar="SHARES", help="Shares of words or texts that change, with commas.")
    ] = "0.1,0.3,0.5",
    seed: Annotated[int, typer.Option(help="Of the changes.")] = 42,
    papers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most N test papers. Default: all.")
    ] = None,
    data: DataOption = None,
    engine: EngineOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder. Default: MODEL/monitoring where its own weights are measured locally, else none.",
        ),
    ] = None,
) -> None:
    """Measure accuracy on changed texts.

    Words dropped or masked, LaTeX, typos and others; and whether the drift check would notice.

    \b
    Example:
      arxiv-cls monitor robustness outputs/minilm --engine onnx --papers 1000 --out outputs/robustness
    """
    from arxiv_cls.monitoring.robustness import measure_robustness, released_folder, robustness_table

    try:
        severities = [float(part) for part in severity.split(",")]
    except ValueError:
        raise UserError(f"--severity {severity}: shares with commas, such as 0.1,0.3,0.5") from None
    record = measure_robustness(
        model, severities=severities, seed=seed, papers=papers, data=data, engine=engine, out=out
    )
    print(robustness_table(record))
    folder = out or released_folder(model, record["engine"])
    print(f"\nwritten to {folder}" if folder else "\nnothing is written: name a folder with --out")


@app.command()
def retrain_plan(
    model: ModelArgument,
    repo: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="On the Hub. Default: MODEL's own.")
    ] = None,
) -> None:
    """Print what to run from an alarm to a release.

    \b
    Example:
      arxiv-cls monitor retrain-plan outputs/minilm --repo user/arxiv-minilm
    """
    from arxiv_cls.monitoring.retrain_plan import retrain_plan as plan

    print(plan(model, repo))


def serve(**options: Any) -> int:
    """Compare on a schedule, show the newest report, tell of alarms.

    GET /drift/report, /drift/history, /metrics; POST /drift/run needs ARXIV_CLS_TOKEN to be set.

    Each option is also a variable: --every is ARXIV_CLS_MONITOR_EVERY. One service on one --out.

    \b
    Example:
      arxiv-cls monitor serve outputs/minilm --log logs --out outputs/monitor --every 1h
    """
    settings = MonitorSettings(**{name: value for name, value in options.items() if value is not None})
    with _extra("drift"):
        from arxiv_cls.monitoring.service import create_app
        from arxiv_cls.serving.server import run

    return run(settings, create_app, "Watching", "/drift/report")


app.command()(with_settings(serve, MonitorSettings))
