"""dvc.yaml beside what it speaks of: recipes, the manifest, commands, files of code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from command_line import parsed

from arxiv_cls import train_tfidf
from arxiv_cls.errors import UserError
from arxiv_cls.recipe import GROUPS
from arxiv_cls.record.manifest import MANIFEST, manifest_for
from arxiv_cls.reproduce import DEFAULT_RECIPE, LAST_STAGE, pipeline_entry

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
VARIABLES = PIPELINE["vars"][0]
STAGES = PIPELINE["stages"]
KIND = {"baselines": "tfidf", "transformers": "transformer"}
# Recipes that another command runs, or whose data Git has no checksum of.
ELSEWHERE = {"demo", "minilm_multilabel", "tfidf_multilabel"}
# What the entry scripts import and what decides no byte of the weights: the splits have a checksum of their
# own (splits.json), and the rest says where a run writes, what it logs, how the finished model is scored.
NOT_IN_THE_WEIGHTS = (
    "corpus/", "record/", "release/", "errors.py", "label_sets.py",
    *(f"models/{name}.py" for name in ("cascade", "onnx_engine", "onnx_model", "prediction", "predictor",
                                       "text_features")),
    *(f"scoring/{name}.py" for name in ("evaluation", "intervals", "out_of_scope", "plots",
                                        "reference", "scored_papers")),
    *(f"training/{name}.py" for name in ("interruption", "remote", "run_directory", "trackers")),
)  # fmt: skip


def expanded(stage: str) -> list[tuple[str, str, dict]]:
    """(kind, recipe, the stage as DVC sees it) for every recipe of a stage."""
    group = STAGES[stage]["foreach"].strip("${}")
    found = []
    for kind in LAST_STAGE:
        for name, item in VARIABLES[kind].items() if group in ("recipes", kind) else ():
            text = yaml.safe_dump(STAGES[stage]["do"]).replace("${key}", name)
            text = re.sub(r"\$\{item\.(\w+)\}", lambda match, item=item: item[match[1]], text)
            found.append((kind, name, yaml.safe_load(text)))
    return found


EVERY = [(stage, *entry) for stage in STAGES for entry in expanded(stage)]


def outs(definition: dict) -> list[str]:
    """The paths that a stage makes, metrics and plots among them."""
    entries = [entry for part in ("outs", "metrics", "plots") for entry in definition.get(part, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def import_closure(script: str) -> set[str]:
    """The files of arxiv_cls that a file imports, directly or by others, wherever the import stands."""
    found: set[str] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                base = name.replace(".", "/")
                files = (f"{base}.py", f"{base}/__init__.py") if base.startswith("arxiv_cls") else ()
                waiting += [file for file in files if (ROOT / file).is_file()]
    return found


class TestRecipes:
    """Each recipe has its line, and the line is right."""

    def test_every_recipe_is_there(self):
        """A recipe of recipes/ that is missing here would never be reproduced."""
        recipes = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
        assert {name for kind in LAST_STAGE for name in VARIABLES[kind]} == recipes - ELSEWHERE
        assert VARIABLES["recipes"] == VARIABLES["baselines"] | VARIABLES["transformers"]

    @pytest.mark.parametrize("kind", LAST_STAGE)
    def test_lines_are_those_of_the_recipes(self, kind, monkeypatch):
        """The CSV is the recipe's, and every group that a stage takes as its parameters is in the file."""
        monkeypatch.chdir(ROOT)
        for name, entry in VARIABLES[kind].items():
            path = f"recipes/{name}.yaml"
            assert pipeline_entry(path) == (name, Path(entry["csv"]), LAST_STAGE[kind])
            assert set(yaml.safe_load(Path(path).read_text())) == set(GROUPS), path

    def test_a_recipe_that_is_not_in_it(self, monkeypatch, tmp_path):
        """The message names the recipes there are, and where the line belongs."""
        monkeypatch.chdir(ROOT)
        copy = tmp_path / "tfidf_linear.yaml"
        copy.write_text((ROOT / "recipes" / "tfidf_linear.yaml").read_text())
        for recipe in ("recipes/demo.yaml", str(copy)):
            with pytest.raises(UserError, match=r"not in the pipeline.*\n.*vars.*tfidf_linear"):
                pipeline_entry(recipe)
        with pytest.raises(UserError, match="no such recipe"):
            pipeline_entry("recipes/none.yaml")

    def test_default_recipe(self, monkeypatch):
        """`make reproduce` alone means one that is there."""
        monkeypatch.chdir(ROOT)
        assert pipeline_entry(DEFAULT_RECIPE)[2] == "card_tfidf"


