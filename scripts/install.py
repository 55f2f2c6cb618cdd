"""Install the project with some of its extras, every file of the lock checked against its hash.

Run as: python scripts/install.py [--editable] EXTRA[,EXTRA ...]        (make setup and the Dockerfile do)

pip checks hashes only where every requirement has one, and an editable project has none. So pip first says
what this machine lacks (nothing is installed), then installs that list with its hashes and looks for nothing
more, then the rest by version alone: torch, whose build is that of the machine, the accelerator libraries
that its build wants, and what another system or Python needs than the one that the lock was made with. The
project comes last.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
PROJECT = "arxiv-cls"


def canonical(name: str) -> str:
    """The normalised form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashed(text: str) -> dict[str, str]:
    """The requirements of hashes.txt, with their hashes, by `name==version`."""
    lines = text.replace("\\\n", " ").splitlines()
    return {line.split(" ", 1)[0]: line for line in lines if line and not line.startswith("#")}


def missing(extras: str, folder: Path) -> list[str]:
    """`name==version` of what the project with these extras needs and this environment lacks.

    Raises:
        subprocess.CalledProcessError: pip finds no solution; it has said why.
    """
    report = folder / "report.json"
    constraints = ["-c", "constraints.txt", f".[{extras}]"]
    subprocess.run(
        [*PIP, "--quiet", "--dry-run", "--report", str(report), *constraints], cwd=ROOT, check=True
    )
    found = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    pairs = [(canonical(item["name"]), item["version"].split("+")[0]) for item in found]
    return [f"{name}=={version}" for name, version in pairs if name != PROJECT]


def main() -> int:
    """Installs; returns the exit status."""
    parser = argparse.ArgumentParser(description="Install the project, the lock's hashes checked.")
    parser.add_argument("--editable", action="store_true", help="the project stays in this folder")
    parser.add_argument("extras", help="names of extras, with commas")
    arguments = parser.parse_args()
    known = hashed((ROOT / "hashes.txt").read_text(encoding="utf-8"))
    locked = set((ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    print(f"resolving the extras {arguments.extras}", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            needed = missing(arguments.extras, Path(folder))
            # A pin without a hash is one that was changed by hand: not to be taken by version alone.
            stale = [
                pin for pin in needed if pin in locked and pin not in known and not pin.startswith("torch==")
            ]
            if stale:
                print(f"error: hashes.txt lacks {', '.join(stale)}\n  make hashes", file=sys.stderr)
                return 2
            checked = Path(folder) / "requirements.txt"
            checked.write_text("\n".join(known[pin] for pin in needed if pin in known), encoding="utf-8")
            rest = [pin for pin in needed if pin not in known]
            if len(rest) < len(needed):
                subprocess.run([*PIP, "--no-deps", "--require-hashes", "-r", str(checked)], check=True)
            if rest:
                print(f"by version alone, without a hash: {', '.join(rest)}", flush=True)
                subprocess.run([*PIP, "--no-deps", *rest], check=True)
        project = ["-e", "."] if arguments.editable else ["."]
        subprocess.run([*PIP, "--no-deps", *project], cwd=ROOT, check=True)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
