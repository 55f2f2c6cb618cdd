"""Training jobs in a cloud: the file that describes one, and what is pinned in it.

A job is told everything in one variable, as JSON (`JobSpec`): the text of the recipe, the checksum of its
data and the names of secrets, never their values.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import (
    TRANSFORMER_GROUPS,
    DataConfig,
    TfidfRecipe,
    build_section,
    load_recipe,
    nearest,
    raise_problems,
    read_groups,
    read_yaml_mapping,
)
from arxiv_cls.record.directory import find_secrets
from arxiv_cls.record.files import file_sha256

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
UNFINISHED = ("queued", "running")
EXIT_CODES: dict[State, int] = {"succeeded": 0, "failed": 1, "cancelled": 4, "expired": 5}
"""Exit status of `logs --follow` by the state in which a job ended; 2 and 3 are errors of the command."""

SPEC_VARIABLE = "ARXIV_CLS_JOB"
COMMAND = ["python", "-m", "arxiv_cls.container", "arxiv-cls", "cloud", "run-job"]
"""What a job starts in the image."""
LABEL = "arxiv-cls"

SHAPE = "a cloud recipe is a mapping with backend, recipe, image, machine, data, output and max_hours"
IMAGE = re.compile(
    r"(?:(?P<host>localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9.-]+(?=:\d))(?P<port>:\d+)?/)?"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
GCS = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])/(?P<path>[^\s/][^\s]*)")
HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)/(?P<path>[^\s/@][^\s@]*)")
HUB_BUCKET = re.compile(r"hf://buckets/(?P<bucket>[\w.-]+/[\w.-]+)/(?P<path>[^\s/][^\s]*)")
SECRET_VERSION = re.compile(r"projects/[\w:.-]+/secrets/[\w-]+/versions/(\d+|latest)")
ACCELERATORS = (
    "NVIDIA_TESLA_T4", "NVIDIA_L4", "NVIDIA_TESLA_V100", "NVIDIA_TESLA_P100", "NVIDIA_TESLA_A100",
    "NVIDIA_A100_80GB", "NVIDIA_H100_80GB", "NVIDIA_H100_MEGA_80GB", "NVIDIA_H200_141GB", "NVIDIA_B200",
    "NVIDIA_RTX_PRO_6000",
)  # fmt: skip
# Keys that only one of the services has.
ONLY = {
    "vertex": ("project", "region", "accelerator", "accelerators", "service_account", "spot"),
    "hf": ("namespace",),
}


class CloudRecipe(BaseModel):
    """Where a training runs, on what, and where its model goes."""

    backend: Literal["vertex", "hf"] = Field(description="`vertex`: Vertex AI; `hf`: Hugging Face Jobs.")
    recipe: str = Field(description="The recipe of the training, a file of this machine.")
    image: str = Field(description="The `train` or `baseline` image in a registry.")
    machine: str = Field(description="Machine type (n1-standard-8) or flavor (l4x1).")
    data: str = Field(description="The recipe's CSV in the cloud: gs://... or hf://datasets/USER/NAME/FILE.")
    output: str = Field(
        description="Folder of the models: gs://BUCKET/FOLDER or hf://buckets/USER/NAME/FOLDER."
    )
    max_hours: float = Field(ge=0.02, le=168, description="The job is ended after so many hours.")
    program: Literal["arxiv_cls/train.py", "arxiv_cls/train_tfidf.py"] = Field(
        "arxiv_cls/train.py", description="What trains the recipe."
    )
    overrides: list[str] = Field(default_factory=list, description="Overrides, as --group.key=value.")
    project: str | None = Field(None, description="Google Cloud project; null: the credentials'.")
    region: str | None = Field(None, description="Google Cloud region.")
    namespace: str | None = Field(None, description="User or organisation that pays on the Hub.")
    accelerator: str | None = Field(None, description=f"One of {', '.join(ACCELERATORS)}.")
    accelerators: int = Field(0, ge=0, le=16, description="How many of them; a process trains on each.")
    service_account: str | None = Field(None, description="Account that the job runs as.")
    spot: bool = Field(False, description="A cheaper machine that may be taken away.")
    price_per_hour: float | None = Field(None, gt=0, description="USD per hour, where the service has none.")
    secrets: dict[str, str] = Field(
        default_factory=dict,
        description="Variable of the job to its secret: projects/P/secrets/S/versions/V (Vertex AI), or a "
        "variable of this machine (the Hub).",
    )

    def problems(self) -> list[str]:
        """What is wrong with the keys together, a sentence each."""
        wrong = [
            f"{key}: only with backend: {backend}"
            for backend, keys in ONLY.items()
            if backend != self.backend
            for key in keys
            if getattr(self, key) not in (None, 0, False)
        ]
        vertex = self.backend == "vertex"
        needed = "region" if vertex else "namespace"
        if not getattr(self, needed):
            wrong.append(f"{needed}: missing")
        if self.accelerator and self.accelerator not in ACCELERATORS:
            wrong.append(
                f"accelerator: {self.accelerator!r} is unknown{nearest(self.accelerator, ACCELERATORS)}"
            )
        if bool(self.accelerator) != bool(self.accelerators):
            wrong.append("accelerators: at least 1 with an accelerator, 0 without one")
        if not IMAGE.fullmatch(self.image):
            wrong.append(
                f"image: {self.image!r} is no image of a registry, such as ghcr.io/user/arxiv-cls/train:1.2.0"
            )
        for key, pattern, form in (
            ("data", GCS if vertex else HUB_FILE, "gs://BUCKET/FILE" if vertex else "hf://datasets/USER/NAME/FILE"),
            ("output", GCS if vertex else HUB_BUCKET, "gs://BUCKET/FOLDER" if vertex else "hf://buckets/USER/NAME/FOLDER"),
        ):  # fmt: skip
            if not pattern.fullmatch(getattr(self, key)) or ".." in getattr(self, key):
                wrong.append(f"{key}: {getattr(self, key)!r} should be {form}")
        for name, reference in self.secrets.items():
            form = "projects/P/secrets/S/versions/V" if vertex else "the name of a variable of this machine"
            if not name.isidentifier():
                wrong.append(f"secrets: {name!r} is no name of a variable")
            # A value that was written here by mistake must not be repeated.
            elif not (SECRET_VERSION.fullmatch(reference) if vertex else reference.isidentifier()):
                wrong.append(f"secrets.{name}: should be {form}, never the secret itself")
            elif find_secrets(reference, ""):
                wrong.append(f"secrets.{name}: looks like the secret itself")
        return wrong


def load_cloud_recipe(path: Path, backend: str, **given: Any) -> CloudRecipe:
    """Reads a file of `recipes/cloud/`; `given` are values of the command line, None where there is none.

    Raises:
        UserError: every problem of the file at once.
    """
    values = read_yaml_mapping(path, SHAPE)
    values |= {key: str(value) for key, value in given.items() if value is not None}
    problems: list[str] = []
    recipe = build_section(CloudRecipe, values, problems)
    if recipe is None:
        # A value that was written there by mistake must not be repeated.
        hidden = "secrets: should be names to references"
        problems = [hidden if problem.startswith("secrets: ") else problem for problem in problems]
    raise_problems(path, problems)
    if recipe.backend != backend:
        raise_problems(path, [f"backend: {recipe.backend}, but the command says --backend {backend}"])
    return recipe


@dataclasses.dataclass(frozen=True)
class JobSpec:
    """What a job is told; it is public to all who may look at the job."""

    name: str
    program: str
    processes: int
    recipe_path: str
    recipe: str  # the text of the file
    overrides: list[str]
    csv: str  # where the recipe expects the data
    data: str  # a path on the machine of the job
    data_sha256: str
    output: str  # the folder of this job, as this machine reaches it
    commit: str | None
    secrets: dict[str, str]  # variable to reference, for a service that does not resolve them itself

    @property
    def labels(self) -> dict[str, str]:
        """For the lists of the service: lower case, digits and hyphens, at most 63 characters."""
        recipe = hashlib.sha256(self.recipe.encode()).hexdigest()
        stem = re.sub(r"[^a-z0-9-]", "-", Path(self.recipe_path).stem.lower())[:63]
        labels = {
            "app": LABEL,
            "recipe": stem,
            "recipe-sha256": recipe[:16],
            "data-sha256": self.data_sha256[:16],
        }
        return labels | ({"commit": self.commit[:12]} if self.commit else {})

    def to_json(self) -> str:
        """The value of the job's variable."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> JobSpec:
        """Reads the variable of a job.

        Raises:
            UserError: it is not there, or another program's.
        """
        try:
            return cls(**json.loads(text or ""))
        except (ValueError, TypeError):
            raise UserError(
                f"the job has no {SPEC_VARIABLE}", "only jobs of `arxiv-cls cloud submit` have"
            ) from None