class TestStages:
    """What stages take and make."""

    @pytest.mark.parametrize(
        ("stage", "kind", "name", "definition"), EVERY, ids=[f"{e[0]}@{e[2]}" for e in EVERY]
    )
    def test_files(self, stage, kind, name, definition):
        """Outs are files of the manifest or of the pipeline's folder; each dependency is made or there."""
        allowed = {f"outputs/{name}/{entry.path}" for entry in manifest_for(KIND[kind])}
        allowed |= {f"outputs/{name}/onnx"} if KIND[kind] == "transformer" else set()
        made = {path for _, _, other, done in EVERY if other == name for path in outs(done)}
        for path in outs(definition):
            assert path in allowed or path.startswith(f"outputs/.pipeline/{name}/"), path
        for path in definition["deps"]:
            there = path == VARIABLES[kind][name]["csv"] or (ROOT / path).exists()
            assert there or path in made or str(Path(path).parent) in made, path
        for entry in definition.get("params", []):
            ((recipe, groups),) = entry.items()
            assert recipe == f"recipes/{name}.yaml"
            assert set(groups) <= set(GROUPS)

    @pytest.mark.parametrize("kind", LAST_STAGE)
    def test_every_required_file_is_some_stages_out(self, kind):
        """A file that no stage owned would not come back with an old commit."""
        name = next(iter(VARIABLES[kind]))
        made = [path for _, _, other, done in EVERY if other == name for path in outs(done)]
        assert len(made) == len(set(made))
        required = {f"outputs/{name}/{entry.path}" for entry in MANIFEST
                    if entry.required and KIND[kind] in entry.kinds}  # fmt: skip
        assert {path for path in required if not path.startswith(tuple(made))} == set()

    def test_commands(self):
        """The verbs and scripts of every stage take the arguments that it gives them."""
        for stage, _, name, definition in EVERY:
            program, *words = definition["cmd"].split()
            if program == "arxiv-cls":
                assert parsed(words)
            else:
                script = next(word for word in words if word.endswith(".py"))
                assert (ROOT / script).is_file(), stage
                arguments, overrides = train_tfidf.parse_arguments(words[words.index(script) + 1 :])
                assert arguments.recipe == f"recipes/{name}.yaml"
                assert arguments.no_evaluate
                assert f"outputs/{name}" in overrides

    @pytest.mark.parametrize(
        ("stage", "script", "apart"),
        [
            ("train", "train.py", ()),
            # Reached through the predictor alone, which may have to download what it loads.
            (
                "train_tfidf",
                "train_tfidf.py",
                (
                    "models/loading.py",
                    "models/transformer.py",
                    "training/arguments.py",
                ),
            ),
        ],
    )
    def test_code_that_decides_the_weights_is_a_dependency(self, stage, script, apart):
        """Each module that an entry script reaches is a dependency of its stage, or named here as none."""
        reached = {path for path in import_closure(f"arxiv_cls/{script}") if not path.endswith("__init__.py")}
        wanted = {
            path
            for path in reached
            if not path.removeprefix("arxiv_cls/").startswith((*NOT_IN_THE_WEIGHTS, *apart))
        }
        assert f"arxiv_cls/{script}" in wanted
        assert wanted == {path for path in STAGES[stage]["do"]["deps"] if path.endswith(".py")}

    def test_code_of_the_export_is_a_dependency(self):
        """Each module that the export reaches, by itself or with its package."""
        wanted = {
            path
            for path in import_closure("arxiv_cls/export/onnx_export.py")
            # The papers it measures on are those of splits.json.
            if not path.endswith(("__init__.py", "errors.py", "label_sets.py"))
            and not path.startswith(("arxiv_cls/corpus/", "arxiv_cls/recipe", "arxiv_cls/record/"))
        }
        assert "arxiv_cls/export/quantization.py" in wanted
        listed = tuple(STAGES["export"]["do"]["deps"])
        assert {path for path in wanted if not path.startswith(listed)} == set()
