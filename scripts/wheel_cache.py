"""One folder of wheels for every clean installation of a test run.

Run as: .venv/bin/python scripts/wheel_cache.py [EXTRA ...]        (fills it and prints its path)

A clean virtual environment is worth its name only if everything in it was installed anew. To fetch it anew
each time would take minutes, so the locked versions are fetched once, into `.cache/downloads/`, and pip
installs from there with no index: a package that the lock does not name cannot slip in.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "downloads"


def lock_digest() -> str:
    """Names what is locked: other dependencies or versions have another one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [project["dependencies"], project["optional-dependencies"]]
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps([needed, locked]).encode()).hexdigest()[:16]


def fill(extras: Iterable[str]) -> Path:
    """Makes sure that the wheels of the project with these extras are there; returns their folder.

    A changed lock fetches only what changed: wheels of other versions stay and are in nobody's way.

    Raises:
        subprocess.CalledProcessError: pip cannot get one of them; it has said why.
    """
    folder = CACHE / f"python{sys.version_info[0]}.{sys.version_info[1]}-{sys.platform}"
    wanted = set(extras)
    marker = folder / f"{lock_digest()}.txt"
    have = set(marker.read_text().split()) if marker.is_file() else None
    if have is not None and wanted <= have:
        return folder
    wanted |= have or set()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--dest", str(folder), "--find-links", str(folder), "-c", str(ROOT / "constraints.txt")]
    # Files as the index has them, since a wheel built here has another hash; these two build what has none.
    pip += ["setuptools", "wheel", f"{ROOT}[{','.join(sorted(wanted))}]"]
    # What an earlier lock left is often enough, and to ask no index is ten times as fast.
    enough = folder.is_dir() and not subprocess.run(pip, env=offline(folder), capture_output=True).returncode
    if not enough:
        subprocess.run(pip, check=True)
    for own in folder.glob("arxiv_cls-*"):
        # The project changes without its lock: what is installed is always the working tree.
        own.unlink()
    marker.write_text(" ".join(sorted(wanted)) + "\n")
    return folder


def offline(folder: Path) -> dict[str, str]:
    """Our variables, with which pip installs from the folder alone and compiles nothing ahead of its use."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return kept | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_NO_COMPILE": "1"}


if __name__ == "__main__":
    print(fill(sys.argv[1:]))
