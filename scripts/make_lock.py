"""Resolve the newest allowed versions and write them to constraints.txt.

Run as: make lock        (or: .venv/bin/python scripts/make_lock.py)

The result is a constraints file, not a list of what to install: `pip install -c constraints.txt -e ".[dev]"`
takes from it only what the machine at hand needs, so that one file serves Linux, macOS and Windows.
pip resolves into a report and installs nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"

# The newest numpy, scipy and others drop old Pythons first: what the oldest one gets, all of them get.
OLDEST_PYTHON = (3, 11)

# Which accelerator libraries belong to a torch build is the business of that build, machine by machine.
MACHINE_DEPENDENT = re.compile(r"^(nvidia-|cuda-|triton$|pytorch-triton)")

# Two builds of one library: a machine installs one of them, the lock names both.
SAME_LIBRARY = ("xgboost", "xgboost-cpu")

HEADER = """\
# The lock: made by `make lock`, used as `pip install -c constraints.txt -e ".[dev]"` (that is `make setup`).
# No local versions (+cpu, +cu130), no accelerator libraries: pip takes those that fit the machine.
"""


def canonical(name: str) -> str:
    """The normalised form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(resolved: Iterable[tuple[str, str]], project: str) -> list[str]:
    """The lines of the lock.

    Args:
        resolved: (name, version) of every distribution that the resolver chose.
        project: the project's own name, which is left out.
    """
    versions = {canonical(name): version.split("+")[0] for name, version in resolved}
    versions.pop(canonical(project), None)
    for name in SAME_LIBRARY:
        if name in versions:
            versions |= dict.fromkeys(SAME_LIBRARY, versions[name])
    return [
        f"{name}=={version}"
        for name, version in sorted(versions.items())
        if not MACHINE_DEPENDENT.match(name)
    ]


def resolve(extras: Iterable[str]) -> list[tuple[str, str]]:
    """Asks pip for the newest versions that the project with these extras allows.

    Raises:
        subprocess.CalledProcessError: when pip finds no solution; pip has printed why.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        target = f"{ROOT}[{','.join(extras)}]"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(report), target], check=True)
        installs = json.loads(report.read_text())["install"]
    return [(item["metadata"]["name"], item["metadata"]["version"]) for item in installs]


def main() -> int:
    """Writes constraints.txt; returns the exit status."""
    if sys.version_info[:2] != OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        print(f"error: make the lock with Python {oldest}, the oldest supported one", file=sys.stderr)
        return 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = pins(resolve(project["optional-dependencies"]), project["name"])
    LOCK.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{LOCK.name}: {len(lines)} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
