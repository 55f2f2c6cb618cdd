"""Hooks of MkDocs: tables and reference pages that are made from the code.

A page holds a line such as `<!-- recipe-keys: arxiv_cls.recipe.DataConfig -->`, and the site shows a table in
its place. So the documentation cannot name a key, a command or an import that the code does not have.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import re
import sys
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Pages of the project's root that are pages of the site too.
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
MARKER = re.compile(
    r"^<!-- (recipe-keys|recipes|commands|packages|model-directory)(?:: ([\w.]+))? -->$", re.MULTILINE
)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def contracts() -> list[dict[str, Any]]:
    """The contracts of import-linter in pyproject.toml: the layers first, then what is forbidden."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return project["tool"]["importlinter"]["contracts"]


def layers() -> list[list[str]]:
    """The packages of each layer, lowest first; those of one layer do not import each other."""
    found = [re.findall(r"\w+", layer) for layer in contracts()[0]["layers"][::-1]]
    folders = [[name for name in names if (ROOT / "arxiv_cls" / name).is_dir()] for names in found]
    return [names for names in folders if names]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; bars inside a cell are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def type_name(hint: Any) -> str:
    """A type as a person writes it in a recipe: `int`, `str or null`, the words of a Literal."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{word}`" for word in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return f"list of {type_name(typing.get_args(hint)[0])}"
    arguments = typing.get_args(hint)
    if arguments:
        return " or ".join(type_name(argument) for argument in arguments)
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def recipe_keys(dotted: str) -> str:
    """The keys of a recipe group, as its dataclass defines them: type, default, range, meaning."""
    from arxiv_cls.recipe import fields_of

    module, _, name = dotted.rpartition(".")
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    rows = []
    for key, field in fields_of(getattr(importlib.import_module(module), name)).items():
        # The hundred fields that `trainer` inherits have their own documentation.
        if not field.description:
            continue
        default = field.get_default(call_default_factory=True)
        shown = json.dumps(default) if default is None or isinstance(default, bool) else str(default)
        limits = [
            f"({words} {getattr(limit, sign):.10g})"
            for limit in field.metadata
            for sign, words in signs.items()
            if hasattr(limit, sign)
        ]
        meaning = " ".join([field.description, *limits])
        rows.append([f"`{key}`", type_name(field.annotation), f"`{shown}`", meaning])
    return table(["key", "type", "default", "meaning"], rows)


def recipe_files(_: str) -> str:
    """The recipes of the project, each with the first sentence of its comment."""
    rows = []
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        comment = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("# ") or line.startswith("# Run:"):
                break
            comment.append(line.removeprefix("# "))
        sentence = re.split(r"(?<=[.:]) ", " ".join(comment))[0].rstrip(":.")
        rows.append([f"`recipes/{path.name}`", sentence])
    return table(["recipe", "what it is"], rows)


def commands(_: str) -> str:
    """Every command of `arxiv-cls` with its own help, folded."""
    from typer.main import get_command

    from arxiv_cls.cli import app

    return "\n\n".join(
        f'<details markdown="1" id="{name.replace(" ", "-")}"><summary><code>arxiv-cls {name}</code>: '
        f"{command.get_short_help_str()}</summary>\n\n```text\n{help.rstrip()}\n```\n\n</details>"
        for name, command, help in walk_commands(get_command(app))
    )


def walk_commands(group: Any, name: str = "arxiv-cls", context: Any = None) -> list[tuple[str, Any, str]]:
    """Words, command and help of each command, in the order of the program's own help."""
    context = group.make_context(name, [], parent=context, resilient_parsing=True)
    found = []
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            found += [(f"{word} {below}", *rest) for below, *rest in walk_commands(command, word, context)]
        else:
            with command.make_context(word, [], parent=context, resilient_parsing=True) as own:
                found.append((word, command, command.get_help(own)))
    return found


def packages_table(_: str) -> str:
    """The packages in their order: what each is for, and what it may import."""
    forbidden = {
        (source, module)
        for contract in contracts()
        for source in contract.get("source_modules", [])
        for module in contract["forbidden_modules"]
    }
    rows: list[list[str]] = []
    below: list[str] = []
    for layer in layers():
        for name in layer:
            source = (ROOT / "arxiv_cls" / name / "__init__.py").read_text(encoding="utf-8")
            sentence = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
            module = f"arxiv_cls.{name}"
            allowed = [f"`{other}`" for other in below if (module, f"arxiv_cls.{other}") not in forbidden]
            link = f"[`arxiv_cls/{name}`](reference/{name}.md)"
            rows.append([link, sentence, ", ".join(allowed) or "none"])
        below += layer
    return table(["package", "content", "may import"], rows)


