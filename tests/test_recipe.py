"""Recipes: what is read, what is refused, and what each message names."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import TfidfRecipe, fields_of, load_recipe, portable_path, recorded, resolved
from arxiv_cls.training.arguments import TransformerRecipe, TransformerTrainerConfig

RECIPES = sorted(Path(__file__).parents[1].joinpath("recipes").glob("*.yaml"))
# Keys of TrainingArguments that have their documented effect in a run of train.py.
HONOURED = """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
    lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    gradient_accumulation_steps average_tokens_across_devices max_grad_norm label_smoothing_factor tf32
    activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
    gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode
    neftune_noise_alpha torch_empty_cache_steps logging_strategy logging_steps logging_first_step
    include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to
    eval_strategy eval_steps eval_delay per_device_eval_batch_size eval_on_start eval_accumulation_steps
    save_strategy save_steps save_total_limit load_best_model_at_end metric_for_best_model
    greater_is_better full_determinism seed data_seed use_cpu
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout debug
    skip_memory_metrics
""".split()  # noqa: SIM905

# Five levels of ten aliases each.
BOMB = "a: &a [x]\n" + "\n".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcde", "bcdef", strict=True)
)


def read(tmp_path: Path, content: str | bytes, *words: str, schema: type = TransformerRecipe):
    """A recipe with this content, loaded."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_recipe(path, list(words), schema)


class TestGoodRecipes:
    """Files and overrides that are right."""

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_round_trip(self, path, tmp_path):
        """A resolved recipe is a recipe, and resolves to itself."""
        schema = TfidfRecipe if path.stem.startswith("tfidf") else TransformerRecipe
        first = resolved(load_recipe(path, [], schema))
        assert resolved(read(tmp_path, yaml.safe_dump(first), schema=schema)) == first

    def test_precedence(self, tmp_path):
        """Defaults, then the file, then the command line."""
        words = ["--trainer.learning_rate=3e-5", "--max_length", "99", "--freeze", "[layer.0, embeddings]"]
        recipe = read(tmp_path, "trainer: {learning_rate: 1.0e-4, num_train_epochs: 2}", *words)
        assert (recipe.trainer.learning_rate, recipe.trainer.num_train_epochs) == (3e-5, 2)
        assert (recipe.model.max_length, recipe.trainer.per_device_train_batch_size) == (99, 32)
        assert recipe.trainer.freeze == ["layer.0", "embeddings"]

    @pytest.mark.parametrize("text", ["20241127_1600", "007", "1.10", "12:30:00", "2018-01-31", "no", "1e3"])
    def test_words_stay_as_written(self, tmp_path, text):
        """YAML reads them as numbers, times and false; a string keeps them, in the file and outside."""
        recipe = read(
            tmp_path, f"trainer: {{output_dir: {text}}}\nrelease: {{tags: [{text}]}}", "--data.csv", text
        )
        assert [recipe.trainer.output_dir, recipe.release.tags, recipe.data.csv] == [text, [text], text]
        again = read(tmp_path, yaml.safe_dump(resolved(recipe)))
        assert resolved(again) == resolved(recipe)

    def test_special_characters(self, tmp_path):
        """A comment sign or a brace on the command line belongs to the word; quoted null is a word."""
        content = 'release: {dataset: "null", base_model: ~}'
        recipe = read(tmp_path, content, "--data.csv", "my #1.csv", "--output_dir", "{runs}")
        assert (recipe.data.csv, recipe.trainer.output_dir) == ("my #1.csv", "{runs}")
        assert (recipe.release.dataset, recipe.release.base_model) == ("null", None)

    def test_second_name(self, tmp_path):
        """`data.path` is `data.csv`, in the file and on the command line; records have one name."""
        for words, path in (
            ([], "a.json"),
            (["--data.csv", "b.csv"], "b.csv"),
            (["--path", "c.csv"], "c.csv"),
        ):
            recipe = read(tmp_path, "data: {path: a.json, ratios: [0.5, 0.25, 0.25], config: top7}", *words)
            assert (recipe.data.csv, recipe.data.ratios) == (path, [0.5, 0.25, 0.25])
            assert "path" not in resolved(recipe)["data"]

    def test_numbers_booleans_and_mappings(self, tmp_path):
        """By the type of the field: decimal numbers, yes and no, numbers inside of a mapping."""
        content = """trainer: {learning_rate: 2e-5, max_steps: 010, eval_strategy: no, save_strategy: no,
            load_best_model_at_end: no, use_cpu: yes, lr_scheduler_type: cosine_with_min_lr,
            lr_scheduler_kwargs: {min_lr: 1e-6}, logging_strategy: epoch, debug: underflow_overflow}"""
        trainer = read(tmp_path, content).trainer
        assert (trainer.learning_rate, trainer.max_steps, trainer.eval_strategy) == (2e-5, 10, "no")
        assert (trainer.load_best_model_at_end, trainer.use_cpu) == (False, True)
        assert trainer.lr_scheduler_kwargs == {"min_lr": 1e-6}

    def test_resolved_and_recorded(self, tmp_path, monkeypatch):
        """Written are the given keys and the project's own, in the record without paths of the machine."""
        monkeypatch.chdir(tmp_path)
        keys = "model: {name_or_path: /home/ada/start, revision: a/b}\ntrainer: {adam_beta2: 0.98}"
        recipe = read(tmp_path, f"{keys}\ndata: {{csv: {tmp_path}/data/papers.csv}}")
        trainer = resolved(recipe)["trainer"]
        assert (trainer["adam_beta2"], trainer["layerwise_learning_rate_decay"]) == (0.98, 1.0)
        assert "adam_beta1" not in trainer
        assert resolved(recipe)["data"]["csv"] == f"{tmp_path}/data/papers.csv"
        assert recorded(recipe)["data"]["csv"] == "data/papers.csv"
        assert recorded(recipe)["model"]["name_or_path"] == "start"
        assert recorded(recipe)["model"]["revision"] == "a/b"
        assert [portable_path(text) for text in ("a/../b", "user/name", "/")] == ["a/../b", "user/name", "/"]


