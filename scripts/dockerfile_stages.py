"""Read a Dockerfile: its stages, what applies to each, and its COPY and ENV lines carried out in a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
    """The words of the last instruction of a kind in its JSON form, without the options before it."""
    found = [rest for instruction, rest in instructions if instruction == name]
    return json.loads(found[-1][found[-1].index("[") :]) if found and "[" in found[-1] else []


def environment_stage(stages: dict[str, Stage], target: str) -> str:
    """The stage that a target takes its virtual environment from."""
    copies = [rest for name, rest in lineage(stages, target) if name == "COPY" and "--from=" in rest]
    return re.search(r"--from=(\S+)", copies[-1]).group(1)


def installed_extras(stages: dict[str, Stage]) -> list[str]:
    """Every extra of the project that some stage installs, sorted."""
    commands = [rest for s in stages.values() for name, rest in s.instructions if name == "RUN"]
    found = [
        extras for command in commands for extras in re.findall(r"scripts/install\.py ([\w,]+)", command)
    ]
    return sorted({extra for extras in found for extra in extras.split(",")})


def copy_files(instructions: list[tuple[str, str]], app: Path) -> None:
    """Carries out the COPY lines that take files of the repository: those that git knows.

    Raises:
        SystemExit: git knows no file of that name.
    """
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


def environment_variables(
    instructions: list[tuple[str, str]], app: Path, venv: Path, variables: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The ENV lines on top of these variables, /app and /opt/venv standing for our folders."""
    variables = dict(variables)
    for name, rest in instructions:
        if name == "ENV":
            for key, value in re.findall(r"(\w+)=(\S+)", rest):
                value = value.replace("/opt/venv", str(venv)).replace("/app", str(app))
                variables[key] = value.replace("$PATH", variables.get("PATH", ""))
    return variables
