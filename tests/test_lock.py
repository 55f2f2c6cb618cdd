"""The lock: constraints.txt, the hashes of its files, and the script that installs them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from make_lock import pins  # noqa: E402


def test_pins():
    """Plain pins of every direct dependency, each but torch with its hashes; nothing of one machine."""
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)]
    assert not [line for line in lines if line.startswith(("nvidia-", "cuda-", "triton"))]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.match(r"[A-Za-z0-9_.-]+", one).group().lower().replace("_", "-") for one in needed}
    pinned = dict(line.split("==") for line in lines)
    assert names - {"arxiv-cls"} <= set(pinned)
    assert pinned["xgboost"] == pinned["xgboost-cpu"]
    hashes = (ROOT / "hashes.txt").read_text(encoding="utf-8")
    hashed = re.findall(r"^(\S+==\S+) \\\n +--hash=sha256:[0-9a-f]{64}", hashes, re.MULTILINE)
    assert hashed == [line for line in lines if not line.startswith("torch==")]


def test_what_does_not_travel_is_dropped():
    """Local versions are cut, accelerator libraries left out, both builds of xgboost named."""
    resolved = [
        ("torch", "2.13.0+cpu"),
        ("nvidia-nccl-cu12", "2.0"),
        ("arxiv_cls", "0.1"),
        ("XGBoost_cpu", "3.2.0"),
    ]
    assert pins(resolved, "arxiv_cls") == ["torch==2.13.0", "xgboost==3.2.0", "xgboost-cpu==3.2.0"]


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
