"""The Space on the local Hub: one commit with all it needs, the model's current version, safe to repeat."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from local_hub import LocalHub

from arxiv_cls.errors import UserError
from arxiv_cls.release import push_space as space_files
from arxiv_cls.release.push_space import build_wheel, project_root, push_space

ROOT = Path(__file__).resolve().parents[2]
SPACE, MODEL = "user/which-category", "user/model"
CARD = b"---\nlibrary_name: transformers\ndatasets:\n- user/arxiv-papers\n- arxiv\n---\n\n# A model\n"
EXPORTED = {
    "README.md": CARD,
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "onnx/model.onnx": b"graph",
    "onnx/model_int8.onnx": b"small graph",
    "eval/metrics.json": b"{}",
    "training_curve.png": b"picture",
}


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What every push takes for the project's wheel: building the real one takes seconds."""
    path = tmp_path / "arxiv_cls-0.0.0-py3-none-any.whl"
    path.write_bytes(b"the package")
    monkeypatch.setattr(space_files, "build_wheel", lambda root, folder: path)
    return path


def release_model(hub: LocalHub, files: dict[str, bytes], version: str | None = "v0.3.0") -> str:
    """Puts a model on the Hub; returns its commit."""
    from arxiv_cls.release.hub import connect

    api = connect(write=True)
    api.create_repo(MODEL, exist_ok=True)
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    commit = api.create_commit(MODEL, operations, commit_message=f"Release {version}").oid
    if version:
        api.create_tag(MODEL, tag=version, revision=commit)
    return commit


def pushed(hub: LocalHub, revision: str = "main") -> dict[str, bytes]:
    """The Space's files, without the Hub's own."""
    files = hub.repository(SPACE, "spaces").files(revision)
    files.pop(".gitattributes")
    return files


