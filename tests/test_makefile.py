"""The Makefile: what help lists, what makes it install, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or os.name == "nt", reason="needs make and a POSIX shell"
)


MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
INPUTS = re.search(r"^INPUTS := (.*)$", MAKEFILE, re.MULTILINE)[1].split()


def make(
    *arguments: str, cwd: Path = ROOT, path: str = "", exported: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """Runs make without the variables of a make that runs these tests; `path` goes before PATH."""
    dropped = ("MAKE", "MFLAGS", "PYTEST_ADDOPTS")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(dropped) and (name not in INPUTS or name in ("HOST", "PORT"))
    }
    environment |= {"PATH": f"{path}{os.pathsep}{environment['PATH']}", **exported}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


# Each creates a file where make or a shell reads the value as code.
CANARIES = [
    "$(shell touch canary)", "${shell touch canary}", "$$(touch canary)", "`touch canary`",
    "'; touch canary; '", '"; touch canary; "', "\\'; touch canary #", "x\ntouch canary",
]  # fmt: skip


def phony_targets() -> set[str]:
    """The names on the Makefile's .PHONY line."""
    return set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE).group(1).split())


def test_help_lists_every_target():
    """Bare `make` prints exactly the .PHONY targets, each with a sentence."""
    run = make()
    assert run.returncode == 0, run.stderr
    listed = re.findall(r"^  make (\S+) +\S.*$", run.stdout, re.MULTILINE)
    assert set(listed) == phony_targets()
    assert len(listed) == len(run.stdout.strip().splitlines())


