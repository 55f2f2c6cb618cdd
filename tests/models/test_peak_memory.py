"""The peak memory of a process, which must not be its parent's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from arxiv_cls.record.run_record import peak_resident_bytes

CHILD = "from arxiv_cls.record.run_record import peak_resident_bytes as peak; print(peak())"


class TestPeakResidentBytes:
    """`peak_resident_bytes`."""

    def test_stays_after_the_memory_is_gone(self):
        """400 MB that were held for a moment count."""
        before = peak_resident_bytes()
        block = bytearray(before + 400_000_000)
        block[::4096] = b"x" * len(block[::4096])
        del block
        assert peak_resident_bytes() >= before + 400_000_000

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it so")
    def test_a_child_does_not_inherit_it(self):
        """A small program started by a large process reports its own memory."""
        block = bytearray(300_000_000)
        block[::4096] = b"x" * len(block[::4096])
        done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
        assert 1_000_000 < int(done.stdout) < 200_000_000
        assert peak_resident_bytes() > 300_000_000

    def test_without_proc(self, tmp_path):
        """Elsewhere the operating system's own count is taken, in the same unit."""
        status = tmp_path / "status"
        assert peak_resident_bytes(status) >= peak_resident_bytes() * 0.9
        status.write_text("Name: python\nVmHWM:\t  2048 kB\n")
        assert peak_resident_bytes(status) == 2048 * 1024
