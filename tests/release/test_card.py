"""The card shows what the records say: numbers against values worked out by hand, nothing empty."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from factories import TFIDF, TRANSFORMER, add_every_section, change_json, make_model_dir, write_json

from arxiv_cls.errors import UserError
from arxiv_cls.release.card import render_model_card, write_model_card
from arxiv_cls.scoring.scored_papers import ScoredPapers

# Ten papers, worked out by hand. Four of cs.CL: three right, one named cs.CV. Four of cs.CV: two right, two
# named stat.ML. Two of stat.ML, both right. The named label always has 0.80, the next one 0.15, the last
# 0.05; where the named one is wrong, the next one is the truth.
TRUTH = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
NAMED = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
BY_HAND = {
    "Accuracy": "0.700",  # 7 of 10
    "Macro F1": "0.698",  # (6/7 + 4/7 + 2/3) / 3
    "Micro F1": "0.700",
    "Weighted F1": "0.705",  # (4 * 6/7 + 4 * 4/7 + 2 * 2/3) / 10
    "Top-2 accuracy": "1.000",
    "Top-3 accuracy": "1.000",
    "Log-loss": "0.725",  # -(7 ln 0.80 + 3 ln 0.15) / 10
    "Brier score": "0.455",  # (7 * 0.065 + 3 * 1.365) / 10
    "Expected calibration error": "0.100",  # one score, 0.80, against 7 of 10
}
CLASSES_BY_HAND = {
    "cs.CL": ("1.000", "0.750", "0.857", "4"),
    "cs.CV": ("0.667", "0.500", "0.571", "4"),
    "stat.ML": ("0.500", "1.000", "0.667", "2"),
}


def ten_papers() -> ScoredPapers:
    """The papers above."""
    probabilities = np.full((10, 3), 0.05)
    for row, (truth, named) in enumerate(zip(TRUTH, NAMED, strict=True)):
        probabilities[row, truth if truth != named else (named + 1) % 3] = 0.15
        probabilities[row, named] = 0.80
    return ScoredPapers(
        label_names=["cs.CL", "cs.CV", "stat.ML"],
        arxiv_ids=np.asarray([f"1501.0000{number}" for number in range(10)], dtype=object),
        labels=np.asarray(TRUTH),
        probabilities=probabilities,
        published=np.full(10, np.datetime64("2015-03-01")),
        words=np.full(10, 120),
    )


def table_rows(card: str) -> dict[str, list[str]]:
    """First cell to the other cells of every table row."""
    rows = {}
    for line in card.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows.setdefault(cells[0].strip("`"), cells[1:])
    return rows


def front_matter(card: str) -> dict:
    """The card's metadata."""
    return yaml.safe_load(card.split("---\n")[1])


