"""What a run refuses or changes before its first step: metric, precision, length, pinned memory."""

import logging

import pytest
from factories import ROOT

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import TfidfRecipe, load_recipe
from arxiv_cls.training import fine_tuning
from arxiv_cls.training.arguments import TransformerRecipe
from arxiv_cls.training.batches import load_tokenizer
from arxiv_cls.training.fine_tuning import resolve_precision
from arxiv_cls.training.trainer import check_metric_name

LABELS = ["cs.AI", "cs.CL", "cs.CV"]


class TestMetricName:
    """`metric_for_best_model` against what the validation split gives."""

    @pytest.mark.parametrize("name", [None, "loss", "macro_f1", "eval_accuracy", "f1/cs.CL"])
    def test_known(self, name):
        """With or without the Trainer's prefix, and the F1 of one class."""
        check_metric_name(name, LABELS)

    @pytest.mark.parametrize("name", ["foo", "f1/cs.LG", "macro-f1"])
    def test_unknown(self, name):
        """Said before the first epoch, with the names that there are."""
        with pytest.raises(UserError, match="is no metric") as error:
            check_metric_name(name, LABELS)
        assert "macro_f1" in error.value.hint


class TestPrecision:
    """What a CPU does not compute in."""

    def test_fp16_on_a_cpu(self):
        """Refused: the Trainer would compute in fp32 and the record would say fp16."""
        with pytest.raises(UserError, match="fp16 needs a GPU"):
            resolve_precision("fp16", use_cpu=True)
        assert resolve_precision("bf16", use_cpu=True) == "bf16"

    def test_no_pinned_memory_on_a_cpu(self, write_recipe, tmp_path):
        """Without a GPU torch would warn of it at every evaluation."""
        args = load_recipe(write_recipe(tmp_path / "tiny.yaml"), [], TransformerRecipe).trainer
        fine_tuning.apply_to_machine(args, tmp_path)
        assert not args.dataloader_pin_memory


class TestMaxLength:
    """What the model reads at most."""

    def test_lowered_in_one_line(self, tiny_encoder, caplog):
        """The tiny encoder has 128 positions: a longer length is lowered, and that is said."""
        with caplog.at_level(logging.WARNING):
            assert load_tokenizer(tiny_encoder, 64).model_max_length == 64
            assert not caplog.records
            assert load_tokenizer(tiny_encoder, 4096).model_max_length == 128
        assert [record.getMessage() for record in caplog.records] == [
            "model.max_length: 128 tokens instead of 4096, the model reads no more"
        ]

    def test_positions_count_too(self, tiny_encoder, tmp_path):
        """A tokenizer that names no limit: the model's positions are one."""
        import shutil

        directory = shutil.copytree(tiny_encoder, tmp_path / "encoder")
        settings = directory / "tokenizer_config.json"
        settings.write_text(
            settings.read_text().replace('"model_max_length": 128', '"model_max_length": 99999')
        )
        assert load_tokenizer(directory, 4096).model_max_length == 128

    def test_no_tokenizer(self, tmp_path):
        """One error that names the folder."""
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(UserError, match="its tokenizer cannot be loaded"):
            load_tokenizer(tmp_path, 64)


class TestStartingWeights:
    """What a run starts from, as it goes on record."""

    def test_directory_and_hub_cache(self, tmp_path):
        """The checksum of the weights; the commit where the Hub's cache names it."""
        commit = "0123456789" * 4
        for directory in (tmp_path / "plain", tmp_path / "snapshots" / commit):
            directory.mkdir(parents=True)
            (directory / "model.safetensors").write_bytes(b"abc")
        abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert fine_tuning.starting_weights(tmp_path / "plain") == {"sha256": abc, "hub_commit": None}
        found = fine_tuning.starting_weights(tmp_path / "snapshots" / commit)
        assert found == {"sha256": abc, "hub_commit": commit}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.subsample", "1.5"),
        ("model.folds", "1"),
        ("model.classifier", "forest"),
        ("trainer.seed", str(2**32)),
        ("trainer.num_train_epochs", "0"),
        ("trainer.report_to", "email"),
    ],
)
def test_values_that_a_baseline_refuses(key, value):
    """Each is named before any work."""
    with pytest.raises(UserError, match=key):
        load_recipe(ROOT / "recipes" / "tfidf_xgboost.yaml", [f"--{key}", value], TfidfRecipe)
