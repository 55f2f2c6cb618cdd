"""Sweep files as W&B reads them, and the local search with a program that only computes a number."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from factories import ROOT
from filelock import FileLock
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from arxiv_cls import train_tfidf
from arxiv_cls.errors import UserError
from arxiv_cls.recipe import TfidfRecipe, load_recipe
from arxiv_cls.training.sweeps import Sweep, SweepStudy, best_recipe, override, read_sweep

SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))
COMMAND = ["${env}", "${interpreter}", "${program}", "recipes/tfidf_linear.yaml", "--no-evaluate", "${args}"]
SEVERAL = [*COMMAND[:3], "recipes/tfidf_multilabel.yaml", *COMMAND[4:]]
SMALL = [*COMMAND[:4], "--data.max_samples=400", *COMMAND[4:]]
GOOD = {
    "program": "arxiv_cls/train_tfidf.py",
    "method": "bayes",
    "metric": {"name": "validation/macro_f1", "goal": "maximize"},
    "parameters": {"model.svm_cost": {"min": 0.1, "max": 1.0}},
    "command": COMMAND,
}
COST = FloatDistribution(0.05, 0.8, log=True)
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


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    """Paths in a sweep file are seen from the project's root."""
    monkeypatch.chdir(ROOT)


def written(folder: Path, **changes: object) -> Path:
    """A sweep file: the good one with these keys changed; None takes a key away."""
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """A search of one key with the stand-in."""
    (tmp_path / "program.py").write_text(PROGRAM)
    file = read_sweep(written(tmp_path, command=SMALL))
    return file.model_copy(
        update={"program": str(tmp_path / "program.py"), "parameters": {"model.svm_cost": COST}}
    )


def with_costs(sweep: Sweep, *choices: float, **changes: object) -> Sweep:
    """The search over these costs alone."""
    space = {"model.svm_cost": CategoricalDistribution(choices)}
    return sweep.model_copy(update={"parameters": space, **changes})


def costs(study: SweepStudy) -> list[float]:
    """The costs of the finished trials, oldest first."""
    return [trial.params["model.svm_cost"] for trial in study.finished]


def search(sweep: Sweep, folder: Path, count: int, data_md5: str = "md5") -> SweepStudy:
    """A study that was run until so many trials are finished."""
    study = SweepStudy(sweep, folder, data_md5)
    study.run(count, lambda trial: None)
    return study