class TestNumbers:
    """Every number against the hand-worked values above or the run record's."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        """The model with the ten papers."""
        return make_model_dir(tmp_path / "arxiv-tiny", scored=ten_papers())

    def test_metrics(self, model: Path) -> None:
        """The value column of the results, to three decimals."""
        card = render_model_card(model)
        results = table_rows(card[card.index("## Results") : card.index("### " if "### " in card else "![")])
        assert {name: results[name][0] for name in BY_HAND} == BY_HAND

    def test_per_category(self, model: Path) -> None:
        """Precision, recall, F1 and number of papers."""
        card = render_model_card(model)
        rows = table_rows(card[card.index("| label | precision") :])
        for label, expected in CLASSES_BY_HAND.items():
            precision, recall, f1, interval, papers = rows[label]
            assert (precision, recall, f1, papers) == expected
            low, high = (float(end) for end in interval.split(" to "))
            assert 0 <= low <= float(f1) <= high <= 1

    def test_interval_of_accuracy_brackets_it(self, model: Path) -> None:
        """Seven of ten: the bootstrap's ends are tenths on both sides."""
        low, high = (float(end) for end in table_rows(render_model_card(model))["Accuracy"][1].split(" to "))
        assert low < 0.7 < high

    def test_results_index(self, model: Path) -> None:
        """The front matter carries the same numbers, with more digits."""
        metadata = front_matter(render_model_card(model, repo_id="user/arxiv-tiny"))
        (entry,) = metadata["model-index"]
        (result,) = entry["results"]
        values = {metric["name"]: metric["value"] for metric in result["metrics"]}
        assert values["Accuracy"] == 0.7
        assert values["Macro F1"] == round((6 / 7 + 4 / 7 + 2 / 3) / 3, 6)
        assert values["Brier score"] == pytest.approx(0.455, abs=1e-9)
        assert entry["name"] == "arxiv-tiny"
        assert result["dataset"]["config"] == "top5"
        assert result["dataset"]["split"] == "test"

    def test_run_record(self, model: Path) -> None:
        """Data, hardware and duration in the units that a person uses."""
        rows = table_rows(render_model_card(model))
        assert rows["train papers"] == ["1,400"]
        assert rows["test papers"] == ["400"]
        assert rows["duration"] == ["5 minutes"]
        assert rows["peak memory of the process"] == ["1.5 GB"]
        assert rows["speed"] == ["12.3 papers per second"]
        assert rows["hardware"] == ["a processor (cpu, fp32), 1 process of 2 CPU threads"]
        assert rows["file"] == ["`arxiv_sample.csv`, 600 rows"]
        assert "from 0.080 to 0.020" in render_model_card(model)

    def test_missing_number_is_an_error(self, model: Path) -> None:
        """A hole in the record stops the card instead of showing as `nan`."""
        evaluation = json.loads((model / "eval/metrics.json").read_text())
        evaluation["metrics"]["log_loss"] = None
        write_json(model / "eval/metrics.json", evaluation)
        with pytest.raises(UserError, match=r"metrics\.log_loss"):
            render_model_card(model)

    def test_category_without_results_is_an_error(self, model: Path) -> None:
        """An evaluation of other labels than the model's is named, with the command that makes a new one."""
        change_json(model / "config.json", id2label={"0": "cs.CL", "1": "cs.CV", "2": "math.AG"})
        with pytest.raises(UserError, match=r"math\.AG is not in eval/metrics\.json") as refusal:
            render_model_card(model)
        assert "arxiv-cls evaluate" in str(refusal.value)

    def test_not_evaluated(self, model: Path) -> None:
        """The message names the command that is missing."""
        (model / "eval/metrics.json").unlink()
        with pytest.raises(UserError, match="arxiv-cls evaluate"):
            write_model_card(model)


