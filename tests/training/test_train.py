"""A whole run on a tiny encoder: the files it leaves, what they say, and what `pipeline()` makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from factories import LABELS as TOP5
from factories import ROOT, SAMPLE, TEXTS, write_listed
from safetensors.numpy import load_file

from arxiv_cls import train
from arxiv_cls.corpus import builder
from arxiv_cls.errors import UserError
from arxiv_cls.models import transformer
from arxiv_cls.models.loading import write_local_distilbert
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.recipe import TransformerModelConfig
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.manifest import MANIFEST, TRANSFORMER, foreign_files, missing_files
from arxiv_cls.scoring import scored_papers
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.training import fine_tuning, run_directory
from arxiv_cls.training.trainer import MarkComplete

RECIPES = ROOT / "recipes"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_recipe) -> Path:
    """A model directory of two epochs, with soft labels, a profile and a gradual start."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(
        folder / "tiny.yaml",
        trainer={
            "output_dir": str(folder / "outputs" / "tiny"),
            "distillation_weight": 0.5,
            "head_only_epochs": 1,
            "head_learning_rate": 1.0e-2,
            "layerwise_learning_rate_decay": 0.8,
            "class_weighting": "sqrt",
            "label_smoothing_factor": 0.05,
            "early_stopping_patience": 2,
            "profile_steps": 2,
        },
    )
    train.main([str(recipe)])
    return folder / "outputs" / "tiny"


class TestMultiLabel:
    """`data.task: multi_label`: a sigmoid for each label."""

    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory, write_recipe) -> Path:
        """A run with soft labels and class weights."""
        folder = tmp_path_factory.mktemp("multi_label")
        recipe = write_recipe(
            folder / "tiny.yaml",
            data={"task": "multi_label", "csv": str(write_listed(folder / "listed.csv"))},
            trainer={
                "output_dir": str(folder / "model"), "distillation_weight": 0.5, "class_weighting": "sqrt",
                "metric_for_best_model": "lrap",
            },
        )  # fmt: skip
        train.main([str(recipe)])
        return folder / "model"

    def test_model_directory(self, model):
        """The files of a multi-label model, and thresholds and problem type in its configuration."""
        assert missing_files(model, TRANSFORMER) == []
        assert foreign_files(model, TRANSFORMER) == []
        config = json.loads((model / "config.json").read_text())
        assert config["problem_type"] == "multi_label_classification"
        record = json.loads((model / "run.json").read_text())
        metrics = record["metrics"]["validation"]["per_class"]
        assert [metrics[label]["threshold"] for label in TOP5] == config["label_thresholds"]
        assert len(record["calibration"]["scale"]) == len(TOP5)

    def test_pipeline_gives_the_calibrated_scores(self, model):
        """With no more than `top_k=None`, to 1e-5."""
        from transformers import pipeline

        predictor = load_predictor(model)
        answers = pipeline("text-classification", str(model), top_k=None)(TEXTS, truncation=True)
        said = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        expected = [[answer[label] for label in predictor.labels] for answer in said]
        np.testing.assert_allclose(predictor.predict_proba(TEXTS), expected, atol=1e-5)

    def test_evaluated_again(self, model):
        """The same figures from the files alone."""
        again = evaluate_model(model, data=model.parent / "listed.csv", out=model.parent / "again")
        recorded = json.loads((model / "eval" / "metrics.json").read_text())
        for name in ("macro_f1", "micro_f1", "lrap", "macro_average_precision"):
            assert again["metrics"][name] == pytest.approx(recorded["metrics"][name], abs=1e-6)

    def test_the_task_is_that_of_the_recipe(self, model, tiny_encoder):
        """Weights of a multi-label model start one with a single label, and lose their thresholds."""
        settings = TransformerModelConfig(name_or_path=str(model))
        started = fine_tuning.load_classifier(settings, model, TOP5)
        assert started.config.problem_type == "single_label_classification"
        assert not hasattr(started.config, "label_thresholds")


