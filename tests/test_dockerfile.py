"""The Dockerfile names what exists, runs as a plain user, and its targets install and run without Docker."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from prove_dockerfile import ARGUMENTS, environment_stage, last, lineage, read_stages, targets  # noqa: E402

STAGES = read_stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
TARGETS = targets(STAGES)


def in_build_context(path: str) -> bool:
    """Whether .dockerignore lets a path through; its last matching line decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        if any(fnmatch.fnmatch(parent, pattern) for parent in parents):
            kept = line.startswith("!")
    return kept


class TestDockerfile:
    """What can be read from the file itself."""

    def test_targets_are_the_known_ones(self):
        """Each target has small arguments to prove it with, and an environment stage that installs."""
        assert set(TARGETS) == set(ARGUMENTS)
        for target in TARGETS:
            stage = lineage(STAGES, environment_stage(STAGES, target))
            assert any(name == "RUN" and "pip install" in rest for name, rest in stage)

    @pytest.mark.parametrize("target", TARGETS)
    def test_what_it_copies_is_there(self, target):
        """Every COPY source exists and passes .dockerignore."""
        stages = (*lineage(STAGES, target), *lineage(STAGES, environment_stage(STAGES, target)))
        for name, rest in stages:
            if name == "COPY" and "--from=" not in rest:
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert in_build_context(source), f"{source} is in .dockerignore"

    def test_data_and_secrets_stay_out(self):
        """The build context has no real data, run, environment or history."""
        for path in (
            "data/raw/arxiv.csv",
            "outputs/x/model.safetensors",
            ".env",
            ".git/config",
            ".venv/bin/python",
        ):
            assert not in_build_context(path), path

    @pytest.mark.parametrize("target", TARGETS)
    def test_entry_point_and_default_recipe_exist(self, target):
        """Scripts and recipes that ENTRYPOINT and CMD name are files of the repository."""
        words = [*last(lineage(STAGES, target), "ENTRYPOINT"), *last(lineage(STAGES, target), "CMD")]
        files = [word for word in words if "/" in word]
        assert all((ROOT / file).is_file() for file in files), files

    @pytest.mark.parametrize("target", TARGETS)
    def test_runs_as_a_plain_user_with_no_build_tools(self, target):
        """The last USER is a number other than 0, and nothing is installed by apt anywhere."""
        instructions = lineage(STAGES, target)
        users = [rest for name, rest in instructions if name == "USER"]
        assert users
        assert int(users[-1]) > 0
        assert not [rest for name, rest in instructions if name == "RUN" and "apt" in rest.split()]
        assert [rest for name, rest in instructions if name == "HEALTHCHECK"]


@pytest.mark.slow
class TestProof:
    """The Dockerfile cannot rot: what it says is done."""

    def test_every_target_installs_and_runs(self):
        """Each environment installs from the lock alone, and each entry point does its work in it."""
        script = str(ROOT / "scripts" / "prove_dockerfile.py")
        run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
