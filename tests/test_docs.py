"""README, CONTRIBUTING and docs/: what they name exists, their commands run, the site builds.

A shell block is a ```bash fence. The line above it is its mark, an HTML comment:

    <!-- fast -->                              runs in `make test`
    <!-- slow -->                              runs in `make test-slow`
    <!-- fast: needs outputs/tfidf_linear -->  a small model of that name is made first
    <!-- slow: run by tests/test_demo.py -->   that test runs it (a server, a container, a whole release)
    <!-- network -->                           needs the Hub, a cloud, a GPU or Docker: names are checked

The blocks of a page run in the order of the page, in one copy of the project in which the synthetic sample
takes the place of `data/raw/arxiv.csv` and of `my_papers.csv`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import typing
from functools import cache
from typing import NamedTuple

import pytest
from command_line import commands, shell_environment
from factories import ROOT, SAMPLE

from arxiv_cls import __version__
from arxiv_cls.recipe import GROUPS, TfidfRecipe, load_recipe
from arxiv_cls.record.manifest import MANIFEST
from arxiv_cls.training.arguments import TransformerRecipe

DOCS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
RELEASES = ROOT / "tests/fixtures/releases" / f"v{__version__}"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SCHEMAS = {"train.py": TransformerRecipe, "train_tfidf.py": TfidfRecipe}

FENCE = re.compile(
    r"(?:^ *<!-- (fast|slow|network)(?:: (needs|run by) ([^>\n]+?))? -->\n)?"
    r"^( *)```+ *([\w+-]*)\n(.*?)^ *```+ *$",
    re.MULTILINE | re.DOTALL,
)
COMMANDS = ("make", "arxiv-cls", "python", "accelerate", "pip", "pytest", "docker", "dvc", "torchrun")
# What a command makes or fetches, what is only an example, and ids on a hub: no files of the repository.
MADE = re.compile(r"^(outputs/|data/raw/arxiv|dist/|site/|\.venv|user/|team/|(.*/)?my_)")
HUB_IDS = re.compile(r"^(distilbert|sentence-transformers|sumitm004)/[\w.-]+$")
LOOKS_LIKE_FILE = re.compile(r"^[\w.][\w.-]*\.(py|mjs|md|ya?ml|toml|txt|csv|cff|dvc|svg|png|hcl|json)$")


class Block(NamedTuple):
    """A shell block of a page."""

    where: str  # page:line of the fence, as editors open it
    language: str
    speed: str  # fast, slow, network, or "" without a mark
    needs: list[str]  # model directories to make first
    run_by: str  # the test that runs it, or ""
    code: str


@cache
def text(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks(page: str) -> list[Block]:
    """The shell blocks of a page, in order."""
    found = []
    for match in FENCE.finditer(text(page)):
        speed, relation, things, _, language, code = match.groups()
        if language in {"bash", "sh", "shell", "console", "zsh"}:
            where = f"{page}:{text(page)[: match.start(4)].count(chr(10)) + 1}"
            needs, run_by = (things if relation == one else "" for one in ("needs", "run by"))
            code = textwrap.dedent(code).rstrip()
            found.append(Block(where, language, speed or "", needs.split(), run_by, code))
    return found


def inline_code(page: str) -> list[str]:
    """What stands between backticks outside of fences."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text(page)))


def command_lines(page: str) -> list[str]:
    """The lines of its blocks, comments and here-documents cut off, and inline code that is a command."""
    found = [code for code in inline_code(page) if code.split()[0] in COMMANDS]
    for block in blocks(page):
        code = re.sub(r"\\\n\s*", "", block.code)
        code = re.sub(r"(<<-?\s*['\"]?(\w+).*)\n[\s\S]*?^\s*\2$", r"\1", code, flags=re.MULTILINE)
        found += [re.split(r"\s#\s|^#", line, maxsplit=1)[0] for line in code.splitlines()]
    return found


def programs_of(command: str) -> list[list[str]]:
    """The words of each program of a line: `A=1 a b && c | d` has three, settings and quotes taken off."""
    lexer = shlex.shlex(re.sub(r"<[A-Za-z][^<>|]*>", "PLACEHOLDER", command), True, True, ";&|")
    lexer.whitespace_split, lexer.commenters = True, ""
    programs: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            programs.append([])
        elif programs[-1] or not re.fullmatch(r"\w+=.*", word):
            programs[-1].append(word)
    return [words for words in programs if words]