@pytest.fixture
def bare(tmp_path):
    """A folder whose name holds a space, with the Makefile and what it reads, and no environment."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "hashes.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def python_stub(folder: Path, pip_status: int = 0) -> Path:
    """A python3 for the Makefile: recent enough, puts itself into a .venv, logs what it is asked."""
    stub = folder / "python stub"
    stub.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        f'  "-m venv") mkdir -p .venv/bin && cp "{stub}" .venv/bin/python ;;\n'
        f'  "scripts/install.py --editable") echo "$@" >> pip.log; exit {pip_status} ;;\n'
        "  -c*) ;;\n"
        """  *) { echo "PYTEST_ADDOPTS=$PYTEST_ADDOPTS"; printf '%s\\n' "$@"; } > asked.log ;;\n"""
        "esac\n"
    )
    stub.chmod(0o755)
    return stub


def asked(folder: Path, *arguments: str) -> list[str]:
    """What a target asks Python or docker for, word by word; the first word is PYTEST_ADDOPTS=..."""
    stub = python_stub(folder)
    (folder / "bin").mkdir(exist_ok=True)
    shutil.copy(stub, folder / "bin" / "docker")
    run = make(*arguments, f"PYTHON3={stub}", cwd=folder, path=str(folder / "bin"))
    assert run.returncode == 0, run.stderr
    return (folder / "asked.log").read_text().splitlines()


class TestSetup:
    """An environment is made once for each content of the lock, and only a finished one counts."""

    def test_one_installation_for_each_lock(self, bare):
        """The same extras, with spaces too, install once; another lock, and the first one again, anew."""
        stub, lock = python_stub(bare), bare / "constraints.txt"
        first = lock.read_text()
        for content, extras, installs in (
            (first, "train,trackio", 1),
            (first, "train trackio", 1),
            (first + "six==1.17.0\n", "train,trackio", 2),
            (first, "train,trackio", 3),
        ):
            lock.write_text(content)
            run = make("setup", f"PYTHON3={stub}", f"EXTRAS={extras}", cwd=bare)
            assert run.returncode == 0, run.stderr
            log = (bare / "pip.log").read_text().splitlines()
            assert log == ["scripts/install.py --editable train,trackio"] * installs
        assert len(list((bare / ".venv").glob(".setup-*"))) == 1

    def test_failed_install_is_tried_again(self, bare):
        """A pip that fails fails the target, and the next run calls it again."""
        stub = python_stub(bare, pip_status=1)
        for _ in range(2):
            assert make("test", f"PYTHON3={stub}", cwd=bare).returncode != 0
        assert len((bare / "pip.log").read_text().splitlines()) == 2
        assert not list((bare / ".venv").glob(".setup-*"))

    @pytest.mark.parametrize("python", ["false", "no-such-python"])
    def test_old_or_absent_python_is_named(self, bare, python):
        """One error that names the interpreter; no .venv is left behind."""
        run = make("setup", f"PYTHON3={python}", cwd=bare)
        assert run.returncode != 0
        assert f"error: {python} is not Python 3.11 or newer" in run.stderr
        assert not (bare / ".venv").exists()

    @pytest.mark.parametrize(
        ("words", "extras"), [(["demo"], "dev"), (["api-url", "EXTRAS=deploy"], "deploy")]
    )
    def test_targets_set_up_first(self, bare, words, extras):
        """On a machine with no environment a target installs before it works: all, or what it is given."""
        assert f"scripts/install.py --editable '{extras}'" in make("-n", *words, cwd=bare).stdout


class TestValues:
    """What is given to make reaches the command as one value, and is never run."""

    @pytest.mark.parametrize(
        ("target", "given", "words"),
        [
            ("data", ["REMOTE=/mnt/my store"], ["data", "fetch", "--remote", "/mnt/my store"]),
            (
                "push-model",
                ["MODEL=outputs/a b", "REPO=user/x", "CSV=a b", "OVERRIDE=metrics, secrets", "CREATE_PR=1"],
                ["push-model", "outputs/a b", "--repo", "user/x", "--csv", "a b", "--create-pr",
                 "--override=metrics", "--override=secrets"],
            ),
            (
                "deploy",
                ["MODEL=user/x", "IMAGE=host/serve:1", "SERVE_ARGS=--engine int8", "PUBLIC=1",
                 "PROJECT=papers", "REGION=europe-west1", "SERVICE=papers-2", "LOG=gs://b/c",
                 "BACKEND=cloud-run", "TRAFFIC=10"],
                ["deploy", "user/x", "--image", "host/serve:1", "--project", "papers", "--region",
                 "europe-west1", "--service", "papers-2", "--backend", "cloud-run",
                 "--traffic", "10", "--log", "gs://b/c", "--serve-args=--engine int8",
                 "--public"],
            ),
            ("deploy", ["MODEL=user/x", "BACKEND=hf-endpoint"],
             ["deploy", "user/x", "--backend", "hf-endpoint"]),
            (
                "deploy-monitor",
                ["MODEL=user/x", "IMAGE=host/monitor:1", "LOG=gs://b/c", "OUT=gs://b/d",
                 "SERVICE_ACCOUNT=a@b", "MONITOR_ARGS=--every 6h"],
                ["deploy-monitor", "user/x", "--image", "host/monitor:1", "--log", "gs://b/c", "--out",
                 "gs://b/d", "--service-account", "a@b", "--monitor-args=--every 6h"],
            ),
            ("monitor", ["MODEL=m", "LOG=a b", "PORT=8001", "EVERY=1h"],
             ["monitor", "serve", "m", "--log", "a b", "--port", "8001", "--every", "1h"]),
            ("serve", ["MODEL=m", "SERVE_ARGS=--max-queue 8"], ["serve", "m", "--max-queue", "8"]),
            ("space", ["MODEL=m", "HOST=0.0.0.0", "PORT=7861", "ENGINE=int8"],
             ["space", "m", "--host", "0.0.0.0", "--port", "7861", "--engine", "int8"]),
            ("load-test", ["MODEL=m", "CASCADE=a b", "USERS=4"],
             ["--users", "4", "--model", "m", "--serve-args= --cascade 'a b' "]),
            ("bench", ["BENCH=predict serving", "MODEL=m"],
             ["-m", "benchmarks", "predict", "serving", "--model", "m"]),
            ("images", ["TARGETS=serve space", "PLATFORM=linux/arm64"],
             ["buildx", "bake", "--load", "--set", "*.platform=linux/arm64", "serve", "space"]),
            ("push-images", ["REGISTRY=ghcr.io/user/x", "VERSION=1.2.0"],
             ["buildx", "bake", "--push", "--set", "*.platform=linux/amd64,linux/arm64"]),
        ],
    )  # fmt: skip
    def test_words_stay_words(self, bare, monkeypatch, target, given, words):
        """Spaces do not split a value; what a shell exports as HOST or PORT is not taken."""
        monkeypatch.setenv("HOST", "a-machine")
        monkeypatch.setenv("PORT", "1")
        assert asked(bare, target, *given)[-len(words) :] == words

    def test_pytest_reads_quotes(self, bare):
        """PYTEST_ARGS may hold an expression, and comes after our own mark, so that it can replace it."""
        options = asked(bare, "test", "PYTEST_ARGS=-k 'a or b'")[0].partition("=")[2]
        assert shlex.split(options) == ["-m", "not slow", "-k", "a or b"]

    @pytest.mark.parametrize("canary", CANARIES)
    @pytest.mark.parametrize("source", ["command line", "environment"])
    def test_no_value_is_run(self, bare, canary, source):
        """Every target with a canary in every variable: neither make nor a shell runs it."""
        stub = python_stub(bare)
        (bare / "bin").mkdir()
        for name in ("docker", "npm", "node"):
            shutil.copy(stub, bare / "bin" / name)

        def run(target: str, **working: str) -> int:
            values = dict.fromkeys(INPUTS, canary) | working
            words = [f"{name}={value}" for name, value in values.items()]
            given = {"exported": values} if source == "environment" else {}
            done = make(target, *(() if given else words), cwd=bare, path=str(bare / "bin"), **given)
            assert not list(bare.rglob("canary*")), f"{target}: {done.stdout}"
            return done.returncode

        # The interpreter must be a program, an extra one that there is.
        assert run("setup", EXTRAS="dev") == run("setup", PYTHON3=str(stub)) == 2
        assert run("setup", PYTHON3=str(stub), EXTRAS="dev") == 0
        shutil.copy(stub, bare / ".venv" / "bin" / "zizmor")
        for target in sorted(phony_targets()):
            assert run(target, PYTHON3=str(stub), EXTRAS="dev") == 0, target

    def test_only_its_own_variables(self, bare):
        """A misspelt variable is refused before anything runs, and its value is not expanded."""
        run = make("push-model", "MODEL=m", "REPO=user/x", "VERISON=$(shell touch canary)", cwd=bare)
        assert run.returncode == 2
        assert "there is no variable VERISON" in run.stderr
        assert not (bare / "canary").exists()

    def test_every_variable_is_listed(self):
        """What `make help` names and what the recipes read are the variables that are made safe."""
        named = set(re.findall(r"\b([A-Z]+[A-Z_0-9]*)=", "".join(re.findall(r"## .*", MAKEFILE))))
        read = set(re.findall(r"\$\$\{?([A-Z]+[A-Z_0-9]*)", MAKEFILE)) - {"PYTEST_ADDOPTS"}
        assert named | read <= set(INPUTS)

    @pytest.mark.parametrize(
        ("target", "given"),
        [("push-images", "REGISTRY=ghcr.io/user/x"), ("push-images", "VERSION=1.2.0"),
         ("deploy", "MODEL=user/name"), ("deploy", "IMAGE=host/serve:1"), ("push-model", "MODEL=m")],
    )  # fmt: skip
    def test_what_is_missing_is_named(self, bare, target, given):
        """Nothing is pushed to a default place."""
        run = make("-n", target, given, cwd=bare)
        assert run.returncode != 0
        assert f"{target} needs " in run.stderr

    def test_the_commit_of_a_clean_tree_is_passed(self, bare):
        """What runs in an image can name its commit; a tree with changes has none to name."""
        (bare / "bin").mkdir()
        docker = bare / "bin" / "docker"
        docker.write_text('#!/bin/sh\necho "COMMIT=$COMMIT"\n')
        docker.chmod(0o755)
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
            subprocess.run([*git, *words], cwd=bare, check=True)
        commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=bare, text=True).strip()
        assert f"COMMIT={commit}\n" in make("images", cwd=bare, path=str(docker.parent)).stdout
        (bare / "constraints.txt").write_text("changed")
        assert "\nCOMMIT=\n" in make("images", cwd=bare, path=str(docker.parent)).stdout


def test_clean_keeps_data_outputs_and_environment(bare):
    """Caches go; what took work stays."""
    kept = [bare / name for name in ("data/raw/arxiv.csv", "outputs/x/model.safetensors", ".venv/pyvenv.cfg")]
    gone = [bare / name for name in ("build/x", ".ruff_cache/z", "arxiv_cls/__pycache__/a.pyc")]
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    assert make("clean", cwd=bare).returncode == 0
    assert [path.exists() for path in (*kept, *gone)] == [True] * 3 + [False] * 3
