"""The workflows: an end to every job, only commands that exist, and checked input."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def workflow(path: Path) -> dict:
    """A workflow; its key `on` is not taken for a truth value."""
    return yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)


def scripts(path: Path) -> list[str]:
    """What the steps of all its jobs run, continued lines joined."""
    jobs = workflow(path)["jobs"].values()
    return [step["run"].replace("\\\n", " ") for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestWorkflow:
    """What holds for each of them, beside what actionlint and zizmor check."""

    def test_every_job_ends(self, path):
        """A time limit for each job; one run at a time for each branch, or for each thing that is written."""
        content = workflow(path)
        assert content["concurrency"]["group"]
        assert all(int(job["timeout-minutes"]) <= 360 for job in content["jobs"].values())

    def test_make_targets_and_variables_exist(self, path):
        """Each `make x Y=z` names a target of the Makefile and variables that it reads."""
        joined = MAKEFILE.replace("\\\n", " ")
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
                    assert re.search(rf"^INPUTS := .*\b{variable}\b", joined, re.MULTILINE), variable

    def test_extras_exist(self, path):
        """What is installed comes from the lock, with its hashes: EXTRAS=a,b or scripts/install.py a,b."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        text = "\n".join(scripts(path))
        found = re.findall(r"EXTRAS=([\w,]+)|scripts/install\.py(?: --editable)? ([\w,]+)", text)
        named = {extra for groups in found for group in groups for extra in group.split(",") if extra}
        assert named <= set(project["optional-dependencies"])
        assert not re.findall(r"pip\"? install(?! --no-deps)", text)


def test_no_code_of_a_pull_request_has_rights():
    """Where a pull request's workflow may ask for an identity, it checks out the branch that it goes to."""
    for path in FILES:
        content = workflow(path)
        for name, job in content["jobs"].items():
            rights = {right for right, level in job.get("permissions", {}).items() if level == "write"}
            if "pull_request" in content["on"] and "push" not in content["on"] and rights:
                taken = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
                assert all("base.sha" in step["with"]["ref"] for step in taken), f"{path.stem}: {name}"


