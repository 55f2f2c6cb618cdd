"""dvc.yaml beside what it speaks of: recipes, the manifest, commands, files of code."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import yaml

from arxiv_cls import train_tfidf
from arxiv_cls.cli import build_parser
from arxiv_cls.errors import UserError
from arxiv_cls.recipe import GROUPS
from arxiv_cls.release.manifest import MANIFEST, manifest_for
from arxiv_cls.reproduce import KINDS, parse_arguments, pipeline_entry

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
VARIABLES = PIPELINE["vars"][0]
STAGES = PIPELINE["stages"]
KIND = {"baselines": "tfidf", "transformers": "transformer"}
# Recipes that another command runs.
ELSEWHERE = {"demo"}
# Modules of training that decide no byte of the weights: where a run writes, what it logs, what searches it.
NOT_IN_THE_WEIGHTS = {"__init__", "finishing", "hardware", "run_folder", "sweep_file", "sweep_recipe",
                      "sweep_study", "tracking"}  # fmt: skip


def expanded(stage: str) -> list[tuple[str, str, dict]]:
    """(kind, recipe, the stage as DVC sees it) for every recipe of a stage."""
    group = STAGES[stage]["foreach"].strip("${}")
    found = []
    for kind in KINDS:
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


class TestRecipes:
    """Each recipe has its line, and the line is right."""

    def test_every_recipe_is_there(self):
        """A recipe of recipes/ that is missing here would never be reproduced."""
        recipes = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
        assert {name for kind in KINDS for name in VARIABLES[kind]} == recipes - ELSEWHERE
        assert VARIABLES["recipes"] == VARIABLES["baselines"] | VARIABLES["transformers"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_lines_are_those_of_the_recipes(self, kind, monkeypatch):
        """The CSV is the recipe's, and every group that a stage takes as its parameters is in the file."""
        monkeypatch.chdir(ROOT)
        for name, entry in VARIABLES[kind].items():
            path = f"recipes/{name}.yaml"
            assert pipeline_entry(path) == (name, entry, kind)
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
        assert pipeline_entry(parse_arguments([]).recipe)[2] == "baselines"


class TestStages:
    """What stages take and make."""

    @pytest.mark.parametrize(
        ("stage", "kind", "name", "definition"), EVERY, ids=[f"{e[0]}@{e[2]}" for e in EVERY]
    )
    def test_files(self, stage, kind, name, definition):
        """Outs are files of the manifest or of the pipeline's folder; each dependency is made or there."""
        allowed = {f"outputs/{name}/{entry.path}" for entry in manifest_for(KIND[kind])}
        made = {path for _, _, other, done in EVERY if other == name for path in outs(done)}
        for path in outs(definition):
            assert path in allowed or path.startswith(f"outputs/.pipeline/{name}/"), path
        for path in definition["deps"]:
            assert path in made or path == VARIABLES[kind][name]["csv"] or (ROOT / path).exists(), path
        for entry in definition.get("params", []):
            ((recipe, groups),) = entry.items()
            assert recipe == f"recipes/{name}.yaml"
            assert set(groups) <= set(GROUPS)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_required_file_is_some_stages_out(self, kind):
        """A file that no stage owned would not come back with an old commit."""
        name = next(iter(VARIABLES[kind]))
        made = [path for _, _, other, done in EVERY if other == name for path in outs(done)]
        assert len(made) == len(set(made))
        required = {f"outputs/{name}/{entry.path}" for entry in MANIFEST
                    if entry.required and KIND[kind] in entry.kinds}  # fmt: skip
        assert required <= set(made)

    def test_commands(self):
        """The verbs and scripts of every stage take the arguments that it gives them."""
        parser = build_parser()
        for stage, _, name, definition in EVERY:
            program, *words = definition["cmd"].split()
            if program == "arxiv-cls":
                assert isinstance(parser.parse_args(words), argparse.Namespace)
            else:
                script = next(word for word in words if word.endswith(".py"))
                assert (ROOT / script).is_file(), stage
                arguments, overrides = train_tfidf.parse_arguments(words[words.index(script) + 1 :])
                assert arguments.recipe == f"recipes/{name}.yaml"
                assert arguments.no_evaluate
                assert f"outputs/{name}" in overrides

    def test_code_that_decides_the_weights_is_a_dependency(self):
        """A new module of training is either one of train's dependencies or named here as none."""
        modules = {path.stem for path in (ROOT / "arxiv_cls" / "training").glob("*.py")}
        listed = {Path(path).stem for path in STAGES["train"]["do"]["deps"] if "/training/" in path}
        assert modules - NOT_IN_THE_WEIGHTS == listed

    def test_code_of_the_export_is_a_dependency(self):
        """Each module of the release room that writes ONNX or the handler."""
        names = {path.name for path in (ROOT / "arxiv_cls" / "release").glob("*.py")}
        wanted = {name for name in names if name.startswith(("onnx_", "export_", "quantization", "handler_"))}
        assert "onnx_export.py" in wanted
        assert wanted <= {Path(path).name for path in STAGES["export"]["do"]["deps"]}
