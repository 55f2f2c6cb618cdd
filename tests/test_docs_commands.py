"""Every command block of README, CONTRIBUTING and docs/ is marked, and runs as its mark says.

The blocks of a page run in the order of the page, in one copy of the project in which the synthetic sample
takes the place of `data/raw/arxiv.csv` and of `my_papers.csv`. docs_pages.py lists the marks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from docs_pages import PAGES, ROOT, Block, blocks, parse_blocks

from arxiv_cls import train, train_tfidf

RUNS_HERE = pytest.mark.skipif(
    shutil.which("bash") is None or os.name == "nt", reason="needs bash and symbolic links"
)


def programs(code: str) -> list[str]:
    """The make targets, verbs and scripts that a block runs; a test that runs them has their names."""
    named = re.findall(r"\bmake ([a-z-]+)|\barxiv-cls ([a-z-]+)|\bdvc ([a-z]+)|\b([a-z_]+)\.py\b", code)
    return [name for groups in named for name in groups if name]


def told_by(test: Path) -> str:
    """The text of a test file, of its name, and of the modules beside it that hold no tests."""
    beside = [path for path in test.parent.glob("*.py") if not path.name.startswith("test_")]
    return "\n".join([test.stem, *(path.read_text(encoding="utf-8") for path in [test, *beside])])


def problems_of(block: Block) -> list[str]:
    """What is wrong with a block's mark, a line each."""
    if block.language != "bash":
        return [f"{block.where}: write ```bash, not ```{block.language}"]
    if not block.speed:
        return [f"{block.where}: no mark; write <!-- fast -->, <!-- slow --> or <!-- network --> above it"]
    if block.run_by:
        test = ROOT / block.run_by
        if not test.is_file() or not test.name.startswith("test_"):
            return [f"{block.where}: {block.run_by} is no test file"]
        if block.speed == "slow" and "pytest.mark.slow" not in test.read_text(encoding="utf-8"):
            return [f"{block.where}: {block.run_by} has no slow test"]
        if "from docs_pages import" in test.read_text(encoding="utf-8"):
            return []  # It takes the commands from the page.
        if silent := [name for name in programs(block.code) if not re.search(rf"\b{name}\b", told_by(test))]:
            return [f"{block.where}: {block.run_by} never names {', '.join(silent)}"]
    if block.speed == "network" and (block.needs or block.run_by):
        return [f"{block.where}: a network block is not run, so it needs nothing"]
    return []


class TestMarks:
    """No command block is left out by accident."""

    @pytest.mark.parametrize("page", PAGES)
    def test_every_block_is_marked(self, page):
        """Page and line of each block without a mark, with a wrong one, or in another language."""
        assert [problem for block in blocks(page) for problem in problems_of(block)] == []

    def test_there_are_blocks_of_each_kind(self):
        """The tests below would pass on none."""
        speeds = {block.speed for page in PAGES for block in blocks(page) if not block.run_by}
        assert speeds == {"fast", "slow", "network"}

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("<!-- fast -->\n```bash\ntrue\n```", ""),
            ("   <!-- slow -->\n   ```bash\n   true\n   ```", ""),
            ("text\n```bash\ntrue\n```", "a.md:2: no mark"),
            ("<!-- quick -->\n```bash\ntrue\n```", "a.md:2: no mark"),
            ("<!-- fast -->\n\n```bash\ntrue\n```", "a.md:3: no mark"),
            ("<!-- fast -->\n```sh\ntrue\n```", "a.md:2: write ```bash"),
            ("<!-- slow: run by tests/none.py -->\n```bash\ntrue\n```", "tests/none.py is no test file"),
            ("<!-- slow: run by tests/test_docs_names.py -->\n```bash\ntrue\n```", "has no slow test"),
            ("<!-- slow: run by tests/test_demo.py -->\n```bash\nmake deploy\n```", "never names deploy"),
            ("<!-- network: needs outputs/a -->\n```bash\ntrue\n```", "is not run"),
        ],
    )
    def test_checks(self, content, expected):
        """A block without a mark, or with one that says nothing, is told with its line."""
        (block,) = parse_blocks("a.md", content)
        found = problems_of(block)
        assert [expected in problem for problem in found] == ([True] if expected else [])

    def test_block_is_cut_out_whole(self):
        """Indented blocks lose their indent; fences of other languages are passed over."""
        content = (
            "```python\nx\n```\n  <!-- fast: needs outputs/a outputs/b -->\n  ```bash\n  a\n    b\n  ```\n"
        )
        (block,) = parse_blocks("a.md", content)
        assert (block.line, block.code, block.needs) == (5, "a\n  b", ("outputs/a", "outputs/b"))


