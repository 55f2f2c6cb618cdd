"""The images: the Dockerfile, what builds and what runs them; each target installs and runs here."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from dockerfile_stages import (  # noqa: E402
    environment_stage,
    installed_extras,
    last,
    lineage,
    read_stages,
    targets,
)
from prove_dockerfile import ARGUMENTS, SERVERS  # noqa: E402

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
            assert any(name == "RUN" and "scripts/install.py" in rest for name, rest in stage)

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

    @pytest.mark.parametrize("target", TARGETS)
    def test_health(self, target):
        """A server asks itself whether it answers; a job has no health, only an end."""
        checks = [rest for name, rest in lineage(STAGES, target) if name == "HEALTHCHECK"]
        assert checks
        assert (checks[-1] == "NONE") == (target not in SERVERS)

    @pytest.mark.parametrize("target", TARGETS)
    def test_a_lack_of_memory_is_told(self, target):
        """Every entry point runs under the process that knows why it was killed."""
        assert last(lineage(STAGES, target), "ENTRYPOINT")[:3] == ["python", "-m", "arxiv_cls.container"]

    @pytest.mark.parametrize("target", TARGETS)
    def test_a_change_of_code_installs_nothing(self, target):
        """Before it installs, an environment copies the lock, its installer and one line of code."""
        instructions = lineage(STAGES, environment_stage(STAGES, target))
        copied = [rest.split()[:-1] for name, rest in instructions if name == "COPY"]
        lock = [
            "arxiv_cls/__init__.py",
            "constraints.txt",
            "hashes.txt",
            "pyproject.toml",
            "scripts/install.py",
        ]
        assert sorted(word for words in copied for word in words) == lock

    @pytest.mark.parametrize("target", TARGETS)
    def test_each_platform_has_its_own_wheels(self, target):
        """The cache of pip is that of the platform that is built for."""
        instructions = lineage(STAGES, environment_stage(STAGES, target))
        assert ("ARG", "TARGETPLATFORM") in instructions
        installs = [rest for name, rest in instructions if name == "RUN" and "install.py" in rest]
        assert installs
        assert all("id=pip-${TARGETPLATFORM}" in rest for rest in installs)

    def test_images_are_named_by_digest(self):
        """What is built on cannot change under its tag."""
        parents = [stage.parent for stage in STAGES.values() if stage.parent not in STAGES]
        compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
        images = [*parents, compose["prometheus"]["image"]]
        assert all(re.fullmatch(r"[\w/.-]+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in images), images

    def test_servers_install_nothing_that_trains(self):
        """Their extras are those of the endpoint, the demo, the baseline and the request log."""
        for target in SERVERS:
            stage = STAGES[environment_stage(STAGES, target)]
            assert set(installed_extras({stage.name: stage})) <= {"serve", "space", "baseline", "gcs"}


class TestBake:
    """docker-bake.hcl builds every target."""

    TEXT = (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")

    def test_lists_every_target(self):
        """Its group and its matrix name the Dockerfile's targets, in their order."""
        for name in ("targets", "item"):
            (words,) = re.findall(rf"\b{name} *= \[(.*?)\]", self.TEXT)
            assert re.findall(r'"([a-z]+)"', words) == TARGETS


class TestCompose:
    """compose.yaml: endpoint, demo and Prometheus."""

    COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))

    def test_services(self):
        """Two of our targets and Prometheus."""
        services = self.COMPOSE["services"]
        assert set(services) == {"endpoint", "demo", "prometheus"}
        assert [services[name]["build"]["target"] for name in ("endpoint", "demo")] == list(SERVERS)

    def test_reachable_from_this_machine_only(self):
        """Every port is published on loopback."""
        for service in self.COMPOSE["services"].values():
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])

    def test_ports_are_those_of_the_images(self):
        """The port inside is the one that the Dockerfile's PORT names."""
        for name, target in (("endpoint", "serve"), ("demo", "space")):
            environment = " ".join(rest for kind, rest in lineage(STAGES, target) if kind == "ENV")
            (port,) = self.COMPOSE["services"][name]["ports"]
            assert port.endswith(f":{re.search(r'PORT=([0-9]+)', environment)[1]}")

    def test_mounts(self):
        """A mounted file is in the repository; models are mounted read-only; no unnamed volume."""
        for name, service in self.COMPOSE["services"].items():
            for mount in service["volumes"]:
                if mount["type"] == "bind":
                    assert mount["read_only"], name
                    assert mount["source"] == "./outputs" or (ROOT / mount["source"]).is_file()
                else:
                    assert mount["source"] in self.COMPOSE["volumes"]

    def test_endpoint_has_the_size_of_the_deployment(self):
        """2 CPUs and 2 GiB, as on Cloud Run; one thread of the engine for each CPU."""
        from arxiv_cls.cloud.commands import CPUS, MEMORY

        endpoint = self.COMPOSE["services"]["endpoint"]
        assert endpoint["cpus"] == endpoint["environment"]["ARXIV_CLS_THREADS"] == int(CPUS)
        assert endpoint["mem_limit"] == MEMORY.replace("Gi", "g")

    def test_prometheus_watches_the_endpoint(self):
        """Its target is the service's name and port inside the network."""
        config = yaml.safe_load((ROOT / "containers" / "prometheus.yaml").read_text(encoding="utf-8"))
        (job,) = config["scrape_configs"]
        assert job["static_configs"] == [{"targets": ["endpoint:8000"]}]
        assert job["metrics_path"] == "/metrics"


@pytest.mark.slow
class TestProof:
    """The Dockerfile cannot rot: what it says is done."""

    def test_every_target_installs_and_runs(self):
        """Each environment installs from the lock alone, and each entry point does its work in it."""
        script = str(ROOT / "scripts" / "prove_dockerfile.py")
        run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
