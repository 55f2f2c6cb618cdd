"""What README, CONTRIBUTING and docs/ name exists: paths, links, targets, verbs, options, recipe keys."""

from __future__ import annotations

import argparse
import re
from functools import cache

import pytest
from docs_pages import PAGES, ROOT, Command, commands, inline_code, text, words_of

from arxiv_cls.cli import build_parser
from arxiv_cls.errors import UserError
from arxiv_cls.recipe import TfidfRecipe, load_recipe
from arxiv_cls.record.manifest import MANIFEST
from arxiv_cls.training.arguments import TransformerRecipe

# What a command makes or fetches, what is only an example, and ids on a hub: no files of the repository.
MADE = re.compile(r"^(outputs/|data/raw/arxiv|dist/|site/|\.venv|user/|team/|(.*/)?my_)")
HUB_IDS = re.compile(r"^(distilbert|sentence-transformers|sumitm004)/[\w.-]+$")
SUFFIXES = "py|mjs|md|yaml|yml|toml|txt|csv|cff|dvc|svg|png|hcl|json"
LOOKS_LIKE_FILE = re.compile(rf"^[\w.][\w.-]*\.({SUFFIXES})$")


@cache
def named_paths(page: str) -> list[Command]:
    """Every token in code that looks like a path inside the repository."""
    found = []
    for code in [*commands(page), *inline_code(page)]:
        for token in re.split(r"[\s=]+", code.text):
            path = token.strip("'\"(),:;")
            if not re.fullmatch(r"[\w.][\w.-]*(/[\w.-]+)*/?", path):
                continue
            # A word with a slash is a path when it begins in a folder of ours or ends like a file.
            inside = "/" in path and (
                (ROOT / path.split("/")[0]).exists() or LOOKS_LIKE_FILE.match(path.split("/")[-1])
            )
            if (inside or LOOKS_LIKE_FILE.match(path)) and not MADE.match(path) and not HUB_IDS.match(path):
                found.append(Command(code.page, code.line, path))
    return found


@cache
def file_names() -> frozenset[str]:
    """The base names of the project's files, for pages that speak of `labels.py` where the room is clear."""
    folders = (
        "arxiv_cls",
        "recipes",
        "tests",
        "benchmarks",
        "scripts",
        "docs",
        "data",
        ".github",
        "spaces_app",
    )
    inside = (path.name for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return frozenset((*inside, *(path.name for path in ROOT.iterdir())))


@cache
def sources() -> str:
    """The package's code as one text: a file that a command writes is named in it."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "arxiv_cls").rglob("*.py"))


def exists(path: str) -> bool:
    """Whether a page may name this: a file of ours, of a model directory, or that a command writes."""
    if (ROOT / path).exists() or path in {entry.path for entry in MANIFEST}:
        return True
    if "/" in path:
        return False
    # A bare name: of a file of ours, of one that the code writes, or a reader's own CSV.
    return path in file_names() or path in sources() or path.endswith(".csv")


def headings(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def verb_problem(words: list[str]) -> str:
    """What `arxiv-cls ...` names and does not have, or ""."""
    parser = build_parser()
    for position, word in enumerate(words[1:], start=1):
        choices = subcommands(parser)
        if not choices or word.startswith("-"):
            break
        if word in {"...", "…"}:
            return ""
        if word not in choices:
            return f"no verb {' '.join(words[1 : position + 1])}"
        parser = choices[word]
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    unknown = [option for option in options if option not in parser._option_string_actions]
    return f"no option {', '.join(unknown)}" if unknown else ""


def training_problem(words: list[str]) -> str:
    """What the words after `arxiv_cls/train.py` or `train_tfidf.py` name and do not have, or ""."""
    for script, schema in (("train.py", TransformerRecipe), ("train_tfidf.py", TfidfRecipe)):
        if f"arxiv_cls/{script}" in words:
            recipe, *overrides = words[words.index(f"arxiv_cls/{script}") + 1 :] or [""]
            overrides = [word for word in overrides if word not in {"--resume", "--overwrite"}]
            if not recipe.endswith(".yaml") or not (ROOT / recipe).is_file() or "..." in overrides:
                return ""  # a placeholder; a path that is gone is told by the test of paths
            try:
                load_recipe(ROOT / recipe, overrides, schema)
            except UserError as error:
                return str(error)
    return ""


@pytest.mark.parametrize("page", PAGES)
class TestPages:
    """A page that names what is gone, or what never was, fails here, with its line."""

    def test_paths_exist(self, page):
        """Paths in code are those of the repository or of a model directory's manifest."""
        assert not [path.where for path in named_paths(page) if not exists(path.text)]

    def test_links_exist(self, page):
        """Relative links and images point at files; links into a page at one of its headings."""
        for number, line in enumerate(text(page).splitlines(), start=1):
            for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
                path, _, heading = target.partition("#")
                linked = (ROOT / page).parent / path if path else ROOT / page
                assert linked.exists(), f"{page}:{number}: {target}"
                if heading:
                    known = headings(linked.resolve().relative_to(ROOT).as_posix())
                    assert heading in known, f"{page}:{number}: {target}"

    def test_make_targets_exist(self, page):
        """Each `make x y=z` names a target of the Makefile, and variables that it reads."""
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE).group(1).split())
        for command in commands(page):
            for words in words_of(command.text):
                if words[0] != "make":
                    continue
                words = [word for word in words[1:] if word not in {"...", "…"}]
                assert not [w for w in words if "=" not in w and w not in targets], command.where
                variables = [w.strip("[]").split("=")[0] for w in words if "=" in w]
                assert not [v for v in variables if not re.search(rf"\b{v}\b", makefile)], command.where

    def test_verbs_and_options_exist(self, page):
        """Each `arxiv-cls ...` names a verb, a verb of that verb, and options that it takes."""
        for command in commands(page):
            for words in words_of(command.text):
                problem = verb_problem(words) if words[0] == "arxiv-cls" else ""
                assert not problem, f"{command.where}\n{problem}"

    def test_overrides_are_keys_of_the_recipe(self, page):
        """Each training command that names a recipe of ours gives it keys that it has."""
        for command in commands(page):
            for words in words_of(command.text):
                problem = training_problem(words)
                assert not problem, f"{command.where}\n{problem}"

    def test_options_of_scripts_exist(self, page):
        """An option of `python benchmarks/x.py --option` stands in that script."""
        for command in commands(page):
            for words in words_of(command.text):
                if (
                    len(words) < 2
                    or words[0] != "python"
                    or not words[1].startswith(("benchmarks/", "scripts/"))
                ):
                    continue
                source = (ROOT / words[1]).read_text(encoding="utf-8")
                options = [word.split("=")[0] for word in words[2:] if word.startswith("--")]
                assert not [option for option in options if f'"{option}"' not in source], command.where


