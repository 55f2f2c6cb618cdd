"""Do what the Dockerfile does, without Docker: install each target's environment and run its entry point.

Run as: .venv/bin/python scripts/prove_dockerfile.py [TARGET ...]        (all targets; make test-slow does)

Every target is laid out in a temporary folder: its COPY lines from the files that git knows, its ENV, its
installation in a clean virtual environment, its ENTRYPOINT with small arguments. Jobs run to their end;
servers are asked by their HEALTHCHECK, answer one request and are told to stop. What needs root or Linux
containers (users, cache mounts) is left out. Targets that share an environment stage share the installation;
the wheels come from one cache (scripts/wheel_cache.py).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_stages import (
    ROOT,
    copy_files,
    environment_stage,
    environment_variables,
    installed_extras,
    last,
    lineage,
    read_stages,
    targets,
)
from wheel_cache import fill, offline

SAMPLE = "data/sample/arxiv_sample.csv"
TINY = ["--data.csv", SAMPLE, "--data.max_samples", "40", "--trainer.num_train_epochs", "1"]
# What each entry point is asked to do. outputs/tiny is what the baseline target leaves; outputs/encoder is a
# tiny transformer of the tests, exported to ONNX; outputs/requests is the log that the serve target leaves.
ARGUMENTS = {
    "train": [
        *("recipes/minilm.yaml", *TINY, "--model.max_length", "32"),
        *("--trainer.output_dir", "outputs/tuned", "--overwrite"),
    ],
    "baseline": ["recipes/tfidf_xgboost.yaml", *TINY, "--trainer.output_dir", "outputs/tiny", "--overwrite"],
    "evaluate": ["outputs/tiny"],
    "serve": ["outputs/encoder", "--request-log", "outputs/requests"],
    "monitor": ["outputs/encoder", "--log", "outputs/requests", "--out", "outputs/monitoring"],
    "space": ["outputs/encoder"],
}
SERVERS = ("serve", "monitor", "space")
ENCODER = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-transformer"
# Who only serves does not install what only trains; the monitoring draws plots.
ONLY_TRAINS = ("torch", "transformers", "datasets", "accelerate", "dvc", "wandb", "evaluate", "evidently")
START_SECONDS = 180


@dataclass
class Proof:
    """One run: the stages, the folder of everything made, and the environments by their stage."""

    folder: Path
    wheels: Path
    stages: dict
    environments: dict[str, Path] = field(default_factory=dict)

    def install(self, names: list[str]) -> None:
        """Makes the virtual environments of these stages, two at a time: pip uses one core."""
        with ThreadPoolExecutor(2) as pool:
            self.environments = dict(zip(names, pool.map(self._install, names), strict=True))

    def _install(self, stage: str) -> Path:
        """Runs the installation of an environment stage in a new virtual environment."""
        started = time.monotonic()
        venv, app = self.folder / stage / "venv", self.folder / stage / "app"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        instructions = lineage(self.stages, stage)
        copy_files(instructions, app)
        for name, rest in instructions:
            if name == "RUN" and "-m venv" not in rest:
                command = re.sub(r"^(--mount=\S+\s+)+", "", rest)
                # The index of CPU builds is a matter of size, not of what is installed.
                command = re.sub(r"PIP_EXTRA_INDEX_URL=\S+ ", "", command)
                variables = environment_variables(instructions, app, venv, offline(self.wheels))
                variables["PIP_QUIET"] = "1"
                subprocess.run(["sh", "-c", command], cwd=app, env=variables, check=True)
        print(f"{stage}: installed in {time.monotonic() - started:.0f} s", flush=True)
        return venv

    def run(self, target: str) -> bool:
        """Lays out a target and runs it; returns whether it did what it should."""
        venv = self.environments[environment_stage(self.stages, target)]
        instructions = lineage(self.stages, target)
        # The path of an image has no space; those of the people who mount folders into it do.
        app = self.folder / f"the {target}"
        copy_files(instructions, app)
        outputs = self.folder / "outputs"
        outputs.mkdir(exist_ok=True)
        (app / "outputs").symlink_to(outputs)
        variables = environment_variables(instructions, app, venv) | {"HF_HUB_OFFLINE": "1"}
        command = [*last(instructions, "ENTRYPOINT"), *ARGUMENTS[target]]
        if target in SERVERS:
            export_encoder(outputs / "encoder")
            good = serves(target, command, last(instructions, "HEALTHCHECK"), app, variables)
            return good and is_lean(target, venv)
        status = subprocess.run(found(command, variables), cwd=app, env=variables, check=False).returncode
        print(f"{target}: exit status {status}", flush=True)
        return status == 0


def found(command: list[str], variables: dict[str, str]) -> list[str]:
    """The command with its program looked up in the target's PATH, not in ours."""
    return [shutil.which(command[0], path=variables["PATH"]) or command[0], *command[1:]]


