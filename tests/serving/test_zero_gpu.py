"""ZeroGPU, with a stand-in for the package `spaces`: who borrows a GPU, how long, and when it is refused."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.space import predictions as answers
from arxiv_cls.space import predictions as zero_gpu
from arxiv_cls.space.predictions import SpaceModel, load_space_model, score_file


class TestZeroGpu:
    """`spaces.GPU` where the hardware is ZeroGPU, nothing elsewhere."""

    @pytest.fixture
    def decorated(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """A stand-in for the package `spaces` that notes what is called through it, and for how long."""
        called: list[str] = []

        def gpu(duration: Callable[..., int]):
            def decorate(function):
                def wrapped(*arguments):
                    called.append(f"{function.__name__} {duration(*arguments)}")
                    return function(*arguments)

                return wrapped

            return decorate

        stand_in = types.ModuleType("spaces")
        stand_in.GPU = gpu
        stand_in.__spec__ = types.SimpleNamespace(name="spaces")
        monkeypatch.setitem(sys.modules, "spaces", stand_in)
        monkeypatch.setenv("SPACES_ZERO_GPU", "true")
        return called

    @pytest.fixture
    def on_torch(self, decorated: list[str], models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> SpaceModel:
        """A model that counts as one of torch."""
        predictor = load_space_model(str(models_dir / "tiny")).predictor
        monkeypatch.setattr(predictor, "engine", "torch", raising=False)
        monkeypatch.setattr(answers, "load_predictor", lambda directory, engine: predictor)
        return load_space_model(str(models_dir / "tiny"), engine="torch")

    def test_torch_borrows_and_onnx_does_not(
        self, decorated: list[str], models_dir: Path, request: pytest.FixtureRequest
    ) -> None:
        """The share of GPU time is the visitor's: an engine that computes on the CPU leaves it alone."""
        space = load_space_model(str(models_dir / "tiny"))
        space.predict(["vision"])
        assert decorated == []
        on_torch = request.getfixturevalue("on_torch")
        assert on_torch.predict(["a vision"])[0].label == "cs.CV"
        on_torch.explain("a vision", "cs.CV")
        assert decorated == ["predict 16", "explain 25"]

    def test_elsewhere_the_function_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No variable, no package: nothing changes."""
        monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
        assert zero_gpu.borrow_gpu(len, len) is len

    def test_a_file_asks_for_few_gpus(
        self, decorated: list[str], on_torch: SpaceModel, tmp_path: Path
    ) -> None:
        """2,000 rows are four chunks, each for a time that fits its texts."""
        source = tmp_path / "papers.csv"
        source.write_text("text\n" + "vision\n" * 2000)
        assert score_file(on_torch, source, tmp_path).scored == 2000
        assert decorated == ["predict 40"] * 4

    def test_a_share_that_is_used_up_is_said(
        self, decorated: list[str], on_torch: SpaceModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """One sentence and what to do; any other error stays what it is."""

        class GradioError(Exception):
            title = "Error"

        error = GradioError("")

        def fail(texts: list[str]) -> list:
            raise error

        monkeypatch.setattr(on_torch.predictor, "predict", fail)
        source = tmp_path / "papers.csv"
        source.write_text("text\nvision\n")
        for error.title, message in (
            ("ZeroGPU quota exceeded", ""),
            ("", "You have exceeded your GPU quota"),
        ):
            error.args = (message,)
            with pytest.raises(UserError, match="share of GPU time") as refused:
                score_file(on_torch, source, tmp_path)
            assert "Sign in" in refused.value.hint
        error.title, error.args = "ZeroGPU worker error", ("RuntimeError",)
        with pytest.raises(GradioError):
            on_torch.predict(["vision"])
