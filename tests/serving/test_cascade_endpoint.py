"""A cascade in real processes: two trained models, the export, the fit, the endpoint."""

from __future__ import annotations

import csv

import pytest

from arxiv_cls.models.cascade import load_cascade

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory, write_recipe, sample_csv, run_python):
    """A tiny transformer with its fp32 export and a linear baseline, both trained on the sample."""
    folder = tmp_path_factory.mktemp("cascade")
    recipe = write_recipe(folder / "tiny.yaml", data={"max_samples": None})
    for words in (
        ["arxiv_cls/train.py", recipe, "--trainer.output_dir", folder / "model"],
        ["-m", "arxiv_cls.cli", "export", folder / "model", "--no-int8"],
        ["arxiv_cls/train_tfidf.py", "recipes/tfidf_linear.yaml", "--data.csv", sample_csv,
         "--trainer.output_dir", folder / "baseline"],
    ):  # fmt: skip
        done = run_python(*words)
        assert done.returncode == 0, done.stderr
    return folder / "model", folder / "baseline"


class TestCascadeEndpoint:
    """`arxiv-cls cascade`, then `arxiv-cls serve --cascade`."""

    def test_refused_then_fitted_then_served(self, pair, start_server, sample_csv, run_python):
        """An unfitted pair does not start and names the command; after it, answers are the predictor's."""
        model, baseline = pair
        options = ["--engine", "onnx", "--cascade", baseline]
        refused = start_server(model, *options, ready=False)
        assert refused.process.wait(120) == 2
        command = f"arxiv-cls cascade {model} {baseline} --engine onnx"
        assert command in refused.output.read_text()

        fitted = run_python("-m", "arxiv_cls.cli", *command.split()[1:])
        assert fitted.returncode == 0, fitted.stderr
        assert fitted.stdout.count("<- chosen") == 1

        with sample_csv.open(encoding="utf-8", newline="") as file:
            texts = [f"{row['title']}\n\n{row['summary']}" for row in csv.DictReader(file)][:40]
        said = load_cascade(model, baseline, engine="onnx").predict([*texts, "images"])
        server = start_server(model, *options)
        answers = [server.call("/predict", {"text": text})[1] for text in [*texts, "images"]]
        assert [answer["code"] for answer in answers] == [one.label for one in said]
        assert [answer["answered_by"] for answer in answers] == [one.answered_by for one in said]
        assert server.call("/info")[1]["kind"] == "cascade"
        assert server.stop() == 0