class TestFiles:
    """What is read, and what is refused."""

    @pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
    def test_both_readers(self, path):
        """Ours takes the project's files; W&B's code makes command lines of them that our scripts take."""
        from wandb.sdk.launch.sweeps.utils import (
            create_sweep_command,
            create_sweep_command_args,
            load_sweep_config,
        )

        sweep = read_sweep(path.relative_to(ROOT))
        config = load_sweep_config(str(path))
        assert set(config["parameters"]) == set(sweep.parameters)
        values = {
            key: space.choices[-1] if isinstance(space, CategoricalDistribution) else space.high
            for key, space in sweep.parameters.items()
        }
        words = create_sweep_command(config["command"])
        flags = create_sweep_command_args({"args": {key: {"value": v} for key, v in values.items()}})["args"]
        assert flags == [override(key, value) for key, value in values.items()]
        line = [*words[words.index("${program}") + 1 : words.index("${args}")], *flags]
        arguments, overrides = train_tfidf.parse_arguments(line)
        assert arguments.no_evaluate
        recipe = sweep.load_recipe(overrides)
        assert recipe.trainer.output_dir.startswith("outputs/.sweeps/wandb/")
        for key, value in values.items():
            group, _, name = key.partition(".")
            assert getattr(getattr(recipe, group), name) == value

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"value": 0.5}, CategoricalDistribution([0.5])),
            # A word whose text would change on the way stays one.
            ({"values": [0.1, "2e-1", "007"]}, CategoricalDistribution([0.1, "2e-1", "007"])),
            ({"min": 0.1, "max": 1.0}, FloatDistribution(0.1, 1.0)),
            ({"min": 1, "max": 4}, IntDistribution(1, 4)),
            ({"min": 1, "max": 4, "distribution": "uniform"}, FloatDistribution(1.0, 4.0)),
            ({"min": "1e-2", "max": 1, "distribution": "log_uniform_values"},
             FloatDistribution(0.01, 1.0, log=True)),
            ({"min": 0.1, "max": 1.0, "q": 0.3, "distribution": "q_uniform"},
             FloatDistribution(0.1, 1.0, step=0.3)),
        ],
    )  # fmt: skip
    def test_space(self, tmp_path, given, expected):
        """As W&B means it: whole ends make a range of whole numbers."""
        sweep = read_sweep(written(tmp_path, parameters={"model.svm_cost": given}))
        assert sweep.parameters == {"model.svm_cost": expected}

    def test_defaults_and_fixed_overrides(self, tmp_path):
        """Folder and tracker are the agent's; the other overrides are every trial's."""
        words = ["--data.max_samples=400", "--trainer.output_dir=x", "--trainer.report_to=wandb"]
        sweep = read_sweep(written(tmp_path, command=[*COMMAND[:4], *words, "--overwrite", *COMMAND[4:]]))
        assert sweep.command == (Path("recipes/tfidf_linear.yaml"), ("--data.max_samples=400",))
        assert (sweep.run_cap, sweep.metric_name) == (20, "macro_f1")
        metric = {"name": "validation/lrap", "goal": "maximize"}
        assert read_sweep(written(tmp_path, metric=metric, command=SEVERAL)).metric_name == "lrap"

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"program": "train.py"}, "program: 'train.py' should be 'arxiv_cls/train.py'"),
            ({"method": None}, "method: missing"),
            ({"metod": "grid"}, "metod: unknown key; did you mean method?"),
            ({"metric": {"name": "test/macro_f1"}}, "'test/macro_f1' should be 'validation/accuracy'"),
            ({"metric": {"name": "validation/macro_f1"}}, "'minimize', for macro_f1 write maximize"),
            ({"metric": {"name": "validation/lrap", "goal": "maximize"}}, "no lrap for data.task single"),
            ({"metric": {"name": "validation/accuracy", "goal": "maximize"}, "command": SEVERAL},
             "metric: no accuracy for data.task multi_label; there are macro_f1, micro_f1, lrap"),
            ({"metric": {"name": "validation/macro_f1", "goal": "up"}}, "metric.goal: 'up' should be"),
            ({"run_cap": 0}, "run_cap: '0' should be greater than or equal to 1"),
            ({"parameters": {}}, "parameters: keys of the recipe"),
            ({"parameters": {"svm_cost": {"value": 1}}}, "name the group too"),
            ({"parameters": {"model.svm_cots": {"value": 1}}}, "unknown key; did you mean svm_cost?"),
            ({"parameters": {"model.svm_cost": {"min": -1.0, "max": 1.0}}}, "'-1.0' should be greater"),
            ({"parameters": {"model.svm_cost": {"min": 1.0}}}, "either value, or values, or min and max"),
            ({"parameters": {"model.svm_cost": {"min": 2, "max": 1}}}, "min below max"),
            ({"parameters": {"model.svm_cost": {"values": [[1]]}}}, "null and lists are not supported"),
            ({"parameters": {"model.svm_cost": {"distribution": "normal", "min": 1, "max": 2}}},
             "'normal' is not supported for 1 to 2; there are int_uniform, uniform, q_uniform"),
            ({"parameters": {"model.svm_cost": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.4}}},
             "must divide the distance"),
            ({"parameters": {"model.svm_cost": {"values": [1], "probabilities": [1]}}},
             "probabilities: not supported"),
            ({"method": "grid"}, "method grid needs `values`"),
            ({"command": None}, "command: missing"),
            ({"command": ["${program}", "--no-evaluate", "${args}"]}, "the recipe comes right after"),
            ({"command": ["${program}", "recipes/none.yaml", "--no-evaluate", "${args}"]}, "no such recipe"),
            ({"command": ["${program}", "recipes/tfidf_linear.yaml", "${args}"]}, "--no-evaluate is missing"),
            ({"command": [*COMMAND[:4], "--data.seed", "1", *COMMAND[4:]]}, "write an override as"),
            ({"command": [*COMMAND[:4], "--data.sed=1", *COMMAND[4:]]}, "data.sed: unknown key"),
            ({"command": [*COMMAND[:4], "--overwrite", *COMMAND[4:]]}, "replace the recipe's own model"),
        ],
    )  # fmt: skip
    def test_refused(self, tmp_path, changes, expected):
        """The message names the file, the key and what is allowed."""
        with pytest.raises(UserError) as error:
            read_sweep(written(tmp_path, **changes))
        assert expected in str(error.value)
        assert "sweep.yaml: " in str(error.value)

    def test_data_of_the_hub(self, tmp_path, monkeypatch):
        """It is asked for; a Hub that does not give it is told."""
        from arxiv_cls import sweep

        def no_answer(*names, **options):
            raise OSError("no answer")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", no_answer)
        words = ["--data.csv=hf://datasets/user/papers/papers.csv"]
        file = written(tmp_path, command=[*COMMAND[:4], *words, *COMMAND[4:]])
        with pytest.raises(UserError, match=r"hf://datasets/user/papers/papers\.csv: no answer"):
            sweep.main([str(file), "--out", str(tmp_path / "study")])

    def test_all_at_once(self, tmp_path):
        """Problems of the file and of the recipe's values together; no file, and no mapping."""
        parameters = {"model.svm_cost": {"values": [0, 1]}, "model.min_df": {"min": 0, "max": 3}}
        with pytest.raises(UserError, match="4 problems") as error:
            read_sweep(written(tmp_path, method="best", run_cap="many", parameters=parameters))
        for part in ("method", "run_cap", "model.svm_cost: '0' should", "model.min_df: '0' should"):
            assert part in str(error.value)
        with pytest.raises(UserError, match="no such sweep file"):
            read_sweep(tmp_path / "none.yaml")
        (tmp_path / "list.yaml").write_text("- a")
        with pytest.raises(UserError, match="a sweep file is a mapping with program"):
            read_sweep(tmp_path / "list.yaml")

    def test_best_recipe(self, tmp_path):
        """It loads, has the best values and the recipe's others, and says where it comes from."""
        record = {"data": {"csv": "arxiv.csv", "md5": "abc"}, "git": {"commit": "0123456789abcdef"}}
        values = {"model.svm_cost": 2e-05, "trainer.cpu_threads": 2}
        text = best_recipe(read_sweep(written(tmp_path, command=SMALL)), values, 0.71234, record)
        (tmp_path / "best.yaml").write_text(text)
        best = load_recipe(tmp_path / "best.yaml", [], TfidfRecipe)
        own = load_recipe("recipes/tfidf_linear.yaml", [], TfidfRecipe)
        assert (best.model.svm_cost, best.trainer.cpu_threads, best.data) == (2e-05, 2, own.data)
        assert best.given["model"] == own.given["model"] | {"svm_cost": 2e-05}
        assert best.release == own.release
        for part in ("macro_f1 0.7123", "validation split", "# model.svm_cost: swept, was 0.2",
                     "--data.max_samples=400", "md5 abc", "0123456789ab."):  # fmt: skip
            assert part in text


