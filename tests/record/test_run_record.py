"""What a run records: the commit that trained, of this package only; cores and memory of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from factories import ROOT

from arxiv_cls.recipe import TfidfRecipe, load_recipe
from arxiv_cls.record import run_record
from arxiv_cls.record.run_record import available_cores, build_run_record, git_state, peak_resident_bytes
from arxiv_cls.training.run_directory import TrainingRun

COMMIT = "0123456789abcdef0123456789abcdef01234567"

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    """Runs git with a name for the commits."""
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed package in a repository of its own."""
    monkeypatch.delenv("ARXIV_CLS_COMMIT", raising=False)
    folder = tmp_path / "repository" / "arxiv_cls"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    git(folder.parent, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@needs_git
class TestGitState:
    """Git where it tracks the package."""

    def test_commit_and_changes(self, package: Path) -> None:
        """The head, clean; dirty with an edit, and not with a new file or another `dvc.lock`."""
        head = git(package, "rev-parse", "HEAD")
        (package / "new.py").write_text("")
        (package.parent / "dvc.lock").write_text("")
        git(package, "add", "../dvc.lock")
        assert git_state(package) == {"commit": head, "dirty": False}
        (package / "__init__.py").write_text("edited")
        assert git_state(package) == {"commit": head, "dirty": True}

    def test_installed_into_the_repository_of_somebody_else(self, package: Path) -> None:
        """`site-packages` below a repository that ignores or does not know it: that commit is not ours."""
        installed = package.parent / ".venv/lib/site-packages/arxiv_cls"
        installed.mkdir(parents=True)
        (installed / "__init__.py").write_text("")
        assert git_state(installed) == {"commit": None, "dirty": None}

    def test_image_without_git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variable says the commit, with and without the program."""
        monkeypatch.setenv("ARXIV_CLS_COMMIT", COMMIT)
        assert git_state(tmp_path) == {"commit": COMMIT, "dirty": False}
        monkeypatch.setenv("PATH", "")
        assert git_state(tmp_path) == {"commit": COMMIT, "dirty": False}

    @pytest.mark.parametrize("value", ["", "main", COMMIT[:12], COMMIT + "0", "G" * 40])
    def test_variable_that_is_no_commit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        """It is ignored."""
        monkeypatch.setenv("ARXIV_CLS_COMMIT", value)
        assert git_state(tmp_path) == {"commit": None, "dirty": None}

    def test_git_comes_before_the_variable(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A variable left over from elsewhere does not hide the repository."""
        monkeypatch.setenv("ARXIV_CLS_COMMIT", COMMIT)
        assert git_state(package)["commit"] == git(package, "rev-parse", "HEAD")


@needs_git
class TestRun:
    """Before the training, and at its end."""

    @pytest.mark.parametrize(
        ("before", "after", "dirty"),
        [
            (("a" * 40, False), ("a" * 40, False), False),
            (("a" * 40, False), ("a" * 40, True), True),
            (("a" * 40, False), ("b" * 40, False), True),
            (("a" * 40, False), (None, None), True),
            (("a" * 40, True), ("b" * 40, False), True),
            ((None, None), (None, None), None),
        ],
        ids=["unchanged", "edited", "committed", "gone", "dirty before", "no repository"],
    )
    def test_what_changed_meanwhile(
        self, monkeypatch: pytest.MonkeyPatch, before: tuple, after: tuple, dirty: bool | None
    ) -> None:
        """`run.json` keeps the commit it started from, and is dirty when anything changed."""
        before, after = ({"commit": commit, "dirty": state} for commit, state in (before, after))
        monkeypatch.setattr(run_record, "git_state", lambda: after)
        record = build_run_record(
            kind="tfidf", recipe="tiny", data={}, git=before, seed=1, device={},
            started="", duration_seconds=1.0, papers_per_second=1.0, peak_memory_bytes=1, calibration={},
            weights_sha256="", metrics={},
        )  # fmt: skip
        assert record["git"] == {"commit": before["commit"], "dirty": dirty}

    @pytest.mark.parametrize(
        ("script", "training"), [("train", "PaperTrainer("), ("train_tfidf", "fit_tfidf(")]
    )
    def test_taken_before_the_training(self, script: str, training: str) -> None:
        """In both scripts: a `TrainingRun` takes it when it is made."""
        source = (Path(run_record.__file__).parents[1] / f"{script}.py").read_text()
        assert source.index("TrainingRun(recipe, overrides) as run") < source.rindex(training)
        recipe = load_recipe(ROOT / "recipes" / "tfidf_linear.yaml", [], TfidfRecipe)
        assert TrainingRun(recipe, []).git == git_state()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # A part of a core counts as one; no limit, or a file that is not understood, means the affinity.
        *(({"cpu.max": text}, cores) for text, cores in (("200000 100000", 2), ("150000 100000", 2))),
        *(({"cpu.max": text}, cores) for text, cores in (("50000 100000", 1), ("max 100000", 8), ("odd", 8))),
        *(
            ({"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": "100000"}, cores)
            for quota, cores in (("400000", 4), ("-1", 8), ("1600000", 8))
        ),
        ({}, 8),
    ],
)
def test_available_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict, expected: int) -> None:
    """The affinity and the quota of both versions of control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == expected


class TestPeakMemory:
    """Of this process, and not of its parent."""

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it so")
    def test_stays_and_is_not_inherited(self) -> None:
        """400 MB that were held for a moment count here, and not in a small program started meanwhile."""
        before = peak_resident_bytes()
        block = bytearray(before + 400_000_000)
        block[::4096] = b"x" * len(block[::4096])
        child = "from arxiv_cls.record.run_record import peak_resident_bytes as peak; print(peak())"
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
        del block
        assert 1_000_000 < int(done.stdout) < 200_000_000
        assert peak_resident_bytes() >= before + 400_000_000

    def test_without_proc(self, tmp_path: Path) -> None:
        """Elsewhere the operating system's own count is taken, in the same unit."""
        status = tmp_path / "status"
        assert peak_resident_bytes(status) >= peak_resident_bytes() * 0.9
        status.write_text("Name: python\nVmHWM:\t  2048 kB\n")
        assert peak_resident_bytes(status) == 2048 * 1024
