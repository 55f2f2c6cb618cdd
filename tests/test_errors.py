"""How a program of ours ends: one line for a person, an exit status for a script."""

from __future__ import annotations

import sys

import pytest

from arxiv_cls.errors import OUT_OF_MEMORY, UserError, is_out_of_memory, run_main


class OutOfMemoryError(RuntimeError):
    """Named like torch's, which is a RuntimeError too."""


def status_of(error: BaseException | None, monkeypatch) -> int:
    """The exit status of a program that raises this."""

    def main(argv: list[str]) -> int | None:
        if error is not None:
            raise error
        return None

    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    return ended.value.code


class TestRunMain:
    """The end of every entry point."""

    def test_success(self, monkeypatch):
        """Nothing returned is 0."""
        assert status_of(None, monkeypatch) == 0

    def test_user_error(self, monkeypatch, capsys):
        """Message and hint on stderr, no traceback, the error's own status."""
        assert status_of(UserError("wrong", hint="do that", exit_code=3), monkeypatch) == 3
        assert capsys.readouterr().err == "error: wrong\n  do that\n"

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines"),
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        ],
    )
    def test_out_of_memory(self, error, monkeypatch, capsys):
        """Told apart from a crash: a status of its own, the reason on one line, and what to change."""
        assert status_of(error, monkeypatch) == OUT_OF_MEMORY
        message, hint = capsys.readouterr().err.splitlines()
        assert message.startswith("error: out of memory: ")
        assert "per_device_train_batch_size" in hint

    def test_other_errors_stay_errors(self, monkeypatch):
        """A bug is not dressed up as a lack of memory."""
        assert not is_out_of_memory(RuntimeError("shapes differ"))
        with pytest.raises(RuntimeError, match="shapes differ"):
            run_main(raise_runtime_error)

    @pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
    def test_interruptions(self, error, status, monkeypatch):
        """As shells count them."""
        assert status_of(error, monkeypatch) == status


def raise_runtime_error(argv: list[str]) -> None:
    """An entry point with a bug."""
    raise RuntimeError("shapes differ")
