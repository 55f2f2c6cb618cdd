"""Cores that a process may use: its affinity, and the quota of its container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arxiv_cls.record.run_record import available_cores


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight_cores")
class TestQuota:
    """Both versions of control groups."""

    @pytest.mark.parametrize(
        ("content", "expected"),
        [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("odd", 8)],
    )
    def test_version_2(self, tmp_path: Path, content: str, expected: int):
        """A part of a core counts as one; no limit, or a file that is not understood, means the affinity."""
        (tmp_path / "cpu.max").write_text(content)
        assert available_cores(tmp_path) == expected

    @pytest.mark.parametrize(("quota", "expected"), [("400000", 4), ("-1", 8), ("1600000", 8)])
    def test_version_1(self, tmp_path: Path, quota: str, expected: int):
        """-1 means no limit; a quota above the affinity changes nothing."""
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
        assert available_cores(tmp_path) == expected

    def test_no_control_groups(self, tmp_path: Path):
        """The affinity alone."""
        assert available_cores(tmp_path / "none") == 8
