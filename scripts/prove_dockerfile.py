"""Do what the Dockerfile does, without Docker: install each target's environment and run its entry point.

Run as: .venv/bin/python scripts/prove_dockerfile.py [TARGET ...]        (all targets; make test-slow does)

Every target is laid out in a temporary folder: its COPY lines from the files that git knows, its ENV, its
`pip install` in a clean virtual environment, its ENTRYPOINT with small arguments. What needs root or Linux
containers (users, cache mounts) is left out. Targets that share an environment stage share the installation.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SAMPLE = "data/sample/arxiv_sample.csv"
TINY = ["--data.csv", SAMPLE, "--data.max_samples", "40", "--trainer.num_train_epochs", "1"]
# What each entry point is asked to do; {model} is the directory that the baseline target leaves.
ARGUMENTS = {
    "train": ["recipes/distilbert.yaml", "--data.csv", SAMPLE],
    "baseline": ["recipes/tfidf_xgboost.yaml", *TINY, "--trainer.output_dir", "outputs/tiny"],
    "evaluate": ["outputs/tiny"],
}
# Kept from the network, the train target cannot have the Hub's weights: it must get as far as to say so, and
# accelerate turns our status 3 into its own 1.
EXPECTED_STATUS = {"train": 1}


@dataclass
class Stage:
    """One FROM block: its parent and its instructions as (name, rest of the line)."""

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


def read_stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, continued lines joined, comments dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    stage = None
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            parent, _, own = rest.partition(" AS ")
            stage = stages[own] = Stage(own, parent)
        elif name and stage is not None:
            stage.instructions.append((name, rest.strip()))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[tuple[str, str]]:
    """All instructions that apply to a stage, the oldest ancestor's first."""
    stage = stages.get(name)
    return [*lineage(stages, stage.parent), *stage.instructions] if stage else []


def targets(stages: dict[str, Stage]) -> list[str]:
    """The stages that people build: those with an entry point."""
    return [name for name, stage in stages.items() if any(i == "ENTRYPOINT" for i, _ in stage.instructions)]


def last(instructions: list[tuple[str, str]], name: str) -> list[str]:
    """The words of the last instruction of a kind in its JSON form."""
    found = [rest for instruction, rest in instructions if instruction == name]
    return json.loads(found[-1]) if found else []


def environment_stage(stages: dict[str, Stage], target: str) -> str:
    """The stage that a target takes its virtual environment from."""
    copies = [rest for name, rest in lineage(stages, target) if name == "COPY" and "--from=" in rest]
    return re.search(r"--from=(\S+)", copies[-1]).group(1)


def copy_files(instructions: list[tuple[str, str]], app: Path) -> None:
    """Carries out the COPY lines that take files of the repository: those that git knows."""
    known = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name, rest in instructions:
        if name != "COPY" or "--from=" in rest:
            continue
        *sources, destination = [word for word in rest.split() if not word.startswith("--")]
        for source in sources:
            matches = [f for f in known.stdout.splitlines() if f == source or f.startswith(f"{source}/")]
            if not matches:
                raise SystemExit(f"error: COPY {source}: git knows no such file")
            for file in matches:
                inside = Path(file).relative_to(source) if file != source else Path()
                folder = destination.endswith("/")
                base = app / destination / Path(source).name if folder else app / destination
                place = base / inside if inside.parts else base
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, place)


def environment_variables(instructions: list[tuple[str, str]], app: Path, venv: Path) -> dict[str, str]:
    """The ENV lines, /app and /opt/venv standing for our folders."""
    variables = dict(os.environ)
    for name, rest in instructions:
        if name == "ENV":
            for key, value in re.findall(r"(\w+)=(\S+)", rest):
                value = value.replace("/opt/venv", str(venv)).replace("/app", str(app))
                variables[key] = value.replace("$PATH", variables.get("PATH", ""))
    return variables


def install(stages: dict[str, Stage], stage: str, folder: Path) -> Path:
    """Runs the `pip install` of an environment stage in a new virtual environment; returns its folder."""
    venv, app = folder / "venv", folder / "app"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    instructions = lineage(stages, stage)
    copy_files(instructions, app)
    for name, rest in instructions:
        if name == "RUN" and "pip install" in rest:
            command = re.sub(r"^(--mount=\S+\s+)+", "", rest)
            # The index of CPU builds is a matter of size, not of what is installed.
            command = re.sub(r"--extra-index-url \S+ ", "", command)
            variables = environment_variables(instructions, app, venv)
            subprocess.run(["sh", "-c", f"{command} --quiet"], cwd=app, env=variables, check=True)
    return venv


def prove(names: list[str]) -> bool:
    """Installs and runs the named targets; returns whether each ended as it should."""
    stages = read_stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    unknown = sorted(set(names) - set(targets(stages)))
    if unknown:
        raise SystemExit(f"error: no target {', '.join(unknown)}; there are: {', '.join(targets(stages))}")
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        environments: dict[str, Path] = {}
        outputs = Path(temporary) / "outputs"
        outputs.mkdir()
        for target in names or targets(stages):
            stage = environment_stage(stages, target)
            if stage not in environments:
                started = time.monotonic()
                environments[stage] = install(stages, stage, Path(temporary) / stage)
                size = sum(f.stat().st_size for f in environments[stage].rglob("*") if f.is_file())
                print(
                    f"{stage}: {size / 1e9:.2f} GB installed in {time.monotonic() - started:.0f} s",
                    flush=True,
                )
            instructions = lineage(stages, target)
            app = Path(temporary) / target
            copy_files(instructions, app)
            (app / "outputs").symlink_to(outputs)
            variables = environment_variables(instructions, app, environments[stage]) | {
                "HF_HUB_OFFLINE": "1"
            }
            command = [*last(instructions, "ENTRYPOINT"), *ARGUMENTS[target]]
            program = shutil.which(command[0], path=variables["PATH"])
            status = subprocess.run([program, *command[1:]], cwd=app, env=variables, check=False).returncode
            expected = EXPECTED_STATUS.get(target, 0)
            print(f"{target}: exit status {status}, expected {expected}", flush=True)
            good = good and status == expected
    return good


def main() -> int:
    """Reads the targets from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Install and run the Dockerfile's targets without Docker.")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    return 0 if prove(parser.parse_args().targets) else 1


if __name__ == "__main__":
    sys.exit(main())
