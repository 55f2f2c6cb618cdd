"""The local search with a program that only computes a number: trials, going on, failures, a grid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.training.sweeps import Parameter, Sweep, SweepStudy

ROOT = Path(__file__).resolve().parents[2]
COST = Parameter((), 0.05, 0.8, log=True)
# Stands in for train_tfidf.py: best at a cost of 0.3, and it refuses costs from 0.9.
PROGRAM = """
import json, pathlib, sys
given = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
cost = float(given["model.svm_cost"])
if cost >= 0.9:
    sys.exit(f"error: a cost of {cost} is too much")
folder = pathlib.Path(given["trainer.output_dir"])
folder.mkdir()
(folder / "weights").write_text("w")
record = {"metrics": {"validation": {"macro_f1": 1 - abs(cost - 0.3)}}, "arguments": sys.argv[2:]}
(folder / "run.json").write_text(json.dumps(record))
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> Sweep:
    """A search of one key with the stand-in."""
    monkeypatch.chdir(ROOT)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    recipe = Path("recipes/tfidf_linear.yaml")
    fixed = ("--data.max_samples=400",)
    parameters = {"model.svm_cost": COST}
    return Sweep(Path("small.yaml"), str(program), recipe, fixed, "bayes", "macro_f1", True, 3, parameters)


def costs(study: SweepStudy) -> list[float]:
    """The costs of the finished trials, oldest first."""
    return [trial.params["model.svm_cost"] for trial in study.finished]


class TestSearch:
    """Trials run, are kept, and are gone on with."""

    def test_run_and_go_on(self, sweep, tmp_path):
        """The recipe itself comes first; a second run adds what is missing, and proposes nothing twice."""
        folder = tmp_path / "study"
        study = SweepStudy(sweep, folder, "md5")
        seen: list[int] = []
        study.run(3, lambda trial: seen.append(trial.number))
        assert seen == [0, 1, 2]
        assert costs(study)[0] == 0.2

        again = SweepStudy(sweep, folder, "md5")
        again.run(3, lambda trial: pytest.fail("nothing is missing"))
        again.run(6, lambda trial: seen.append(trial.number))
        assert seen == [0, 1, 2, 3, 4, 5]
        assert len(set(costs(again))) == 6
        best = min(costs(again), key=lambda cost: abs(cost - 0.3))
        assert again.best().params == {"model.svm_cost": best}
        assert again.best().value == pytest.approx(1 - abs(best - 0.3))

        # Weights go, logs and records stay; the record shows what the program was given.
        names = {path.name for path in folder.iterdir()}
        kinds = (".json", ".log")
        assert names == {"study.db"} | {f"trial-{n:04}{kind}" for n in range(6) for kind in kinds}
        given = again.record(again.finished[0])["arguments"]
        assert given[:2] == ["--data.max_samples=400", "--model.svm_cost=0.2"]
        assert given[-2:] == ["--overwrite", "--no-evaluate"]

    def test_minimize(self, sweep, tmp_path):
        """Where less is better, the worst figure of the other test is the best of this one."""
        study = SweepStudy(replace(sweep, maximize=False), tmp_path / "study", "md5")
        study.run(4, lambda trial: None)
        assert study.best().value == min(trial.value for trial in study.finished)

    def test_an_interrupted_trial_is_trained_anew(self, sweep, tmp_path):
        """A trial that was under way when the process died gets its values again."""
        killed = SweepStudy(sweep, tmp_path / "study", "md5")
        killed.run(2, lambda trial: None)
        lost = killed.study.ask(killed.distributions)
        (tmp_path / "study" / f"trial-{lost.number:04}").mkdir()
        (tmp_path / "study" / "running").write_text("999999999")
        study = SweepStudy(sweep, tmp_path / "study", "md5")
        study.run(3, lambda trial: None)
        assert costs(study)[2] == lost.params["model.svm_cost"]
        assert not (tmp_path / "study" / f"trial-{lost.number:04}").exists()

    def test_grid(self, sweep, tmp_path):
        """Every point once, in two runs, and then the search is over."""
        points = (0.1, 0.2, 0.4)
        sweep = replace(sweep, method="grid", parameters={"model.svm_cost": Parameter(points)})
        SweepStudy(sweep, tmp_path / "study", "md5").run(2, lambda trial: None)
        study = SweepStudy(sweep, tmp_path / "study", "md5")
        study.run(50, lambda trial: None)
        assert sorted(costs(study)) == list(points)

    def test_grid_with_a_point_that_fails(self, sweep, tmp_path):
        """The other points are trained once; the failed one is named, and tried again alone."""
        parameters = {"model.svm_cost": Parameter((0.1, 0.95, 0.4))}
        sweep = replace(sweep, method="grid", parameters=parameters)
        for trials in (3, 4):
            study = SweepStudy(sweep, tmp_path / "study", "md5")
            with pytest.raises(
                UserError, match=r"1 of 3 points of the grid failed: \{'model.svm_cost': 0.95\}"
            ):
                study.run(50, lambda trial: None)
            assert sorted(costs(study)) == [0.1, 0.4]
            assert len(study.study.trials) == trials


