"""The benchmarks: a side that fails is one clear error, and each runs on the sample."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder that stands for a clone."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


class TestFailingSide:
    """Each side is a process of its own; what it says comes first, then one line of the benchmark."""

    @pytest.mark.parametrize("name", ["corpus", "baseline", "training"])
    def test_no_traceback(self, name, tmp_path, run_python):
        """A CSV with no rows: the side that met it is named."""
        csv = tmp_path / "papers.csv"
        csv.write_text("id,title,category_code,published_date,summary\n")
        words = {"corpus": ["--repeats", "1"], "baseline": ["--seeds", "42", "--skip-stock"]}.get(name, [])
        done = run_python(f"benchmarks/bench_{name}.py", "--csv", csv, *words)
        assert done.returncode == 2
        assert "a header and no rows" in done.stderr
        assert "ended with exit status 2" in done.stderr
        assert "Traceback" not in done.stderr


class TestModel:
    """Which model is measured: the one that is named, or one that is there."""

    @pytest.mark.parametrize("name", ["predict", "serving"])
    @pytest.mark.parametrize(
        ("made", "words", "said"),
        [
            ([], [], "no model: outputs/minilm and outputs/demo are missing"),
            (["outputs/demo"], [], "outputs/demo: onnx/model_int8.onnx is missing\n  arxiv-cls export"),
            (["outputs/demo", "outputs/x"], ["--model", "outputs/x"], "outputs/x: onnx/model_int8.onnx is"),
            (["outputs/demo"], ["--model", "outputs/none"], "no model: outputs/none are missing"),
        ],
    )  # fmt: skip
    def test_what_is_missing(self, name, made, words, said, tmp_path, sample_csv):
        """One error that names what makes it."""
        for folder in made:
            (tmp_path / folder).mkdir(parents=True)
        done = run_in(tmp_path, str(ROOT / f"benchmarks/bench_{name}.py"), "--csv", str(sample_csv), *words)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {said}")


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process of Windows at once")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ending_it_ends_its_children(number, sample_csv):
    """The benchmark that runs and the side that it measures end with the process that was told to."""
    command = [sys.executable, "-m", "benchmarks", "baseline", "--csv", str(sample_csv)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 60
        while len(children) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.send_signal(number)
        assert process.wait(60) == 130
        assert not [child for child in children if child.is_running()]
    finally:
        for child in children:
            if child.is_running():
                child.kill()
        process.kill()
        process.wait()


@pytest.mark.slow
class TestOnTheSample:
    """One short run each."""

    def test_after_the_demo(self, tmp_path):
        """A model with its export and no cascade: it is named, and so is what the other sides need."""
        (tmp_path / "data/sample").mkdir(parents=True)
        shutil.copy(ROOT / "data/sample/arxiv_sample.csv", tmp_path / "data/sample")
        shutil.copytree(ROOT / "tests/fixtures/releases/v0.1.0/tiny-transformer", tmp_path / "outputs/demo")
        assert run_in(tmp_path, "-m", "arxiv_cls.cli", "export", "outputs/demo").returncode == 0
        done = run_in(tmp_path, "-m", "benchmarks", "predict")
        assert done.returncode == 0, done.stderr
        assert "papers: data/sample/arxiv_sample.csv, which is synthetic" in done.stdout
        assert "model: outputs/demo, baseline: outputs/demo_tfidf_xgboost" in done.stdout
        assert "left out: int8-budget, cascade" in done.stdout
        assert "int8 against pipeline" in done.stdout
        short = ["--seconds", "0.5", "--rounds", "1", "--starts", "1"]
        sample = ["--csv", "data/sample/arxiv_sample.csv"]
        done = run_in(tmp_path, str(ROOT / "benchmarks/bench_serving.py"), *sample, *short)
        assert done.returncode == 0, done.stderr
        assert "left out: cascade" in done.stdout
        assert "start to first answer, int8" in done.stdout

    @pytest.mark.parametrize(
        ("name", "words", "printed"),
        [("corpus", ["--repeats", "1"], "ratio ours / stock"),
         ("baseline", ["--seeds", "42", "--skip-stock"], "macro-F1"),
         ("training", ["--papers", "32", "--sides", "stock", "ours-frozen-half"], "ours-frozen-half")],
    )  # fmt: skip
    def test_runs(self, name, words, printed, sample_csv, run_python):
        """It ends with its figures."""
        done = run_python(f"benchmarks/bench_{name}.py", "--csv", sample_csv, *words)
        assert done.returncode == 0, done.stderr
        assert printed in done.stdout
