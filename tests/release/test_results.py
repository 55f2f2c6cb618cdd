"""Results on record: what may become one, its figures, the tables of the docs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from factories import ROOT, change_json, make_model_dir, record_again

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import TFIDF
from arxiv_cls.release import results
from arxiv_cls.release.results import REGION, add_result, pages, read_result, read_results, write_tables

RESULTS = ROOT / "results"
# Three decimals from 0.5 on, or a percentage beside the name of a metric: a measured quality.
FIGURE = re.compile(r"\b0\.[5-9]\d\d\b|(?i:accuracy|F1|AUROC)[^.|\n]{0,25}\b(?!95%)[5-9]\d(?:\.\d)?%")


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model that may go on record, made of the recipe of the commit, in a tree without changes."""
    monkeypatch.setattr(results, "git_state", lambda: {"dirty": False})
    folder = make_model_dir(tmp_path / "model", TFIDF)
    recipe = subprocess.check_output(["git", "show", "HEAD:recipes/tfidf_linear.yaml"], cwd=ROOT)
    (folder / "recipe.yaml").write_bytes(recipe.replace(b"data/raw/arxiv.csv", b"elsewhere.csv"))
    words = ["trainer.seed", "output_dir", "data.path"]
    change_json(folder / "run.json", recipe="tfidf_linear", overrides=words)
    return folder


def change_run(**changes: object):
    """A model whose run record says this."""
    return lambda model, patch: change_json(model / "run.json", **changes)


def change_evaluation(**changes: object):
    """A model whose evaluation says this, with checksums that fit."""

    def change(model, patch):
        change_json(model / "eval/metrics.json", **changes)
        record_again(model)

    return change


def change_tree(model, patch):
    """A file of the tree is not as it was committed."""
    patch.setattr(results, "git_state", lambda: {"dirty": True})


class TestAdd:
    """`arxiv-cls results add`."""

    def test_three_files(self, model, tmp_path):
        """In the folder of recipe and seed; the record of another run is replaced only when asked."""
        for _ in range(2):
            folder = add_result(model, tmp_path / "results")
        assert folder == tmp_path / "results" / "tfidf_linear-7"
        assert sorted(path.name for path in folder.iterdir()) == [
            "metrics.json",
            "predictions.parquet",
            "run.json",
        ]
        (folder / "run.json").write_text("{}")
        with pytest.raises(UserError, match="holds another run"):
            add_result(model, tmp_path / "results")
        add_result(model, tmp_path / "results", overwrite=True)
        (result,) = read_results(tmp_path / "results")
        assert result.evaluation["papers"] == len(result.predictions) == 400

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (change_tree, "differ from the commit"),
            (change_run(git={"commit": "HEAD", "dirty": True}), "uncommitted changes"),
            (change_run(git={"commit": None, "dirty": False}), "before its first commit"),
            (change_run(recipe="no_such_recipe"), "0 such files"),
            (change_run(overrides=["trainer.seed", "model.svm_cost"]), "as its file has it: model.svm_cost"),
            (change_run(overrides=["data.seed"]), "as its file has it: data.seed"),
            (change_run(overrides=[]), "and not overridden: data.csv"),
            (change_evaluation(resamples=100), "not as it was recorded: intervals."),
            (lambda model, patch: change_json(model / "eval/metrics.json", papers=3), "not as recorded"),
            (lambda model, patch: (model / "eval/predictions.parquet").unlink(), "is missing"),
            (lambda model, patch: patch.setattr(results, "LARGEST_FILE", 1000), "has 1,000 bytes or more"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )  # fmt: skip
    def test_refused(self, model, monkeypatch, tmp_path, spoil, reason):
        """One message with every reason; nothing is written."""
        spoil(model, monkeypatch)
        with pytest.raises(UserError, match=re.escape(reason)):
            add_result(model, tmp_path / "results")
        assert not list(tmp_path.glob("results/*"))

    @pytest.mark.parametrize(("change", "refused"), [({"csv": "moved.csv"}, False), ({"seed": 8}, True)])
    def test_seeds_of_a_recipe_have_the_same_papers(self, model, tmp_path, change, refused):
        """Wherever the file was; another split is not averaged into the row of the recipe."""
        data = {"csv": "arxiv.csv", "sha256": "a" * 64, "seed": 42}
        for seed, tested in ((7, data), (8, data | change)):
            change_json(model / "run.json", seed=seed)
            change_evaluation(data=tested)(model, None)
            add_result(model, tmp_path / "results")
        if not refused:
            assert len(read_results(tmp_path / "results")) == 2
            return
        with pytest.raises(UserError, match="-7: was tested on other papers than tfidf_linear-8"):
            read_results(tmp_path / "results")