class TestChecks:
    """The checks themselves see what is wrong."""

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("arxiv-cls data build --csv x.csv", ""),
            ("arxiv-cls data biuld", "no verb data biuld"),
            ("arxiv-cls evaluate outputs/a --spilt test", "no option --spilt"),
        ],
    )
    def test_verbs(self, words, expected):
        """A verb or option that is not there is named."""
        assert verb_problem(words.split()) == expected

    def test_overrides(self):
        """A key that the recipe does not have is named, with the one that was meant."""
        words = [
            "python",
            "arxiv_cls/train_tfidf.py",
            "recipes/tfidf_linear.yaml",
            "--trainer.sed",
            "1",
            "--overwrite",
        ]
        assert "did you mean seed?" in training_problem(words)
        assert training_problem([*words[:3], "--trainer.seed", "1"]) == ""

    def test_paths(self, monkeypatch):
        """Paths inside the repository are seen; models, ids on the Hub and fractions are left alone."""
        content = (
            "`recipes/none.yaml` `outputs/x` `user/name` `and/or` `distilbert/distilbert-base` `setup.cfg2`"
        )
        monkeypatch.setattr("docs_pages.text", lambda page: content)
        assert [path.text for path in named_paths("a page of this test")] == ["recipes/none.yaml"]


class TestTroubleshooting:
    """The messages on docs/troubleshooting.md are those of the programs.

    A message has a line above it: `<!-- says: words | file -->`.
    """

    PAGE = "docs/troubleshooting.md"

    def test_messages_are_in_the_source(self):
        """The words stand in the file that prints them and in the message below the mark."""
        marks = re.findall(
            r"^<!-- says: ([^\n]+) \| (\S+) -->\n```text\n(.*?)^```", text(self.PAGE), re.M | re.S
        )
        assert len(marks) >= 10
        for words, file, message in marks:
            assert words in (ROOT / file).read_text(encoding="utf-8"), f"{file} no longer says {words!r}"
            assert words in message

    def test_every_message_has_its_source(self):
        """No message without a mark."""
        assert text(self.PAGE).count("```text") == text(self.PAGE).count("<!-- says: ")


class TestRoadPicture:
    """docs/images/road.svg names commands too."""

    def test_commands_exist(self):
        """Each `make x` and `arxiv-cls x` in the picture is there."""
        picture = (ROOT / "docs/images/road.svg").read_text(encoding="utf-8")
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        shown = [label.strip() for label in re.findall(r">([^<>]+)</t(?:ext|span)>", picture)]
        targets = [label.split()[1] for label in shown if label.startswith("make ")]
        verbs = [label for label in shown if label.startswith("arxiv-cls ")]
        assert targets
        assert verbs
        assert not [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)]
        assert not [verb_problem(verb.split()) for verb in verbs if verb_problem(verb.split())]