@pytest.mark.usefixtures("wheel")
class TestPushSpace:
    """What is on the Hub after a push."""

    def test_one_commit_with_app_readme_requirements_config_and_wheel(
        self, hub: LocalHub, wheel: Path
    ) -> None:
        """The config names the model's current version, the README's front matter its files and data set."""
        commit = release_model(hub, EXPORTED)
        result = push_space(SPACE, MODEL)
        assert (result.version, result.state) == ("v0.1.0", "released")
        repository = hub.repository(SPACE, "spaces")
        assert [c.title for c in repository.history("main")] == ["Release v0.1.0", "initial commit"]
        files = pushed(hub)
        assert set(files) == {"app.py", "README.md", "requirements.txt", "space.json", wheel.name}
        assert files[wheel.name] == wheel.read_bytes()
        assert files["app.py"] == (ROOT / "spaces_app" / "app.py").read_bytes()
        assert files["requirements.txt"] == (ROOT / "spaces_app" / "requirements.txt").read_bytes()
        assert json.loads(files["space.json"]) == {"model": f"{MODEL}@v0.3.0", "engine": None}
        readme = SpaceCard(files["README.md"].decode())
        metadata = readme.data.to_dict()
        assert metadata["models"] == [MODEL]
        assert metadata["datasets"] == ["user/arxiv-papers"]
        assert metadata["preload_from_hub"] == [
            f"{MODEL} config.json,eval/metrics.json,tokenizer.json,tokenizer_config.json,"
            f"onnx/model.onnx {commit}"
        ]
        assert (metadata["sdk"], metadata["app_file"]) == ("gradio", "app.py")
        assert f'Client("{SPACE}")' in readme.text

    def test_again_changes_nothing_and_a_new_model_is_a_new_version(self, hub: LocalHub) -> None:
        """A rerun finds the Space as it is; after a release of the model it moves on, back on request."""
        release_model(hub, EXPORTED)
        push_space(SPACE, MODEL)
        before = hub.repository(SPACE, "spaces").state()
        assert push_space(SPACE, MODEL).state == "present"
        assert hub.repository(SPACE, "spaces").state() == before
        release_model(hub, {"model.safetensors": b"better"}, "v0.4.0")
        for asked, shown, version in ((MODEL, "v0.4.0", "v0.2.0"), (f"{MODEL}@v0.3.0", "v0.3.0", "v0.3.0")):
            assert push_space(SPACE, asked).version == version
            assert json.loads(pushed(hub)["space.json"])["model"] == f"{MODEL}@{shown}"

    def test_changed_readme_alone_is_pushed(self, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
        """The README is the Space's configuration: unlike a model's card it is no comment on the release."""
        release_model(hub, EXPORTED)
        push_space(SPACE, MODEL)
        render = space_files._render_readme
        monkeypatch.setattr(space_files, "_render_readme", lambda *a, **k: render(*a, **k) + "\nMore.\n")
        assert (push_space(SPACE, MODEL).version, pushed(hub)["README.md"][-6:]) == ("v0.2.0", b"More.\n")

    def test_model_without_a_release(self, hub: LocalHub) -> None:
        """Perhaps uploaded by hand: named by its commit."""
        commit = release_model(hub, EXPORTED, version=None)
        push_space(SPACE, MODEL)
        assert json.loads(pushed(hub)["space.json"])["model"] == f"{MODEL}@{commit}"

    @pytest.mark.parametrize("asked", [False, True])
    def test_torch_where_it_must_or_shall_be(self, hub: LocalHub, asked: bool) -> None:
        """A model without ONNX brings torch by itself; `--torch` does so for ZeroGPU."""
        kept = {path: content for path, content in EXPORTED.items() if asked or "onnx" not in path}
        release_model(hub, kept)
        push_space(SPACE, MODEL, torch=asked)
        files = pushed(hub)
        assert json.loads(files["space.json"])["engine"] == "torch"
        torch = r"^(?:torch|transformers|safetensors)==.*$"
        pins = re.findall(torch, (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        assert len(pins) == 3
        assert re.findall(torch, files["requirements.txt"].decode(), re.MULTILINE) == pins
        assert "model.safetensors" in files["README.md"].decode()

    def test_baseline(self, hub: LocalHub) -> None:
        """A baseline needs neither ONNX nor torch, whatever is asked."""
        release_model(hub, {"README.md": CARD, "config.json": b"{}", "model.skops": b"weights"})
        push_space(SPACE, MODEL, torch=True)
        assert json.loads(pushed(hub)["space.json"])["engine"] is None
        assert "config.json,model.skops " in pushed(hub)["README.md"].decode()


@pytest.mark.usefixtures("wheel")
class TestRefusals:
    """What stops a push before anything is on the Hub."""

    @pytest.mark.parametrize(
        ("files", "model", "told"),
        [
            (None, MODEL, "no model user/model"),
            ({"README.md": b"# text"}, MODEL, "holds no model"),
            (EXPORTED, f"{MODEL}@v9.0.0", "no such version"),
            (EXPORTED, "outputs", "is not a repository id"),
        ],
    )
    def test_no_such_model(
        self, hub: LocalHub, files: dict[str, bytes] | None, model: str, told: str
    ) -> None:
        """The Space is not even created."""
        if files is not None:
            release_model(hub, files)
        with pytest.raises(UserError, match=told):
            push_space(SPACE, model)
        assert ("spaces", SPACE) not in hub.repositories

    def test_not_a_checkout(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """An installed package has no app to push; the message says where to run it."""
        monkeypatch.setattr(space_files.arxiv_cls, "__file__", str(tmp_path / "arxiv_cls" / "__init__.py"))
        with pytest.raises(UserError, match="needs the project's sources") as refusal:
            project_root()
        assert "checkout" in refusal.value.hint


@pytest.mark.slow
class TestWheel:
    """The project's code as it travels."""

    def test_holds_the_package_and_is_the_same_every_time(self, tmp_path: Path) -> None:
        """Modules and templates are in it, tests are not; a second build gives the same bytes."""
        shutil.copytree(ROOT / "arxiv_cls", tmp_path / "arxiv_cls")
        for name in space_files.SOURCES:
            shutil.copy(ROOT / name, tmp_path)
        wheels = [build_wheel(tmp_path, tmp_path / folder) for folder in ("first", "second")]
        names = zipfile.ZipFile(wheels[0]).namelist()
        assert {"arxiv_cls/space/page.py", "arxiv_cls/models/attribution.py"} <= set(names)
        assert [name for name in names if "/templates/" in name]
        assert not [name for name in names if name.startswith("tests") or "__pycache__" in name]
        assert wheels[0].read_bytes() == wheels[1].read_bytes()

    def test_failed_build_says_why(self, tmp_path: Path) -> None:
        """One line of the builder's, and what shows the rest."""
        for name in space_files.SOURCES:
            (tmp_path / name).write_text("not = [toml" if name.endswith("toml") else "text")
        (tmp_path / "arxiv_cls").mkdir()
        with pytest.raises(UserError, match="the wheel could not be built"):
            build_wheel(tmp_path, tmp_path)


class TestSources:
    """spaces_app/ as it stands."""

    def test_versions_are_those_of_the_lock(self) -> None:
        """Gradio's in the front matter, every other in requirements.txt."""
        pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
        metadata = SpaceCard.load(ROOT / "spaces_app" / "README.md").data.to_dict()
        assert metadata["sdk_version"] == pins["gradio"]
        lines = (ROOT / "spaces_app" / "requirements.txt").read_text().splitlines()
        required = [line for line in lines if not line.startswith("#")]
        assert required
        for line in required:
            name, _, version = line.partition("==")
            assert pins[name] == version, line

    def test_requirements_cover_core_serving_and_baseline(self) -> None:
        """What pyproject.toml asks for there is asked for here, less the HTTP endpoint's own and Gradio."""
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        wanted = [*project["dependencies"], *extras["baseline"], "onnxruntime", "tokenizers"]
        names = {re.match(r"[\w-]+", line).group().lower().replace("_", "-") for line in wanted} - {"xgboost"}
        lines = (ROOT / "spaces_app" / "requirements.txt").read_text().splitlines()
        assert {line.partition("==")[0] for line in lines if not line.startswith("#")} == names

    def test_front_matter_is_what_the_hub_accepts(self) -> None:
        """A title and a description of the lengths that the Hub allows."""
        metadata = SpaceCard.load(ROOT / "spaces_app" / "README.md").data.to_dict()
        colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
        assert {metadata["colorFrom"], metadata["colorTo"]} <= colours
        assert (metadata["sdk"], metadata["app_file"]) == ("gradio", "app.py")
        assert len(metadata["short_description"]) <= 60
        # Without quotes YAML would read 3.10 as 3.1.
        assert isinstance(metadata["python_version"], str)
