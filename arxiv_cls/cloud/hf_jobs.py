"""Hugging Face Jobs through `HfApi`: data and output are volumes, secrets go into the service's `secrets`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from arxiv_cls.cloud.google_api import (
    MOST_FAILURES,
    POLL_SECONDS,
    REQUEST_TIMEOUT,
    ServiceError,
    may_pass,
    patiently,
)
from arxiv_cls.cloud.jobs import (
    COMMAND,
    HUB_BUCKET,
    HUB_FILE,
    LABEL,
    SPEC_VARIABLE,
    UNFINISHED,
    CloudRecipe,
    Job,
    JobSpec,
    State,
    make_spec,
)
from arxiv_cls.errors import UNREACHABLE, UserError

STATES: dict[str, State] = {
    "SCHEDULING": "queued", "RUNNING": "running", "COMPLETED": "succeeded", "ERROR": "failed",
    "CANCELED": "cancelled", "DELETED": "cancelled",
}  # fmt: skip
SIGN_IN = "hf auth login, or HF_TOKEN in the environment; the token needs the right to start jobs"
DATA, OUTPUT = "/data", "/output"


@contextlib.contextmanager
def hub_errors(doing: str, hints: Mapping[int, str] | None = None) -> Iterator[None]:
    """Turns the client's exceptions into one `UserError` each; `hints` say by status what to do next."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UserError(f"{doing}: nobody is signed in to the Hub", SIGN_IN) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = getattr(error, "server_message", None) or error.response.reason_phrase
        hint = {
            401: SIGN_IN,
            402: "the namespace has no credit left: https://huggingface.co/settings/billing",
            403: "the token may not do this: give it the right to jobs, or name another namespace",
            404: "look at the namespace and the id; `arxiv-cls cloud list` shows the jobs",
            429: "wait, then run the command again",
            **(hints or {}),
        }.get(status)
        code = UNREACHABLE if status >= 500 else 2
        raise ServiceError(f"{doing}: {reason} (HTTP {status})", hint, code, status) from error
    except (httpx2.HTTPError, OfflineModeIsEnabled, OSError) as error:
        hint = "check the network and HTTPS_PROXY; another address: HF_ENDPOINT"
        message = f"{doing}: the Hub cannot be reached ({type(error).__name__})"
        raise UserError(message, hint, UNREACHABLE) from error


def _limit_waiting(request: Any) -> None:
    """Ends a request to a silent network, for which the client would wait for ever."""
    limits = request.extensions["timeout"]
    request.extensions["timeout"] = {
        phase: REQUEST_TIMEOUT if seconds is None else seconds for phase, seconds in limits.items()
    }


