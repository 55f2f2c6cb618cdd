"""Sweep files: read as W&B reads them, and refused with every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from arxiv_cls import train_tfidf
from arxiv_cls.errors import UserError
from arxiv_cls.recipe import TfidfRecipe, load_recipe
from arxiv_cls.training.sweeps import Parameter, best_recipe, override, read_sweep

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))
COMMAND = ["${env}", "${interpreter}", "${program}", "recipes/tfidf_linear.yaml", "--no-evaluate", "${args}"]
GOOD = {
    "program": "arxiv_cls/train_tfidf.py",
    "method": "bayes",
    "metric": {"name": "validation/macro_f1", "goal": "maximize"},
    "parameters": {"model.svm_cost": {"min": 0.1, "max": 1.0}},
    "command": COMMAND,
}


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    """Paths in a sweep file are seen from the project's root."""
    monkeypatch.chdir(ROOT)


def written(folder: Path, **changes: object) -> Path:
    """A sweep file: the good one with these keys changed; None takes a key away."""
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class TestCommitted:
    """The sweeps of the project."""

    @pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
    def test_both_readers(self, path):
        """Ours takes the file; W&B's own code makes of it a command line that our scripts take."""
        from wandb.sdk.launch.sweeps.utils import (
            create_sweep_command,
            create_sweep_command_args,
            load_sweep_config,
        )

        sweep = read_sweep(path.relative_to(ROOT))
        config = load_sweep_config(str(path))
        assert set(config["parameters"]) == set(sweep.parameters)
        values = {key: parameter.extremes()[-1] for key, parameter in sweep.parameters.items()}
        words = create_sweep_command(config["command"])
        flags = create_sweep_command_args({"args": {key: {"value": v} for key, v in values.items()}})["args"]
        assert flags == [override(key, value) for key, value in values.items()]
        line = [*words[words.index("${program}") + 1 : words.index("${args}")], *flags]
        arguments, overrides = train_tfidf.parse_arguments(line)
        recipe = load_recipe(arguments.recipe, overrides, sweep.schema())
        assert arguments.no_evaluate
        assert recipe.trainer.output_dir.startswith("outputs/.sweeps/wandb/")
        for key, value in values.items():
            group, _, name = key.partition(".")
            assert getattr(getattr(recipe, group), name) == value

    def test_there_are_some(self):
        """One for each kind of recipe at least."""
        assert {"tfidf_linear", "tfidf_xgboost", "minilm"} <= {path.stem for path in SWEEPS}