def test_python_versions_are_those_of_the_package():
    """The tests run on every version that pyproject.toml names, on three systems."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    matrix = workflow(ROOT / ".github" / "workflows" / "tests.yaml")["jobs"]["fast"]["strategy"]["matrix"]
    assert matrix["python"] == named
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are bash's")
class TestInputs:
    """What a person types into a workflow is checked before anything is installed or signed in to."""

    GOOD: ClassVar = {
        "MODEL": "user/arxiv-minilm@v1.2.0", "VERSION": "1.2.0", "GITHUB_REF_NAME": "model/minilm/v1.2.0",
    }  # fmt: skip

    @staticmethod
    def status(path: Path, values: dict[str, str], folder: Path) -> int:
        """The exit status of the step that checks, run as GitHub runs it."""
        (script,) = [text for text in scripts(path) if "=~" in text]
        (folder / "recipes").mkdir(exist_ok=True)
        (folder / "recipes" / "minilm.yaml").touch()
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        output = {"GITHUB_OUTPUT": str(folder / "output")}
        return subprocess.run(shell, env=values | output, cwd=folder, check=False).returncode

    @pytest.mark.parametrize("name", ["deploy", "space", "release-model"])
    def test_form(self, name, tmp_path):
        """Names and versions pass; a value with anything else in it ends the job."""
        path = ROOT / ".github" / "workflows" / f"{name}.yaml"
        assert self.status(path, self.GOOD, tmp_path) == 0
        (script,) = [text for text in scripts(path) if "=~" in text]
        checked = [variable for variable in self.GOOD if f'"${variable}" =~' in script]
        assert checked
        inputs = (workflow(path)["on"].get("workflow_dispatch") or {}).get("inputs", {})
        typed = {name.upper() for name, entry in inputs.items() if entry["type"] == "string"}
        assert typed <= set(checked)
        for variable in checked:
            for added in ("$(shell id)", "'; id; '", "\nname=x", " ", "`id`", "/.."):
                values = self.GOOD | {variable: self.GOOD[variable] + added}
                assert self.status(path, values, tmp_path) != 0, values


@pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are bash's")
class TestMonitor:
    """The scheduled drift check: one issue on an alarm, a training only when it is asked for."""

    CONTENT = workflow(ROOT / ".github" / "workflows" / "monitor.yaml")
    VALUES: ClassVar = {
        "MODEL": "user/arxiv-minilm@v1.2.0", "LOG": "gs://papers-logs/requests", "RECIPE": "minilm",
        "RUN": "https://github.example/runs/1",
    }  # fmt: skip

    def run(self, name: str, folder: Path, **stubs: str) -> tuple[int, str, str]:
        """Runs a step as GitHub does, with stubs for programs: the status, the calls, what it outputs."""
        steps = [step for job in self.CONTENT["jobs"].values() for step in job["steps"]]
        (script,) = [step["run"] for step in steps if step.get("name") == name]
        (folder / ".venv/bin").mkdir(parents=True)
        for program, body in stubs.items():
            path = folder / (".venv/bin/arxiv-cls" if program == "arxiv_cls" else program)
            path.write_text(f'#!/bin/sh\necho "$(basename "$0") $*" >> calls\n{body}\n')
            path.chmod(0o755)
        values = self.VALUES | {"PATH": f"{folder}:/usr/bin:/bin", "GITHUB_OUTPUT": str(folder / "output")}
        values["GITHUB_STEP_SUMMARY"] = str(folder / "page")
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        status = subprocess.run(shell, env=values, cwd=folder, check=False).returncode
        output = folder / "output"
        return status, (folder / "calls").read_text(), output.read_text() if output.exists() else ""

    @pytest.mark.parametrize(
        ("status", "expected", "output"), [(0, 0, ""), (3, 0, "alarm=true\n"), (2, 2, ""), (137, 137, "")]
    )
    def test_only_an_alarm_is_one(self, tmp_path, capfd, status, expected, output):
        """3 goes on to the issue, an error fails the job, and the verdict is on the page of the run.

        An alarm without a plan is one too. The job's own log, where a line can be a command, has none of it.
        """
        stub = f'[ "$2" = retrain-plan ] && {{ echo no plan >&2; exit 2; }}; echo verdict; exit {status}'
        found, calls, written = self.run("Drift", tmp_path, arxiv_cls=stub)
        assert capfd.readouterr().out == ""
        assert not output or (tmp_path / "drift/plan.txt").read_text() == "no plan\n"
        assert (found, written) == (expected, output)
        assert "arxiv-cls monitor drift user/arxiv-minilm@v1.2.0 --log gs://papers-logs/requests" in calls
        assert (tmp_path / "page").read_text() == "    verdict\n"

    @pytest.mark.parametrize(("known", "call"), [("", "gh issue create"), ("echo 7", "gh issue edit 7 ")])
    def test_one_issue(self, tmp_path, known, call):
        """The open issue is written over; without one it is opened. What the log holds stays text."""
        (tmp_path / "plan.txt").write_text("make reproduce\n")
        (tmp_path / "summary.txt").write_text("alarm: $(touch canary)\n```\n@everyone `touch canary`\n")
        stub = f'case "$*" in *"issue list"*) {known or ":"} ;; esac'
        found, calls, _ = self.run("Open the issue, or write over its text", tmp_path, gh=stub)
        assert found == 0
        assert call in calls
        assert ("issue create" in calls) != ("issue edit" in calls)
        lines = (tmp_path / "body.md").read_text().splitlines()
        assert "    @everyone `touch canary`" in lines
        assert not (tmp_path / "canary").exists()

    @pytest.mark.parametrize(("out", "added"), [("", ""), ("gs://logs/out", " --monitoring gs://logs/out")])
    def test_deployed(self, tmp_path, monkeypatch, out, added):
        """The endpoint shows the report of the monitoring that is deployed with it."""
        monkeypatch.setattr(TestMonitor, "CONTENT", workflow(ROOT / ".github" / "workflows" / "deploy.yaml"))
        monkeypatch.setattr(TestMonitor, "VALUES", self.VALUES | {"OUT": out, "ENGINE": "int8"})
        status, calls, _ = self.run("Deploy", tmp_path, make=":")
        assert status == 0
        assert f"SERVE_ARGS=--engine int8{added}\n" in calls

    def test_training_is_asked_for(self, tmp_path):
        """By the input or the label on an alarm, with the environment's approval; a pull request ends it."""
        job = self.CONTENT["jobs"]["retrain"]
        assert "needs" not in job
        assert "inputs.retrain" in job["if"]
        assert "github.event.label.name == 'retrain'" in job["if"]
        assert job["environment"] == "hub"
        status, calls, _ = self.run("Gate and pull request", tmp_path, make=":")
        assert status == 0
        assert "MODEL=outputs/minilm REPO=user/arxiv-minilm CREATE_PR=1" in calls


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script is bash's")
def test_table_of_changed_results(tmp_path):
    """The script of the metrics report; the last commit changes a record, adds one and deletes one."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "results", root / "results")
    (root / ".venv").symlink_to(sys.prefix)
    (root / ".gitignore").write_text(".venv\n")
    summary = tmp_path / "summary"
    environment = os.environ | {
        "GITHUB_STEP_SUMMARY": str(summary),
        "BASE": "HEAD~1",
        "DVC_NO_ANALYTICS": "1",
    }

    def run(*words: str) -> None:
        subprocess.run(words, cwd=root, env=environment, check=True, capture_output=True)

    def commit() -> None:
        run("git", "add", "--all")
        run(
            "git",
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example.org",
            "commit",
            "-q",
            "-m",
            "x",
            "--allow-empty",
        )

    (script,) = [text for text in scripts(ROOT / ".github/workflows/metrics-report.yaml") if "dvc" in text]
    compare = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    first, second, third, *_ = sorted((root / "results").iterdir())
    changed = (second / "metrics.json").read_bytes()
    shutil.move(second, tmp_path / "new")
    commit()
    shutil.move(tmp_path / "new", second)
    (first / "metrics.json").write_bytes(changed)
    gone = json.loads((third / "metrics.json").read_text(encoding="utf-8"))["metrics"]["accuracy"]
    shutil.rmtree(third)
    commit()
    run(*compare)
    lines = summary.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if "metrics.accuracy" in line]
    table = {row[1].split("/")[1]: row[3:5] for row in rows}
    value = f"{json.loads(changed)['metrics']['accuracy']:.4g}"
    assert table.pop(first.name)[1] == value
    assert table == {second.name: ["-", value], third.name: [f"{gone:.4g}", "-"]}
    commit()
    run(*compare)
    assert "None changes" in summary.read_text(encoding="utf-8").splitlines()[-1]