class TestModelDirectory:
    """What DESIGN calls the model directory."""

    def test_files_are_those_of_the_manifest(self, trained):
        """Every required file, none outside the list, no pickle."""
        found = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
        mine = [entry for entry in MANIFEST if TRANSFORMER in entry.kinds]
        assert {entry.path for entry in mine if entry.required} <= found
        assert found <= {entry.path for entry in mine}
        assert not [name for name in found if name.endswith((".bin", ".pkl", ".pt", ".pth"))]

    def test_run_record(self, trained, sample_csv, tiny_encoder):
        """Provenance: data, versions, device, speed, calibration, metrics."""
        record = json.loads((trained / "run.json").read_text())
        data, training = record["data"], record["training"]
        assert data["bytes"] == sample_csv.stat().st_size
        assert data["splits"] == {"train": 96, "validation": 24, "test": 24}
        assert data["labels"] == TOP5
        assert (data["report"]["rows_read"], data["report"]["duplicates"]) == (925, 7)
        start = {"sha256": file_sha256(tiny_encoder / "model.safetensors"), "hub_commit": None}
        assert training["starting_weights"] == start
        assert (training["max_length"], training["steps"]) == (64, 12)
        assert set(record["git"]) == {"commit", "dirty"}
        assert {"python", "torch", "transformers"} <= set(record["versions"])
        assert (record["device"]["precision"], record["device"]["threads"]) == ("fp32", 1)
        assert record["papers_per_second"] > 0
        assert record["peak_memory_bytes"] > 50_000_000
        assert record["calibration"]["temperature"] > 0
        metrics = json.loads((trained / "eval" / "metrics.json").read_text())
        assert record["metrics"]["test"]["accuracy"] == metrics["metrics"]["accuracy"]
        assert record["weights_sha256"] == metrics["weights_sha256"]

    def test_resolved_recipe(self, trained):
        """What was run, not what the file said; no path of this machine; the tokenizer's length."""
        recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
        assert recipe["trainer"]["learning_rate"] == 1.0e-3
        assert recipe["trainer"]["length_grouping"] is True
        assert recipe["trainer"]["report_to"] == "auto"
        assert recipe["trainer"]["output_dir"] == trained.name
        assert recipe["data"]["csv"] == "data/sample/arxiv_sample.csv"
        for name in ("recipe.yaml", "run.json", "README.md", "eval/metrics.json"):
            assert str(trained.parent) not in (trained / name).read_text()
        assert json.loads((trained / "tokenizer_config.json").read_text())["model_max_length"] == 64

    def test_checkpoints_are_gone_and_the_log_is_there(self, trained):
        """The run's folder keeps the log and the profile."""
        folder = trained.parent / ".checkpoints" / "tiny"
        assert not list(folder.glob("checkpoint-*"))
        log = (folder / "train.log").read_text()
        assert log.count("step 12/12 eval_loss") == 1
        assert log.count("925 rows read, 0 rejected, 66 merged, 146 outside top5, 7 duplicates dropped") == 1
        assert "report.json" in log
        assert json.loads((folder / "profile" / "trace.json").read_text())["traceEvents"]
        assert "Self CPU" in (folder / "profile" / "operators.txt").read_text()

    def test_a_finished_run_needs_overwrite(self, trained, write_recipe, tmp_path):
        """Nothing is trained, nothing is lost."""
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer={"output_dir": str(trained)})
        before = (trained / "model.safetensors").read_bytes()
        with pytest.raises(UserError, match="a finished run is in the way"):
            train.main([str(recipe)])
        assert (trained / "model.safetensors").read_bytes() == before

    def test_pipeline_agrees_with_the_predictor(self, trained):
        """Labels are category codes, scores the same to 1e-5, the temperature inside."""
        from transformers import pipeline

        texts = ["A synthetic study of parsing\n\nWe translate words.", "Images and pixels " * 100]
        classify = pipeline("text-classification", model=str(trained), device="cpu")
        theirs = classify(texts, top_k=None, truncation=True)
        ours = load_predictor(f"{trained}/").predict(texts)
        for reply, prediction in zip(theirs, ours, strict=True):
            scores = {entry["label"]: entry["score"] for entry in reply}
            assert list(prediction.scores) == list(scores)
            assert set(scores) == set(TOP5)
            assert prediction.scores == pytest.approx(scores, abs=1e-5)
        assert [prediction.truncated for prediction in ours] == [False, True]


