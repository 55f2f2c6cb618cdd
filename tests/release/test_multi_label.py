"""A multi-label model: its card and its gate by hand; released, it gives the same scores everywhere."""

from __future__ import annotations

import csv
import json
import runpy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import SAMPLE, add_export, change_json, make_model_dir, record_again, several_labels
from local_hub import LocalHub
from starlette.testclient import TestClient
from test_card import front_matter, table_rows

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.export import quantization
from arxiv_cls.models.predictor import load_predictor, locate_model
from arxiv_cls.record.directory import read_model_directory
from arxiv_cls.release.card import render_model_card
from arxiv_cls.release.push_model import push_model, run_gate
from arxiv_cls.release.rescoring import score_difference
from arxiv_cls.release.verify import check_card, verify_release

REPO = "user/arxiv-several"
BY_HAND = {
    "Macro F1": "0.722",  # (1 + 1/2 + 2/3) / 3
    "Micro F1": "0.727",  # 2 * 4 / (6 + 5)
    "Label ranking average precision": "0.875",  # a wrong label stands before the right one of one paper
    "Subset accuracy": "0.250",
    "Mean average precision": "0.944",  # (1 + 5/6 + 1) / 3
    "Log-loss": "0.409",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The four papers of `several_labels`."""
    return make_model_dir(tmp_path / "model", scored=several_labels())


class TestCard:
    """What the card says of it."""

    def test_by_hand(self, model: Path) -> None:
        """Metrics, labels with thresholds, what 0.5 would give; nothing that needs one label a paper."""
        card = render_model_card(add_export(model))
        results = table_rows(card[card.index("| metric |") : card.index("| label | precision")])
        assert {name: row[0] for name, row in results.items() if name != "metric"} == BY_HAND
        assert table_rows(card)["cs.CV"][1] == "0.400"
        rows = table_rows(card[card.index("| label | precision") :])
        assert rows["stat.ML"][:3] == ["1.000", "0.500", "0.667"]
        assert table_rows(card[card.index("| label | average precision") :])["cs.CV"][0] == "0.833"
        assert "lists 1.50 of these categories on average and gets 1.25; 25.0% of the papers get none" in card
        assert "a macro F1 of 0.833 and a micro F1 of 0.833" in card
        assert "top_k=None)" in card
        assert "sigmoid" in card
        for word in ("onfusion", "90% set", "primary category, which", "accuracy_by_year", "Top-2"):
            assert word not in card, word
        metadata = front_matter(card)
        values = {one["name"]: one["value"] for one in metadata["model-index"][0]["results"][0]["metrics"]}
        assert values["Macro F1"] == pytest.approx(13 / 18, abs=1e-6)
        assert values["Label ranking average precision"] == 0.875
        assert (metadata["metrics"], "multi-label" in metadata["tags"]) == (["f1"], True)

    def test_a_label_without_test_papers(self, tmp_path: Path) -> None:
        """It has no average precision, and the card says so."""
        scored = several_labels()
        listed = scored.listed & [True, True, False]
        folder = make_model_dir(tmp_path / "rare", scored=replace(scored, listed=listed))
        card = render_model_card(folder)
        assert table_rows(card[card.index("| label | average precision") :])["stat.ML"][0] == "no paper"


class TestGate:
    """The checks that read its files."""

    def test_passes(self, model: Path) -> None:
        """Without the files of a single-label model, and with the figures of its predictions."""
        report = run_gate(model)
        assert report.refused == []
        assert check_card_of(model) == []

    @pytest.mark.parametrize("name", ["micro_f1", "lrap", "per_class"])
    def test_other_figures(self, model: Path, name: str) -> None:
        """A figure that is not that of the predictions is found, also of one label."""
        metrics = json.loads((model / "eval/metrics.json").read_text())["metrics"]
        if name == "per_class":
            metrics[name]["cs.CV"]["average_precision"] = 0.9
        else:
            metrics[name] += 0.01
        change_json(model / "eval/metrics.json", metrics=metrics)
        failed = {result.check for result in run_gate(record_again(model)).refused}
        assert "predictions" in failed

    @pytest.mark.parametrize(
        ("worse", "failed"), [(False, []), (True, ["quality", "calibration"])], ids=["same", "worse"]
    )
    def test_against_a_release(self, model: Path, tmp_path: Path, worse: bool, failed: list[str]) -> None:
        """Macro-F1 and the log-loss are those of the labels, on the same papers."""
        scored = several_labels()
        many = {
            "listed": np.tile(scored.listed, (50, 1)),
            "probabilities": np.tile(scored.probabilities, (50, 1)),
        }
        many |= {name: np.tile(getattr(scored, name), 50) for name in ("labels", "published", "words")}
        many["arxiv_ids"] = np.asarray([f"1501.{number:05d}" for number in range(200)], dtype=object)
        good = replace(scored, **many)
        bad = replace(good, probabilities=1 - good.probabilities)
        released = make_model_dir(tmp_path / "released", scored=good)
        candidate = make_model_dir(tmp_path / "candidate", scored=bad if worse else good)
        report = run_gate(candidate, current=released, current_version="v0.1.0")
        assert [result.check for result in report.refused] == failed

    def test_not_beside_a_single_label_model(self, model: Path, tmp_path: Path) -> None:
        """The two are not compared."""
        released = make_model_dir(tmp_path / "released")
        report = run_gate(model, current=released, current_version="v0.1.0")
        assert {result.check for result in report.refused} == {"quality", "calibration"}

    def test_int8_is_judged_by_its_labels(self) -> None:
        """Of scores whose order stays, a label below its threshold counts: F1 2 * 300 / (600 + 300)."""
        recorded, found = np.full((300, 2), [0.9, 0.5]), np.full((300, 2), [0.9, 0.45])
        limits = {"tolerance": 0.5, "least_equal_labels": 0.99}
        assert score_difference(found, recorded, limits) == ""
        assert "200 of 300 labels" in score_difference(found, recorded, limits, np.array([0.5, 0.48]))


def check_card_of(folder: Path) -> list[str]:
    """What the written card says otherwise than the records."""
    main(["card", str(folder)])
    return check_card(read_model_directory(folder))[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_recipe, run_python) -> Path:
    """A tiny transformer trained on the sample, whose papers list two categories each, with its exports."""
    folder = tmp_path_factory.mktemp("several")
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    codes = sorted({row["category_code"] for row in rows})
    for number, row in enumerate(rows):
        second = codes[(codes.index(row["category_code"]) + number % 3) % len(codes)]
        row["categories"] = f"{row['category_code']} {second}"
    with (folder / "papers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    recipe = write_recipe(
        folder / "several.yaml",
        csv_path=folder / "papers.csv",
        data={"task": "multi_label", "max_samples": None},
        # Enough to tell the labels apart: calibration would blow up the rounding of logits that do not.
        trainer={"num_train_epochs": 12, "learning_rate": 1.0e-2},
    )
    done = run_python("arxiv_cls/train.py", recipe, "--trainer.output_dir", folder / "model")
    assert done.returncode == 0, done.stderr[-3000:]
    with pytest.MonkeyPatch.context() as patch:
        # Random weights leave papers between two answers; two candidates show what all would.
        patch.setattr(quantization, "WANTED_EQUAL_LABELS", 0.5)
        patch.setattr(quantization, "LEAST_EQUAL_LABELS", 0.5)
        patch.setattr(quantization, "LARGEST_ACCURACY_FALL", 0.5)
        patch.setattr(quantization, "CANDIDATES", quantization.CANDIDATES[1:3])
        main(["export", str(folder / "model"), "--data", str(folder / "papers.csv")])
    return folder / "model"


@pytest.mark.slow
def test_one_release_everywhere(hub: LocalHub, trained: Path, sample_csv: Path) -> None:
    """From the Hub: `pipeline()`, torch, ONNX, int8, handler, endpoint and page give the same scores."""
    from transformers import pipeline

    from arxiv_cls.serving.app import create_app
    from arxiv_cls.serving.settings import ServingSettings
    from arxiv_cls.space.predictions import as_reply, load_space_model

    data = trained.parent / "papers.csv"
    outcome = push_model(trained, REPO, csv=data, overrides=["commit", "clean-tree"])
    assert {result.check for result in outcome.gate.overridden} <= {"commit", "clean-tree"}
    release = f"{REPO}@v0.1.0"
    assert verify_release(release, csv=data).reproduced
    with sample_csv.open(encoding="utf-8", newline="") as file:
        papers = [(row["title"], row["summary"]) for row in csv.DictReader(file)][:12]
    texts = ["\n\n".join(paper) for paper in papers]
    classify = pipeline("text-classification", model=REPO, revision="v0.1.0", device="cpu")
    labels = load_predictor(trained).labels
    said = classify(texts, top_k=None, truncation=True)
    expected = np.array(
        [[{one["label"]: one["score"] for one in row}[name] for name in labels] for row in said]
    )
    assert np.abs(expected.sum(axis=1) - 1).max() > 0.01

    def scores_of(rows: list[dict[str, float]]) -> np.ndarray:
        return np.array([[row[label] for label in labels] for row in rows])

    found = {
        engine: load_predictor(release, engine=engine).predict_proba(texts) for engine in ("torch", "onnx")
    }
    handler = runpy.run_path(str(locate_model(release, engine="onnx") / "handler.py"))["EndpointHandler"]
    answers = handler(str(locate_model(release, engine="onnx")))(
        {"inputs": texts, "parameters": {"top_k": None}}
    )
    found["handler"] = scores_of([{one["label"]: one["score"] for one in row} for row in answers])
    app = create_app(ServingSettings(model=release, threads=1))
    with TestClient(app) as client:
        while client.get("/health").status_code == 503:
            assert app.state.endpoint.failure is None
            time.sleep(0.05)
        replies = client.post("/predict", json={"instances": texts}).json()["predictions"]
        hugging_face = client.post(
            "/", json={"inputs": texts, "parameters": {"function_to_apply": "sigmoid"}}
        )
    found["endpoint"] = scores_of([reply["class_probabilities"] for reply in replies])
    found["POST /"] = scores_of([{one["label"]: one["score"] for one in row} for row in hugging_face.json()])
    space = load_space_model(release)
    page = [as_reply(space, prediction) for prediction in space.predict(texts)]
    found["page"] = scores_of([reply["scores"] for reply in page])
    for name, scores in found.items():
        assert np.abs(scores - expected).max() < 1e-5, name
    bound = json.loads((trained / "onnx/parity.json").read_text())["exports"]["onnx/model_int8.onnx"]
    int8 = load_predictor(release, engine="int8").predict_proba(texts)
    assert 0 < np.abs(int8 - expected).max() <= bound["tolerance"]
    thresholds = json.loads((trained / "config.json").read_text())["label_thresholds"]
    named = [{label for label, score, least in zip(labels, row, thresholds, strict=True) if score >= least}
             for row in expected]  # fmt: skip
    assert [set(reply["prediction_set"]) for reply in replies] == named
    assert [set(reply["prediction_set"]) for reply in page] == named
    with pytest.raises(UserError, match="is a multi-label model: monitoring compares"):
        main(["monitor", "drift", release, "--log", "log"])