class TestTrainingArguments:
    """Each inherited key has its effect or is refused with the reason."""

    def test_every_key_is_decided(self):
        """A key that a new version of transformers brings is put into one of the two."""
        names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
        refused = set(TransformerTrainerConfig.REFUSED_KEYS)
        assert not refused.intersection(HONOURED)
        assert names == refused.union(HONOURED)

    def test_defaults_parse(self, tmp_path):
        """The value that each honoured key has in the end is read from YAML again."""
        default = read(tmp_path, "trainer: {use_cpu: true}").trainer
        keys = {key: getattr(getattr(default, key), "value", getattr(default, key)) for key in HONOURED}
        again = read(tmp_path, yaml.safe_dump({"trainer": keys})).trainer
        assert {key: getattr(again, key) for key in HONOURED} == {
            key: getattr(default, key) for key in HONOURED
        }

    def test_refused_keys_at_their_defaults(self, tmp_path):
        """They change nothing: a recipe may name them, and its record does not."""
        fields, refused = fields_of(TransformerTrainerConfig), TransformerTrainerConfig.REFUSED_KEYS
        defaults = {key: fields[key].get_default(call_default_factory=True) for key in refused}
        recipe = read(tmp_path, yaml.safe_dump({"trainer": defaults}))
        assert recipe.given["trainer"] == {}

    @pytest.mark.parametrize(
        ("metric", "greater"),
        [("macro_f1", True), ("eval_log_loss", False), ("brier_score", False), ("f1/cs.CL", True)],
    )
    def test_direction_of_the_metric(self, tmp_path, metric, greater):
        """It belongs to the metric, for the best checkpoint and for a schedule that watches it."""
        text = f"metric_for_best_model: {metric}, lr_scheduler_type: reduce_lr_on_plateau"
        trainer = read(tmp_path, f"trainer: {{{text}}}").trainer
        assert trainer.greater_is_better is greater
        assert trainer.lr_scheduler_kwargs == {"mode": "max" if greater else "min"}
        with pytest.raises(UserError, match="greater_is_better"):
            read(tmp_path, f"trainer: {{{text}, greater_is_better: {str(not greater).lower()}}}")