class HuggingFaceJobs:
    """The jobs of one namespace; None: the user's own."""

    def __init__(self, namespace: str | None) -> None:
        import httpx2
        from huggingface_hub import HfApi, constants, get_session, set_client_factory

        hooks = get_session().event_hooks["request"]
        if _limit_waiting not in hooks:
            limited = {"request": [*hooks, _limit_waiting]}
            set_client_factory(
                lambda: httpx2.Client(event_hooks=limited, follow_redirects=True, timeout=None)
            )
        self.api = HfApi(endpoint=constants.ENDPOINT)
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """The user or organisation that pays."""
        if self._namespace is None:
            self._namespace = str(self.whoami()["name"])
        return self._namespace

    def whoami(self) -> dict[str, Any]:
        """Of the token."""
        with hub_errors("signing in to the Hub"):
            return self.api.whoami()

    def flavor(self, recipe: CloudRecipe) -> Any:
        """The service's record of the machine, with its price.

        Raises:
            UserError: there is none of that name.
        """
        from arxiv_cls.recipe import nearest

        with hub_errors("asking for the machines of the Hub"):
            known = {item.name: item for item in self.api.list_jobs_hardware()}
        if recipe.machine not in known:
            raise UserError(
                f"machine: {recipe.machine!r} is unknown{nearest(recipe.machine, known)}", ", ".join(known)
            )
        return known[recipe.machine]

    def price_per_hour(self, recipe: CloudRecipe) -> float | None:
        """USD, of the service's own list; None for a unit that is not known here."""
        flavor = self.flavor(recipe)
        units = {"second": 3600, "minute": 60, "hour": 1}
        return flavor.unit_cost_usd * units[flavor.unit_label] if flavor.unit_label in units else None

    def data_file(self, recipe: CloudRecipe, csv: str) -> tuple[str, Any]:
        """The commit of the dataset, and what the Hub knows of the file; `csv` is the one on this machine.

        Raises:
            UserError: it is not there, or a refusal.
        """
        match = HUB_FILE.fullmatch(recipe.data)
        assert match
        make = f"look at its name, or make it: hf repos create {match['repo']} --type dataset"
        hints = {403: "the token may not read the dataset", 404: make}
        with hub_errors(f"looking for {recipe.data}", hints):
            sha = self.api.dataset_info(match["repo"]).sha
            found = self.api.get_paths_info(match["repo"], [match["path"]], repo_type="dataset", revision=sha)
        if not found:
            raise UserError(f"{recipe.data} is not there", upload_command(recipe, csv))
        return sha, found[0]

    def body(self, recipe: CloudRecipe, name: str | None, image: str) -> tuple[JobSpec, dict[str, Any]]:
        """The arguments of `run_job`; secrets are only named."""
        from huggingface_hub import Volume

        data, output = HUB_FILE.fullmatch(recipe.data), HUB_BUCKET.fullmatch(recipe.output)
        assert data
        assert output
        accelerator = self.flavor(recipe).accelerator
        processes = int(accelerator.quantity) if accelerator else 1
        spec = make_spec(recipe, name, f"{DATA}/{data['path']}", processes)
        folder = f"{OUTPUT}/{output['path'].rstrip('/')}/{spec.name}"
        commit, _ = self.data_file(recipe, spec.csv)
        volumes = [
            Volume(type="dataset", source=data["repo"], mount_path=DATA, revision=commit, read_only=True),
            Volume(type="bucket", source=output["bucket"], mount_path=OUTPUT),
        ]
        return spec, {
            "image": image,
            "command": COMMAND,
            "env": {
                SPEC_VARIABLE: spec.to_json(),
                "AIP_MODEL_DIR": f"{folder}/model/",
                "AIP_CHECKPOINT_DIR": f"{folder}/checkpoints/",
            },
            "flavor": recipe.machine,
            "timeout": round(recipe.max_hours * 3600),
            "name": spec.name,
            "labels": spec.labels,
            "volumes": volumes,
            "namespace": recipe.namespace,
        }

    def submit(self, recipe: CloudRecipe, spec: JobSpec, body: dict[str, Any]) -> Job:
        """Starts a job; the values of its secrets go to the service's own store.

        Raises:
            UserError: a variable that a secret is taken from is not set, or a refusal.
        """
        missing = [variable for variable in recipe.secrets.values() if not os.environ.get(variable)]
        if missing:
            raise UserError(
                f"secrets: not set on this machine: {', '.join(missing)}", f"export {missing[0]}=..."
            )
        secrets = {name: os.environ[variable] for name, variable in recipe.secrets.items()}
        with hub_errors(f"starting {spec.name}"):
            return _job(self.api.run_job(**body, secrets=secrets or None))

    def status(self, job: str) -> Job:
        """One job, by its id or NAMESPACE/ID."""
        with hub_errors(f"looking for {job}"):
            return _job(self.api.inspect_job(**self._where(job)))

    def list(self) -> Iterator[Job]:
        """The jobs of this program in the namespace."""
        namespace = self.namespace
        with hub_errors(f"listing the jobs of {namespace}"):
            yield from map(_job, self.api.list_jobs(labels={"app": LABEL}, namespace=namespace))

    def cancel(self, job: str) -> None:
        """Asks for a job's end."""
        with hub_errors(f"cancelling {job}"):
            self.api.cancel_job(**self._where(job))

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """Lines of the log, each once; a stream that breaks is opened again where it was."""
        where, shown, failures = self._where(job), 0, 0
        look = partial(self.status, job)
        while True:
            # Before the log is read: the client's stream may end before the job does.
            ended = not follow or patiently(look).state not in UNFINISHED
            try:
                with hub_errors(f"reading the log of {job}"):
                    # The service sends a log from its beginning.
                    for number, line in enumerate(self.api.fetch_job_logs(**where, follow=follow)):
                        if number >= shown:
                            shown, failures = number + 1, 0
                            yield from line.splitlines()
                if ended:
                    return
            except UserError as error:
                failures += 1
                if not follow or not may_pass(error) or failures > MOST_FAILURES:
                    raise
            time.sleep(POLL_SECONDS)

    def _where(self, job: str) -> dict[str, str]:
        namespace, _, number = job.rpartition("/")
        return {"job_id": number, "namespace": namespace or self.namespace}


def upload_command(recipe: CloudRecipe, csv: str) -> str:
    """Puts the CSV of this machine where the recipe says that it is."""
    match = HUB_FILE.fullmatch(recipe.data)
    assert match
    return f"hf upload {match['repo']} {csv} {match['path']} --repo-type dataset"


def _job(info: Any) -> Job:
    stage = getattr(info.status.stage, "value", info.status.stage)
    name = (info.labels or {}).get("name", info.id)
    return Job(
        id=f"{info.owner.name}/{info.id}", name=name, state=STATES.get(stage, "running"),
        detail=f"{stage}: {info.status.message}" if info.status.message else str(stage),
        created=info.created_at.isoformat() if info.created_at else "", address=info.url,
        spec=(info.environment or {}).get(SPEC_VARIABLE),
    )  # fmt: skip
