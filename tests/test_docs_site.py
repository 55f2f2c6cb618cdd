"""The documentation's site: every page is in it, tables are those of the code, nothing comes from afar."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import typing

import pytest
import yaml
from docs_pages import ROOT

from arxiv_cls.recipe import TfidfRecipe
from arxiv_cls.training.arguments import TransformerRecipe

sys.path.insert(0, str(ROOT / "scripts"))

import docs_hooks


def pages_of(navigation: list | dict | str) -> list[str]:
    """The pages of a navigation, at any depth."""
    if isinstance(navigation, str):
        return [navigation]
    below = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for entry in below for page in pages_of(entry)]


class TestNavigation:
    """A reader finds every page."""

    def test_every_page_is_listed_once(self):
        """mkdocs.yml and the hook name the pages of docs/, no more and no fewer."""
        # MkDocs has tags of its own for YAML; the navigation needs none of them.
        settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        navigation = yaml.safe_load(settings[settings.index("\nnav:") :])["nav"]
        config = type("Config", (), {"nav": navigation})()
        listed = pages_of(docs_hooks.on_config(config).nav)
        made = [*docs_hooks.reference_pages(), *docs_hooks.ROOT_PAGES.values()]
        written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
        assert not set(written) - set(listed), "pages that the nav of mkdocs.yml lacks"
        assert sorted(listed) == sorted([*made, *written])

    def test_reference_has_every_module(self):
        """Each module of the package but `commands` and the entry points has its place in the reference."""
        content = "\n".join(docs_hooks.reference_pages().values())
        modules = [
            ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for path in (ROOT / "arxiv_cls").rglob("*.py")
            if path.parent != ROOT / "arxiv_cls" and path.stem not in {"__init__", "commands"}
        ]
        assert not [module for module in modules if f"::: {module}\n" not in content + "\n"]


class TestTables:
    """What the hook writes."""

    @pytest.mark.parametrize("schema", [TransformerRecipe, TfidfRecipe])
    def test_recipes_page_has_every_group(self, schema):
        """Each dataclass that reads a recipe has its table on docs/recipes.md, with every key of ours."""
        page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
        hints = typing.get_type_hints(schema)
        for group in ("model", "data", "trainer", "release"):
            dotted = f"{hints[group].__module__}.{hints[group].__name__}"
            assert f"<!-- recipe-keys: {dotted} -->" in page
            made = docs_hooks.recipe_keys(dotted)
            own = [field for field in dataclasses.fields(hints[group]) if "minimum" in field.metadata]
            assert own
            assert not [field.name for field in own if f"| `{field.name}` |" not in made]
            assert not [field.name for field in own if field.metadata["help"] not in made]

    def test_types_and_defaults(self):
        """As a person writes them in YAML."""
        made = docs_hooks.recipe_keys("arxiv_cls.recipe.DataConfig")
        assert "| `split` | `paper`, `time` | `paper` |" in made
        assert "| `max_samples` | int or null | `null` |" in made
        assert "(at least 4)" in made

    def test_verbs_and_rooms(self):
        """Every verb with its help; every room with those before it."""
        made = docs_hooks.verbs("")
        assert "arxiv-cls data build" in made
        assert "arxiv-cls push-model" in made
        assert "--version VERSION" in made
        assert docs_hooks.rooms_table("").count("\n") == len(docs_hooks.rooms()) + 1

    @pytest.mark.parametrize(
        ("link", "expected"),
        [
            ("[a](../CONTRIBUTING.md#style)", "[a](contributing.md#style)"),
            ("[a](../README.md)", "[a](index.md)"),
            ("[a](../recipes/minilm.yaml)", "a"),
        ],
    )
    def test_links_that_leave_docs(self, link, expected):
        """To the page that the site has for them, or their words alone."""
        page = type("Page", (), {"file": type("File", (), {"src_uri": "data.md"})})
        assert docs_hooks.on_page_markdown(f"see {link}.", page) == f"see {expected}."


@pytest.mark.slow
class TestSite:
    """The site itself."""

    def test_builds_strictly_and_alone(self, tmp_path):
        """No warning, and no page loads a script, style, font or image from another server."""
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert run.returncode == 0, run.stderr
        assert "WARNING" not in run.stdout + run.stderr
        pages = sorted((tmp_path / "site").rglob("*.html"))
        assert len(pages) > 20
        loads = re.compile(
            r"<(?:script|img|iframe|source)[^>]+src=\"https?:"
            r"|<link[^>]+rel=\"(?:stylesheet|preconnect)\"[^>]+href=\"https?:"
        )
        assert not [page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))]
        styles = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.css")]
        assert styles
        assert not [style for style in styles if re.search(r"url\([\"']?https?:|@import[^;]*https?:", style)]
        leftover = [page.name for page in pages if "&lt;!-- recipe" in page.read_text(encoding="utf-8")]
        assert not leftover
