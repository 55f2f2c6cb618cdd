"""The wheel and the sdist: what they hold, and that the wheel works where there is no checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from arxiv_cls import __version__

ROOT = Path(__file__).resolve().parent.parent
RELEASES = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0"
sys.path.insert(0, str(ROOT / "scripts"))
from wheel_cache import fill, offline  # noqa: E402

pytestmark = pytest.mark.slow

TEXT = "Graph neural networks for molecules. We propose a network over atoms and bonds."
SERVING = ("baseline", "serve")


@pytest.fixture(scope="module")
def wheels() -> Path:
    """The cache of wheels, with those that an endpoint needs."""
    return fill(SERVING)


@pytest.fixture(scope="module")
def built(wheels, tmp_path_factory) -> Path:
    """What `make build` leaves, of the files that git knows."""
    source = tmp_path_factory.mktemp("a checkout") / "source"
    known = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in known.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--outdir", str(source / "dist")]
    run = subprocess.run(build, cwd=source, env=offline(wheels), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return source / "dist"


@pytest.fixture(scope="module")
def installed(built, wheels, tmp_path_factory) -> Path:
    """The programs of a clean environment that holds the wheel and what serving needs, and no more."""
    folder = tmp_path_factory.mktemp("clean") / "environment"
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    (wheel,) = built.glob("*.whl")
    pip = [programs / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, wheel], env=offline(wheels), check=True)
    # The command is there with the core alone; what an extra brings is asked for when it is used.
    run = subprocess.run([programs / "arxiv-cls", "--help"], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    subprocess.run([*pip, f"{wheel}[{','.join(SERVING)}]"], env=offline(wheels), check=True)
    return programs


@pytest.fixture
def arxiv_cls(installed, tmp_path):
    """Runs the installed `arxiv-cls` in an empty folder, far from the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_", "COVERAGE"))}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [installed / "arxiv-cls", *map(str, arguments)],
            cwd=tmp_path,
            env=environment | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_built_files(built):
    """The wheel holds every file of arxiv_cls/ that git knows; a wheel can be made from the sdist."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    known = subprocess.run(
        ["git", "ls-files", "arxiv_cls"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert names == {name for name in known.stdout.splitlines() if (ROOT / name).is_file()}
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "arxiv_cls/cli.py"} <= inside


class TestInstalled:
    """A wheel in a clean environment, with the extras of an endpoint."""

    def test_baseline_predicts(self, arxiv_cls):
        """A released baseline names the categories of a text; the command knows its version."""
        run = arxiv_cls("predict", RELEASES / "tiny-tfidf", TEXT)
        assert run.returncode == 0, run.stderr
        assert "cs.LG" in run.stdout
        assert arxiv_cls("--version").stdout == f"arxiv-cls {__version__}\n"

    def test_transformer_predicts_without_torch(self, arxiv_cls, tmp_path, run_python):
        """A transformer answers from its ONNX file where there is no torch."""
        model = tmp_path / "tiny transformer"
        shutil.copytree(RELEASES / "tiny-transformer", model)
        done = run_python("-m", "arxiv_cls.cli", "export", model)
        assert done.returncode == 0, done.stderr
        run = arxiv_cls("predict", model, TEXT, "--engine", "onnx")
        assert run.returncode == 0, run.stderr
        assert "cs.LG" in run.stdout

    @pytest.mark.parametrize(
        ("arguments", "extra"),
        [
            (["predict", RELEASES / "tiny-transformer", TEXT, "--engine", "torch"], "train"),
            (["data", "build", "--csv", "papers.csv"], "train"),
            (["evaluate", RELEASES / "tiny-tfidf"], "train"),
            (["deploy", "user/name", "--image", "registry/serve:1"], "deploy"),
        ],
    )
    def test_what_is_not_installed_is_named(self, arxiv_cls, arguments, extra):
        """Training is not part of serving: one line says what to install."""
        run = arxiv_cls(*arguments)
        assert run.returncode == 2, run.stderr
        assert re.search(rf"arxiv_cls\[{extra}\]|the extra `{extra}`", run.stderr), run.stderr
        assert "Traceback" not in run.stderr