class TestSearch:
    """Trials run, are kept, and are gone on with."""

    def test_run_and_go_on(self, sweep, tmp_path):
        """The recipe itself comes first; a second run adds what is missing, and proposes nothing twice."""
        folder = tmp_path / "study"
        assert costs(search(sweep, folder, 3))[0] == 0.2
        again = search(sweep, folder, 3)
        assert [trial.number for trial in again.finished] == [0, 1, 2]
        seen: list[int] = []
        again.run(6, lambda trial: seen.append(trial.number))
        assert seen == [3, 4, 5]
        assert len(set(costs(again))) == 6
        best = min(costs(again), key=lambda cost: abs(cost - 0.3))
        assert again.study.best_params == {"model.svm_cost": best}
        assert again.study.best_value == pytest.approx(1 - abs(best - 0.3))
        # Weights go, logs and records stay; the record shows what the program was given.
        names = {path.name for path in folder.iterdir()} - {"running.lock"}
        assert names == {"study.db"} | {f"trial-{n:04}{kind}" for n in range(6) for kind in (".json", ".log")}
        given = again.record(again.finished[0])["arguments"]
        assert given[:2] == ["--data.max_samples=400", "--model.svm_cost=0.2"]
        assert given[-2:] == ["--overwrite", "--no-evaluate"]

    def test_an_interrupted_trial_is_trained_anew(self, sweep, tmp_path):
        """A trial that was under way when the process died gets its values again."""
        killed = search(sweep, tmp_path / "study", 2)
        lost = killed.study.ask(killed.sweep.parameters)
        (tmp_path / "study" / f"trial-{lost.number:04}").mkdir()
        assert costs(search(sweep, tmp_path / "study", 3))[2] == lost.params["model.svm_cost"]
        assert not (tmp_path / "study" / f"trial-{lost.number:04}").exists()

    def test_grid(self, sweep, tmp_path):
        """Each point once over two runs; one that fails is named, and tried again alone."""
        sweep = with_costs(sweep, 0.1, 0.95, 0.4, method="grid")
        search(sweep, tmp_path / "study", 1)
        for trials in (3, 4):
            study = SweepStudy(sweep, tmp_path / "study", "md5")
            message = r"1 of 3 points of the grid failed: \{'model.svm_cost': 0.95\}"
            with pytest.raises(UserError, match=message):
                study.run(50, lambda trial: None)
            assert sorted(costs(study)) == [0.1, 0.4]
            assert len(study.study.trials) == trials

    def test_failures_in_a_row(self, sweep, tmp_path):
        """Three end the search with the last one's message."""
        with pytest.raises(UserError, match=r"3 trials in a row failed; the last one: a cost of 0.9\d"):
            search(with_costs(sweep, 0.95, 0.99), tmp_path / "study", 5)

    def test_another_search(self, sweep, tmp_path):
        """Other data, another space or another recipe do not mix with what is there, nor do two processes."""
        SweepStudy(sweep, tmp_path / "study", "md5")
        fixed = sweep.command._replace(fixed=("--data.max_samples=800",))
        with pytest.raises(UserError) as error:
            SweepStudy(with_costs(sweep, 0.1, command=fixed), tmp_path / "study", "md6")
        for part in ("data md5: was md5, is md6", "recipe.data.max_samples: was 400, is 800",
                     "parameters.model.svm_cost", "move"):  # fmt: skip
            assert part in str(error.value)
        with FileLock(tmp_path / "study" / "running.lock"), pytest.raises(UserError, match="runs this study"):
            search(sweep, tmp_path / "study", 1)


@pytest.mark.slow
def test_ctrl_c_and_again(tmp_path):
    """The command on the sample: stopped in the second trial it goes on later, and its recipe trains."""
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
    assert set(json.loads((folder / "trial-0000.json").read_text())["metrics"]) == {"validation"}
    best = folder / "tfidf_linear_best.yaml"
    assert "# model.svm_cost: swept, was 0.2" in best.read_text()
    output = tmp_path / "best"
    words = [str(best), "--data.csv", "data/sample/arxiv_sample.csv", "--trainer.output_dir", str(output)]
    train = [sys.executable, "arxiv_cls/train_tfidf.py", *words, "--data.max_samples", "200"]
    subprocess.run(train, cwd=ROOT, capture_output=True, timeout=600, check=True)
    assert (output / "README.md").is_file()
