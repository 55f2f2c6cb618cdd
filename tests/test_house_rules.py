"""The rules of the house that a machine can hold: names, imports between rooms, docstrings, a light start."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "arxiv_cls"

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["arxiv_cls"]
# Data flows down this list: a room imports only from rooms before it.
ROOMS = tuple(SETTINGS["rooms"])
# What every room may import.
COMMON = tuple(SETTINGS["common"])
# The other modules beside the rooms: they may import every room, and no room imports them.
ENTRIES = tuple(sorted({path.stem for path in PACKAGE.glob("*.py")} - {"__init__", *COMMON}))

MODULES = sorted(PACKAGE.rglob("*.py"))
PYTHON_FILES = [
    path for name in ("arxiv_cls", "tests", "benchmarks", "scripts") for path in (ROOT / name).rglob("*.py")
]
TEXT_PATTERNS = (
    "*.*", "Makefile", "Dockerfile", "docs/**/*.md", "docs/**/*.svg", "recipes/**/*.yaml", ".github/**/*.*",
    "scripts/*.mjs", "containers/*", "spaces_app/*", "arxiv_cls/**/*.j2",
)  # fmt: skip
TEXT_SUFFIXES = {"", ".md", ".svg", ".yaml", ".yml", ".toml", ".txt", ".cff", ".hcl", ".mjs", ".j2"}
TEXT_FILES = sorted(
    path
    for pattern in TEXT_PATTERNS
    for path in ROOT.glob(pattern)
    # What git ignores there is no part of the repository: `make coverage` leaves its data.
    if path.is_file() and path.suffix in TEXT_SUFFIXES and not path.name.startswith((".coverage", ".env"))
)


def relative(path: Path) -> str:
    """The path as a person writes it, from the project's root."""
    return path.relative_to(ROOT).as_posix()


def syntax(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions and by `importlib.import_module`.

    `from arxiv_cls import x` counts as `arxiv_cls.x`.
    """
    found = set()
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: write `from arxiv_cls.x import y`"
            found.add(node.module)
            if node.module == "arxiv_cls":
                found |= {f"arxiv_cls.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
            found |= {
                part.value.rstrip(".")
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and str(part.value).startswith("arxiv_cls.")
            }
    return found


class TestNames:
    """`arxiv_cls/` is first on sys.path when train.py runs as a script: its modules shadow no library."""

    def test_no_module_is_named_like_a_library(self):
        """No file or folder in arxiv_cls/ has the name of a stdlib or an installed top-level module."""
        ours = {
            path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        installed = set(importlib.metadata.packages_distributions()) - {"arxiv_cls"}
        assert {"torch", "datasets", "evaluate"} <= installed, (
            "the environment is not the one of `make setup`"
        )
        assert not ours & installed
        assert not ours & set(sys.stdlib_module_names)

    def test_test_files_have_unique_names(self):
        """pytest imports test files that are in no package by base name: two of one name hide each other."""
        names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
        assert sorted(names) == sorted(set(names))


class TestRooms:
    """Imports between rooms run one way."""

    def test_every_folder_is_a_known_room(self):
        """A new folder in arxiv_cls/ gets its place in the order before it gets code."""
        folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
        assert folders <= set(ROOMS)
        assert {"corpus", "models", "scoring", "release", "training"} <= folders

    def test_entry_points_are_found(self):
        """Whatever lies beside the rooms and is not common ground is an entry point."""
        assert {"cli", "demo", "train", "train_tfidf"} <= set(ENTRIES)
        assert {path.stem for path in PACKAGE.glob("*.py")} >= set(COMMON)

    def test_contributing_has_the_same_order(self):
        """CONTRIBUTING.md names the rooms in the order of pyproject.toml."""
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        named = re.search(r"Data flows down this list.*?(?=\. The entry)", text, re.DOTALL).group()
        assert re.findall(r"`arxiv_cls/(\w+)`", named) == list(ROOMS)

    @pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
    def test_a_room_imports_only_from_rooms_before_it(self, room):
        """No module of a room names a later room or an entry point."""
        forbidden = {f"arxiv_cls.{name}" for name in (*ROOMS[ROOMS.index(room) + 1 :], *ENTRIES)}
        offences = [
            f"{relative(path)} imports {module}"
            for path in sorted((PACKAGE / room).rglob("*.py"))
            for module in imported_modules(path)
            if ".".join(module.split(".")[:2]) in forbidden
        ]
        assert not offences

    @pytest.mark.parametrize("module", COMMON)
    def test_common_ground_imports_no_room(self, module):
        """What may be imported by everybody imports no room and no entry point."""
        rooms = {f"arxiv_cls.{name}" for name in (*ROOMS, *ENTRIES)}
        imported = imported_modules(PACKAGE / f"{module}.py")
        assert not {m for m in imported if ".".join(m.split(".")[:2]) in rooms}

    def test_every_kind_of_import_is_seen(self, tmp_path):
        """Lazy imports and imports by name count."""
        path = tmp_path / "module.py"
        path.write_text(
            "import importlib\nfrom arxiv_cls import cli\n\ndef f():\n    import arxiv_cls.training.trainer\n"
            "    importlib.import_module('arxiv_cls.serving.app')\n"
        )
        assert {"arxiv_cls.cli", "arxiv_cls.training.trainer", "arxiv_cls.serving.app"} <= imported_modules(
            path
        )


class TestSource:
    """What every source file looks like."""

    @pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
    def test_file_is_short(self, path):
        """One file, one idea: at most 350 lines."""
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 620

    @pytest.mark.parametrize("path", MODULES, ids=relative)
    def test_public_things_have_docstrings(self, path):
        """The module, its public classes, functions and methods say what they do."""
        tree = syntax(path)
        missing = ["the module"] if tree.body and not ast.get_docstring(tree) else []
        for node in tree.body:
            missing += undocumented(node)
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                missing += [
                    name for child in node.body for name in undocumented(child, prefix=f"{node.name}.")
                ]
        assert not missing

    @pytest.mark.parametrize("path", MODULES, ids=relative)
    def test_no_pickle_eval_or_shell(self, path):
        """Nothing runs what a file or a person typed: no pickle, eval, exec, os.system, shell=True."""
        assert not {
            m
            for m in imported_modules(path)
            if m.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib"}
        }
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                where = f"{relative(path)}:{node.lineno}"
                assert name not in {"eval", "exec", "os.system", "os.popen"}, where
                shell = [k for k in node.keywords if k.arg == "shell"]
                assert not any(not isinstance(k.value, ast.Constant) or k.value.value for k in shell), where

    @pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
    def test_nothing_is_left_undone_or_hidden(self, path):
        """No stub, no note to self, no exception that is caught only to be forgotten."""
        for node in ast.walk(syntax(path)):
            where = f"{relative(path)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{where}: bare except"
                catches_all = ast.unparse(node.type) in {"Exception", "BaseException"}
                assert not (catches_all and all(isinstance(x, ast.Pass) for x in node.body)), (
                    f"{where}: swallowed"
                )
            if isinstance(node, ast.Raise) and node.exc is not None:
                assert "NotImplementedError" not in ast.unparse(node.exc), where
        marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
        assert not [mark for mark in marks if mark in path.read_text(encoding="utf-8")]


def undocumented(node: ast.AST, prefix: str = "") -> list[str]:
    """The name of a public function or class that has no docstring, as a list of one or none.

    A property's setter and an overload take the docstring of the thing itself.
    """
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith(
        "_"
    ):
        return []
    decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
    if decorators & {"setter", "overload", "override"} or ast.get_docstring(node):
        return []
    return [prefix + node.name]


class TestMachines:
    """The repository belongs to no machine."""

    @pytest.mark.parametrize("path", [*PYTHON_FILES, *TEXT_FILES], ids=relative)
    def test_no_path_of_this_machine(self, path):
        """Not the folder that holds this clone."""
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        outside = ROOT.parent
        if len(outside.parts) > 1 and not outside.is_relative_to(tempfile.gettempdir()):
            assert not re.search(rf"(?<![\w.-]){re.escape(str(outside))}/", text)

    @pytest.mark.parametrize("path", TEXT_FILES, ids=relative)
    def test_no_home_of_a_person(self, path):
        """Neither on Linux, nor on macOS, nor on Windows."""
        homes = r"(?<![\w.])/(home|Users)/\w+|[A-Z]:\\Users"
        assert not re.search(homes, path.read_text(encoding="utf-8"))


class TestDependencies:
    """What the package imports is what pyproject.toml declares."""

    # A map of embeddings can be drawn with it where it is installed; nothing needs it.
    OPTIONAL = frozenset({"umap"})

    def test_every_third_party_import_is_declared(self):
        """Nothing is used that only happens to come with something else."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"].values()
        needed = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
        declared = {canonical(re.match(r"[\w.-]+", requirement).group()) for requirement in needed}
        providers = importlib.metadata.packages_distributions()
        for path in MODULES:
            tops = {module.split(".")[0] for module in imported_modules(path)}
            for top in tops - set(sys.stdlib_module_names) - {"arxiv_cls"} - self.OPTIONAL:
                names = {canonical(name) for name in providers.get(top, [top])}
                assert names & declared, f"{relative(path)} imports {top}, which pyproject.toml does not name"


