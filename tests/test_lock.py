"""The lock: constraints.txt, the hashes of its files, and the script that installs them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


class TestLock:
    """constraints.txt can be installed from anywhere, by anyone."""

    @pytest.fixture(scope="class")
    def lines(self):
        """The pins, without comments."""
        text = (ROOT / "constraints.txt").read_text()
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    def test_holds_nothing_of_one_machine(self, lines):
        """Plain `name==version` lines: no local version, URL or accelerator library."""
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

    def test_every_pin_but_torch_has_hashes(self, lines):
        """hashes.txt is that of these pins, and of no others."""
        hashes = (ROOT / "hashes.txt").read_text(encoding="utf-8")
        pinned = re.findall(r"^(\S+==\S+) \\\n +--hash=sha256:[0-9a-f]{64}", hashes, re.MULTILINE)
        assert pinned == [line for line in lines if not line.startswith("torch==")]

    def test_script_drops_what_does_not_travel(self):
        """The lock's script cuts local versions, leaves accelerator libraries out and names both xgboosts."""
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); from make_lock import pins;"
            "print(*pins([('torch', '2.13.0+cpu'), ('nvidia-nccl-cu12', '2.0'), ('triton', '3.0'),"
            " ('arxiv_cls', '0.1'), ('XGBoost_cpu', '3.2.0')], 'arxiv_cls'))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.split() == ["torch==2.13.0", "xgboost==3.2.0", "xgboost-cpu==3.2.0"]


class TestInstall:
    """scripts/install.py with an index of one file: another content than the lock's is refused."""

    @pytest.fixture
    def project(self, tmp_path):
        """A project of our name with one dependency, beside the index that has it."""
        for folder, name, needs in (
            ("dependency", "dependency", ""),
            ("project", "arxiv_cls", '"dependency"'),
        ):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "pyproject.toml").write_text(
                f'[project]\nname = "{name}"\nversion = "1.0"\ndependencies = [{needs}]\n'
                "[project.optional-dependencies]\nall = []\n[tool.setuptools]\npy-modules = []\n"
            )
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w"]
        subprocess.run([*pip, str(tmp_path / "index"), str(tmp_path / "dependency")], check=True)
        folder = tmp_path / "project"
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "install.py", folder / "scripts")
        (folder / "constraints.txt").write_text("dependency==1.0\n")
        return folder

    @staticmethod
    def install(folder: Path, hashes: str) -> subprocess.CompletedProcess[str]:
        """Installs into a folder beside the project, from the small index alone."""
        (folder / "hashes.txt").write_text(hashes)
        options = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder.parent / "index"),
            "PIP_CONFIG_FILE": os.devnull,
        }
        options |= {"PIP_TARGET": str(folder / "installed"), "PIP_NO_BUILD_ISOLATION": "0"}
        command = [sys.executable, str(folder / "scripts" / "install.py"), "all"]
        return subprocess.run(command, env=os.environ | options, capture_output=True, text=True, check=False)

    def test_a_hash_decides(self, project):
        """The right one installs, another one does not, and a pin without one is an error."""
        (wheel,) = (project.parent / "index").glob("dependency-*.whl")
        right = hashlib.sha256(wheel.read_bytes()).hexdigest()
        refused = self.install(project, f"dependency==1.0 --hash=sha256:{'0' * 64}\n")
        assert refused.returncode != 0
        assert "DO NOT MATCH THE HASHES" in refused.stderr
        unknown = self.install(project, "")
        assert unknown.returncode == 2
        assert "hashes.txt lacks dependency==1.0" in unknown.stderr
        assert not list((project / "installed").glob("dependency*"))
        done = self.install(project, f"dependency==1.0 --hash=sha256:{right}\n")
        assert done.returncode == 0, done.stderr
        assert "without a hash" not in done.stdout
        assert list((project / "installed").glob("dependency-1.0*"))
