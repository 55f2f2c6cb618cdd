"""Whole runs that are tracked: what W&B's offline run holds of them, and that it survives --overwrite."""

from pathlib import Path

import pytest
from wandb_runs import config, exit_code, history, recorded_to_the_end, run_files, summary

from arxiv_cls import train, train_tfidf
from arxiv_cls.training import fine_tuning

ROOT = Path(__file__).resolve().parents[2]


class TestTransformer:
    """`train.py` with `report_to: wandb`."""

    def test_offline_run(self, write_recipe, tmp_path, monkeypatch):
        """Losses, metrics, confusion matrix, recipe, data version; a failed run after it leaves it there."""
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer={"report_to": "wandb", "max_steps": 4})
        words = [str(recipe), "--trainer.output_dir", str(tmp_path / "tiny")]
        train.main(words)
        folder = tmp_path / ".checkpoints" / "tiny"
        (first,) = run_files(folder)
        records = recorded_to_the_end(first)
        logged, final, given = history(records), summary(records), config(records)
        assert {"train/loss", "eval/macro_f1", "validation/macro_f1"} <= set(logged)
        assert "test/confusion_matrix/path" in logged
        assert 0 <= final["test/accuracy"] <= 1
        assert given["recipe"]["trainer"]["max_steps"] == 4
        assert given["data"]["splits"]["train"] == 96
        assert exit_code(records) == 0

        def fail(*arguments):
            raise RuntimeError("the machine is on fire")

        monkeypatch.setattr(fine_tuning, "calibrate", fail)
        with pytest.raises(RuntimeError, match="on fire"):
            train.main([*words, "--overwrite"])
        kept, second = run_files(folder)
        assert kept == first
        assert exit_code(recorded_to_the_end(second)) == 1


class TestBaseline:
    """`train_tfidf.py` with `report_to: wandb`."""

    def test_offline_run(self, tmp_path, sample_csv):
        """Losses of the boosting rounds, metrics, confusion matrix, recipe and data version."""
        keys = {"data.csv": sample_csv, "trainer.output_dir": tmp_path / "tiny",
                "trainer.report_to": "wandb", "trainer.num_train_epochs": 2}  # fmt: skip
        words = [str(word) for key, value in keys.items() for word in (f"--{key}", value)]
        train_tfidf.main([str(ROOT / "recipes" / "tfidf_xgboost.yaml"), *words])
        (run_file,) = run_files(tmp_path / ".checkpoints" / "tiny")
        records = recorded_to_the_end(run_file)
        logged = history(records)
        assert {"train/loss", "eval/loss", "validation/macro_f1", "test/confusion_matrix/path"} <= set(logged)
        assert 0 <= summary(records)["test/accuracy"] <= 1
        assert config(records)["recipe"]["trainer"]["num_train_epochs"] == 2
        assert exit_code(records) == 0
