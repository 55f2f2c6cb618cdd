"""The pipeline in a clone of its own: run, run again, one key changed, new data, the old model back."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from arxiv_cls.record.manifest import foreign_files, missing_files

pytestmark = pytest.mark.slow

RECIPE = "recipes/tfidf_linear.yaml"
MODEL = "outputs/tfidf_linear"
STAGES = ("check", "build", "train_tfidf", "evaluate", "card_tfidf")


def stages_run(output: str) -> list[str]:
    """The stages that DVC ran or took from its cache, in order."""
    lines = [line for line in output.splitlines() if line.startswith(("Running stage", "Stage '"))]
    return [line.split("'")[1].split("@")[0] for line in lines if "didn't change" not in line]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_csv(clone, papers: int) -> None:
    """Another version of the data, put under DVC."""
    csv = "data/raw/arxiv.csv"
    clone.run(sys.executable, "scripts/make_sample.py", csv, "--papers", str(papers))
    clone.dvc("add", csv)


def set_key(clone, group: str, key: str, value: object) -> None:
    """Changes one key of the recipe."""
    path = clone.root / RECIPE
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe[group][key] = value
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


class TestPipeline:
    """One clone, walked through; each step needs the one before."""

    def test_the_life_of_a_model(self, make_clone):
        """From nothing, nothing to do, a release key, a trainer key, new rows, and back again."""
        clone = make_clone()
        write_csv(clone, 3000)
        clone.commit("Data")

        # From nothing: every stage runs, the tree is clean but for the lock, the run's record says so.
        output = clone.reproduce(RECIPE)
        assert stages_run(output) == list(STAGES)
        assert clone.git("status", "--porcelain") == "?? dvc.lock"
        record = json.loads((clone.root / MODEL / "run.json").read_text())
        assert record["git"] == {"commit": clone.git("rev-parse", "HEAD"), "dirty": False}
        first = clone.commit("First model")
        old = digests(clone.root / MODEL)

        # Again: nothing runs, nothing changes.
        output = clone.reproduce(RECIPE)
        assert "up to date, nothing had to run" in output
        assert stages_run(output) == []
        assert clone.git("status", "--porcelain") == ""
        assert digests(clone.root / MODEL) == old

        # A key of the release group: only the card.
        set_key(clone, "release", "tags", ["tf-idf", "pilot"])
        assert stages_run(clone.reproduce(RECIPE)) == ["card_tfidf"]
        assert "- pilot" in (clone.root / MODEL / "README.md").read_text()
        changed = {name for name, digest in digests(clone.root / MODEL).items() if old[name] != digest}
        assert changed == {"README.md", "release.yaml"}

        # A key of the model group: what follows from the training.
        set_key(clone, "model", "svm_cost", 0.05)
        clone.commit("Smaller cost")
        assert stages_run(clone.reproduce(RECIPE)) == ["train_tfidf", "evaluate", "card_tfidf"]
        metrics = "outputs/.pipeline/tfidf_linear/metrics.json"
        figures = json.loads(clone.dvc("metrics", "diff", "--json", "--targets", metrics))[metrics]
        assert figures["macro_f1"]["diff"] == pytest.approx(
            figures["macro_f1"]["new"] - figures["macro_f1"]["old"]
        )
        assert figures["log_loss"]["diff"] != 0
        clone.dvc("plots", "diff", "HEAD", "--out", "plots")
        page = (clone.root / "plots" / "index.html").read_text()
        assert "predictions.csv" in page
        assert "training_curve.png" in page
        clone.commit("Second model")

        # A key of the data group: everything that reads the splits.
        # The lock changed before the training began, and is no dirt in the record of the run.
        set_key(clone, "data", "max_samples", 400)
        clone.commit("Fewer papers")
        assert stages_run(clone.reproduce(RECIPE)) == list(STAGES)
        record = json.loads((clone.root / MODEL / "run.json").read_text())
        assert record["git"] == {"commit": clone.git("rev-parse", "HEAD"), "dirty": False}

        # New rows: a new model, and the old commit still has the old one.
        write_csv(clone, 3400)
        clone.commit("Data of March")
        assert stages_run(clone.reproduce(RECIPE)) == list(STAGES)
        clone.commit("Model of March")
        new = digests(clone.root / MODEL)
        assert new["model.skops"] != old["model.skops"]

        clone.git("checkout", "--quiet", first)
        clone.dvc("checkout", "--with-deps", "card_tfidf@tfidf_linear")
        assert digests(clone.root / MODEL) == old
        assert "up to date, nothing had to run" in clone.reproduce(RECIPE)
        clone.git("checkout", "--quiet", "-")
        # Without `dvc checkout` too: what was made once is taken from the cache.
        clone.reproduce(RECIPE)
        assert digests(clone.root / MODEL) == new
        assert clone.git("status", "--porcelain") == ""

        # A model that was trained by hand is not deleted unasked.
        record = clone.root / MODEL / "run.json"
        record.write_text(record.read_text() + "\n")
        assert "OVERWRITE=1" in clone.reproduce(RECIPE, status=2)
        clone.reproduce(RECIPE, "OVERWRITE=1")
        assert digests(clone.root / MODEL) == new

    def test_a_transformer(self, make_clone, write_recipe):
        """Check to card with the exports; the files are those of the manifest; again nothing runs."""
        clone = make_clone()
        write_csv(clone, 3000)
        recipe = "recipes/minilm.yaml"
        data = {"csv": "data/raw/arxiv.csv", "config": "top5", "max_samples": 400}
        write_recipe(clone.root / recipe, data=data, release={"license": "mit"})
        clone.commit("A small one")
        stages = ["check", "build", "train", "evaluate", "export", "card"]
        assert sorted(stages_run(clone.reproduce(recipe))) == sorted(stages)
        model = clone.root / "outputs" / "minilm"
        assert missing_files(model, "transformer") == []
        assert foreign_files(model, "transformer") == []
        assert (model / "onnx" / "model_int8.onnx").is_file()
        assert "license: mit" in (model / "README.md").read_text()
        assert "validation" in json.loads((model / "run.json").read_text())["metrics"]
        assert clone.git("status", "--porcelain") == "?? dvc.lock"
        assert stages_run(clone.reproduce(recipe)) == []

    def test_the_public_file_in_place_of_the_team_s(self, make_clone):
        """What Kaggle gave is taken; its checksum is in the run's record, dvc.lock and the .dvc file."""
        clone = make_clone()
        csv = clone.root / "data/raw/arxiv.csv"
        clone.run(sys.executable, "scripts/make_sample.py", str(csv), "--papers", "3000")
        assert "in the way" in clone.reproduce(RECIPE, status=2)
        md5 = hashlib.md5(csv.read_bytes(), usedforsecurity=False).hexdigest()
        fetch = clone.root / "arxiv_cls/corpus/fetch.py"
        fetch.write_text(re.sub(r'KAGGLE_MD5 = "\w+"', f'KAGGLE_MD5 = "{md5}"', fetch.read_text()))
        clone.commit("The checksum of this test's file")
        output = clone.reproduce(RECIPE)
        assert "is the public original from Kaggle" in output
        assert "git add data/raw/arxiv.csv.dvc dvc.lock" in output
        record = json.loads((clone.root / MODEL / "run.json").read_text())
        assert record["data"]["sha256"] == hashlib.sha256(csv.read_bytes()).hexdigest()
        assert record["git"]["dirty"] is False
        assert all(md5 in (clone.root / name).read_text() for name in ("dvc.lock", "data/raw/arxiv.csv.dvc"))
        clone.commit("First model")
        assert "up to date, nothing had to run" in clone.reproduce(RECIPE)
