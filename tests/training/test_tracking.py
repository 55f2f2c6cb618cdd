"""Trackers: the log file, W&B offline with its run file read back, a local trackio board."""

import logging
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from wandb_runs import config, exit_code, history, recorded_to_the_end, run_files, summary

from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.training.tracking import Trackers, log_to_file


class TestLogFile:
    """The project's loggers, with times."""

    def test_another_rank_writes_nothing(self):
        """Of several ranks one keeps the log; the others keep their level."""
        before = logging.getLogger("arxiv_cls").level
        with log_to_file(None):
            assert logging.getLogger("arxiv_cls").level == before

    def test_lines(self, tmp_path):
        """What is said inside is in the file, and nothing of later."""
        with log_to_file(tmp_path / "train.log"):
            logging.getLogger("arxiv_cls.somewhere").info("step %d", 3)
        logging.getLogger("arxiv_cls.somewhere").info("later")
        assert (tmp_path / "train.log").read_text().rstrip().endswith("INFO step 3")


class TestWandb:
    """Without a key: offline, in the run's folder, no prompt."""

    def test_offline_run_is_whole(self, tmp_path, monkeypatch, capsys):
        """Metrics, the recipe and the data version are in the run file."""
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        start = time.monotonic()
        details = {"recipe": {"a": 1}, "data": {"md5": "f00"}}
        with Trackers(["wandb"], "tiny", tmp_path / "run", details) as trackers:
            waited = time.monotonic() - start
            trackers.log({"train/loss": 0.25}, step=7)
            trackers.log_final({"metrics": {"accuracy": 0.75}}, tmp_path)
        # A bound that holds a hang, not a speed.
        assert waited < 60
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B:")]
        assert "offline (no API key)" in line
        assert "wandb sync" in line
        (run_file,) = run_files(tmp_path / "run")
        records = recorded_to_the_end(run_file)
        assert history(records)["train/loss"] == 0.25
        assert config(records)["data"] == {"md5": "f00"}
        assert exit_code(records) == 0

    def test_online_without_a_key_is_no_prompt(self, tmp_path, monkeypatch, capsys):
        """Also where the person asked for it by name."""
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        with Trackers(["wandb"], "tiny", tmp_path / "run", {}):
            pass
        assert "offline (no API key)" in capsys.readouterr().err

    def test_a_run_that_fails_is_marked(self, tmp_path):
        """An exception that ends the run is its exit code."""
        with pytest.raises(KeyboardInterrupt), Trackers(["wandb"], "tiny", tmp_path / "run", {}):
            raise KeyboardInterrupt
        (run_file,) = run_files(tmp_path / "run")
        assert exit_code(recorded_to_the_end(run_file)) == 1

    def test_host_that_accepts_and_never_answers(self, tmp_path, monkeypatch, capsys):
        """The whole start is bounded, and the run goes on offline."""
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        # It listens, so that connections are accepted, and nobody ever reads them.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            start = time.monotonic()
            with Trackers(["wandb"], "tiny", tmp_path / "run", {}):
                assert time.monotonic() - start < 15
        assert "from 127.0.0.1)" in capsys.readouterr().err
        assert run_files(tmp_path / "run")

    def test_an_evaluation_goes_into_the_open_run(self, tmp_path, sample_csv):
        """The test metrics in its summary, the plots in its history, as `finish_run` leaves them."""
        release = Path(__file__).parents[1] / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"
        shutil.copytree(release, tmp_path / "model")
        with Trackers(["wandb"], "tiny", tmp_path / "run", {}):
            evaluation = evaluate_model(tmp_path / "model", data=sample_csv, rules=False)
        (run_file,) = run_files(tmp_path / "run")
        records = recorded_to_the_end(run_file)
        found = summary(records)
        for name in ("accuracy", "macro_f1", "expected_calibration_error"):
            assert found[f"test/{name}"] == evaluation["metrics"][name]
        assert found["test/f1/cs.CL"] == evaluation["metrics"]["per_class"]["cs.CL"]["f1"]
        for plot in ("confusion_matrix", "reliability", "accuracy_by_year"):
            assert f"test/{plot}/path" in history(records)

    def test_unreachable_host_with_a_key(self, tmp_path, monkeypatch, capsys):
        """A key but no network: offline, with the host named and the key nowhere."""
        key = "0123456789" * 4
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        with Trackers(["wandb"], "tiny", tmp_path / "run", {}):
            pass
        captured = capsys.readouterr()
        assert "offline (127.0.0.1 cannot be reached)" in captured.err
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if key.encode() in path.read_bytes()]
        assert key not in captured.out + captured.err


class TestTrackio:
    """A local board, on request."""

    def test_points_and_plots_are_on_the_board(self, tmp_path, run_python):
        """One board beside the runs of all recipes; a process of its own: trackio reads its folder once."""
        pytest.importorskip("trackio")
        release = Path(__file__).parents[1] / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"
        done = run_python(
            "-c",
            "import sys; from pathlib import Path; from arxiv_cls.training.tracking import Trackers\n"
            f"run = Path({str(tmp_path)!r}) / 'outputs' / '.checkpoints' / 'tiny'\n"
            "with Trackers(['trackio'], 'tiny', run, {'recipe': {}}) as trackers:\n"
            "    trackers.log({'train/loss': 0.25}, step=1)\n"
            f"    trackers.log_final({{'metrics': {{'accuracy': 0.75}}}}, Path({str(release)!r}))\n",
            env={key: value for key, value in os.environ.items() if key != "TRACKIO_DIR"},
        )
        assert done.returncode == 0, done.stderr
        assert "trackio show" in done.stderr
        assert list((tmp_path / "outputs" / ".trackio").rglob("*.db"))
        assert list((tmp_path / "outputs" / ".trackio").rglob("*.png"))

    def test_what_it_is_given(self, tmp_path, monkeypatch):
        """Metrics and every plot of the evaluation, the confusion matrix among them; closed at the end."""
        calls = []

        class Run:
            def log(self, values, **more):
                calls.append(values)

            def finish(self):
                calls.append("finished")

        board = SimpleNamespace(init=lambda **options: Run(), Image=lambda path: ("image", Path(path).name))
        monkeypatch.setitem(sys.modules, "trackio", board)
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
        release = Path(__file__).parents[1] / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"
        with Trackers(["trackio"], "tiny", tmp_path / "outputs" / ".checkpoints" / "tiny", {}) as trackers:
            trackers.log_final({"metrics": {"accuracy": 0.75, "per_class": {}}}, release)
        logged, end = calls
        assert logged["test/accuracy"] == 0.75
        assert logged["test/confusion_matrix"] == ("image", "confusion_matrix.png")
        assert end == "finished"
