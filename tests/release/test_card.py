"""The card shows what the records say: numbers against values worked out by hand, nothing empty."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from factories import (
    PNG,
    TFIDF,
    TRANSFORMER,
    add_every_section,
    add_export,
    change_json,
    make_model_dir,
    write_json,
)

from arxiv_cls.errors import UserError
from arxiv_cls.record.directory import read_model_directory
from arxiv_cls.release.card import render_model_card
from arxiv_cls.scoring.metrics import SCALAR_METRICS
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


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The model with the ten papers."""
    return make_model_dir(tmp_path / "m", scored=ten_papers())


class TestNumbers:
    """Every number against the hand-worked values above or the run record's."""

    def test_metrics(self, model: Path) -> None:
        """To three decimals, with intervals around them; in the front matter with more digits."""
        card = render_model_card(model, repo_id="user/arxiv-tiny")
        results = table_rows(card[card.index("| metric |") : card.index("| label | precision")])
        assert {name: row[0] for name, row in results.items() if name != "metric"} == BY_HAND
        assert len(BY_HAND) == len(SCALAR_METRICS)
        rows = table_rows(card[card.index("| label | precision") :])
        found = {label: (*rows[label][:3], rows[label][4]) for label in CLASSES_BY_HAND}
        assert found == CLASSES_BY_HAND
        for value, interval in ((0.7, results["Accuracy"][1]), (0.857, rows["cs.CL"][3])):
            low, high = (float(end) for end in interval.split(" to "))
            assert 0 <= low < value < high <= 1
        (entry,) = front_matter(card)["model-index"]
        (result,) = entry["results"]
        values = {metric["name"]: metric["value"] for metric in result["metrics"]}
        assert (values["Accuracy"], values["Macro F1"]) == (0.7, round((6 / 7 + 4 / 7 + 2 / 3) / 3, 6))
        assert values["Brier score"] == pytest.approx(0.455, abs=1e-9)
        dataset = result["dataset"]
        assert (entry["name"], dataset["config"], dataset["split"]) == ("arxiv-tiny", "top5", "test")

    def test_run_record(self, model: Path) -> None:
        """Data, hardware and duration in the units that a person uses."""
        card = render_model_card(model)
        wanted = {
            "train papers": "1,400", "test papers": "400", "duration": "5 minutes",
            "peak memory of the process": "1.5 GB", "speed": "12.3 papers per second",
            "hardware": "a processor (cpu, fp32), 1 process of 2 CPU threads",
            "file": "`arxiv_sample.csv`, 600 rows",
        }  # fmt: skip
        rows = table_rows(card)
        assert {name: rows[name][0] for name in wanted} == wanted
        assert "from 0.080 to 0.020" in card

    @pytest.mark.parametrize(
        ("file", "change", "expected"),
        [
            ("eval/metrics.json", {"metrics": {"log_loss": None}}, r"metrics\.log_loss"),
            ("eval/metrics.json", {"calibration": {"p_value": float("nan")}}, r"calibration\.p_value"),
            ("run.json", {"duration_seconds": None}, r"run\.duration_seconds"),
            ("config.json", {"id2label": {"2": "math.AG"}}, r"needs metrics\.per_class\.math\.AG"),
        ],
    )
    def test_missing_number_is_an_error(self, model: Path, file: str, change: dict, expected: str) -> None:
        """A hole in the records stops the card instead of showing as `nan`; the field is named."""
        record = json.loads((model / file).read_text())
        for key, value in change.items():
            record[key] = record[key] | value if isinstance(value, dict) else value
        write_json(model / file, record)
        with pytest.raises(UserError, match=expected) as refusal:
            render_model_card(model)
        assert "arxiv-cls evaluate" in str(refusal.value)

    def test_not_evaluated(self, model: Path) -> None:
        """The message names the command that is missing."""
        (model / "eval/metrics.json").unlink()
        with pytest.raises(UserError, match="arxiv-cls evaluate"):
            render_model_card(model)


