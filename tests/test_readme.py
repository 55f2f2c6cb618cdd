"""What README.md and CONTRIBUTING.md name exists: paths, make targets, verbs, options, links."""

from __future__ import annotations

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from arxiv_cls.cli import build_parser
from arxiv_cls.release.manifest import MANIFEST

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")

# What a command makes or fetches, what is only an example, and ids on a hub: no files of the repository.
MADE = ("outputs/", "data/raw/arxiv", "dist/", ".venv", "my_")
HUB_IDS = re.compile(r"^(user|distilbert|sentence-transformers|sumitm004)/[\w.-]+$")


@cache
def text(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def code_lines(page: str) -> list[str]:
    """The lines of the page's shell blocks, continued lines joined, prompts and comments cut off."""
    lines = []
    for block in re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            lines.append(re.split(r"\s#\s|^#", line.removeprefix("$ "), maxsplit=1)[0].strip())
    return [line for line in lines if line]


@cache
def commands(page: str) -> list[str]:
    """Every command that the page shows: lines of shell blocks and inline code that starts like a command."""
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text(page), flags=re.DOTALL))
    starts = ("make ", "arxiv-cls ", "python ", "accelerate ", "pip ", "pytest ")
    return code_lines(page) + [code for code in inline if code.startswith(starts)]


@cache
def named_paths(page: str) -> list[str]:
    """Every token in code that looks like a path inside the repository."""
    code = " ".join([*commands(page), *re.findall(r"`([^`\n]+)`", text(page))])
    tokens = {token.strip("'\"(),:;") for token in re.split(r"[\s=]+", code)}
    looks_like_file = re.compile(r"^[\w.][\w.-]*\.(py|md|yaml|yml|toml|txt|csv|cff|dvc)$")
    paths = {token for token in tokens if re.fullmatch(r"[\w.][\w.-]*(/[\w.-]+)*/?", token)}
    return sorted(
        path
        for path in paths
        if ("/" in path or looks_like_file.match(path))
        and not path.startswith(MADE)
        and not HUB_IDS.match(path)
    )


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


@pytest.mark.parametrize("page", PAGES)
class TestPages:
    """A page that names what is gone, or what never was, fails here."""

    def test_paths_exist(self, page):
        """Paths in code are those of the repository or of a model directory's manifest."""
        in_model_directory = {entry.path for entry in MANIFEST}
        missing = [p for p in named_paths(page) if not (ROOT / p).exists() and p not in in_model_directory]
        assert not missing

    def test_links_exist(self, page):
        """Relative links and images point at files; links into a page at one of its headings."""
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text(page)):
            path, _, heading = target.partition("#")
            linked = path if path else page
            assert (ROOT / linked).exists(), target
            if heading:
                titles = re.findall(r"^#+ (.*)$", (ROOT / linked).read_text(encoding="utf-8"), re.MULTILINE)
                assert heading in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles], (
                    target
                )

    def test_make_targets_exist(self, page):
        """Each `make x y=z` names a target of the Makefile, and variables that it reads."""
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split())
        for command in commands(page):
            if command.startswith("make"):
                words = shlex.split(command)[1:]
                assert not [w for w in words if "=" not in w and w not in targets], command
                variables = [w.split("=")[0] for w in words if "=" in w]
                assert not [v for v in variables if not re.search(rf"\$\({v}\)", makefile)], command

    def test_verbs_and_options_exist(self, page):
        """Each `arxiv-cls ...` names a verb, a verb of that verb, and options that it takes."""
        for command in commands(page):
            words = shlex.split(command)
            if words[0] != "arxiv-cls":
                continue
            parser = build_parser()
            for position, word in enumerate(words[1:], start=1):
                choices = subcommands(parser)
                if not choices or word.startswith("-"):
                    break
                assert word in choices, f"{command}: no verb {' '.join(words[1 : position + 1])}"
                parser = choices[word]
            options = [word.split("=")[0] for word in words if word.startswith("--")]
            assert not [o for o in options if o not in parser._option_string_actions], command


class TestReadme:
    """What the front page must have."""

    def test_tree_is_the_real_one(self):
        """Every line of the annotated tree is a path of the repository, and every room is in it."""
        block = re.search(
            r"^```text\n(arxiv_cls/.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL
        ).group(1)
        seen, folders = set(), []
        for line in block.splitlines():
            depth = (len(line) - len(line.lstrip())) // 2
            # Names come first, two spaces end them: `train.py  train_tfidf.py   what they do`.
            names = [name for name in re.split(r"\s{2,}", line.strip()) if re.fullmatch(r"[\w./-]+", name)]
            names = [name for name in names if "/" in name or "." in name or name in {"Makefile"}]
            assert names, line
            for name in names:
                path = "/".join([*folders[:depth], name.rstrip("/")])
                assert (ROOT / path).exists(), path
                seen.add(path)
            folders = [*folders[:depth], names[0].rstrip("/")]
        rooms = {f"arxiv_cls/{path.parent.name}" for path in (ROOT / "arxiv_cls").glob("*/__init__.py")}
        assert rooms <= seen

    def test_shows_the_one_command(self):
        """The first screen has the demo and what it prints."""
        first_screen = "\n".join(text("README.md").splitlines()[:60])
        assert "make demo" in first_screen
        assert "Results on the synthetic sample" in first_screen