def problem_of(words: list[str]) -> str:
    """What a documented program names and does not have, or ""."""
    options = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help", "--version"}
    words = [word for word in words if word not in {"...", "…"}]
    if words[0] == "make":
        wanted = {w: rf"^{w}:" if "=" not in w else rf"\b{w.strip('[]').split('=')[0]}\b" for w in words[1:]}
        unknown = [word for word, pattern in wanted.items() if not re.search(pattern, MAKEFILE, re.MULTILINE)]
        return f"no target or variable {unknown}" if unknown else ""
    if words[0] == "arxiv-cls" and words[1:] and not words[1].startswith("-"):
        named = " ".join(words[1:])
        found = [command for name, command in commands().items() if f"{named} ".startswith(f"{name} ")]
        known = {option for command in found for one in command.params for option in one.opts}
        return f"no option {options - known}" if options - known else "" if found else "no such command"
    if words[0] == "python" and words[1:] and words[1].startswith(("benchmarks/", "scripts/")):
        unknown = sorted(option for option in options if f'"{option}"' not in text(words[1]))
        return f"no option {unknown}" if unknown else ""
    for script, schema in SCHEMAS.items():
        if f"arxiv_cls/{script}" in words:
            recipe, *overrides = words[words.index(f"arxiv_cls/{script}") + 1 :] or [""]
            if recipe.endswith(".yaml") and (ROOT / recipe).is_file():
                overrides = [word for word in overrides if word not in {"--resume", "--overwrite"}]
                load_recipe(ROOT / recipe, overrides, schema)
    return ""


@cache
def known_names() -> str:
    """Names of the project's files, and the package's code, which names the files that it writes."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    code = [path.read_text(encoding="utf-8") for path in (ROOT / "arxiv_cls").rglob("*.py")]
    return "\n".join([tracked.stdout, *code])


def missing_paths(code: str) -> list[str]:
    """The words of a piece of code that look like paths of the repository and are none."""
    missing = []
    for path in (token.strip("'\"(),:;") for token in re.split(r"[\s=]+", code)):
        if not re.fullmatch(r"[\w.][\w.-]*(/[\w.-]+)*/?", path) or MADE.match(path) or HUB_IDS.match(path):
            continue
        # A word with a slash is a path when it begins in a folder of ours or ends like a file.
        first, last = path.split("/")[0], path.split("/")[-1]
        is_path = LOOKS_LIKE_FILE.match(last) or ("/" in path and (ROOT / first).exists())
        exists = (ROOT / path).exists() or path in {entry.path for entry in MANIFEST}
        bare = "/" not in path and (path in known_names() or path.endswith(".csv"))
        if is_path and not exists and not bare:
            missing.append(path)
    return missing


def mark_problem(block: Block) -> str:
    """What is wrong with a block's mark, or ""."""
    test = ROOT / block.run_by
    if block.language != "bash" or not block.speed:
        return "write ```bash, and <!-- fast -->, <!-- slow --> or <!-- network --> above it"
    if not block.run_by:
        return ""
    if not test.is_file() or (block.speed == "slow" and "pytest.mark.slow" not in test.read_text()):
        return f"{block.run_by} is no test file, or has no slow test"
    beside = [path for path in test.parent.glob("*.py") if path == test or not path.name.startswith("test_")]
    told = "\n".join([test.stem, *(path.read_text(encoding="utf-8") for path in beside)])
    named = re.findall(r"\bmake ([a-z-]+)|\barxiv-cls ([a-z-]+)|\bdvc ([a-z]+)|\b([a-z_]+)\.py\b", block.code)
    silent = [name for name in map("".join, named) if not re.search(rf"\b{name}\b", told)]
    return f"{block.run_by} never names {silent}" if silent and "test_docs import blocks" not in told else ""