class TestRecords:
    """What is in `results/`."""

    def test_figures_are_those_of_the_predictions(self):
        """Each metric and interval is computed anew; files are small, the runs of a clean tree."""
        for result in read_results(RESULTS):
            assert result.run["git"]["dirty"] is False
            largest = 2_000_000 if result.predictions.multi_label else 300_000
            assert all(path.stat().st_size < largest for path in result.folder.iterdir())

    @pytest.mark.parametrize("name", ["metrics.json", "run.json", "predictions.parquet"])
    def test_a_changed_file_is_found(self, tmp_path, name):
        """One digit of a record, or the predictions of another run."""
        first, second = sorted(RESULTS.iterdir())[:2]
        folder = tmp_path / first.name
        shutil.copytree(first, folder)
        if name == "predictions.parquet":
            shutil.copy(second / name, folder)
        else:
            text = (folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(
                re.sub(r"(0\.78\d*)5", r"\g<1>6", text, count=1) + "\n", encoding="utf-8"
            )
        with pytest.raises(UserError, match=name):
            read_result(folder)

    def test_a_recorded_metric_is_recomputed(self, tmp_path):
        """Also where the checksums were made to fit the changed figure."""
        folder = tmp_path / "tfidf_linear-7"
        model = make_model_dir(tmp_path / "model", TFIDF)
        change_json(model / "run.json", recipe="tfidf_linear")
        evaluation = json.loads((model / "eval/metrics.json").read_text(encoding="utf-8"))
        change_json(model / "eval/metrics.json", metrics=evaluation["metrics"] | {"macro_f1": 0.9})
        record_again(model)
        folder.mkdir()
        for path, name in results.FILES.items():
            shutil.copy(model / path, folder / name)
        with pytest.raises(UserError, match=r"metrics\.macro_f1"):
            read_result(folder)


@pytest.fixture
def site(tmp_path) -> Path:
    """A copy of README, docs and records."""
    for name in ("docs", "results"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


class TestTables:
    """`make results`."""

    def test_pages_are_as_results_has_them(self, site):
        """Byte for byte; after one digit is changed by hand the table is another, and is made anew."""
        made = {
            path: path.read_text(encoding="utf-8")
            for path in (site / "README.md", site / "docs/evaluation.md")
        }
        assert pages(site) == made
        for path, text in made.items():
            number = re.compile(r"0\.\d+").search(text, REGION.search(text).start("table"))
            digit = (int(text[number.end() - 1]) + 1) % 10
            path.write_text(f"{text[: number.end() - 1]}{digit}{text[number.end() :]}", encoding="utf-8")
        assert write_tables(site) == list(made)
        assert {path: path.read_text(encoding="utf-8") for path in made} == made

    def test_pairs_do_not_ask_where_the_file_was(self):
        """The same data under another path are the same papers."""
        found = [one for one in read_results(RESULTS) if one.run["seed"] == 42]
        data = found[0].evaluation["data"] | {"csv": "elsewhere.csv"}
        moved = found[0]._replace(evaluation=found[0].evaluation | {"data": data})
        assert results.TABLES["pairs"]([moved, *found[1:]]) == results.TABLES["pairs"](found)

    def test_no_figure_without_a_record(self):
        """Outside of tables and of what a command prints, pages and cards name no measured quality."""
        kept = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
        found = []
        templates = (ROOT / "arxiv_cls/release/templates").glob("*.j2")
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *templates):
            text = kept.sub("", REGION.sub("", path.read_text(encoding="utf-8")))
            found += [f"{path.name}: {line}" for line in text.splitlines() if FIGURE.search(line)]
        assert not found
