"""Trackers: the log file, W&B offline with its run file read back, a local trackio board."""

import json
import os
import socket
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import ROOT

from arxiv_cls import train, train_tfidf
from arxiv_cls.training import fine_tuning
from arxiv_cls.training.run_directory import Trackers

RELEASE = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"
HEADER_BYTES, BLOCK_BYTES, LAST_CHUNK_TYPES = 7, 32768, (1, 4)


def run_files(folder: Path) -> list[Path]:
    """The files of the offline runs in a run's folder, oldest first."""
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


def recorded_to_the_end(run_file: Path) -> list:
    """The records of a run file, once W&B's own process has written the last one."""
    from google.protobuf.message import DecodeError

    deadline = time.monotonic() + 60
    while True:
        try:
            records = recorded(run_file)
        except (struct.error, DecodeError):
            records = []
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < deadline, "the run file has no end"
        time.sleep(0.1)


def recorded(run_file: Path) -> list:
    """The records of a W&B run file: protobuf messages in LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position = run_file.read_bytes(), HEADER_BYTES
    assert data.startswith(b":W&B")
    records, message = [], b""
    while position < len(data):
        left_in_block = BLOCK_BYTES - position % BLOCK_BYTES
        if left_in_block < HEADER_BYTES:
            position += left_in_block
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        position += HEADER_BYTES
        message += data[position : position + length]
        position += length
        if kind in LAST_CHUNK_TYPES:
            records.append(wandb_internal_pb2.Record.FromString(message))
            message = b""
    return records


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(records: list) -> dict[str, Any]:
    """The last value of everything that was logged at a step."""
    return _values(item for record in records for item in record.history.item)


def summary(records: list) -> dict[str, Any]:
    """The summary of the run."""
    return _values(item for record in records for item in record.summary.update)


def config(records: list) -> dict[str, Any]:
    """The configuration of the run."""
    return _values(item for record in records for item in record.run.config.update)


def exit_code(records: list) -> int:
    """How the run ended."""
    (code,) = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    return code


class TestWandb:
    """Without a key: offline, in the run's folder, no prompt."""

    @pytest.fixture(autouse=True)
    def no_key_of_another_test(self):
        """W&B keeps the key that it found for the life of the process."""
        from wandb.sdk.lib import wbauth

        wbauth.unauthenticate_session()

    def test_a_run_that_fails_is_marked(self, tmp_path):
        """An exception that ends the run is its exit code."""
        with pytest.raises(KeyboardInterrupt), Trackers("wandb", "tiny", tmp_path / "run", {}):
            raise KeyboardInterrupt
        (run_file,) = run_files(tmp_path / "run")
        assert exit_code(recorded_to_the_end(run_file)) == 1

    def test_host_that_accepts_and_never_answers(self, tmp_path, monkeypatch, caplog):
        """The whole start is bounded, and the run goes on offline."""
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        # It listens, so that connections are accepted, and nobody ever reads them.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            start = time.monotonic()
            with Trackers("wandb", "tiny", tmp_path / "run", {}):
                assert time.monotonic() - start < 15
        assert "127.0.0.1 cannot be reached" in caplog.text
        assert run_files(tmp_path / "run")

    @pytest.mark.parametrize(
        ("key", "mode", "reason"),
        [(None, "online", "no API key"), ("0123456789" * 4, "", "127.0.0.1 cannot be reached")],
    )
    def test_offline_without_a_prompt(self, tmp_path, monkeypatch, capsys, caplog, key, mode, reason):
        """Also where WANDB_MODE is online; the host is named, and the key stands nowhere."""
        variables = {"WANDB_MODE": mode, "WANDB_API_KEY": key or "", "WANDB_BASE_URL": "http://127.0.0.1:9"}
        for name, value in (variables | {"HOME": str(tmp_path)}).items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        with Trackers("wandb", "tiny", tmp_path / "run", {}):
            pass
        captured = capsys.readouterr()
        assert caplog.text.count(f"W&B: offline ({reason}") == 1
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        assert files
        if key:
            assert not [path for path in files if key.encode() in path.read_bytes()]
            assert key not in captured.out + captured.err + caplog.text