class TestEvaluation:
    """A run scores the model in memory."""

    def test_it_is_that_of_the_saved_weights(self, write_recipe, tmp_path):
        """Also after training in bfloat16: loaded from disk, the model gives the same metrics to the bit."""
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer={"precision": "bf16", "max_steps": 3})
        train.main([str(recipe), "--trainer.output_dir", str(tmp_path / "model")])
        metrics = json.loads((tmp_path / "model" / "eval" / "metrics.json").read_text())
        again = evaluate_model(tmp_path / "model", data=SAMPLE, out=tmp_path / "again")
        assert again["metrics"] == metrics["metrics"]
        assert again["weights_sha256"] == metrics["weights_sha256"]

    def test_each_thing_is_read_once(self, write_recipe, tmp_path, monkeypatch):
        """The corpus is built once, no model is loaded after the start, the weights are hashed once."""
        calls = []
        for place, name in (
            (builder, "build_corpus"), (transformer, "load_classifier"), (run_directory, "file_sha256"),
            (scored_papers, "file_sha256"),
        ):  # fmt: skip
            whole = getattr(place, name)
            monkeypatch.setattr(place, name, lambda *a, f=whole, n=name, **k: calls.append(n) or f(*a, **k))
        monkeypatch.setattr(run_directory, "build_corpus", builder.build_corpus)
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer={"max_steps": 2})
        train.main([str(recipe), "--trainer.output_dir", str(tmp_path / "model")])
        assert sorted(calls) == ["build_corpus", "file_sha256"]


@pytest.mark.parametrize("labels", [None, ["a", "b", "c", "d", "e"], ["a", "b", "c"]])
def test_other_labels_get_a_new_head(exported, labels):
    """As many labels or not, a head for others is not kept; the encoder always is."""
    start = load_file(exported / "model.safetensors")
    own = list(json.loads((exported / "config.json").read_text())["id2label"].values())
    settings = TransformerModelConfig(hidden_dropout=0.3)
    model = fine_tuning.load_classifier(settings, exported, labels or own)
    found = {name: value.numpy() for name, value in model.state_dict().items()}
    assert model.config.num_labels == len(found["classifier.bias"]) == len(labels or own)
    assert [*model.config.id2label.values()] == (labels or own)
    assert all((found[name] == start[name]).all() for name in start if name.startswith("bert."))
    assert np.array_equal(found["classifier.weight"], start["classifier.weight"]) == (labels is None)
    assert {m.p for m in model.bert.modules() if isinstance(m, torch.nn.Dropout)} >= {0.3}


def test_killed_at_the_end_and_resumed(write_recipe, tmp_path, monkeypatch):
    """Killed after an early stop in the second epoch of five: resumed, the weights are the same."""
    keys = {"num_train_epochs": 5, "early_stopping_patience": 1, "learning_rate": 1.0e-12}
    recipe = write_recipe(tmp_path / "tiny.yaml", trainer=keys)
    whole, killed = (str(tmp_path / name) for name in ("whole", "killed"))
    train.main([str(recipe), "--no-evaluate", "--trainer.output_dir", whole])

    def kill(trainer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning, "calibrate", kill)
        with pytest.raises(KeyboardInterrupt):
            train.main([str(recipe), "--no-evaluate", "--trainer.output_dir", killed])
    train.main([str(recipe), "--no-evaluate", "--resume", "--trainer.output_dir", killed])
    first, second = (json.loads(Path(run, "run.json").read_text()) for run in (whole, killed))
    assert first["training"]["steps"] == second["training"]["steps"] == 12
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["calibration"] == second["calibration"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"logging_steps": 1}, "loss is "),
        ({"logging_strategy": "no"}, "scores of the validation split"),
        ({"logging_strategy": "no", "eval_strategy": "no", "save_strategy": "no",
          "load_best_model_at_end": False}, "train_loss is "),
    ],
)  # fmt: skip
def test_diverged(write_recipe, tmp_path, keys, message):
    """The error says what to change; nothing is published."""
    keys = {"learning_rate": 1e30, "max_grad_norm": 0, "optim": "sgd"} | keys
    recipe = write_recipe(tmp_path / "tiny.yaml", trainer=keys)
    with pytest.raises(UserError, match="the training has diverged: ") as error:
        train.main([str(recipe), "--trainer.output_dir", str(tmp_path / "run")])
    assert message in error.value.message
    assert "learning_rate" in error.value.hint
    assert not (tmp_path / "run").exists()


