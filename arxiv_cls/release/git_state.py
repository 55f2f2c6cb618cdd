"""Which commit of this project runs: from git where the code is tracked, else as the image says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

COMMIT_VARIABLE = "ARXIV_CLS_COMMIT"


def git_state(directory: Path | None = None) -> dict[str, Any]:
    """The commit of the code and whether tracked files differ from it, now.

    Only a repository that tracks this very package counts: a package installed into the `.venv` of somebody
    else's repository is no code of that repository. Where there is none, as in a container image, the
    environment variable `ARXIV_CLS_COMMIT` says the commit that the image was built from: 40 hexadecimal
    digits, anything else is ignored; an image holds no changes.

    `dvc.lock` and the `.dvc` files of the data do not count: the pipeline notes checksums there while it runs,
    and a run's record names the data by its sha256.

    Args:
        directory: the package's; None for the one that this module is in.

    Returns:
        `{"commit": 40 hex digits or None, "dirty": bool or None}`; None where nobody can tell.
    """
    package = directory or Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package), *arguments],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        named = os.environ.get(COMMIT_VARIABLE, "")
        known = re.fullmatch(r"[0-9a-f]{40}", named) is not None
        return {"commit": named if known else None, "dirty": False if known else None}
    commit = git("rev-parse", "HEAD")
    but = (":(top,exclude)dvc.lock", ":(top,exclude)data/raw/*.dvc")
    status = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *but)
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def state_of_run(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What goes on record for a run: the commit it started from, dirty when anything changed meanwhile.

    Python reads modules when they are first needed, so part of a run can come from what was edited or
    committed after its start.

    Args:
        before: `git_state` before the training.
        after: `git_state` at its end.
    """
    return before if before == after else {"commit": before["commit"], "dirty": True}
