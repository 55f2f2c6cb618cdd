"""The small files between the stages, the release group beside the weights, and where the data comes from."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.record.directory import read_model_directory, write_release_group
from arxiv_cls.reproduce import bring_data, metrics_table, refuse_other_model
from arxiv_cls.scoring.evaluation import write_dvc_files

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"


def recipe_with(folder: Path, sample_csv: Path, **data: object) -> Path:
    """A recipe for the sample whose data group has these keys."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({"data": {"csv": str(sample_csv), **data}}))
    return path


def build(folder: Path, recipe: Path) -> dict:
    """What `arxiv-cls data build --recipe ... --out ...` writes."""
    out = folder / "pipeline" / "splits.json"
    main(["data", "build", "--recipe", str(recipe), "--out", str(out)])
    return json.loads(out.read_text())


class TestBuild:
    """splits.json: what training depends on."""

    def test_it_changes_when_a_split_does(self, tmp_path, sample_csv):
        """Counts, options and checksums; another seed changes the checksums, another run does not."""
        recipe = recipe_with(tmp_path, sample_csv, max_samples=96)
        first = build(tmp_path, recipe)
        assert first == build(tmp_path, recipe)
        assert first["options"]["max_samples"] == 96
        assert sum(first["papers"]["train"].values()) == 96
        assert set(first["sha256"]) == {"train", "validation", "test"}
        other = build(tmp_path, recipe_with(tmp_path, sample_csv, max_samples=96, seed=1))
        assert all(other["sha256"][split] != first["sha256"][split] for split in first["sha256"])

    def test_a_wrong_recipe(self, tmp_path, sample_csv):
        """Every problem of the group at once; a recipe and a CSV do not go together."""
        recipe = recipe_with(tmp_path, sample_csv, max_samples=2, sed=1)
        with pytest.raises(UserError, match="2 problems") as error:
            build(tmp_path, recipe)
        assert "data.sed: unknown key; did you mean seed?" in str(error.value)
        with pytest.raises(UserError, match="a recipe was named, and a CSV"):
            main(["data", "build", "--recipe", str(recipe), "--csv", "x.csv"])


def test_files_of_an_evaluation(tmp_path, monkeypatch):
    """Few figures, as in metrics.json, and a row per paper from which the accuracy follows."""
    evaluation = json.loads((RELEASE / "eval" / "metrics.json").read_text())
    folder = tmp_path / "outputs" / ".pipeline" / "tiny"
    write_dvc_files(evaluation, RELEASE, folder)
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["macro_f1"] == evaluation["metrics"]["macro_f1"]
    assert set(figures["f1"]) == set(evaluation["labels"])
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["actual"] == row["predicted"] for row in rows)
    assert len(rows) == evaluation["papers"]
    assert right / len(rows) == pytest.approx(figures["accuracy"])
    monkeypatch.chdir(tmp_path)
    table = metrics_table("tiny")
    assert f"macro_f1                    {figures['macro_f1']:.4f}" in table
    assert "F1 of cs.CL" in table


class TestReleaseGroup:
    """`arxiv-cls card MODEL --recipe FILE`."""

    def test_it_replaces_the_group_only(self, tmp_path):
        """The records have the new group; the record of the run is not touched."""
        model = tmp_path / "tiny"
        shutil.copytree(RELEASE, model)
        before = (model / "recipe.yaml").read_bytes()
        recipe = tmp_path / "new.yaml"
        recipe.write_text("release: {license: mit, tags: [pilot]}")
        write_release_group(model, recipe)
        records = read_model_directory(model)
        assert records.recipe["release"]["license"] == "mit"
        assert records.recipe["release"]["tags"] == ["pilot"]
        assert records.recipe["data"] == read_model_directory(RELEASE).recipe["data"]
        assert (model / "recipe.yaml").read_bytes() == before

    def test_refused(self, tmp_path):
        """A wrong key, or a folder that is no model."""
        recipe = tmp_path / "new.yaml"
        recipe.write_text("release: {licence: mit}")
        with pytest.raises(UserError, match="did you mean license"):
            write_release_group(RELEASE, recipe)
        with pytest.raises(UserError, match="not a model directory"):
            write_release_group(tmp_path, recipe)


class TestBeforeTheStages:
    """What `make reproduce` says before anything runs."""

    @pytest.fixture(autouse=True)
    def project(self, tmp_path, monkeypatch):
        """A folder with DVC's and without data."""
        (tmp_path / ".dvc").mkdir()
        (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
        (tmp_path / "data").mkdir()
        monkeypatch.chdir(tmp_path)

    def test_no_data_and_no_remote(self):
        """The message says what to pass."""
        out = {"md5": "0" * 32, "size": 3, "hash": "md5", "path": "a.csv"}
        Path("data/a.csv.dvc").write_text(yaml.safe_dump({"outs": [out]}))
        with pytest.raises(UserError, match=r"no data: .*\n.*make reproduce REMOTE=") as error:
            bring_data(Path("data/a.csv"), None)
        assert error.value.exit_code == 2
        with pytest.raises(UserError, match="no such directory") as error:
            bring_data(Path("data/a.csv"), "nowhere")
        assert error.value.exit_code == 3

    def test_a_file_without_dvc(self):
        """In git: it is there, or nobody can bring it."""
        with pytest.raises(UserError, match="dvc add"):
            bring_data(Path("data/a.csv"), None)
        Path("data/a.csv").write_text("id\n")
        assert bring_data(Path("data/a.csv"), None) == "data/a.csv is in place"

    def test_a_model_made_by_hand(self):
        """DVC would delete it."""
        model = Path("outputs/tiny")
        shutil.copytree(RELEASE, model)
        with pytest.raises(UserError, match="the pipeline did not make") as error:
            refuse_other_model(model)
        assert "OVERWRITE=1" in str(error.value)
        refuse_other_model(Path("outputs/none"))
