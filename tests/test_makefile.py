"""The Makefile: what help lists, what makes it install, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or os.name == "nt", reason="needs make and a POSIX shell"
)


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs make without the variables of a make that runs these tests."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    for variable in ("EXTRAS", "PYTHON3", "REMOTE", "SOURCE", "BENCH", "PYTEST_ARGS", "REGISTRY", "VERSION"):
        environment.pop(variable, None)
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def phony_targets() -> set[str]:
    """The names on the Makefile's .PHONY line."""
    return set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split())


class TestHelp:
    """`make` alone explains itself."""

    def test_every_target_has_a_line(self):
        """Bare `make` prints exactly the .PHONY targets, each with a sentence."""
        run = make()
        assert run.returncode == 0, run.stderr
        listed = dict(re.findall(r"^  make (\S+) +(\S.*)$", run.stdout, re.MULTILINE))
        assert set(listed) == phony_targets()
        assert len(listed) == len(run.stdout.strip().splitlines())


@pytest.fixture
def bare(tmp_path):
    """A folder whose name holds a space, with the Makefile and what it reads, and no environment."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def python_stub(folder: Path, pip_status: int) -> Path:
    """A python3 for the Makefile: recent enough, puts itself into a .venv, logs what pip is asked."""
    stub = folder / "python stub"
    stub.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        f'  "-m venv") mkdir -p .venv/bin && cp "{stub}" .venv/bin/python ;;\n'
        f'  "-m pip") echo "$@" >> pip.log; exit {pip_status} ;;\n'
        "  *) exit 0 ;;\n"
        "esac\n"
    )
    stub.chmod(0o755)
    return stub


class TestSetup:
    """An environment is made once for each content of the lock, and only a finished one counts."""

    def test_second_make_installs_nothing(self, bare):
        """Two runs, one pip; extras given with spaces or commas are the same extras."""
        stub = python_stub(bare, pip_status=0)
        for extras in ("train,trackio", "train trackio"):
            run = make("setup", f'PYTHON3="{stub}"', f"EXTRAS={extras}", cwd=bare)
            assert run.returncode == 0, run.stderr
        log = (bare / "pip.log").read_text().splitlines()
        assert len(log) == 1
        assert log[0].endswith("-c constraints.txt -e .[train,trackio]")

    def test_a_target_takes_the_extras_that_it_is_given(self, bare):
        """A job of CI installs what it needs and no more; without a word it is everything."""
        assert "-e '.[deploy]'" in make("-n", "api-url", "EXTRAS=deploy", cwd=bare).stdout
        assert "-e '.[dev]'" in make("-n", "api-url", cwd=bare).stdout

    def test_changed_lock_installs_again(self, bare):
        """Another constraints.txt installs anew, and going back to the first one does so too."""
        stub = python_stub(bare, pip_status=0)
        lock = bare / "constraints.txt"
        first = lock.read_text()
        for content in (first, first + "six==1.17.0\n", first):
            lock.write_text(content)
            assert make("setup", f'PYTHON3="{stub}"', cwd=bare).returncode == 0
        assert len((bare / "pip.log").read_text().splitlines()) == 3
        assert len(list((bare / ".venv").glob(".setup-*"))) == 1

    def test_failed_install_is_tried_again(self, bare):
        """A pip that fails fails the target, and the next run calls it again."""
        stub = python_stub(bare, pip_status=1)
        for _ in range(2):
            assert make("test", f'PYTHON3="{stub}"', cwd=bare).returncode != 0
        assert len((bare / "pip.log").read_text().splitlines()) == 2
        assert not list((bare / ".venv").glob(".setup-*"))

    @pytest.mark.parametrize("python", ["false", "no-such-python"])
    def test_old_or_absent_python_is_named(self, bare, python):
        """One error that names the interpreter and how to pass another; no .venv is left behind."""
        run = make("setup", f"PYTHON3={python}", cwd=bare)
        assert run.returncode != 0
        assert f"error: {python} is not Python 3.11 or newer" in run.stderr
        assert "PYTHON3=" in run.stderr.split("error:", 1)[1]
        assert not (bare / ".venv").exists()

    @pytest.mark.parametrize(
        "target", sorted({"demo", "data", "test", "test-slow", "bench", "lint", "build"})
    )
    def test_targets_set_up_first(self, bare, target):
        """On a machine with no environment every working target installs before it works."""
        run = make("-n", target, cwd=bare)
        assert run.returncode == 0, run.stderr
        assert "pip install" in run.stdout
        assert not (bare / ".venv").exists()


class TestData:
    """`make data` hands its variables to `arxiv-cls data fetch`."""

    def test_remote_with_a_space_stays_one_argument(self, bare):
        """REMOTE is quoted; an absent SOURCE is not passed."""
        run = make("-n", "data", "REMOTE=/mnt/my store", cwd=bare)
        assert "data fetch --remote '/mnt/my store'" in run.stdout
        assert "--source" not in run.stdout


class TestImages:
    """`make images` and `make push-images` call docker buildx bake."""

    def test_one_platform_is_loaded(self, bare):
        """What is built for this machine lands in its docker, under the name that was given."""
        run = make("-n", "images", "TARGETS=serve space", "PLATFORM=linux/arm64", "VERSION=1.2.0", cwd=bare)
        assert run.stdout.split("docker ", 1)[0].strip() == "COMMIT='' VERSION='1.2.0'"
        assert "buildx bake --load --set '*.platform=linux/arm64' serve space" in run.stdout

    def test_the_commit_of_a_clean_tree_is_passed(self, bare):
        """What runs in an image can name its commit; a tree with changes has none to name."""
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
            subprocess.run([*git, *words], cwd=bare, check=True)
        commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=bare, text=True).strip()
        assert f"COMMIT='{commit}' docker buildx bake" in make("-n", "images", cwd=bare).stdout
        (bare / "constraints.txt").write_text("changed")
        assert "COMMIT='' docker buildx bake" in make("-n", "images", cwd=bare).stdout

    def test_both_platforms_are_pushed(self, bare):
        """A pushed image is one for amd64 and arm64."""
        run = make("-n", "push-images", "REGISTRY=ghcr.io/user/arxiv-cls", "VERSION=1.2.0", cwd=bare)
        assert "REGISTRY='ghcr.io/user/arxiv-cls' VERSION='1.2.0' docker buildx bake --push" in run.stdout
        assert "'*.platform=linux/amd64,linux/arm64'" in run.stdout

    @pytest.mark.parametrize("given", ["REGISTRY=ghcr.io/user/x", "VERSION=1.2.0"])
    def test_pushing_needs_a_place_and_a_version(self, bare, given):
        """Nothing is pushed to a default place."""
        run = make("push-images", given, cwd=bare)
        assert run.returncode != 0
        assert "push-images needs REGISTRY=" in run.stderr


class TestSpace:
    """`make space` hands over what was given to make, and nothing that a shell exports."""

    def test_given_and_exported(self, bare, monkeypatch):
        """HOST and PORT count on make's own command line only."""
        monkeypatch.setenv("HOST", "a-machine")
        monkeypatch.setenv("PORT", "1")
        assert make("-n", "space", "MODEL=m", cwd=bare).stdout.split("cli space ")[1].split() == ["'m'", "\\"]
        given = make("-n", "space", "MODEL=m", "HOST=0.0.0.0", "PORT=7861", "ENGINE=int8", cwd=bare).stdout
        assert "--host '0.0.0.0' --port '7861' --engine 'int8'" in given


