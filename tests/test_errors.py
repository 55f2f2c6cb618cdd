"""How a program of ours ends: one line for a person, an exit status for a script."""

from __future__ import annotations

import sys

import pytest

from arxiv_cls.errors import OUT_OF_MEMORY, UserError, run_main


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
        with pytest.raises(RuntimeError, match="shapes differ"):
            status_of(RuntimeError("shapes differ"), monkeypatch)

    @pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
    def test_interruptions(self, error, status, monkeypatch):
        """As shells count them."""
        assert status_of(error, monkeypatch) == status


class TestMissingLibrary:
    """A library that was not installed is named with the extra that brings it."""

    @pytest.mark.parametrize(
        ("module", "extra"),
        [
            ("torch", "train"),
            ("datasets.config", "train"),
            ("sklearn.linear_model", "baseline"),
            ("xgboost", "baseline"),
            ("fastapi", "serve"),
            ("gradio", "space"),
            ("google.cloud.storage", "gcs"),
            ("umap", "umap"),
        ],
    )
    def test_the_extra_that_brings_it(self, module, extra, monkeypatch, capsys):
        """One line, what to install, status 2, no traceback; the smallest extra that fits."""
        assert status_of(ModuleNotFoundError(f"No module named {module!r}", name=module), monkeypatch) == 2
        assert capsys.readouterr().err == (
            f"error: this needs {module}, which is not installed\n"
            f'  pip install "arxiv_cls[{extra}]", or in a checkout: make setup\n'
        )

    @pytest.mark.parametrize("module", ["arxiv_cls.gone", "no_such_library"])
    def test_no_library_of_ours_to_install(self, module, monkeypatch):
        """A fault of the code, not of the installation, keeps its traceback."""
        with pytest.raises(ModuleNotFoundError):
            status_of(ModuleNotFoundError(f"No module named {module!r}", name=module), monkeypatch)
