"""A new version of the data and the way back: the older commit gives the older rows and splits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arxiv_cls.corpus import build_corpus
from arxiv_cls.corpus.fetch import TRACKED_CSV, fetch_from_dvc
from arxiv_cls.corpus.sample import sample_csv_bytes
from arxiv_cls.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> None:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def dvc(*arguments: str) -> None:
    run(sys.executable, "-m", "dvc", *arguments)


def commit(message: str) -> None:
    run("git", "add", ".")
    run("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", message)


def split_ids(cache: Path) -> dict[str, set[str]]:
    """Base ids per split of the tracked CSV as it is now."""
    splits = build_corpus("top5", csv=TRACKED_CSV, cache_dir=cache).splits
    return {name: set(split["arxiv_id"]) for name, split in splits.items()}


@pytest.mark.slow
class TestRollBack:
    """With the real git and DVC: add, commit, grow, commit, go back."""

    def test_older_commit_brings_older_rows_and_splits(self, tmp_path, monkeypatch):
        project = tmp_path / "project"
        project.mkdir()
        monkeypatch.chdir(project)
        run("git", "init", "--quiet", "--initial-branch", "main")
        shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
        TRACKED_CSV.parent.mkdir(parents=True)
        shutil.copy(ROOT / "data/raw/.gitignore", TRACKED_CSV.parent)

        header, *rows = sample_csv_bytes(400).splitlines(keepends=True)
        older, newer = b"".join([header, *rows[:250]]), b"".join([header, *rows])
        TRACKED_CSV.write_bytes(older)
        dvc("add", str(TRACKED_CSV))
        commit("older data")
        splits_before = split_ids(tmp_path / "cache")

        TRACKED_CSV.write_bytes(newer)
        dvc("add", str(TRACKED_CSV))
        commit("newer data")
        splits_after = split_ids(tmp_path / "cache")
        assert all(splits_before[name] < splits_after[name] for name in splits_before)
        dvc("remote", "add", "--local", "store", str(tmp_path / "store"))
        dvc("push", "--all-commits", "--remote", "store")
        dvc("remote", "remove", "--local", "store")

        # Back: the older content is in DVC's cache, no remote is asked.
        run("git", "checkout", "--quiet", "HEAD~1")
        fetch_from_dvc("../nowhere")
        assert TRACKED_CSV.read_bytes() == older
        assert split_ids(tmp_path / "cache") == splits_before

        # Forward with DVC's own command.
        run("git", "checkout", "--quiet", "main")
        dvc("checkout", str(TRACKED_CSV))
        assert split_ids(tmp_path / "cache") == splits_after

        # On another machine there is no cache: the remote has both versions.
        shutil.rmtree(".dvc/cache")
        TRACKED_CSV.unlink()
        run("git", "checkout", "--quiet", "HEAD~1")
        with pytest.raises(UserError, match="no such directory"):
            fetch_from_dvc("../nowhere")
        fetch_from_dvc("../store")
        assert TRACKED_CSV.read_bytes() == older
        assert split_ids(tmp_path / "cache") == splits_before