class TestTrackio:
    """A local board, on request."""

    def test_points_and_plots_are_on_the_board(self, tmp_path, run_python):
        """One board beside the runs of all recipes; a process of its own: trackio reads its folder once."""
        pytest.importorskip("trackio")
        done = run_python(
            "-c",
            "import sys; from pathlib import Path; from arxiv_cls.training.run_directory import Trackers\n"
            f"run = Path({str(tmp_path)!r}) / 'outputs' / '.checkpoints' / 'tiny'\n"
            "with Trackers(['trackio'], 'tiny', run, {'recipe': {}}) as trackers:\n"
            "    trackers.log({'train/loss': 0.25}, step=1)\n"
            f"    trackers.log_evaluation({{'metrics': {{'accuracy': 0.75}}}}, Path({str(RELEASE)!r}))\n",
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
        with Trackers(["trackio"], "tiny", tmp_path / "outputs" / ".checkpoints" / "tiny", {}) as trackers:
            trackers.log_evaluation({"metrics": {"accuracy": 0.75, "per_class": {}}}, RELEASE)
        logged, end = calls
        assert logged["test/accuracy"] == 0.75
        assert logged["test/confusion_matrix"] == ("image", "confusion_matrix.png")
        assert end == "finished"


class TestWholeRuns:
    """`report_to: wandb` in a recipe, and that a run survives --overwrite."""

    def test_transformer(self, write_recipe, tmp_path, monkeypatch):
        """Losses, metrics, confusion matrix, recipe, data version; a failed run after it leaves it there."""
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer={"report_to": "wandb", "max_steps": 4})
        words = [str(recipe), "--trainer.output_dir", str(tmp_path / "tiny")]
        train.main(words)
        folder = tmp_path / ".checkpoints" / "tiny"
        (first,) = run_files(folder)
        records = recorded_to_the_end(first)
        logged, final, given = history(records), summary(records), config(records)
        assert {"train/loss", "eval/macro_f1", "validation/macro_f1"} <= set(logged)
        assert "test/confusion_matrix/path" in logged
        assert 0 <= final["test/accuracy"] <= 1
        assert given["recipe"]["trainer"]["max_steps"] == 4
        assert given["data"]["splits"]["train"] == 96
        assert exit_code(records) == 0

        def fail(*arguments):
            raise RuntimeError("no memory left")

        monkeypatch.setattr(fine_tuning, "calibrate", fail)
        with pytest.raises(RuntimeError, match="no memory left"):
            train.main([*words, "--overwrite"])
        kept, second = run_files(folder)
        assert kept == first
        assert exit_code(recorded_to_the_end(second)) == 1

    def test_baseline(self, tmp_path, sample_csv):
        """Losses of the boosting rounds, metrics, confusion matrix, recipe and data version."""
        keys = {"data.csv": sample_csv, "trainer.output_dir": tmp_path / "tiny",
                "trainer.report_to": "wandb", "trainer.num_train_epochs": 2}  # fmt: skip
        words = [str(word) for key, value in keys.items() for word in (f"--{key}", value)]
        train_tfidf.main([str(ROOT / "recipes" / "tfidf_xgboost.yaml"), *words])
        (run_file,) = run_files(tmp_path / ".checkpoints" / "tiny")
        records = recorded_to_the_end(run_file)
        logged = history(records)
        assert {"train/loss", "eval/loss", "validation/macro_f1", "test/confusion_matrix/path"} <= set(logged)
        assert 0 <= summary(records)["test/accuracy"] <= 1
        assert config(records)["recipe"]["trainer"]["num_train_epochs"] == 2
        assert exit_code(records) == 0
        metrics = json.loads((tmp_path / "tiny" / "eval" / "metrics.json").read_text())["metrics"]
        assert summary(records)["test/f1/cs.CL"] == metrics["per_class"]["cs.CL"]["f1"]
