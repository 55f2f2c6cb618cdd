"""`arxiv-cls cloud`: training jobs on Vertex AI and Hugging Face Jobs; the traffic of endpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from arxiv_cls.cloud import commands as deployment
from arxiv_cls.cloud.endpoints import ONE_VERSION
from arxiv_cls.errors import UNREACHABLE, UserError

if TYPE_CHECKING:
    from arxiv_cls.cloud.hf_jobs import HuggingFaceJobs
    from arxiv_cls.cloud.jobs import Job
    from arxiv_cls.cloud.vertex import Vertex

app = typer.Typer(
    help="Train in a cloud: check, start and follow jobs; move the traffic of endpoints.",
    no_args_is_help=True,
)

Backend = Literal["vertex", "hf"]
RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A file of recipes/cloud/.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as `submit` and `list` print it.")]
ServiceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SERVICE", callback=deployment.service_name, help="As `deploy --service` named it."
    ),
]
BackendOption = Annotated[Backend, typer.Option(help="Vertex AI or Hugging Face Jobs.")]
SpotOption = Annotated[
    bool | None, typer.Option("--spot/--no-spot", help="A cheaper machine that may be taken away.")
]


def _connect(
    backend: Backend, project: str | None = None, region: str | None = None, namespace: str | None = None
) -> Vertex | HuggingFaceJobs:
    if backend == "hf":
        from arxiv_cls.cloud.hf_jobs import HuggingFaceJobs

        return HuggingFaceJobs(namespace)
    from arxiv_cls.cloud.google_api import Google
    from arxiv_cls.cloud.vertex import Vertex

    return Vertex(Google(), project, region)


@app.command()
def preflight(recipe: RecipeArgument, backend: BackendOption, spot: SpotOption = None) -> None:
    """Check all that a job needs; changes nothing. Exit status 1 when a check fails."""
    from arxiv_cls.cloud.jobs import load_cloud_recipe
    from arxiv_cls.cloud.preflight import preflight as checks

    read = load_cloud_recipe(recipe, backend, spot=spot)
    failed = 0
    for check in checks(read, lambda: _connect(backend, read.project, read.region, read.namespace)):
        typer.echo(f"{check.verdict:<8}{check.name}: {check.detail}")
        if check.fix and check.verdict != "ok":
            typer.echo(f"          {check.fix}")
        failed += check.verdict == "FAIL"
    raise typer.Exit(1 if failed else 0)


@app.command()
def submit(
    recipe: RecipeArgument,
    backend: BackendOption,
    spot: SpotOption = None,
    max_hours: Annotated[
        float | None, typer.Option(metavar="H", min=0.02, max=168, help="End the job after so many hours.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="Refuse what could cost more.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the job and its folder; an earlier one continues its checkpoints.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the request, send nothing.")] = False,
) -> None:
    """Start a job, with image, recipe and data pinned; print its id, address and price."""
    from arxiv_cls.cloud.jobs import UNFINISHED, check_cost, load_cloud_recipe
    from arxiv_cls.cloud.preflight import find_image

    read = load_cloud_recipe(recipe, backend, spot=spot, max_hours=max_hours)
    service = _connect(backend, read.project, read.region, read.namespace)
    price = service.price_per_hour(read)
    check_cost(price, read.max_hours, max_cost)
    spec, body = service.body(read, name, find_image(read.image, getattr(service, "google", None))[0])
    if dry_run:
        named = {key: f"<value of ${variable}>" for key, variable in read.secrets.items()}
        shown = body | {"secrets": named} if backend == "hf" else body
        typer.echo(json.dumps(shown, indent=2, default=lambda volume: volume.to_dict()))
        return
    place = {"--project": read.project, "--region": read.region, "--namespace": read.namespace}
    look = " ".join(
        ["arxiv-cls cloud list --backend", backend, *(f"{key} {word}" for key, word in place.items() if word)]
    )
    # One with a name of its own is new.
    for job in service.list() if name else ():
        if job.name == name and job.state in UNFINISHED:
            hint = f"wait for its end, cancel it, or take another name: {look}"
            raise UserError(f"--name {name}: {job.id} is {job.state}, and both would write one folder", hint)
    try:
        job = service.submit(read, spec, body)
    except UserError as error:
        if error.exit_code == UNREACHABLE:
            error.hint = f"it may have started all the same: {look}"
        raise
    typer.echo(f"{job.id}\n{job.address}")
    cost = (
        "price not known"
        if price is None
        else f"{price:.2f} USD per hour, at most {price * read.max_hours:.2f}"
    )
    typer.echo(f"{cost}; ends after {read.max_hours:g} hours; model: {spec.output}/model", err=True)


@app.command()
def status(job: JobArgument, backend: BackendOption) -> None:
    """Print the state of a job."""
    _show(_connect(backend).status(job))


@app.command("list")
def list_jobs(
    backend: BackendOption,
    project: Annotated[
        str | None, typer.Option(metavar="ID", help="Google Cloud project. Default: the credentials'.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Google Cloud region.")] = None,
    namespace: Annotated[
        str | None, typer.Option(help="User or organisation of the Hub. Default: you.")
    ] = None,
) -> None:
    """List the jobs of this program."""
    for job in _connect(backend, project, region, namespace).list():
        _show(job)


@app.command()
def logs(
    job: JobArgument,
    backend: BackendOption,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job has ended.")] = False,
) -> None:
    """Print the log of a job.

    With --follow the exit status is the job's: 0 succeeded, 1 failed, 4 cancelled, 5 out of time (Vertex AI).
    """
    from arxiv_cls.cloud.google_api import patiently
    from arxiv_cls.cloud.jobs import EXIT_CODES
    from arxiv_cls.record.directory import redact

    service = _connect(backend)
    for line in service.logs(job, follow):
        typer.echo(redact(line))
    if follow:
        ended = patiently(lambda: service.status(job))
        typer.echo(f"{ended.state}: {redact(ended.detail)}", err=True)
        raise typer.Exit(EXIT_CODES[ended.state])


@app.command()
def cancel(job: JobArgument, backend: BackendOption) -> None:
    """Ask for the end of a job."""
    service = _connect(backend)
    service.cancel(job)
    _show(service.status(job))


@app.command()
def download(
    job: JobArgument,
    backend: BackendOption,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: outputs/NAME.")] = None,
) -> None:
    """Fetch the model directory of a job, and check every file of it."""
    from arxiv_cls.cloud.jobs import UNFINISHED, JobSpec
    from arxiv_cls.cloud.machine import download_model

    found = _connect(backend).status(job)
    if found.state in UNFINISHED:
        hint = f"arxiv-cls cloud logs {job} --backend {backend} --follow"
        raise UserError(f"{job} is {found.state}: its model is not whole yet", hint)
    spec = JobSpec.from_json(found.spec)
    typer.echo(download_model(spec, to or Path("outputs", spec.name), found.created))


@app.command()
def promote(
    service: ServiceArgument,
    backend: deployment.BackendOption = "cloud-run",
    project: deployment.PlaceOption = None,
    region: deployment.AnyRegionOption = None,
) -> None:
    """Give an endpoint's newest version all traffic; a vertex-endpoint drops the others."""
    _move(service, backend, project, region, forward=True)


@app.command()
def rollback(
    service: ServiceArgument,
    backend: deployment.BackendOption = "cloud-run",
    project: deployment.PlaceOption = None,
    region: deployment.AnyRegionOption = None,
) -> None:
    """Give the version before an endpoint's newest all traffic; a vertex-endpoint drops the newest."""
    _move(service, backend, project, region, forward=False)


def _move(
    service: str, backend: deployment.Backend, project: str | None, region: str | None, forward: bool
) -> None:
    if backend == "hf-endpoint":
        raise UserError(ONE_VERSION, "deploy the version that you want: arxiv-cls deploy MODEL@VERSION")
    kept = deployment.endpoint_of(backend, service, project, region).move(forward)
    typer.echo(f"{kept} gets all traffic")


@app.command("run-job", hidden=True)
def run_job() -> None:
    """Run the job that this machine was given; it is what `submit` starts."""
    from arxiv_cls.cloud.machine import run_on_machine

    run_on_machine(dict(os.environ))


def _show(job: Job) -> None:
    from arxiv_cls.record.directory import redact

    typer.echo(
        f"{job.id}  {job.state}  {job.created[:19]}  {job.name}  {redact(job.detail)}\n  {job.address}"
    )
