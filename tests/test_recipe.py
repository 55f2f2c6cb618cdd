"""Recipes: what is read, what is refused, and in which words."""

from pathlib import Path

import pytest
import yaml

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import TfidfRecipe, load_recipe, portable_path, recorded, resolved
from arxiv_cls.training.arguments import TransformerRecipe

RECIPES = sorted(Path(__file__).parents[1].joinpath("recipes").glob("*.yaml"))


def schema_of(path: Path) -> type:
    """The baselines' recipes are told by their names."""
    return TfidfRecipe if path.stem.startswith("tfidf") else TransformerRecipe


def written(tmp_path: Path, content: str | bytes) -> Path:
    """A recipe file with this content."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestGoodRecipes:
    """Files and overrides that are right."""

    def test_there_are_recipes(self):
        """The tests below would pass on none."""
        assert {"demo", "distilbert", "minilm", "tfidf_linear", "tfidf_xgboost"} <= {
            path.stem for path in RECIPES
        }

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_round_trip(self, path, tmp_path):
        """A resolved recipe is a recipe, and resolves to itself."""
        first = resolved(load_recipe(path, [], schema_of(path)))
        again = written(tmp_path, yaml.safe_dump(first))
        assert resolved(load_recipe(again, [], schema_of(path))) == first

    def test_precedence(self, tmp_path):
        """Defaults, then the file, then the command line."""
        path = written(tmp_path, "trainer: {learning_rate: 1.0e-4, num_train_epochs: 2}")
        words = ["--trainer.learning_rate=3e-5", "--max_length", "99", "--data.max_samples", "8"]
        recipe = load_recipe(path, words, TransformerRecipe)
        assert recipe.trainer.learning_rate == 3e-5
        assert recipe.trainer.num_train_epochs == 2
        assert recipe.model.max_length == 99
        assert recipe.data.max_samples == 8
        assert recipe.trainer.per_device_train_batch_size == 32

    def test_unquoted_no_on_the_command_line(self, tmp_path):
        """There it can only have meant the word."""
        words = ["--eval_strategy", "no", "--save_strategy=no", "--load_best_model_at_end", "no"]
        recipe = load_recipe(written(tmp_path, "model: {}"), words, TransformerRecipe)
        assert recipe.trainer.eval_strategy == "no"
        assert recipe.trainer.load_best_model_at_end is False

    def test_yaml_floats_without_a_point(self, tmp_path):
        """YAML 1.1 reads 2e-5 as a string; a number field takes it as the number that was meant."""
        recipe = load_recipe(written(tmp_path, "trainer: {learning_rate: 2e-5}"), [], TransformerRecipe)
        assert recipe.trainer.learning_rate == 2e-5

    def test_dates_stay_strings(self, tmp_path):
        """YAML reads a bare ISO date as a date."""
        path = written(tmp_path, "data: {split: time, time_boundaries: [2018-01-01, 2018-06-30]}")
        assert load_recipe(path, [], TransformerRecipe).data.time_boundaries == ["2018-01-01", "2018-06-30"]

    def test_resolved_leaves_the_libraries_defaults_out(self, tmp_path):
        """Only what was given and the project's own fields are written."""
        recipe = load_recipe(written(tmp_path, "trainer: {adam_beta2: 0.98}"), [], TransformerRecipe)
        trainer = resolved(recipe)["trainer"]
        assert trainer["adam_beta2"] == 0.98
        assert "adam_beta1" not in trainer
        assert trainer["layerwise_learning_rate_decay"] == 1.0

    def test_recorded_shows_no_path_of_the_machine(self, tmp_path, monkeypatch):
        """Below the working directory a path is relative, elsewhere its name; other texts stay."""
        monkeypatch.chdir(tmp_path)
        keys = f"csv: {tmp_path}/data/papers.csv, config: top5"
        start = "model: {name_or_path: /home/ada/start, revision: a/b}"
        recipe = load_recipe(written(tmp_path, f"{start}\ndata: {{{keys}}}"), [], TransformerRecipe)
        assert recorded(recipe)["data"]["csv"] == "data/papers.csv"
        assert recorded(recipe)["model"]["name_or_path"] == "start"
        assert recorded(recipe)["model"]["revision"] == "a/b"
        assert resolved(recipe)["data"]["csv"] == f"{tmp_path}/data/papers.csv"
        assert [portable_path(text) for text in ("a/../b", "user/name", "/")] == ["a/../b", "user/name", "/"]