class TestSpace:
    """Each way to give values."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"value": 0.5}, Parameter(choices=(0.5,))),
            ({"values": [0.1, "2e-1"]}, Parameter(choices=(0.1, "2e-1"))),
            ({"min": 0.1, "max": 1.0}, Parameter((), 0.1, 1.0)),
            ({"min": 1, "max": 4}, Parameter((), 1, 4, whole=True)),
            ({"min": 1, "max": 4, "distribution": "uniform"}, Parameter((), 1.0, 4.0)),
            ({"min": "1e-2", "max": 1, "distribution": "log_uniform_values"},
             Parameter((), 0.01, 1.0, log=True)),
            ({"min": 0.1, "max": 1.0, "q": 0.3, "distribution": "q_uniform"},
             Parameter((), 0.1, 1.0, step=0.3)),
        ],
    )  # fmt: skip
    def test_read(self, tmp_path, given, expected):
        """As W&B means it: whole ends make a range of whole numbers, 1e-2 is a number."""
        assert read_sweep(written(tmp_path, parameters={"model.svm_cost": given})).parameters == {
            "model.svm_cost": expected
        }

    def test_defaults_and_fixed_overrides(self, tmp_path):
        """Folder and tracker are the agent's; the other overrides are every trial's."""
        words = ["--data.max_samples=400", "--trainer.output_dir=x", "--trainer.report_to=wandb"]
        command = [*COMMAND[:4], *words, "--overwrite", *COMMAND[4:]]
        sweep = read_sweep(written(tmp_path, command=command))
        assert sweep.fixed == ("--data.max_samples=400",)
        assert (sweep.recipe, sweep.trials, sweep.maximize) == (Path("recipes/tfidf_linear.yaml"), 20, True)


class TestRefused:
    """What a person gets wrong."""

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"program": "train.py"}, "program: 'train.py' is not one of arxiv_cls/train.py"),
            ({"method": None}, "method: missing; it is one of grid, random, bayes"),
            ({"metod": "grid"}, "metod: unknown key; did you mean method?"),
            ({"metric": {"name": "test/macro_f1"}}, "the test split chooses nothing"),
            ({"metric": {"name": "validation/f7"}}, "'validation/f7' is not one of validation/accuracy"),
            ({"metric": {"name": "validation/macro_f1", "goal": "up"}},
             "'up' is neither maximize nor minimize"),
            ({"run_cap": 0}, "run_cap: 0, expected a whole number from 1"),
            ({"parameters": {}}, "parameters: a mapping"),
            ({"parameters": {"svm_cost": {"value": 1}}}, "name the group too"),
            ({"parameters": {"model.svm_cots": {"value": 1}}}, "unknown key; did you mean svm_cost?"),
            ({"parameters": {"model.svm_cost": {"min": -1.0, "max": 1.0}}}, "-1.0 must be greater than 0"),
            ({"parameters": {"model.svm_cost": {"min": 1.0}}}, "either value, or values, or min and max"),
            ({"parameters": {"model.svm_cost": {"min": 2, "max": 1}}}, "min below max"),
            ({"parameters": {"model.svm_cost": {"values": [[1]]}}}, "null and lists are not read here"),
            ({"parameters": {"model.svm_cost": {"distribution": "log_uniform", "min": 1, "max": 2}}},
             "write log_uniform_values"),
            ({"parameters": {"model.svm_cost": {"distribution": "normal", "min": 1, "max": 2}}},
             "'normal' is not read here"),
            ({"parameters": {"model.svm_cost": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.4}}},
             "must divide the distance"),
            ({"parameters": {"model.svm_cost": {"values": [1], "probabilities": [1]}}},
             "probabilities: not read"),
            ({"method": "grid"}, "method grid needs `values`"),
            ({"command": None}, "command: a list with ${program}"),
            ({"command": ["${program}", "recipes/none.yaml", "--no-evaluate", "${args}"]}, "no such recipe"),
            ({"command": ["${program}", "recipes/tfidf_linear.yaml", "${args}"]}, "--no-evaluate is missing"),
            ({"command": [*COMMAND[:4], "--data.seed", "1", *COMMAND[4:]]}, "write an override as"),
            ({"command": [*COMMAND[:4], "--data.sed=1", *COMMAND[4:]]}, "data.sed: unknown key"),
            ({"command": [*COMMAND[:4], "--overwrite", *COMMAND[4:]]}, "replace the recipe's own model"),
        ],
    )  # fmt: skip
    def test_message(self, tmp_path, changes, expected):
        """The message names the file, the key and what is allowed."""
        with pytest.raises(UserError) as error:
            read_sweep(written(tmp_path, **changes))
        assert expected in str(error.value)
        assert "sweep.yaml: " in str(error.value)

    def test_all_at_once(self, tmp_path):
        """A person mends the file once."""
        parameters = {"model.svm_cost": {"values": [0, 1]}, "model.min_df": {"min": 0, "max": 3}}
        with pytest.raises(UserError, match="4 problems") as error:
            read_sweep(written(tmp_path, method="best", run_cap="many", parameters=parameters))
        for part in ("method", "run_cap", "model.svm_cost: 0.0 must", "model.min_df: 0 is below"):
            assert part in str(error.value)

    def test_no_file(self, tmp_path):
        """Nothing there, or no mapping."""
        with pytest.raises(UserError, match="no such sweep file"):
            read_sweep(tmp_path / "none.yaml")
        (tmp_path / "list.yaml").write_text("- a")
        with pytest.raises(UserError, match="a sweep file is a mapping with program"):
            read_sweep(tmp_path / "list.yaml")


class TestBestRecipe:
    """The best trial written out."""

    def test_it_is_a_recipe(self, tmp_path):
        """It loads, has the best values and the recipe's others, and says where it comes from."""
        command = [*COMMAND[:4], "--data.max_samples=400", *COMMAND[4:]]
        sweep = read_sweep(written(tmp_path, command=command))
        record = {"data": {"csv": "arxiv.csv", "md5": "abc"}, "git": {"commit": "0123456789abcdef"}}
        values = {"model.svm_cost": 2e-05, "trainer.cpu_threads": 2}
        text = best_recipe(sweep, values, 0.71234, record)
        path = tmp_path / "best.yaml"
        path.write_text(text)
        best = load_recipe(path, [], TfidfRecipe)
        own = load_recipe("recipes/tfidf_linear.yaml", [], TfidfRecipe)
        assert (best.model.svm_cost, best.trainer.cpu_threads, best.data) == (2e-05, 2, own.data)
        assert best.given["model"] == own.given["model"] | {"svm_cost": 2e-05}
        assert best.release == own.release
        for part in ("macro_f1 0.7123", "validation split", "# swept, was 0.2", "--data.max_samples=400",
                     "md5 abc", "0123456789ab."):  # fmt: skip
            assert part in text