def test_encoder_keeps_its_bytes_and_then_moves(write_recipe, tmp_path, tiny_encoder, monkeypatch):
    """The checkpoint after the first epoch has the encoder of the start; also a run resumed inside it."""
    keys = {"head_only_epochs": 1, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 9}
    keys |= {"eval_strategy": "steps", "eval_steps": 3}
    recipe = write_recipe(tmp_path / "tiny.yaml", trainer=keys)
    words = [str(recipe), "--no-evaluate", "--trainer.output_dir", str(tmp_path / "run")]
    saved, mark = {}, MarkComplete.on_save

    def keep(marks, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        saved[state.global_step] = load_file(checkpoint / "model.safetensors")
        mark(marks, args, state, control, **kwargs)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(MarkComplete, "on_save", keep)
    with pytest.raises(KeyboardInterrupt):
        train.main(words)
    train.main([*words, "--resume"])
    assert list(saved) == [3, 6, 9, 12]
    start = load_file(tiny_encoder / "model.safetensors")

    def unchanged(step):
        same = [(saved[step][f"bert.{name}"] == value).all() for name, value in start.items()
                if f"bert.{name}" in saved[step]]  # fmt: skip
        assert len(same) > 20
        return sum(same) / len(same)

    assert unchanged(3) == unchanged(6) == 1
    assert (saved[3]["classifier.weight"] != saved[6]["classifier.weight"]).any()
    assert unchanged(12) < 0.1


class TestRecipes:
    """Every transformer recipe of the project trains: two steps of the tiny encoder on the sample."""

    paths = sorted(path for path in RECIPES.glob("*.yaml") if not path.stem.startswith("tfidf"))

    @staticmethod
    def two_steps(path, out, start, *more) -> dict:
        """Trains two steps from these weights; returns the run's record."""
        several = "multi_label" in path.read_text()
        data = write_listed(out.parent / "listed.csv") if several else SAMPLE
        words = {
            "model.name_or_path": start, "model.max_length": 32,
            "data.csv": data, "data.config": "top5", "data.max_samples": 40,
            "trainer.output_dir": out, "trainer.max_steps": 2, "trainer.use_cpu": True,
            "trainer.per_device_train_batch_size": 4, "trainer.cpu_threads": 1,
        }  # fmt: skip
        options = [str(word) for key, value in words.items() for word in (f"--{key}", value)]
        train.main([str(path), *options, *more])
        return json.loads((out / "run.json").read_text())

    @pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)
    def test_two_steps(self, path, tmp_path, tiny_encoder):
        """It ends with weights on disk."""
        assert len(self.paths) >= 3
        assert self.two_steps(path, tmp_path / "model", tiny_encoder)["training"]["steps"] == 2
        assert (tmp_path / "model" / "model.safetensors").is_file()

    def test_local_distilbert(self, tmp_path, tiny_encoder):
        """What `arxiv-cls local-distilbert` writes is a start for the DistilBERT recipe."""
        start = write_local_distilbert(tmp_path / "start", str(tiny_encoder))
        more = ("--trainer.distillation_weight", "0", "--no-evaluate")
        record = self.two_steps(RECIPES / "distilbert.yaml", tmp_path / "model", start, *more)
        assert record["training"]["steps"] == 2
        assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "distilbert"


@pytest.mark.parametrize(
    ("name", "kind", "machines", "processes"),
    [("cpu", "NO", 1, 1), ("one_gpu", "NO", 1, 1), ("multi_gpu", "MULTI_GPU", 1, 8),
     ("multi_host", "MULTI_GPU", 2, 16)],
)  # fmt: skip
def test_accelerate_reads_them(name, kind, machines, processes):
    """By its own loader, which refuses a key that it does not know."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert config.use_cpu is (name == "cpu")