def training_data(recipe: CloudRecipe) -> DataConfig:
    """The data of the training's recipe, with the overrides; raises `UserError` with every problem of it.

    Without the trainer's library, which `arxiv_cls[cloud]` does not bring, its group is left to the job.
    """
    if recipe.program != "arxiv_cls/train.py":
        return load_recipe(recipe.recipe, recipe.overrides, TfidfRecipe).data
    try:
        # It takes seconds to import.
        from arxiv_cls.training.arguments import TransformerRecipe
    except ModuleNotFoundError:
        return read_groups(recipe.recipe, recipe.overrides, TRANSFORMER_GROUPS)[0]["data"]
    return load_recipe(recipe.recipe, recipe.overrides, TransformerRecipe).data


def make_spec(recipe: CloudRecipe, name: str | None, mounted: str, processes: int) -> JobSpec:
    """Pins the recipe's text and the checksum of its data.

    Args:
        recipe: has been checked.
        name: of the job and its folder; None: the recipe's with the time.
        mounted: where the job's machine finds `recipe.data`.
        processes: how many train.

    Raises:
        UserError: the training's recipe is wrong or holds a secret, its CSV is not here, or the name is none.
    """
    from arxiv_cls.record.run_record import git_state

    path, csv = Path(recipe.recipe), Path(training_data(recipe).csv)
    if path.is_absolute() or ".." in path.parts or csv.is_absolute() or ".." in csv.parts:
        raise UserError(
            f"{path}, {csv}: the job has both under its own folder", "name them relative to this one"
        )
    if not csv.is_file():
        raise UserError(f"{csv}, which {path} names, is not here: its checksum is pinned", "make data")
    text = path.read_text(encoding="utf-8")
    found = find_secrets(text + "\n".join(["", *recipe.overrides]), path.as_posix())
    if found:
        raise UserError(f"{found[0]}: a recipe is public to all who see the job", "name it under `secrets`")
    name = name or f"{path.stem}-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}".lower().replace(
        "_", "-"
    )
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise UserError(
            f"{name!r} is no name for a job", "lower case, digits and hyphens, at most 63 characters"
        )
    return JobSpec(
        name=name, program=recipe.program, processes=processes, recipe_path=path.as_posix(), recipe=text,
        overrides=recipe.overrides, csv=csv.as_posix(), data=mounted, data_sha256=file_sha256(csv),
        output=f"{recipe.output.rstrip('/')}/{name}", commit=git_state()["commit"],
        secrets=recipe.secrets if recipe.backend == "vertex" else {},
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Job:
    """A job as a service tells about it."""

    id: str
    name: str
    state: State
    detail: str  # the service's own word for the state, and its reason
    created: str
    address: str
    spec: str | None = None  # the job's variable


def check_cost(price: float | None, hours: float, max_cost: float | None) -> None:
    """Raises `UserError` where a job could cost more than `max_cost`, or where its price is not known."""
    if max_cost is None:
        return
    if price is None:
        raise UserError(
            "--max-cost: the price of the machine is not known", "set price_per_hour in the cloud recipe"
        )
    if price * hours > max_cost:
        cost = f"{price:.2f} USD x {hours:g} hours = {price * hours:.2f} USD"
        raise UserError(f"the job could cost {cost}, more than --max-cost {max_cost:g}", "lower --max-hours")
