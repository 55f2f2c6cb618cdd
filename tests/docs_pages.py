"""The pages of the documentation as the tests read them: their shell blocks, marks and inline commands.

A shell block is a ```bash fence. The line above it is its mark, an HTML comment:

    <!-- fast -->                              runs in `make test`
    <!-- slow -->                              runs in `make test-slow`
    <!-- fast: needs outputs/tfidf_linear -->  a small model of that name is made first
    <!-- slow: run by tests/test_demo.py -->   that test runs it (a server, a container, a long road)
    <!-- network -->                           needs the Hub, a cloud, a GPU or Docker: names are checked
"""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)

FENCE = re.compile(r"^( *)(```+|~~~+)\s*([\w+-]*)")
MARK = re.compile(r"^<!-- (fast|slow|network)(?:: (needs|run by) ([^>]+?))? -->$")
SHELLS = {"bash", "sh", "shell", "console", "zsh"}
COMMANDS = (
    "make ",
    "arxiv-cls ",
    "python ",
    "accelerate ",
    "pip ",
    "pytest ",
    "docker ",
    "dvc ",
    "torchrun ",
)


class Block(NamedTuple):
    """A shell block of a page."""

    page: str
    line: int  # of the fence, from 1
    language: str
    speed: str  # fast, slow, network, or "" without a mark
    needs: tuple[str, ...]  # model directories to make first
    run_by: str  # the test that runs it, or ""
    code: str

    @property
    def where(self) -> str:
        """`page:line`, as editors open it."""
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """A command that a page shows, on one line, comments cut off."""

    page: str
    line: int
    text: str

    @property
    def where(self) -> str:
        """`page:line: command`."""
        return f"{self.page}:{self.line}: {self.text}"


@cache
def text(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def parse_blocks(page: str, content: str) -> list[Block]:
    """The shell blocks of a text, in order."""
    blocks, lines = [], content.splitlines()
    position = 0
    while position < len(lines):
        fence = FENCE.match(lines[position])
        if not fence:
            position += 1
            continue
        indent, ticks, language = fence.groups()
        end = position + 1
        while end < len(lines) and lines[end].strip() != ticks:
            end += 1
        if language in SHELLS:
            mark = MARK.match(lines[position - 1].strip()) if position else None
            speed, relation, things = mark.groups() if mark else ("", None, None)
            needs = tuple(things.split()) if relation == "needs" else ()
            run_by = things if relation == "run by" else ""
            code = "\n".join(line.removeprefix(indent) for line in lines[position + 1 : end])
            blocks.append(Block(page, position + 1, language, speed, needs, run_by, code))
        position = end + 1
    return blocks


@cache
def blocks(page: str) -> list[Block]:
    """The shell blocks of a page."""
    return parse_blocks(page, text(page))


def block_commands(block: Block) -> list[Command]:
    """The lines of a block, continued lines joined, here-documents and comments cut off."""
    commands: list[Command] = []
    joined, first, until = "", 0, ""
    for number, line in enumerate(block.code.splitlines(), start=block.line + 1):
        if until:
            until = "" if line.strip() == until else until
            continue
        first = first or number
        joined += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        here_document = re.search(r"<<-?\s*['\"]?(\w+)", joined)
        until = here_document.group(1) if here_document else ""
        code = re.split(r"\s#\s|^#", joined, maxsplit=1)[0].strip()
        if code:
            commands.append(Command(block.page, first, code))
        joined, first = "", 0
    return commands


@cache
def inline_code(page: str) -> list[Command]:
    """The `code` between single backticks, outside of fences."""
    found, inside = [], ""
    for number, line in enumerate(text(page).splitlines(), start=1):
        fence = FENCE.match(line)
        if inside:
            inside = "" if line.strip() == inside else inside
        elif fence:
            inside = fence.group(2)
        else:
            found += [Command(page, number, code) for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", line)]
    return found


@cache
def commands(page: str) -> list[Command]:
    """Every command that the page shows: lines of shell blocks, and inline code that starts like one."""
    shown = [command for block in blocks(page) for command in block_commands(block)]
    return shown + [code for code in inline_code(page) if code.text.startswith(COMMANDS)]


def words_of(command: str) -> list[list[str]]:
    """The words of each program of a line: `a b && c | d` has three, quotes taken off.

    Raises:
        ValueError: a quote is not closed.
    """
    # `REMOTE=<a directory or a URL>` is one word.
    command = re.sub(r"<[A-Za-z][^<>|]*>", "PLACEHOLDER", command)
    lexer = shlex.shlex(command, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    programs: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            programs.append([])
        else:
            programs[-1].append(word)
    # A program may have settings of the environment before it: `OMP_NUM_THREADS=1 python x.py`.
    for words in programs:
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words.pop(0)
    return [words for words in programs if words]