class TestRefused:
    """What stops a search, and what it says."""

    def test_failures_in_a_row(self, sweep, tmp_path):
        """One failed trial is passed over; three in a row end the search with the last one's message."""
        parameters = {"model.svm_cost": Parameter((0.2, 0.95))}
        mixed = SweepStudy(replace(sweep, method="grid", parameters=parameters), tmp_path / "mixed", "md5")
        mixed.run(1, lambda trial: None)
        study = SweepStudy(
            replace(sweep, parameters={"model.svm_cost": Parameter((0.95, 0.99))}), tmp_path / "bad", "md5"
        )
        with pytest.raises(UserError, match=r"3 trials in a row failed; the last one: a cost of 0.9\d"):
            study.run(5, lambda trial: None)
        assert not study.finished
        assert not (tmp_path / "bad" / "running").exists()

    def test_another_search(self, sweep, tmp_path):
        """Other data, another space or another recipe do not mix with what is there."""
        SweepStudy(sweep, tmp_path / "study", "md5")
        other = replace(
            sweep, fixed=("--data.max_samples=800",), parameters={"model.svm_cost": replace(COST, low=0.1)}
        )
        with pytest.raises(UserError) as error:
            SweepStudy(other, tmp_path / "study", "md6")
        for part in ("data md5: was 'md5', is 'md6'", "recipe.data.max_samples: was 400, is 800",
                     "parameters.model.svm_cost", "move"):  # fmt: skip
            assert part in str(error.value)

    def test_one_runner(self, sweep, tmp_path):
        """Two processes would take each other's trials for interrupted ones."""
        study = SweepStudy(sweep, tmp_path / "study", "md5")
        (tmp_path / "study" / "running").write_text(str(os.getppid()))
        with pytest.raises(UserError, match="runs this study"):
            study.run(1, lambda trial: None)


@pytest.mark.slow
class TestProcess:
    """`python -m arxiv_cls.sweep` on the sample, with the real program."""

    def test_ctrl_c_and_again(self, tmp_path):
        """Stopped in the second trial it says how to go on; then it goes on, and its recipe trains."""
        file = tmp_path / "small.yaml"
        text = (ROOT / "recipes" / "sweeps" / "tfidf_linear.yaml").read_text()
        sample = "  - --data.csv=data/sample/arxiv_sample.csv\n  - --data.max_samples=200\n"
        file.write_text(text.replace("  - --overwrite\n", f"{sample}  - --overwrite\n"))
        folder = tmp_path / "study"
        command = [sys.executable, "-m", "arxiv_cls.sweep", str(file), "--trials", "3", "--out", str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while not (folder / "trial-0001.log").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "stopped after 1 of 3 trials; the same command goes on with them" in errors
        assert "Traceback" not in errors

        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
        assert "trial 0:" not in done.stdout
        assert "3 trials; the best is number" in done.stdout
        assert len(list(folder.glob("trial-*.json"))) == 3
        record = json.loads((folder / "trial-0000.json").read_text())
        assert set(record["metrics"]) == {"validation"}
        best = folder / "tfidf_linear_best.yaml"
        assert "# swept, was 0.2" in best.read_text()
        output = tmp_path / "best"
        words = [str(best), "--data.csv", "data/sample/arxiv_sample.csv", "--trainer.output_dir", str(output)]
        train = [sys.executable, "arxiv_cls/train_tfidf.py", *words, "--data.max_samples", "200"]
        subprocess.run(train, cwd=ROOT, capture_output=True, timeout=600, check=True)
        assert (output / "README.md").is_file()