def model_directory(_: str) -> str:
    """The files of a model directory, as the manifest lists them."""
    from arxiv_cls.record.manifest import BOTH, MANIFEST, TFIDF

    names = {True: "both", False: "transformer"}
    rows = [
        [
            f"`{entry.path}`",
            entry.what,
            "baseline" if entry.kinds == {TFIDF} else names[entry.kinds == BOTH],
            "yes" if entry.required else "where it applies",
            "yes" if entry.pushed else "no",
        ]
        for entry in MANIFEST
    ]
    return table(["file", "what is in it", "kind", "always there", "released"], rows)


MADE_OF_CODE: dict[str, Callable[[str], str]] = {
    "recipe-keys": recipe_keys,
    "recipes": recipe_files,
    "commands": commands,
    "packages": packages_table,
    "model-directory": model_directory,
}


def modules_of(folder: Path) -> list[str]:
    """The dotted names of the documented modules of a package: commands.py only declares the command line."""
    files = sorted(path for path in folder.rglob("*.py") if path.stem not in {"__init__", "commands"})
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]


def reference_pages() -> dict[str, str]:
    """Path and Markdown of each page of the reference."""
    pages = {
        "reference/commands.md": "# Commands\n\nEvery command of `arxiv-cls`, with its help.\n\n"
        "<!-- commands -->\n"
    }
    for name in itertools.chain.from_iterable(layers()):
        blocks = "\n\n".join(f"::: {name}" for name in modules_of(ROOT / "arxiv_cls" / name))
        pages[f"reference/{name}.md"] = f"# arxiv_cls.{name}\n\n{blocks}\n"
    common = "\n\n".join(f"::: arxiv_cls.{name}" for name in ("recipe", "label_sets", "errors"))
    pages["reference/common.md"] = f"# Recipes, label sets, errors\n\n{common}\n"
    return pages


def on_config(config: Any, **_: Any) -> Any:
    """Adds the reference and the root's pages to the navigation."""
    titles = {"commands": "Commands", "common": "Recipes, label sets, errors"}
    names = [Path(path).stem for path in reference_pages()]
    reference = [{titles.get(name, f"arxiv_cls.{name}"): f"reference/{name}.md"} for name in names]
    project = [{"Architecture": "architecture.md"}, {"Contributing": "contributing.md"}]
    config.nav.append({"Project": [*project, {"Changes": "changes.md"}]})
    config.nav.append({"Reference": reference})
    return config


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Adds the pages that are no files of docs/."""
    for path, content in reference_pages().items():
        files.append(File.generated(config, path, content=content))
    for source, path in ROOT_PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        # Links of the root are seen from docs/ here.
        content = LINK.sub(lambda match: relink(match, ROOT), content)
        files.append(File.generated(config, path, content=content))
    return files


def relink(match: re.Match[str], folder: Path) -> str:
    """A link seen from `folder`, as the site has it: to its page, or its words alone where it has none."""
    image, words, target, anchor = match.groups()
    path = (folder / target).resolve()
    if path == ROOT / "README.md":
        return f"{image}[{words}](index.md)"
    if path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix() in ROOT_PAGES:
        return f"{image}[{words}]({ROOT_PAGES[path.relative_to(ROOT).as_posix()]}{anchor or ''})"
    if path.is_relative_to(ROOT / "docs"):
        return f"{image}[{words}]({path.relative_to(ROOT / 'docs').as_posix()}{anchor or ''})"
    return words


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts the tables in, and turns links that leave docs/ into links of the site."""
    markdown = MARKER.sub(lambda match: MADE_OF_CODE[match.group(1)](match.group(2) or ""), markdown)
    folder = ROOT / "docs" / Path(page.file.src_uri).parent
    leaves = re.compile(LINK.pattern.replace(r"([^)\s#]+)", r"(\.\./[^)\s#]+)"))
    return leaves.sub(lambda match: relink(match, folder), markdown)
