"""A clone of the working tree with git, DVC and a small CSV: what the pipeline runs in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import shell_environment

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Clone:
    """A repository of its own in a temporary folder."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: str, status: int = 0) -> str:
        """Runs a command there and gives back its output, or its errors when it is to fail."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stderr if status else done.stdout

    def git(self, *arguments: str) -> str:
        """Runs git there."""
        return self.run("git", *arguments).strip()

    def dvc(self, *arguments: str) -> str:
        """Runs DVC there."""
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def reproduce(self, recipe: str, *variables: str, status: int = 0) -> str:
        """`make reproduce RECIPE=... [variables]`."""
        return self.run("make", "reproduce", f"RECIPE={recipe}", *variables, status=status)

    def commit(self, message: str) -> str:
        """Commits every change of tracked files and every new file; gives back the commit's id."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def make_clone(tmp_path: Path) -> Callable[[], Clone]:
    """Makes a repository of the files of this one as they stand now, with one commit."""

    def make() -> Clone:
        root = tmp_path / "clone"
        files = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, files):
            if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, root / name)
        (root / "dvc.lock").unlink(missing_ok=True)
        (root / ".venv").symlink_to(sys.prefix)
        environment = shell_environment() | {
            "PYTHONPATH": str(root),
            "HF_DATASETS_CACHE": str(tmp_path / "datasets"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "A Person",
            "GIT_AUTHOR_EMAIL": "person@example.org",
            "GIT_COMMITTER_NAME": "A Person",
            "GIT_COMMITTER_EMAIL": "person@example.org",
        }
        clone = Clone(root, environment)
        clone.git("init", "--quiet")
        clone.commit("Everything")
        return clone

    return make
