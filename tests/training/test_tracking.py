"""Trackers: the log file, W&B offline with its run file read back, a local trackio board."""

import json
import logging
import os
import shutil
import struct
import time
from pathlib import Path

import pytest

from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.training.tracking import Trackers, log_to_file

HEADER_BYTES, BLOCK_BYTES, LAST_CHUNK_TYPES = 7, 32768, (1, 4)


def recorded_to_the_end(run_file) -> list:
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


def recorded(run_file) -> list:
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


class TestLogFile:
    """The project's loggers, with times."""

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
        trackers = Trackers(["wandb"], "tiny", tmp_path / "run", {"recipe": {"a": 1}, "data": {"md5": "f00"}})
        waited = time.monotonic() - start
        trackers.log({"train/loss": 0.25}, step=7)
        trackers.log_final({"metrics": {"accuracy": 0.75}})
        trackers.finish()
        # A bound that holds a hang, not a speed.
        assert waited < 60
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B:")]
        assert "offline (no API key)" in line
        assert "wandb sync" in line
        (run_file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
        content = recorded_to_the_end(run_file)
        logged = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for record in content
            for item in record.history.item
        }
        assert logged["train/loss"] == 0.25
        config = [update for record in content for update in record.run.config.update]
        assert any(update.key == "data" and "f00" in update.value_json for update in config)

    def test_an_evaluation_goes_into_the_open_run(self, tmp_path, sample_csv):
        """The test metrics in its summary, the plots in its history, as `finish_run` leaves them."""
        release = Path(__file__).parents[1] / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"
        shutil.copytree(release, tmp_path / "model")
        trackers = Trackers(["wandb"], "tiny", tmp_path / "run", {})
        evaluation = evaluate_model(tmp_path / "model", data=sample_csv, rules=False)
        trackers.finish()
        (run_file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
        content = recorded_to_the_end(run_file)
        summary = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for record in content
            for item in record.summary.update
        }
        for name in ("accuracy", "macro_f1", "expected_calibration_error"):
            assert summary[f"test/{name}"] == evaluation["metrics"][name]
        assert summary["test/f1/cs.CL"] == evaluation["metrics"]["per_class"]["cs.CL"]["f1"]
        logged = {item.key or "/".join(item.nested_key) for record in content for item in record.history.item}
        for plot in ("confusion_matrix", "reliability", "accuracy_by_year"):
            assert f"test/{plot}/path" in logged

    def test_unreachable_host_with_a_key(self, tmp_path, monkeypatch, capsys):
        """A key but no network: offline, with the host named and the key nowhere."""
        key = "0123456789" * 4
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        trackers = Trackers(["wandb"], "tiny", tmp_path / "run", {})
        trackers.finish()
        captured = capsys.readouterr()
        assert "offline (127.0.0.1 cannot be reached)" in captured.err
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if key.encode() in path.read_bytes()]
        assert key not in captured.out + captured.err


class TestTrackio:
    """A local board, on request."""

    def test_points_are_in_the_run_folder(self, tmp_path, run_python):
        """In a process of its own: trackio reads its folder once, at import."""
        pytest.importorskip("trackio")
        done = run_python(
            "-c",
            "import sys; from pathlib import Path; from arxiv_cls.training.tracking import Trackers\n"
            f"run = Path({str(tmp_path)!r})\n"
            "trackers = Trackers(['trackio'], 'tiny', run, {'recipe': {}})\n"
            "trackers.log({'train/loss': 0.25}, step=1)\n"
            "trackers.finish()\n",
            env={key: value for key, value in os.environ.items() if key != "TRACKIO_DIR"},
        )
        assert done.returncode == 0, done.stderr
        assert "trackio show" in done.stderr
        assert list((tmp_path / "trackio").rglob("*.db"))
