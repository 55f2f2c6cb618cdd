"""A library that was not installed is named with the extra that brings it."""

from __future__ import annotations

import sys

import pytest

from arxiv_cls.errors import explain, extras_with, run_main


class TestExtras:
    """Read from the project's own metadata."""

    @pytest.mark.parametrize(
        ("module", "extra"),
        [
            ("torch", "train"),
            ("datasets.config", "train"),
            ("sklearn.linear_model", "baseline"),
            ("xgboost", "baseline"),
            ("fastapi", "serve"),
            ("onnxruntime", "serve"),
            ("gradio", "space"),
            ("google.cloud.run_v2", "deploy"),
            ("google.cloud.storage", "gcs"),
            ("umap", "umap"),
            ("optuna", "sweep"),
        ],
    )
    def test_the_extra_that_brings_it(self, module, extra):
        """The smallest one that fits is named first."""
        assert extras_with(module)[0] == extra

    def test_not_ours(self):
        """A module that no extra brings is a fault of the code, not of the installation."""
        assert extras_with("no_such_library") == []
        assert explain(ModuleNotFoundError("gone", name="arxiv_cls.no_such_module")) is None


class TestRunMain:
    """What a person sees."""

    def test_message(self, monkeypatch, capsys):
        """One line, what to install, status 2, no traceback."""

        def main(argv: list[str]) -> None:
            raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

        monkeypatch.setattr(sys, "argv", ["program"])
        with pytest.raises(SystemExit) as ended:
            run_main(main)
        assert ended.value.code == 2
        assert capsys.readouterr().err == (
            "error: this needs datasets, which is not installed\n"
            '  pip install "arxiv_cls[train]", or in a checkout: make setup\n'
        )

    def test_a_fault_of_ours_keeps_its_traceback(self, monkeypatch):
        """It is not dressed up as something that the person could mend."""

        def main(argv: list[str]) -> None:
            raise ModuleNotFoundError("No module named 'arxiv_cls.gone'", name="arxiv_cls.gone")

        monkeypatch.setattr(sys, "argv", ["program"])
        with pytest.raises(ModuleNotFoundError):
            run_main(main)