class TestBadRecipes:
    """Each is one error that says what is wrong."""

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("trainer: {learning_rat: 1}", "trainer.learning_rat: unknown key; did you mean learning_rate?"),
            ("traner: {}", "traner: unknown group; did you mean trainer?"),
            ("on: {}", "True: unknown group; a recipe has model, data, trainer, release"),
            ("1: 2", "1: unknown group; a recipe has"),
            ("null: {}", "None: unknown group; a recipe has"),
            ("2020-01-01: 1", "2020-01-01: unknown group; a recipe has"),
            ("trainer: {learning_rate: fast}", "'fast' is a str, expected a number"),
            ("trainer: {learning_rate: -1}", "trainer.learning_rate: -1.0 must be greater than 0"),
            ("trainer: {learning_rate: .nan}", "trainer.learning_rate"),
            (
                "trainer: {adam_epsilon: -1}",
                "trainer.adam_epsilon: -1.0 is below the smallest allowed value, 0",
            ),
            ("trainer: {adam_beta2: 1}", "trainer.adam_beta2: 1.0 must be less than 1"),
            ("trainer: {data_seed: -1}", "trainer.data_seed: -1 is below"),
            ("trainer: {data_seed: 4294967296}", "is above the largest allowed value, 4294967295"),
            ("trainer: {seed: 4294967296}", "trainer.seed: 4294967296 is above the largest allowed value"),
            ("trainer: {num_train_epochs: 0}", "must be greater than 0"),
            ("trainer: {per_device_train_batch_size: 0}", "below the smallest allowed value, 1"),
            ("trainer: {per_device_train_batch_size: 1.5}", "expected a whole number"),
            ("trainer: {eval_strategy: no}", 'write "no"'),
            ("trainer: {eval_strategy: never}", "one of no, steps, epoch"),
            ("trainer: {seed: true}", "expected a whole number"),
            ("trainer: {freeze: embeddings}", "expected a list"),
            ("trainer: {push_to_hub: true}", "make push-model"),
            ("trainer: {report_to: [wandb, mlflow]}", "'mlflow' is not one of none, wandb, trackio"),
            ("trainer: {bf16: true}", "trainer.precision"),
            ("trainer: {head_only_epochs: 3}", "must leave an epoch"),
            ("model: {max_length: -3}", "model.max_length: -3 is below"),
            ("model: {hidden_dropout: 1.0}", "not below 1"),
            ("model: {name_or_path: no}", 'write "no"'),
            ("data: {config: top7}", "one of top5, top10, top20, archive, all"),
            ("data: {max_samples: 3}", "below the smallest allowed value, 4"),
            ("data: {time_boundaries: [2018-01-01, 2018-06-30]}", "only with split: time"),
            (
                "data: {split: time, time_boundaries: [2018-06-30, 2018-01-01]}",
                "before the first day of test",
            ),
            ("data: {split: time, time_boundaries: [yesterday, today]}", "write dates as"),
            ("data: {seed: 1}\ndata: {seed: 2}", "line 2: not valid YAML: the key 'data' is there twice"),
            ("model: [a, b]", "must be a mapping"),
            ("- a\n- b", "this is a list"),
            ("", "this is empty"),
            ("model: {a: [", "not valid YAML"),
            ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
            (b"model: \xff\xfe", "not UTF-8"),
        ],
    )
    def test_refused(self, tmp_path, content, expected):
        """The message names the key, the value, and what is allowed."""
        with pytest.raises(UserError) as error:
            load_recipe(written(tmp_path, content), [], TransformerRecipe)
        assert expected in str(error.value)
        assert "recipe.yaml" in str(error.value)

    def test_all_at_once(self, tmp_path):
        """A person mends the file once, not once per mistake."""
        path = written(tmp_path, "modl: {}\nmodel: {max_length: x}\ntrainer: {seed: 1.5}\ndata: {csvv: a}")
        with pytest.raises(UserError) as error:
            load_recipe(path, ["--nothing", "1", "--seed", "3"], TransformerRecipe)
        message = str(error.value)
        for part in ("6 problems", "modl", "model.max_length", "trainer.seed", "data.csvv", "--nothing"):
            assert part in message
        assert "--seed: is a key of data and trainer; write --data.seed" in message

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["learning_rate", "1"], "an override starts with --"),
            (["--learning_rate"], "no value given"),
            (["--trainr.seed", "1"], "unknown group 'trainr'"),
            (["--trainer.sed", "1"], "trainer.sed: unknown key; did you mean seed?"),
            (["--lerning_rate", "1"], "did you mean learning_rate?"),
        ],
    )
    def test_bad_overrides(self, tmp_path, words, expected):
        """The command line is held to the same rules."""
        with pytest.raises(UserError, match="problem") as error:
            load_recipe(written(tmp_path, "model: {}"), words, TransformerRecipe)
        assert expected in str(error.value)

    def test_missing_file_and_directory(self, tmp_path):
        """Nothing there, or a folder."""
        with pytest.raises(UserError, match="no such recipe"):
            load_recipe(tmp_path / "none.yaml", [], TransformerRecipe)
        with pytest.raises(UserError, match="is a directory"):
            load_recipe(tmp_path, [], TransformerRecipe)