class TestDeploy:
    """`make deploy` and `make api-url` hand their variables to the verbs."""

    def test_words_stay_words(self, bare):
        """Options of the endpoint are one argument; the place is the same for both targets."""
        place = ["PROJECT=papers", "REGION=europe-west1", "SERVICE=papers-2"]
        options = ["MODEL=user/name", "IMAGE=host/serve:1", "SERVE_ARGS=--engine int8", "PUBLIC=1"]
        deploy = make("-n", "deploy", *options, *place, cwd=bare).stdout
        assert "deploy 'user/name'" in deploy
        assert "--serve-args='--engine int8' --public" in deploy
        for printed in (deploy, make("-n", "api-url", *place, cwd=bare).stdout):
            assert "--project 'papers' --region 'europe-west1'" in printed
            assert "--service 'papers-2'" in printed

    @pytest.mark.parametrize("given", ["MODEL=user/name", "IMAGE=host/serve:1"])
    def test_deploy_names_what_is_missing(self, bare, given):
        """A model and an image, both by name."""
        run = make("-n", "deploy", given, cwd=bare)
        assert run.returncode != 0
        assert "deploy needs" in run.stderr


class TestClean:
    """`make clean` removes leftovers and nothing that took work."""

    def test_data_outputs_and_environment_stay(self, bare):
        """Caches go; data/raw, outputs and .venv stay."""
        kept = [
            bare / name for name in ("data/raw/arxiv.csv", "outputs/x/model.safetensors", ".venv/pyvenv.cfg")
        ]
        gone = [bare / name for name in ("build/x", "dist/y", ".ruff_cache/z", "arxiv_cls/__pycache__/a.pyc")]
        for path in (*kept, *gone):
            path.parent.mkdir(parents=True)
            path.write_text("x")
        run = make("clean", cwd=bare)
        assert run.returncode == 0, run.stderr
        assert all(path.exists() for path in kept)
        assert not any(path.exists() for path in gone)


class TestLock:
    """constraints.txt can be installed from anywhere, by anyone."""

    @pytest.fixture(scope="class")
    def lines(self):
        """The pins, without comments."""
        text = (ROOT / "constraints.txt").read_text()
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    def test_holds_nothing_of_one_machine(self, lines):
        """Plain `name==version` lines: no local version, hash, URL or accelerator library."""
        assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)] == []
        assert [line for line in lines if line.startswith(("nvidia-", "cuda-", "triton"))] == []

    def test_pins_what_the_project_needs(self, lines):
        """Every direct dependency and both builds of xgboost are pinned, torch to the version we stand on."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        needed = [
            *project["dependencies"],
            *(d for e in project["optional-dependencies"].values() for d in e),
        ]
        names = {re.match(r"[A-Za-z0-9_.-]+", d).group().lower().replace("_", "-") for d in needed}
        pinned = dict(line.split("==") for line in lines)
        assert names - {"arxiv-cls"} <= set(pinned)
        assert pinned["torch"] == "2.13.0"
        assert pinned["xgboost"] == pinned["xgboost-cpu"]

    def test_script_drops_what_does_not_travel(self):
        """The lock's script cuts local versions, leaves accelerator libraries out and names both xgboosts."""
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); from make_lock import pins;"
            "print(*pins([('torch', '2.13.0+cpu'), ('nvidia-nccl-cu12', '2.0'), ('triton', '3.0'),"
            " ('arxiv_cls', '0.1'), ('XGBoost_cpu', '3.2.0')], 'arxiv_cls'))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.split() == ["torch==2.13.0", "xgboost==3.2.0", "xgboost-cpu==3.2.0"]