@pytest.fixture(scope="module")
def make_model(tmp_path_factory, write_recipe, sample_csv) -> Callable[[str], Path]:
    """Trains a small model of the sample once, a baseline where its name has tfidf in it."""
    folder = tmp_path_factory.mktemp("models") / "outputs"
    folder.mkdir()

    def make(name: str) -> Path:
        kind = "tfidf" if "tfidf" in name else "tiny"
        target = folder / kind
        if not target.is_dir() and kind == "tfidf":
            words = ["--data.csv", str(sample_csv), "--trainer.output_dir", str(target)]
            train_tfidf.main([str(ROOT / "recipes/tfidf_linear.yaml"), *words, "--trainer.cpu_threads", "1"])
        elif not target.is_dir():
            words = ["--trainer.output_dir", str(target), "--trainer.num_train_epochs", "1"]
            # On all papers of the sample, so that it can be compared with a baseline.
            words += ["--data.max_samples", "null"]
            train.main([str(write_recipe(folder / "tiny.yaml")), *words])
        return target

    return make


def project_copy(folder: Path) -> Path:
    """The project in a folder of its own: links to what is only read, room for what gets written."""
    folder.mkdir()
    own = {"data", "outputs", "dist", "build", "site", ".dvc", ".git", ".venv", ".cache"}
    for path in ROOT.iterdir():
        if path.name not in own:
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "data/sample", folder / "data/sample")
    for name in ("data/raw", "outputs", ".dvc"):
        (folder / name).mkdir(parents=True)
    for name in (".dvc/config", "data/raw/arxiv.csv.dvc"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("data/raw/arxiv.csv", "my_papers.csv"):
        shutil.copy(ROOT / "data/sample/arxiv_sample.csv", folder / name)
    return folder


def run_block(block: Block, project: Path) -> None:
    """Runs a block in bash; the first command that fails fails the test with page and line."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    } | {
        "PATH": path,
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        # The environment is the one that runs this test: make has nothing to install.
        "MAKEFLAGS": "-- READY=",
    }
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, (
        f"{block.where} ended with exit status {run.returncode}\n{block.code}\n"
        f"--- its output\n{run.stdout[-1500:]}\n--- its errors\n{run.stderr[-3000:]}"
    )


def run_page(page: str, speeds: set[str], project: Path, make_model: Callable[[str], Path]) -> None:
    """Runs the blocks of a page that have one of these marks, in order."""
    for block in blocks(page):
        if block.speed not in speeds or block.run_by:
            continue
        for name in block.needs:
            if not (project / name).is_dir():
                shutil.copytree(make_model(name), project / name)
        run_block(block, project)


def pages_with(speed: str) -> list[str]:
    """The pages that have blocks to run with this mark."""
    return [page for page in PAGES if any(b.speed == speed and not b.run_by for b in blocks(page))]


@RUNS_HERE
class TestCommands:
    """The blocks work as they are written."""

    @pytest.mark.parametrize("page", pages_with("fast"))
    def test_fast_blocks_run(self, page, tmp_path, make_model):
        """All fast blocks of a page, one after another."""
        run_page(page, {"fast"}, project_copy(tmp_path / "a project"), make_model)

    @pytest.mark.slow
    @pytest.mark.parametrize("page", pages_with("slow"))
    def test_slow_blocks_run(self, page, tmp_path, make_model):
        """The slow blocks of a page, among its fast ones, which may prepare what they need."""
        run_page(page, {"fast", "slow"}, project_copy(tmp_path / "a project"), make_model)

    def test_failure_names_page_and_line(self, tmp_path):
        """What a person reads when a command of the docs no longer works."""
        (block,) = parse_blocks("a.md", "<!-- fast -->\n```bash\necho before\nfalse\necho after\n```")
        with pytest.raises(AssertionError, match=r"a\.md:2 ended with exit status 1") as caught:
            run_block(block, tmp_path)
        assert "before" in str(caught.value)