class TestText:
    """The card as a page."""

    @pytest.mark.parametrize("kind", [TRANSFORMER, TFIDF])
    @pytest.mark.parametrize("version", [None, "v0.1.0"])
    def test_no_empty_field(self, tmp_path: Path, kind: str, version: str | None) -> None:
        """No `nan`, no empty cell, no unfilled placeholder, no run of blank lines, no missing picture."""
        folder = make_model_dir(tmp_path / "m", kind)
        card = render_model_card(folder, repo_id="user/m" if version else None, version=version)
        assert not re.search(r"\b(nan|(?<!top_k=)None|inf|undefined)\b|\{\{|\}\}|\{%", card)
        for line in card.splitlines():
            if line.startswith("|") and line != "| | |":
                assert all(cell.strip() for cell in line.strip("|").split("|")), line
        assert "\n\n\n\n" not in card
        assert all(value not in (None, "", [], {}) for value in front_matter(card).values())
        pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", card)
        assert len(pictures) == 4
        assert all((folder / picture).is_file() for picture in pictures)

    def test_kinds_are_used_differently(self, tmp_path: Path) -> None:
        """A transformer by `pipeline` with truncation, a baseline by our loader; the library says which."""
        of_hub = {"repo_id": "user/m", "version": "v1.0.0"}
        card = render_model_card(make_model_dir(tmp_path / "t"), **of_hub)
        call = 'pipeline("text-classification", model="user/m", revision="v1.0.0", truncation=True)'
        assert call in card
        found = front_matter(card)
        assert (found["library_name"], found["base_model"]) == ("transformers", "user/base")
        baseline = render_model_card(make_model_dir(tmp_path / "b", TFIDF), **of_hub)
        assert 'load_predictor("user/m@v1.0.0")' in baseline
        assert front_matter(baseline)["library_name"] == "arxiv_cls"
        assert "base_model" not in front_matter(baseline)

    def test_metadata_is_complete(self, model: Path) -> None:
        """Every key that the Hub reads, when the recipe names base model and dataset."""
        recipe = yaml.safe_load((model / "recipe.yaml").read_text())
        assert "datasets" not in front_matter(render_model_card(model))
        recipe["release"] |= {"dataset": "user/arxiv-papers"}
        (model / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        metadata = front_matter(render_model_card(model, repo_id="user/m", version="v0.1.0"))
        assert set(metadata) == {
            "license", "library_name", "pipeline_tag", "base_model", "datasets", "metrics", "language",
            "tags", "widget", "model-index",
        }  # fmt: skip
        assert metadata["datasets"] == ["user/arxiv-papers"]
        assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "user/arxiv-papers"
        assert metadata["widget"][0]["output"][0] == {"label": "cs.CV", "score": 0.7}

    def test_overrides_changed_tree_and_other_split_are_told(self, model: Path) -> None:
        """And nothing is said of overrides where there are none, or of test papers where none were used."""
        assert "overrid" not in render_model_card(model)
        change_json(model / "run.json", git={"commit": "c" * 40, "dirty": True})
        card = render_model_card(model, overrides=["quality: worse"])
        assert "> - quality: worse" in card
        assert "with uncommitted changes" in card
        claim = "that the run used neither for training nor for its choices"
        assert claim in card
        change_json(model / "eval/metrics.json", split="validation")
        assert claim not in render_model_card(model)
        assert "by paper, 70 / 15 / 15, from a hash" in card
        data = json.loads((model / "run.json").read_text())["data"]
        change_json(model / "run.json", data=data | {"ratios": [0.6, 0.29, 0.11]})
        assert "by paper, 60 / 29 / 11, from a hash" in render_model_card(model)


class TestOptionalSections:
    """What only some models have."""

    def test_calibrated_sets_and_scope(self, model: Path) -> None:
        """Levels, thresholds, coverage; the rule's figures; the limits of the data. Nothing without them."""
        bare = render_model_card(model)
        assert "## Prediction sets" not in bare
        assert "## Papers outside" not in bare
        card = render_model_card(add_every_section(model))
        for text in (
            "| 90% | 0.250 | 0.900 | 1.40 |",
            "against 17,173 papers of other categories its AUROC is 0.964 (95% interval 0.961 to 0.966",
            "With its threshold, 0.347 on a scale from 0 to 1, it keeps 96.1%",
            "catches 84.8% of those",
            "](eval/out_of_scope.png)",
            "| dates | validation from 2018-07-15, test from 2019-02-15 |",
            "| cut | at most 1,400 training papers, in the order of the hash |",
            "The splits are by date",
        ):
            assert text in card
        assert "It catches least" not in card
        caught = {"econ": (41, 0.561), "eess": (1200, 0.402), "math": (9000, 0.95), "q-fin": (12, 0.1)}
        by_archive = {archive: {"n": n, "caught": share} for archive, (n, share) in caught.items()}
        change_json(model / "eval/scope.json", caught_by_archive=by_archive)
        # Worst first, those below the average only, and none of a handful of papers.
        least = "It catches least among `eess` (40.2% of 1,200 papers), `econ` (56.1% of 41 papers): such"
        assert least in render_model_card(model)

    def test_robustness(self, model: Path) -> None:
        """Accuracy on changed texts, where it was measured."""
        assert "## Robustness" not in render_model_card(model)
        change = {"change": "typos", "severity": 0.3, "accuracy": 0.7123, "macro_f1": 0.6}
        change |= {"accuracy_change": [-0.05, -0.0612, -0.0401], "risk": "low", "noticed": 0.25}
        record = {"schema_version": 1, "weights_sha256": "0" * 64, "papers": 1000, "accuracy": 0.7623}
        write_json(model / "monitoring/robustness.json", record | {"changes": [change]})
        assert "| typos | 0.3 | 0.712 | -0.050 (-0.061 to -0.040) | low | 25% |" in render_model_card(model)

    def test_exports(self, model: Path) -> None:
        """Size and agreement of each file, the engine that loads the fastest, the handler where it is."""
        card = render_model_card(add_export(model), repo_id="user/m", version="v0.1.0")
        measured = "the weights | 3,293 | 100.00% | 0.00 points | 3.2e-07 | 0.0001 |"
        assert f"| `onnx/model.onnx` | ONNX export, fp32 | 2 MB | {measured}" in card
        assert 'load_predictor("user/m@v0.1.0", engine="onnx")' in card
        assert "Inference Endpoints" not in card
        (model / "handler.py").write_text("class EndpointHandler: ...")
        (model / "onnx/model_int8.onnx").write_bytes(b"smaller")
        parity = json.loads((model / "onnx/parity.json").read_text())
        int8 = {"reference": "onnx/model.onnx", "max_difference": 0.051, "tolerance": 0.2}
        parity["exports"]["onnx/model_int8.onnx"] = int8
        write_json(model / "onnx/parity.json", parity)
        card = render_model_card(model)
        measured = "| `onnx/model.onnx` | example texts | not measured | not measured | 0.051 | 0.2 |"
        assert f"ONNX export, int8 | 0 MB {measured}" in card
        assert 'engine="int8")' in card
        assert "`handler.py` and `requirements.txt` serve them on Inference Endpoints" in card
        del parity["exports"]["onnx/model_int8.onnx"]["max_difference"]
        write_json(model / "onnx/parity.json", parity)
        with pytest.raises(UserError, match=r"onnx/model_int8\.onnx\.max_difference"):
            render_model_card(model)

    def test_training_curve_terms_and_map(self, tmp_path: Path) -> None:
        """Shown where they are; no curve of a linear baseline, no terms of other weights."""
        folder = make_model_dir(tmp_path / "m", TFIDF)
        card = render_model_card(folder)
        assert "](training_curve.png)" in card
        assert "## What it looks at" not in card
        change_json(folder / "run.json", training={"rounds": 0, "papers_seen": 1400})
        weights = read_model_directory(folder).weights_sha256()
        record = {"weights_sha256": weights, "terms": {"cs.CL": {"parsing": 2.0, "title:words": 1.0}}}
        write_json(folder / "eval/terms.json", record)
        card = render_model_card(folder)
        assert '| `cs.CL` | "parsing", "title:words" |' in card
        assert "](training_curve.png)" not in card
        change_json(folder / "eval/terms.json", weights_sha256="0" * 64)
        for name in ("eval/embeddings.png", "terms.png"):
            (folder / name).write_bytes(PNG)
        card = render_model_card(folder)
        assert "](terms.png)" in card
        assert "parsing" not in card
        assert "](eval/embeddings.png)" in card