def canonical(name: str) -> str:
    """The normalised form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


class TestRecipes:
    """Every recipe is valid YAML with the four groups; that each one trains is held in the training tests."""

    def test_every_recipe_parses(self):
        """Found recursively, with known groups; recipes/accelerate/ and recipes/sweeps/ hold other things."""
        recipes = [
            path
            for path in sorted((ROOT / "recipes").rglob("*.yaml"))
            if path.parent.name not in {"accelerate", "sweeps"}
        ]
        assert recipes, "no recipe found under recipes/"
        for path in recipes:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            assert set(content) <= {"model", "data", "trainer", "release"}, relative(path)


class TestStart:
    """The command answers at once: nothing heavy is imported before a verb needs it."""

    HEAVY = (
        "torch",
        "datasets",
        "transformers",
        "sklearn",
        "pandas",
        "pyarrow",
        "matplotlib",
        "wandb",
        "dvc",
        "xgboost",
    )

    def test_building_the_parser_imports_nothing_heavy(self):
        """`arxiv-cls --help` runs on the small core: the heavy libraries are not in sys.modules after it."""
        code = (
            "import sys; from arxiv_cls.cli import main; main(['--help']);"
            f"print(sorted(set({self.HEAVY!r}) & set(sys.modules)))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "[]"), run.stderr

    @pytest.mark.parametrize("module", ["arxiv_cls.corpus.ids", "arxiv_cls.corpus.taxonomy"])
    def test_ids_and_taxonomy_need_no_third_party_package(self, module):
        """They import in an interpreter that sees no installed package (-S -E, our folder on the path)."""
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}"
        run = subprocess.run(
            [sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr

    def test_help_and_version(self):
        """`--help` names the verbs, `--version` prints the package's version, no verb is an error."""
        command = [sys.executable, "-m", "arxiv_cls.cli"]
        run = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
        assert run.returncode == 0
        assert all(verb in run.stdout for verb in ("data", "evaluate", "predict"))
        run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout.split()) == (
            0,
            ["arxiv-cls", importlib.metadata.version("arxiv_cls")],
        )
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 2
        assert "Traceback" not in run.stderr
