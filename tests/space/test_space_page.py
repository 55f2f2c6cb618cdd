"""The page's API gives what the predictor gives; the Space that is pushed opens with what was pushed."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from factories import FP32_TOLERANCE, RealModel
from local_hub import LocalHub
from local_servers import SpaceProcess

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.space import page as opening
from arxiv_cls.space.content import EXAMPLES

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [("Vision", "A vision of language and vision."), ("", "bayes learning\n\nlearning"), ("planning", "")]


@pytest.mark.slow
class TestApi:
    """/gradio_api/call/predict."""

    def test_agrees_with_the_predictor(self, page: SpaceProcess, tiny_model: Path) -> None:
        """Label, scores, set and scope of every text are those of the model loaded here."""
        predictor = load_predictor(tiny_model, engine="onnx")
        for title, abstract in [*TEXTS, *((title, abstract) for _, title, abstract in EXAMPLES)]:
            event, data = page.call("predict", title, abstract)
            assert event == "complete"
            said = predictor.predict(["\n\n".join(part for part in (title, abstract) if part)])[0]
            assert data[0]["label"] == said.label
            assert data[0]["scores"] == pytest.approx(said.scores, abs=1e-6)
            assert data[0]["prediction_set"] == list(said.prediction_set or ())
            assert (data[0]["in_scope"], data[0]["truncated"]) == (said.in_scope, said.truncated)

    def test_empty_text_is_an_error_and_the_page_lives_on(self, page: SpaceProcess) -> None:
        """An error event, no traceback, and the next call is answered."""
        event, _ = page.call("predict", " ", "")
        assert event == "error"
        assert page.call("predict", "vision", "vision")[0] == "complete"
        assert "Traceback" not in page.output.read_text()


class TestCommand:
    """`arxiv-cls space`."""

    def test_no_such_model(self) -> None:
        """One error."""
        with pytest.raises(UserError, match="no such model directory"):
            main(["space", "./nowhere"])

    @pytest.mark.parametrize(
        ("options", "variable", "port"),
        [([], "", 7860), ([], "9001", 9001), (["--port", "9002"], "9001", 9002)],
    )
    def test_port(
        self, monkeypatch: pytest.MonkeyPatch, options: list[str], variable: str, port: int
    ) -> None:
        """The option, else the variable that containers set, else Gradio's own number."""
        opened: list[int] = []
        monkeypatch.setattr(opening, "open_page", lambda model, host, port, engine: opened.append(port))
        monkeypatch.setenv("PORT", variable)
        main(["space", "user/name", *options])
        assert opened == [port]

    @pytest.mark.parametrize(
        ("options", "told"), [([], "env var: 'PORT'.*integer"), (["--port", "70000"], "65535")]
    )
    def test_no_port(self, monkeypatch: pytest.MonkeyPatch, options: list[str], told: str) -> None:
        """Told with its name, or with its value."""
        monkeypatch.setenv("PORT", "http")
        with pytest.raises(UserError, match=told):
            main(["space", "user/name", *options])


class TestApp:
    """`spaces_app/app.py`: the model of space.json, or of the variable MODEL."""

    @pytest.fixture
    def app(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list]:
        """Runs it in a folder of its own; returns what it would have opened."""
        opened: list[tuple[str, str | None]] = []
        monkeypatch.setattr(opening, "open_page", lambda model, engine: opened.append((model, engine)))
        monkeypatch.delenv("MODEL", raising=False)
        shutil.copy(ROOT / "spaces_app" / "app.py", tmp_path)

        def run() -> list:
            runpy.run_path(str(tmp_path / "app.py"))["main"]([])
            return opened

        return run

    def test_the_file_and_the_variable(
        self, app: Callable[[], list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable wins; with it the file may be missing."""
        (tmp_path / "space.json").write_text('{"model": "user/name@v1", "engine": "torch"}')
        assert app() == [("user/name@v1", "torch")]
        monkeypatch.setenv("MODEL", "user/other")
        assert app()[1:] == [("user/other", "torch")]
        (tmp_path / "space.json").unlink()
        assert app()[2:] == [("user/other", None)]

    def test_neither(self, app: Callable[[], list]) -> None:
        """One sentence."""
        with pytest.raises(UserError, match=r"space\.json is missing"):
            app()


@pytest.mark.slow
def test_parity_of_the_real_model(tmp_path: Path, real_model: RealModel) -> None:
    """500 real papers of the test split: every label of `pipeline()`, and its scores within 1e-4."""
    command = ["-m", "arxiv_cls.cli", "space", str(real_model.directory), "--port", "{port}"]
    process = SpaceProcess(command, tmp_path / "output.txt")
    try:
        process.wait_until_open()
        for (title, abstract), scores in zip(real_model.papers, real_model.expected, strict=True):
            event, data = process.call("predict", title, abstract)
            assert event == "complete", title
            assert data[0]["label"] == next(iter(scores)), title
            assert data[0]["scores"] == pytest.approx(scores, abs=FP32_TOLERANCE), title
    finally:
        process.stop()


@pytest.mark.slow
def test_pushed_space_answers_from_its_wheel(
    tiny_model: Path, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess]
) -> None:
    """From the Hub and back: what a Space on the Hub does when it starts, away from the checkout."""
    with LocalHub() as hub:
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": ""}
        upload = (
            "import sys; from huggingface_hub import HfApi; api = HfApi(); "
            "api.create_repo('user/model'); "
            "print(api.upload_folder(repo_id='user/model', folder_path=sys.argv[1]).oid); "
            "api.create_tag('user/model', tag='v0.1.0')"
        )
        push = ["-m", "arxiv_cls.cli", "push-space", "user/model", "--repo", "user/space"]
        for command in (["-c", upload, str(tiny_model)], push):
            run = run_python(*command, env=environment)
            assert run.returncode == 0, run.stderr
        assert "released user/space v0.1.0" in run.stdout
        folder = tmp_path / "space"
        for path, content in hub.repository("user/space", "spaces").files().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        # What the Hub runs, and what tells where the package came from.
        program = (
            "import runpy, signal, sys, atexit; sys.argv = ['app.py'];"
            # A test that was started in the background hands on that SIGINT is ignored.
            "signal.signal(signal.SIGINT, signal.default_int_handler);"
            "atexit.register(lambda: print(sys.modules['arxiv_cls'].__file__, flush=True));"
            "runpy.run_path('app.py', run_name='__main__')"
        )
        started = environment | {"GRADIO_SERVER_NAME": "127.0.0.1", "HF_TOKEN": ""}
        process = SpaceProcess(["-c", program], tmp_path / "output.txt", env=started, cwd=folder)
        try:
            process.wait_until_open()
            event, data = process.call("predict", "Vision", "vision")
            assert (event, data[0]["label"]) == ("complete", "cs.CV")
            assert (data[0]["model"], data[0]["version"]) == ("user/model", "v0.1.0")
            process.process.send_signal(2)
            process.process.wait(60)
            assert "arxiv_cls-0.1.0-py3-none-any.whl" in process.output.read_text()
        finally:
            process.stop()
    assert os.environ.get("HF_ENDPOINT") != hub.url
