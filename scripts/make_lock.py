"""Resolve the newest allowed versions into constraints.txt, and the hashes of their files into hashes.txt.

Run as: make lock                                (or: .venv/bin/python scripts/make_lock.py)
        make hashes                              (the hashes alone, after a pin was changed)

The result is a constraints file, not a list of what to install: scripts/install.py takes from it only what
the machine at hand needs, so that one file serves Linux, macOS and Windows. pip resolves into a report and
installs nothing. Hashes are those that the index gives, of every file that a supported Python could take.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from install import canonical

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"
HASHES = ROOT / "hashes.txt"
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")

# The newest numpy, scipy and others drop old Pythons first: what the oldest one gets, all of them get.
OLDEST_PYTHON = (3, 11)

# Which accelerator libraries belong to a torch build is the business of that build, machine by machine.
MACHINE_DEPENDENT = re.compile(r"^(nvidia-|cuda-|triton$|pytorch-triton)")

# Two builds of one library: a machine installs one of them, the lock names both.
SAME_LIBRARY = ("xgboost", "xgboost-cpu")

# Wheels of these Pythons alone are none of ours; the stable interface (abi3) of an old one fits a new one.
OTHER_PYTHON = re.compile(
    r"-(cp2\d+|cp3\d|cp310|cp31[4-9]|pp\d+|graalpy\d+)[^-\d]*-(?!abi3)[^-]+-[^-]+\.whl$"
)

HEADER = """\
# The lock: made by `make lock`, used by `make setup` together with hashes.txt.
# No local versions (+cpu, +cu130), no accelerator libraries: pip takes those that fit the machine.
"""


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


def hashes(pin: str) -> str:
    """The pin with the hashes of its files, as pip reads it in a requirements file.

    Raises:
        OSError: the index cannot be reached.
        ValueError: it has no file of this version.
    """
    name, version = pin.split("==")
    # The JSON form of the index (PEP 691).
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    request = urllib.request.Request(f"{INDEX.rstrip('/')}/{name}/", headers=accept)
    with urllib.request.urlopen(request, timeout=60) as response:
        files = json.load(response)["files"]
    stem = name.replace("-", "[-_.]+") + "-" + re.escape(version)
    wanted = re.compile(rf"{stem}(-.*\.whl|\.tar\.gz|\.zip)", re.IGNORECASE)
    found = {
        file["hashes"]["sha256"]
        for file in files
        if wanted.fullmatch(file["filename"]) and not OTHER_PYTHON.search(file["filename"])
    }
    if not found:
        raise ValueError(f"{INDEX}: no file of {pin}")
    return " \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for digest in sorted(found))])


def write_hashes(lines: Iterable[str]) -> None:
    """Writes hashes.txt: of every pin but torch, whose builds are those of another index."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(hashes, (line for line in lines if not line.startswith("torch=="))))
    HASHES.write_text("# Made by `make lock`, read by scripts/install.py.\n" + "\n".join(found) + "\n")
    print(f"{HASHES.name}: {len(found)} pins")


def main() -> int:
    """Writes constraints.txt and hashes.txt; returns the exit status."""
    parser = argparse.ArgumentParser(description="Resolve the newest allowed versions, with their hashes.")
    parser.add_argument("--hashes", action="store_true", help="only the hashes of the pins as they are")
    if parser.parse_args().hashes:
        write_hashes(line for line in LOCK.read_text().splitlines() if not line.startswith("#"))
        return 0
    if sys.version_info[:2] != OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        print(f"error: make the lock with Python {oldest}, the oldest supported one", file=sys.stderr)
        return 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = pins(resolve(project["optional-dependencies"]), project["name"])
    LOCK.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{LOCK.name}: {len(lines)} pins")
    write_hashes(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