@pytest.mark.parametrize("page", PAGES)
class TestPages:
    """A page that names what is gone, or what never was, fails here, with its line."""

    def test_paths_and_links_exist(self, page):
        """Paths in code are the repository's or a model directory's; links lead to files."""
        assert not [path for code in command_lines(page) + inline_code(page) for path in missing_paths(code)]
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)", re.sub(r"`[^`]*`", "", text(page))):
            assert ((ROOT / page).parent / target).exists(), target

    def test_commands_parse(self, page):
        """Targets and variables of make, commands and options of ours, keys of the recipes."""
        found = [(code, problem_of(words)) for code in command_lines(page) for words in programs_of(code)]
        assert not [problem for problem in found if problem[1]]

    def test_blocks_are_marked(self, page):
        """No command block is left out by accident."""
        problems = [(block.where, mark_problem(block)) for block in blocks(page)]
        assert not [problem for problem in problems if problem[1]]


@pytest.fixture
def project(tmp_path):
    """The project in a folder of its own: links to what is only read, folders for what gets written."""
    folder = tmp_path / "a project"
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
        shutil.copy(SAMPLE, folder / name)
    return folder


def run_block(block: Block, project) -> None:
    """Runs a block in bash; the first command that fails fails the test with page and line."""
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment = shell_environment() | offline
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    run = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=900)
    told = f"{block.code}\n--- its output\n{run.stdout[-1500:]}\n--- its errors\n{run.stderr[-3000:]}"
    assert run.returncode == 0, f"{block.where} ended with exit status {run.returncode}\n{told}"


def pages_with(speed: str) -> list[str]:
    """The pages that have blocks to run with this mark; never none."""
    found = [page for page in PAGES if any(b.speed == speed and not b.run_by for b in blocks(page))]
    assert found, f"no {speed} block is left"
    return found


@pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="needs bash and symbolic links")
class TestCommands:
    """The blocks work as they are written."""

    @pytest.mark.parametrize(
        ("page", "speeds"),
        [
            *((page, {"fast"}) for page in pages_with("fast")),
            *(pytest.param(p, {"fast", "slow"}, marks=pytest.mark.slow) for p in pages_with("slow")),
        ],
    )
    def test_blocks_run(self, page, speeds, project):
        """All of a page, one after another; the slow ones among its fast ones, which may prepare for them."""
        for block in (block for block in blocks(page) if block.speed in speeds and not block.run_by):
            for name in block.needs:
                kind = "tfidf" if "tfidf" in name else "transformer"
                shutil.copytree(RELEASES / f"tiny-{kind}", project / name, dirs_exist_ok=True)
            run_block(block, project)


def test_messages_on_troubleshooting_are_those_of_the_programs():
    """Each message has a line above it, `<!-- says: words | file -->`, and the file prints the words."""
    page = text("docs/troubleshooting.md")
    marks = re.findall(
        r"^<!-- says: ([^\n]+) \| (\S+) -->\n```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL
    )
    assert len(marks) == page.count("```text") >= 10
    for words, file, message in marks:
        assert words in text(file), f"{file} no longer says {words!r}"
        assert words in message


def test_tree_of_the_readme_is_the_real_one():
    """Every line of the annotated tree is a path of the repository, and every package is in it."""
    (block,) = re.findall(r"^```text\n(arxiv_cls/.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL)
    seen, folders = set(), []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        # Names come first, two spaces end them: `train.py  train_tfidf.py   what they do`.
        names = [name for name in re.split(r"\s{2,}", line.strip()) if re.fullmatch(r"[\w./-]+", name)]
        names = [name for name in names if re.search(r"[/.]|file$", name)]
        assert names, line
        seen |= {"/".join([*folders[:depth], name.rstrip("/")]) for name in names}
        folders = [*folders[:depth], names[0].rstrip("/")]
    assert not [path for path in seen if not (ROOT / path).exists()]
    assert {f"arxiv_cls/{path.parent.name}" for path in (ROOT / "arxiv_cls").glob("*/__init__.py")} <= seen


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_recipe_reference_has_every_group(schema):
    """Each dataclass that reads a recipe has its table on docs/training.md."""
    for hint in (typing.get_type_hints(schema)[name] for name in GROUPS):
        assert f"<!-- recipe-keys: {hint.__module__}.{hint.__name__} -->" in text("docs/training.md")


@pytest.mark.slow
def test_site_builds_strictly_and_alone(tmp_path):
    """No warning, and no page loads a script, style, font or image from another server."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stdout + run.stderr
    pages, styles = ([*tmp_path.rglob(f"*.{suffix}")] for suffix in ("html", "css"))
    assert len(pages) > 20
    assert styles
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"https?:|url\([\"']?https?:|@import[^;]*https?:"
        r"|<link[^>]+rel=\"(?:stylesheet|preconnect)\"[^>]+href=\"https?:|&lt;!-- recipe"
    )
    assert not [path.name for path in pages + styles if loads.search(path.read_text(encoding="utf-8"))]
