"""The images: the Dockerfile, what builds and what runs them; each target installs and runs here."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import yaml

from arxiv_cls.cloud.endpoints import CPUS, MEMORY

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from dockerfile_stages import (  # noqa: E402
    environment_stage,
    last,
    lineage,
    read_stages,
    targets,
)
from prove_dockerfile import ARGUMENTS, SERVERS  # noqa: E402

STAGES = read_stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
TARGETS = targets(STAGES)
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("target", TARGETS)
class TestTarget:
    """What can be read from the file itself, beside what hadolint checks."""

    def test_files(self, target):
        """What COPY, ENTRYPOINT and CMD name exists and passes .dockerignore."""
        instructions = lineage(STAGES, target)
        stages = (*instructions, *lineage(STAGES, environment_stage(STAGES, target)))
        copies = [rest.split()[:-1] for name, rest in stages if name == "COPY" and "--from=" not in rest]
        words = [*last(instructions, "ENTRYPOINT"), *last(instructions, "CMD")]
        for source in (*chain(*copies), *(word for word in words if "/" in word)):
            assert (ROOT / source).exists(), source
            assert in_build_context(source), f"{source} is in .dockerignore"

    def test_how_it_runs(self, target):
        """Not as root, under the process that knows of a lack of memory; servers have a health check."""
        instructions = lineage(STAGES, target)
        assert int([rest for name, rest in instructions if name == "USER"][-1]) > 0
        assert last(instructions, "ENTRYPOINT")[:3] == ["python", "-m", "arxiv_cls.container"]
        checks = [rest for name, rest in instructions if name == "HEALTHCHECK"]
        assert (checks[-1] == "NONE") == (target not in SERVERS)

    def test_a_change_of_code_installs_nothing(self, target):
        """Before it installs, an environment copies the lock, its installer and one line of code."""
        instructions = lineage(STAGES, environment_stage(STAGES, target))
        copied = [rest.split()[:-1] for name, rest in instructions if name == "COPY"]
        lock = {"constraints.txt", "hashes.txt", "pyproject.toml", "scripts/install.py"}
        assert set(chain(*copied)) == {"arxiv_cls/__init__.py", *lock}

    def test_each_platform_has_its_own_wheels(self, target):
        """The cache of pip is that of the platform that is built for."""
        instructions = lineage(STAGES, environment_stage(STAGES, target))
        assert ("ARG", "TARGETPLATFORM") in instructions
        (install,) = [rest for name, rest in instructions if name == "RUN" and "install.py" in rest]
        assert "id=pip-${TARGETPLATFORM}" in install


def test_targets_are_the_known_ones():
    """Those that are proven, and those that docker-bake.hcl builds, in its group and its matrix."""
    assert set(TARGETS) == set(ARGUMENTS)
    bake = (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")
    for name in ("targets", "item"):
        (words,) = re.findall(rf"\b{name} *= \[(.*?)\]", bake)
        assert re.findall(r'"([a-z]+)"', words) == TARGETS


@pytest.mark.parametrize(
    "path",
    ["data/raw/arxiv.csv", "outputs/x/model.safetensors", ".env", ".git/config", ".venv/bin/python"],
)
def test_data_and_secrets_stay_out(path):
    """The build context has no real data, run, environment or history."""
    assert not in_build_context(path)


def test_images_are_named_by_digest():
    """What is built on cannot change under its tag, nor can what reads the Dockerfile."""
    parents = [stage.parent for stage in STAGES.values() if stage.parent not in STAGES]
    images = [*parents, *(COMPOSE["services"][name]["image"] for name in ("prometheus", "grafana"))]
    images += re.findall(r"^# syntax=(.*)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"[\w/.-]+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in images), images


def test_development_container():
    """It is built on the image of the project's own and ends with `make test`."""
    folder = ROOT / ".devcontainer"
    base = re.search(r"^FROM (\S+)", (folder / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert base in {stage.parent for stage in STAGES.values()}
    settings = json.loads((folder / "devcontainer.json").read_text(encoding="utf-8"))
    assert (folder / settings["build"]["dockerfile"]).is_file()
    assert [settings[f"{step}Command"] for step in ("updateContent", "postCreate")] == [
        "make setup",
        "make test",
    ]


class TestCompose:
    """compose.yaml: endpoint, demo, monitoring, Prometheus and Grafana."""

    def test_ports(self):
        """Published on loopback only; inside, the port is the one that the Dockerfile's PORT names."""
        services = COMPOSE["services"]
        assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one["ports"])
        for name, target in (("endpoint", "serve"), ("monitor", "monitor"), ("demo", "space")):
            assert services[name]["build"]["target"] == target
            environment = " ".join(rest for kind, rest in lineage(STAGES, target) if kind == "ENV")
            (port,) = services[name]["ports"]
            assert port.endswith(f":{re.search(r'PORT=([0-9]+)', environment)[1]}")

    def test_mounts(self):
        """A mounted file is in the repository and read-only."""
        mounts = [mount for service in COMPOSE["services"].values() for mount in service["volumes"]]
        for mount in (mount for mount in mounts if mount["type"] == "bind"):
            assert mount["read_only"]
            assert mount["source"] == "./outputs" or (ROOT / mount["source"]).exists()

    def test_the_monitor_reads_what_the_endpoint_writes(self):
        """Log, labels and results are volumes that both have at one place, which one writes and one reads."""
        services = COMPOSE["services"]
        place = {
            name: {mount["source"]: (mount["target"], not mount.get("read_only")) for mount in one["volumes"]}
            for name, one in services.items()
        }
        writes, reads = services["endpoint"]["environment"], services["monitor"]["environment"]
        for volume, setting, other in (
            ("requests", "ARXIV_CLS_REQUEST_LOG", "ARXIV_CLS_MONITOR_LOG"),
            ("feedback", "ARXIV_CLS_FEEDBACK_LOG", "ARXIV_CLS_MONITOR_LABELS"),
            ("monitoring", "ARXIV_CLS_MONITORING", "ARXIV_CLS_MONITOR_OUT"),
        ):
            assert writes[setting] == reads[other] == place["endpoint"][volume][0]
            assert place["endpoint"][volume][0] == place["monitor"][volume][0]
            assert place["endpoint"][volume][1] == (volume != "monitoring") != place["monitor"][volume][1]

    def test_endpoint_has_the_size_of_the_deployment(self):
        """2 CPUs and 2 GiB, as on Cloud Run; one thread of the engine for each CPU."""
        endpoint = COMPOSE["services"]["endpoint"]
        assert endpoint["cpus"] == endpoint["environment"]["ARXIV_CLS_THREADS"] == int(CPUS)
        assert endpoint["mem_limit"] == MEMORY.replace("Gi", "g")


@pytest.mark.slow
def test_every_target_installs_and_runs():
    """Each environment installs from the lock alone, and each entry point does its work in it."""
    script = str(ROOT / "scripts" / "prove_dockerfile.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