class TestBadRecipes:
    """Each is one error that names the key, the value and what is allowed."""

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("trainer: {learning_rat: 1}", "trainer.learning_rat: unknown key; did you mean learning_rate?"),
            ("traner: {}", "traner: unknown group; did you mean trainer?"),
            ("on: {}", "on: unknown group; there are model, data, trainer, release"),
            ("null: {}", "null: unknown group"),
            ("trainer: {learning_rate: fast}", "'fast' should be a decimal number"),
            ("trainer: {learning_rate: -1}", "trainer.learning_rate: '-1' should be greater than 0"),
            ("trainer: {learning_rate: .nan}", "should be a decimal number"),
            ("trainer: {learning_rate: 1e999}", "should be a finite number"),
            ("trainer: {weight_decay: 1_000}", "should be a decimal number"),
            ("trainer: {warmup_steps: 1:30}", "should be a decimal number"),
            ("trainer: {max_steps: 0x10}", "should be a whole number"),
            ("trainer: {adam_epsilon: -1}", "'-1' should be greater than or equal to 0"),
            ("trainer: {adam_beta2: 1}", "'1' should be less than 1"),
            ("trainer: {data_seed: 4294967296}", "should be less than or equal to 4294967295"),
            ("trainer: {num_train_epochs: 0}", "should be greater than 0"),
            ("trainer: {per_device_train_batch_size: 1.5}", "should be a whole number"),
            ("trainer: {seed: true}", "'true' should be a whole number"),
            ("model: {max_length: long}", "model.max_length: 'long' should be a whole number"),
            ("trainer: {seed: null}", "null should be a whole number"),
            ("trainer: {eval_strategy: never}", "'never' should be 'no', 'steps' or 'epoch'"),
            ("trainer: {eval_strategy: no}", "load_best_model_at_end requires"),
            ("trainer: {lr_scheduler_type: cosin}", "should be 'linear', 'cosine', 'cosine_with_restarts'"),
            ("trainer: {lr_scheduler_type: cosine_with_min_lr}", "One of min_lr or min_lr_rate"),
            ("trainer: {lr_scheduler_kwargs: {cycles: 2}}", "unexpected keyword argument 'cycles'"),
            ("trainer: {torch_compile_backend: bogus}", "torch_compile_backend: 'bogus'; there are no"),
            ("trainer: {save_only_model: true}", "trainer.save_only_model: a checkpoint is always whole"),
            ("trainer: {resume_from_checkpoint: /nonexistent}", "it takes --resume and --no-evaluate"),
            ("trainer: {run_name: mine}", "trainer.run_name: a run is named after its recipe file"),
            ("trainer: {torch_compile_mode: bogus}", "'bogus' should be 'default', 'reduce-overhead'"),
            ("trainer: {log_level: bogus}", "'bogus' should be 'debug', 'info', 'warning'"),
            ("trainer: {neftune_noise_alpha: -1}", "should be greater than or equal to 0"),
            ("trainer: {optim: adamw_8bit}", "trainer.optim: You need to install `bitsandbytes`"),
            ("trainer: {optim: sgd, optim_args: momentum=much}", "trainer.optim: could not convert"),
            ("trainer: {freeze: embeddings}", "'embeddings' should be a valid list"),
            ("trainer: {push_to_hub: true}", "trainer.push_to_hub: a release goes to the Hub by"),
            ("trainer: {bf16: true}", "trainer.bf16: name the precision in trainer.precision"),
            ("trainer: {report_to: [wandb, mlflow]}", "should be 'auto', 'none', 'wandb' or 'trackio'"),
            ("trainer: {head_only_epochs: 3}", "must leave an epoch"),
            ("trainer: {distillation_weight: 2}", "should be less than or equal to 1"),
            ("model: {name_or_path: ~}", "model.name_or_path: null should be a valid string"),
            ("data: {config: top1}", "'top1' should be top5, top10, top20, archive, all, or top<N> with N"),
            ("data: {labels: [cs.CL, cs.CL]}", "['cs.CL', 'cs.CL'] should be two or more different codes"),
            ("data: {ratios: [0.5, 0.5]}", "[0.5, 0.5] should be three shares above 0 that add up to 1"),
            ("data: {ratios: [.6, .2, .2], split: time}", "ratios: only with split: paper"),
            ("data: {csv: a.csv, path: b.csv}", "data.path: is there twice, as csv and by its other name"),
            ("data: {max_samples: 3}", "'3' should be greater than or equal to 4"),
            ("data: {time_boundaries: [2018-01-01, 2018-06-30]}", "only with split: time"),
            ("data: {split: time, time_boundaries: [2018-06-30, 2018-01-01]}", "before the first day"),
            ("data: {split: time, time_boundaries: [yesterday, today]}", "write dates as"),
            ("data: {seed: 1}\ndata: {seed: 2}", "line 2: not valid YAML: the key 'data' is there twice"),
            ("a: &a {seed: 1}\ndata:\n  <<: *a", "line 3: not valid YAML: a key must be a word"),
            ("data: {<<: 5}", "line 1: not valid YAML: a key must be a word"),
            ("data: {? [a] : 5}", "line 1: not valid YAML: a key must be a word"),
            ("data:\n  <<: *b", "line 2: not valid YAML: found undefined alias"),
            ("a: &a [*a]", "not valid YAML"),
            (BOMB, "too many values"),
            ("[" * 2000, "not valid YAML: nested too deeply"),
            ("model: [a, b]", "['a', 'b'] should be a mapping"),
            ("- a\n- b", "this is a list"),
            ("", "this is empty"),
            ("model: {a: [", "not valid YAML"),
            ("a: !!python/object/apply:os.system ['true']", "is not supported"),
            (b"model: \xff\xfe", "not UTF-8"),
        ],
    )  # fmt: skip
    def test_refused(self, tmp_path, content, expected):
        """The message names the file too."""
        with pytest.raises(UserError) as error:
            read(tmp_path, content)
        assert expected in str(error.value)
        assert "recipe.yaml" in str(error.value)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("model.subsample", "1.5"), ("model.folds", "1"), ("model.classifier", "forest"),
         ("trainer.seed", str(2**32)), ("trainer.num_train_epochs", "0"), ("trainer.report_to", "email")],
    )  # fmt: skip
    def test_values_that_a_baseline_refuses(self, tmp_path, key, value):
        """Each is named before any work."""
        with pytest.raises(UserError, match=key):
            read(tmp_path, "model: {}", f"--{key}", value, schema=TfidfRecipe)

    def test_all_at_once(self, tmp_path):
        """One run is enough to see every mistake, those of the command line too."""
        words = ["--nothing=1", "--seed", "3", "lr", "--trainr.seed=1", "--lerning_rate=1", "--max_length"]
        with pytest.raises(UserError) as error:
            read(tmp_path, "modl: {}\nmodel: {max_length: x}\ntrainer: {seed: 1.5}\ndata: {csvv: a}", *words)
        message = str(error.value)
        for part in ("10 problems", "modl", "model.max_length", "trainer.seed", "data.csvv", "--nothing",
                     "--seed: is a key of data and trainer; write --data.seed", "an override starts with --",
                     "unknown group 'trainr'", "did you mean learning_rate?", "no value given"):  # fmt: skip
            assert part in message

    def test_missing_file_and_directory(self, tmp_path):
        """Nothing there, or a folder."""
        with pytest.raises(UserError, match="no such recipe"):
            load_recipe(tmp_path / "none.yaml", [], TransformerRecipe)
        with pytest.raises(UserError, match="cannot be read: Is a directory"):
            load_recipe(tmp_path, [], TransformerRecipe)
