"""The workflows: few rights, an end to every job, and only commands that exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# The rights that a job may ask for beside reading, and what for.
RIGHTS = {
    "id-token": {"package", "release-model", "space", "deploy", "data-report"},
    "packages": {"images", "deploy"},
    "pull-requests": {"data-report"},
}


def workflow(path: Path) -> dict:
    """A workflow; its key `on` is not taken for a truth value."""
    return yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)


def scripts(path: Path) -> list[str]:
    """What the steps of all its jobs run, continued lines joined."""
    jobs = workflow(path)["jobs"].values()
    return [step["run"].replace("\\\n", " ") for job in jobs for step in job["steps"] if "run" in step]


def test_every_duty_has_its_workflow():
    """Tests, lint, package, images, data report, model release, Space and deployment."""
    names = {path.stem for path in FILES}
    assert names == {
        "tests",
        "lint",
        "package",
        "images",
        "data-report",
        "release-model",
        "space",
        "deploy",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestWorkflow:
    """What holds for each of them."""

    def test_rights(self, path):
        """It starts with reading; a job that asks for more is one that is meant to have it."""
        content = workflow(path)
        assert content["permissions"] == {"contents": "read"}
        for name, job in content["jobs"].items():
            for right, level in job.get("permissions", {}).items():
                if level == "write":
                    assert path.stem in RIGHTS[right], f"{name}: {right}"

    def test_no_stored_token(self, path):
        """The only secret is the one that GitHub makes for the job."""
        assert set(re.findall(r"secrets\.(\w+)", path.read_text())) <= {"GITHUB_TOKEN"}

    def test_every_job_ends(self, path):
        """A time limit for each job; one run at a time for each branch, or for each thing that is written."""
        content = workflow(path)
        assert content["concurrency"]["group"]
        assert all(int(job["timeout-minutes"]) <= 360 for job in content["jobs"].values())

    def test_make_targets_and_variables_exist(self, path):
        """Each `make x Y=z` names a target of the Makefile and variables that it reads."""
        targets = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE).group(1).split())
        for script in scripts(path):
            for command in re.findall(r"(?:^|[($\s\"])make ([^\n;|)]*)", script):
                words = [
                    word for word in shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", command)) if word[0] != "-"
                ]
                named = [word for word in words if "=" not in word]
                assert named, command
                assert set(named) <= targets, command
                for variable in (word.split("=")[0] for word in words if "=" in word):
                    assert re.search(rf"\$\({variable}\)", MAKEFILE), f"{command}: {variable}"

    def test_extras_exist(self, path):
        """EXTRAS=a,b and '.[a,b]' name extras of the project."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        found = re.findall(r"EXTRAS=([\w,]+)|(?:\.|whl\)\")\[([\w,]+)\]", "\n".join(scripts(path)))
        named = {extra for groups in found for group in groups for extra in group.split(",") if extra}
        assert named <= set(project["optional-dependencies"])


def test_python_versions_are_those_of_the_package():
    """The tests run on every version that pyproject.toml names, on three systems."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    matrix = workflow(ROOT / ".github" / "workflows" / "tests.yaml")["jobs"]["fast"]["strategy"]["matrix"]
    assert matrix["python"] == named
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