class TestText:
    """The card as a page."""

    @pytest.mark.parametrize("kind", [TRANSFORMER, TFIDF])
    @pytest.mark.parametrize("version", [None, "v0.1.0"])
    def test_no_empty_field(self, tmp_path: Path, kind: str, version: str | None) -> None:
        """No `nan`, no `None`, no empty cell, no unfilled placeholder, no run of blank lines."""
        folder = make_model_dir(tmp_path / "m", kind)
        card = render_model_card(folder, repo_id="user/m" if version else None, version=version)
        assert not re.search(r"\b(nan|(?<!top_k=)None|inf|undefined)\b|\{\{|\}\}|\{%", card)
        for line in card.splitlines():
            if line.startswith("|") and line != "| | |":
                assert all(cell.strip() for cell in line.strip("|").split("|")), line
        assert "\n\n\n\n" not in card
        assert all(value not in (None, "", [], {}) for value in front_matter(card).values())

    def test_pictures_are_files_of_the_release(self, tmp_path: Path) -> None:
        """Every image that the card shows is there to be pushed."""
        folder = make_model_dir(tmp_path / "m")
        pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", render_model_card(folder))
        assert len(pictures) == 4
        assert all((folder / picture).is_file() for picture in pictures)

    def test_kinds_are_used_differently(self, tmp_path: Path) -> None:
        """A transformer by `pipeline` with truncation, a baseline by our loader; the library says which."""
        transformer = render_model_card(make_model_dir(tmp_path / "t"), repo_id="user/t", version="v1.0.0")
        assert (
            'pipeline("text-classification", model="user/t", revision="v1.0.0", truncation=True)'
            in transformer
        )
        assert front_matter(transformer)["library_name"] == "transformers"
        assert front_matter(transformer)["base_model"] == "user/base"
        baseline = render_model_card(
            make_model_dir(tmp_path / "b", TFIDF), repo_id="user/b", version="v1.0.0"
        )
        assert 'load_predictor("user/b@v1.0.0")' in baseline
        assert front_matter(baseline)["library_name"] == "arxiv_cls"
        assert "base_model" not in front_matter(baseline)

    def test_widget_shows_outputs(self, tmp_path: Path) -> None:
        """Each example text comes with labels and scores."""
        (example,) = front_matter(render_model_card(make_model_dir(tmp_path / "m")))["widget"]
        assert example["output"][0] == {"label": "cs.CV", "score": 0.7}

    def test_metadata_is_complete(self, tmp_path: Path) -> None:
        """Every key that the Hub reads, when the recipe names base model and dataset."""
        folder = make_model_dir(tmp_path / "m")
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        assert "datasets" not in front_matter(render_model_card(folder))
        recipe["release"] |= {"dataset": "user/arxiv-papers"}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        metadata = front_matter(render_model_card(folder, repo_id="user/m", version="v0.1.0"))
        assert set(metadata) == {
            "license", "library_name", "pipeline_tag", "base_model", "datasets", "metrics", "language",
            "tags", "widget", "model-index",
        }  # fmt: skip
        assert metadata["datasets"] == ["user/arxiv-papers"]
        assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "user/arxiv-papers"
        assert all(example["output"] for example in metadata["widget"])

    def test_what_the_test_papers_were_not_used_for(self, tmp_path: Path) -> None:
        """Said of the test split only: a card of another split, by an override, must not claim it."""
        folder = make_model_dir(tmp_path / "m")
        claim = "that the run used neither for training nor for its choices"
        assert claim in render_model_card(folder)
        change_json(folder / "eval/metrics.json", split="validation")
        assert claim not in render_model_card(folder)

    def test_archives_that_are_caught_badly(self, tmp_path: Path) -> None:
        """Worst first, those below the average only, and none of a handful of papers."""
        folder = add_every_section(make_model_dir(tmp_path / "m"))
        assert "It catches least" not in render_model_card(folder)
        caught = {
            "econ": {"n": 41, "caught": 0.561},
            "eess": {"n": 1200, "caught": 0.402},
            "math": {"n": 9000, "caught": 0.95},
            "q-fin": {"n": 12, "caught": 0.1},
        }
        change_json(folder / "eval/scope.json", caught_by_archive=caught)
        assert (
            "It catches least among `eess` (40.2% of 1,200 papers), `econ` (56.1% of 41 papers): such"
            in render_model_card(folder)
        )

    def test_overrides_stand_on_the_card(self, tmp_path: Path) -> None:
        """And nothing is said where there are none."""
        folder = make_model_dir(tmp_path / "m")
        assert "overrid" not in render_model_card(folder)
        assert "> - quality: worse" in render_model_card(folder, overrides=["quality: worse"])

    def test_dirty_tree_is_told(self, tmp_path: Path) -> None:
        """A reader learns that the commit alone does not reproduce the run."""
        folder = make_model_dir(tmp_path / "m")
        change_json(folder / "run.json", git={"commit": "c" * 40, "dirty": True})
        assert "with uncommitted changes" in render_model_card(folder)

    def test_same_records_same_card(self, tmp_path: Path) -> None:
        """The card holds no time of writing: a release can be rendered again and compared."""
        folder = make_model_dir(tmp_path / "m")
        first = write_model_card(folder).read_text()
        assert write_model_card(folder).read_text() == first
