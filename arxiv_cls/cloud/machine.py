"""The two ends of a job: what its machine runs, and how its model is fetched."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from arxiv_cls.cloud.jobs import SPEC_VARIABLE, JobSpec
from arxiv_cls.cloud.vertex import read_secret
from arxiv_cls.errors import UserError
from arxiv_cls.record.files import changed_files, file_sha256
from arxiv_cls.record.manifest import RUN_RECORD, foreign_files, missing_files, model_kind
from arxiv_cls.record.storage import file_system, storage_errors
from arxiv_cls.training.remote import MARK

CHUNK = 1 << 22


def run_on_machine(environment: dict[str, str]) -> NoReturn:
    """Becomes the training of a job, in a new folder of the machine that it was given.

    The data is copied and must have the pinned checksum; secrets are read into the training's variables.

    Raises:
        UserError: no job is described, or its data is another.
        OSError: the data cannot be read, or the program cannot be started.
    """
    spec = JobSpec.from_json(environment.get(SPEC_VARIABLE))
    program = Path(__file__).parents[2] / spec.program
    folder = Path(tempfile.mkdtemp(prefix="arxiv-cls-"))
    recipe, csv = folder / spec.recipe_path, folder / spec.csv
    for path in (recipe, csv):
        path.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(spec.recipe, encoding="utf-8")
    digest = hashlib.sha256()
    with Path(spec.data).open("rb") as source, csv.open("wb") as copy:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != spec.data_sha256:
        raise UserError(f"{spec.data}: not the data that the job was submitted with (its sha256 differs)")
    environment = environment | {name: read_secret(reference) for name, reference in spec.secrets.items()}
    launcher = [sys.executable]
    if spec.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={spec.processes}"]
    # The machine that follows one that was taken away goes on; a first one starts.
    resume = ["--resume", "--overwrite"] if spec.program == "arxiv_cls/train.py" else []
    os.chdir(folder)
    paths = [str(program.parents[1]), environment.get("PYTHONPATH", "")]
    environment = environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # In this process's place, so that signals reach the training itself.
    os.execvpe(  # noqa: S606
        launcher[0], [*launcher, str(program), spec.recipe_path, *resume, *spec.overrides], environment
    )


def download_model(spec: JobSpec, target: Path, created: str) -> Path:
    """Fetches the model directory of a job and checks every file against its checksums.

    Args:
        spec: of the job.
        target: the new folder.
        created: when the job was, ISO time; empty where that is not known.

    Raises:
        UserError: there is none yet, or an earlier job's, it is incomplete or changed, or something is in the
            way.
    """
    source = f"{spec.output}/model"
    if target.exists():
        raise UserError(f"{target}: is there already", "name another place: --to DIR")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        partial = Path(folder, "model")
        checksums = _fetch(source, partial)
        kind = model_kind(partial)
        bad = [name for name, sha256 in checksums.items() if file_sha256(partial / name) != sha256]
        bad += changed_files(partial, sorted(checksums))[0]
        if bad:
            names = ", ".join(sorted(set(bad)))
            raise UserError(f"{source}: not as it was written: {names}", "download it again")
        if missing := missing_files(partial, kind, before_evaluation=True):
            raise UserError(f"{source}: the model is incomplete: {', '.join(missing)}")
        if foreign := foreign_files(partial, kind):
            raise UserError(f"{source}: files that no model directory has: {', '.join(foreign)}")
        record = json.loads((partial / RUN_RECORD).read_text(encoding="utf-8"))
        if record["data"]["sha256"] != spec.data_sha256:
            raise UserError(f"{source}: trained on other data than the job was submitted with")
        # A name can be taken again: what an earlier job left is no model of this one.
        started = datetime.datetime.fromisoformat(record["started"])
        submitted = datetime.datetime.fromisoformat(created) if created else started
        if record["recipe"] != Path(spec.recipe_path).stem or started < submitted.replace(microsecond=0):
            detail = f"the model of an earlier job: {record['recipe']}, started {started.isoformat()}"
            raise UserError(f"{source}: {detail}", "`arxiv-cls cloud status JOB` says how this one ended")
        partial.rename(target)
    return target


def _fetch(source: str, folder: Path) -> dict[str, str]:
    """Copies the files that the training listed; returns the sha256 of each by its path."""
    files, root = file_system(source)
    with storage_errors(source):
        try:
            listed = json.loads(files.cat_file(f"{root}/{MARK}"))["files"]
            for name in listed:
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise UserError(f"{source}: {name!r} leads out of the model directory")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                files.get_file(f"{root}/{name}", str(folder / name))
        except FileNotFoundError:
            hint = "`arxiv-cls cloud status JOB` says why"
            raise UserError(f"{source}: there is no whole model", hint) from None
    return listed