def export_encoder(directory: Path) -> None:
    """Leaves a tiny transformer with ONNX files and a reference, made with this script's environment."""
    if not directory.exists():
        shutil.copytree(ENCODER, directory)
        for words in (["export"], ["monitor", "reference", "--csv", SAMPLE]):
            command = [sys.executable, "-m", "arxiv_cls.cli", *words, str(directory)]
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def serves(target: str, command: list[str], health: list[str], app: Path, variables: dict[str, str]) -> bool:
    """Starts a server on loopback, waits for its health check, asks it for a label, and ends it politely."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hosts = {"ARXIV_CLS_HOST": "127.0.0.1", "ARXIV_CLS_MONITOR_HOST": "127.0.0.1"}
    variables = variables | {"PORT": str(port)} | hosts
    if "--host" in command:
        command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    started = time.monotonic()
    server = subprocess.Popen(found(command, variables), cwd=app, env=variables)
    healthy = answered = False
    try:
        while not healthy and server.poll() is None and time.monotonic() - started < START_SECONDS:
            time.sleep(0.5)
            healthy = not subprocess.run(
                found(health, variables), cwd=app, env=variables, capture_output=True, check=False
            ).returncode
        print(f"{target}: healthy {healthy} after {time.monotonic() - started:.0f} s", flush=True)
        answered = healthy and answers(target, f"http://127.0.0.1:{port}")
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            status = server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            status = server.wait()
    # 143: a program that ends itself with the signal that asked it to, after it has closed everything.
    ended = status in (0, 143)
    print(f"{target}: answered {answered}, exit status {status} after SIGTERM", flush=True)
    return healthy and answered and ended


def answers(target: str, url: str) -> bool:
    """Whether the endpoint names a label, the monitoring a verdict; whether the page of the demo is there."""
    if target == "monitor":
        # It compares once as soon as it has started.
        end, status = time.monotonic() + 60, "waiting"
        while status == "waiting" and time.monotonic() < end:
            time.sleep(0.5)
            with urllib.request.urlopen(url, timeout=60) as response:
                status = json.load(response)["status"]
        print(f"{target}: {status}", flush=True)
        return status == "too_few"
    if target == "space":
        with urllib.request.urlopen(f"{url}/config", timeout=60) as response:
            return bool(json.load(response)["components"])
    body = json.dumps({"text": "Graph neural networks for molecules."}).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        reply = json.load(response)
    print(f"{target}: {reply['predicted_class_name']} {reply['confidence']:.3f}", flush=True)
    return 0 < reply["confidence"] <= 1


def is_lean(target: str, venv: Path) -> bool:
    """Whether nothing is installed that only trains."""
    heavy = [name for name in ONLY_TRAINS if list(venv.glob(f"lib/*/site-packages/{name}/__init__.py"))]
    if heavy:
        print(f"{target}: installs {', '.join(heavy)}, which only trains", flush=True)
    return not heavy


def prove(names: list[str]) -> bool:
    """Installs and runs the named targets; returns whether each did what it should."""
    stages = read_stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    unknown = sorted(set(names) - set(targets(stages)))
    if unknown:
        raise SystemExit(f"error: no target {', '.join(unknown)}; there are: {', '.join(targets(stages))}")
    names = names or targets(stages)
    environments = sorted({environment_stage(stages, target) for target in names})
    started = time.monotonic()
    wheels = fill(installed_extras({name: stages[name] for name in environments}))
    print(f"wheels: {wheels} after {time.monotonic() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        proof = Proof(Path(temporary), wheels, stages)
        proof.install(environments)
        # Not all(...) of a generator: one target that fails says nothing about the next.
        results = [proof.run(target) for target in names]
        return all(results)


def main() -> int:
    """Reads the targets from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Install and run the Dockerfile's targets without Docker.")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    return 0 if prove(parser.parse_args().targets) else 1


if __name__ == "__main__":
    sys.exit(main())
