"""Runs that are asked to end, and go on: signals, a limit of hours, a bucket for the checkpoints."""

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
from factories import ROOT
from local_servers import free_port

from arxiv_cls import train, train_tfidf
from arxiv_cls.errors import UserError
from arxiv_cls.training import interruption
from arxiv_cls.training.interruption import EXIT_STATUS, MARKER, Interruption
from arxiv_cls.training.remote import CheckpointMirror
from arxiv_cls.training.trainer import LogCallback

KEYS = {"num_train_epochs": 3, "per_device_train_batch_size": 8}  # 12 steps an epoch, 36 in all


def weights_of(folder: Path) -> str:
    """The sha256 of a model's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Sends this process a signal when a step is logged."""
    whole = LogCallback.on_log

    def on_log(self, args, state, control, logs=None, **kwargs):
        whole(self, args, state, control, logs=logs, **kwargs)
        if state.global_step == step and "loss" in logs:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(LogCallback, "on_log", on_log)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, write_recipe) -> Path:
    """Three epochs, with dropout, a checkpoint and an evaluation after each."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", trainer=KEYS)


@pytest.fixture(scope="module")
def reference(recipe, tmp_path_factory) -> str:
    """The weights of the run that nothing interrupts."""
    out = tmp_path_factory.mktemp("reference") / "model"
    train.main([str(recipe), "--no-evaluate", "--trainer.output_dir", str(out)])
    return weights_of(out)


def interrupted(words: list[str], out: Path) -> None:
    """Trains until the interruption; nothing is published."""
    with pytest.raises(SystemExit) as end:
        train.main(words)
    assert end.value.code == EXIT_STATUS
    assert not out.exists()


class TestOneProcess:
    """Exit status 75, one line, a marker; `--resume` ends with the weights of the whole run."""

    @pytest.mark.parametrize(
        ("step", "number", "kept"),
        [(5, signal.SIGTERM, 6), (11, signal.SIGINT, 12), (12, signal.SIGTERM, 12), (36, signal.SIGTERM, 36)],
        ids=["in an epoch", "before its last step", "after its last step", "after the last step"],
    )
    def test_signal(self, step, number, kept, recipe, reference, tmp_path, monkeypatch, caplog):
        """Also where the checkpoint falls on the end of an epoch, whose evaluation must not be lost."""
        words = [str(recipe), "--no-evaluate", "--trainer.output_dir", str(tmp_path / "run")]
        with monkeypatch.context() as patch:
            kill_at(patch, step, number)
            interrupted(words, tmp_path / "run")
        folder = tmp_path / ".checkpoints" / "run"
        (line,) = [line for line in caplog.messages if line.startswith("interrupted")]
        assert f"({signal.Signals(number).name})" in line
        assert f"checkpoint-{kept} of 36 steps is whole; the same command with --resume" in line
        assert (folder / MARKER).read_text() == line + "\n"
        train.main([*words, "--resume"])
        assert weights_of(tmp_path / "run") == reference
        assert not (folder / MARKER).exists()

    def test_hours(self, recipe, reference, tmp_path):
        """Past the limit it ends after a step; 0 hours make a model of what there is."""
        words = [str(recipe), "--no-evaluate", "--trainer.output_dir", str(tmp_path / "run")]
        with pytest.raises(UserError, match="there is none to take"):
            train.main([*words, "--trainer.max_hours", "0"])
        interrupted([*words, "--resume", "--trainer.max_hours", "1e-9"], tmp_path / "run")
        with pytest.raises(UserError, match="holds an unfinished run"):
            train.main(words)
        with pytest.raises(UserError, match=r"trainer\.learning_rate: was 0\.001, is 0\.5"):
            train.main([*words, "--resume", "--trainer.learning_rate", "0.5"])
        assert "trainer.max_hours" in (tmp_path / ".checkpoints" / "run" / MARKER).read_text()
        train.main([*words, "--resume", "--trainer.max_hours", "0"])
        assert json.loads((tmp_path / "run" / "run.json").read_text())["training"]["steps"] == 1
        assert "max_hours" not in (tmp_path / "run" / "recipe.yaml").read_text()

    def test_marker_before_the_last_upload(self, recipe, tmp_path, monkeypatch):
        """A launcher that ends the process during the upload leaves the whole checkpoint with its marker."""
        marker, flush, found = tmp_path / ".checkpoints" / "run" / MARKER, CheckpointMirror.flush, []
        monkeypatch.setattr(
            CheckpointMirror, "flush", lambda self: found.append(marker.read_text()) or flush(self)
        )
        words = [str(recipe), "--trainer.output_dir", str(tmp_path / "run"), "--trainer.max_hours", "1e-9"]
        interrupted([*words, "--trainer.checkpoint_dir", str(tmp_path / "mount")], tmp_path / "run")
        assert found[0].endswith(
            "checkpoint-1 of 36 steps is whole; the same command with --resume goes on\n"
        )
        assert f"is whole, also in {tmp_path / 'mount' / 'run'}; " in marker.read_text()

    def test_second_ctrl_c(self, tmp_path, monkeypatch):
        """It ends the process at once; the copy of the first one that a launcher passes on does not."""
        with Interruption(tmp_path) as run:
            run.deferred = True
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert run.due()
            monkeypatch.setattr(interruption, "SAME_SIGNAL_SECONDS", 0.0)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)

    def test_baseline(self, tmp_path, sample_csv, monkeypatch, caplog):
        """A baseline keeps nothing: one line, the same status, no model."""
        from arxiv_cls.training import tfidf_fit

        monkeypatch.setattr(tfidf_fit, "fit_tfidf", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        words = ["--data.csv", str(sample_csv), "--trainer.output_dir", str(tmp_path / "run")]
        with pytest.raises(SystemExit) as end:
            train_tfidf.main([str(ROOT / "recipes" / "tfidf_linear.yaml"), *words])
        assert end.value.code == EXIT_STATUS
        assert caplog.messages[-1].startswith("interrupted (SIGTERM): nothing new was kept")
        assert not (tmp_path / "run").exists()

    def test_sharded_model_is_refused(self, recipe, monkeypatch):
        """`accelerate` set to FSDP: the reason, before anything is read."""
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        with pytest.raises(UserError, match="set to FSDP, but each process holds the whole model"):
            train.main([str(recipe)])


@pytest.mark.slow
class TestBucket:
    """gs://, on an emulator of Google's storage on loopback."""

    def test_another_machine_goes_on(self, recipe, reference, tmp_path, monkeypatch, caplog):
        """The last checkpoint was cut short: the one before it counts; the model arrives, the copies go."""
        import gcsfs
        from gcp_storage_emulator.server import create_server

        port = free_port()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        monkeypatch.setenv("AIP_CHECKPOINT_DIR", "gs://spot/job/checkpoints/")
        emulator = create_server("127.0.0.1", port, in_memory=True, default_bucket="spot")
        emulator.start()
        try:
            gcsfs.GCSFileSystem.clear_instance_cache()
            bucket = gcsfs.GCSFileSystem(use_listings_cache=False)
            one, two = ([str(recipe), "--no-evaluate", "--trainer.output_dir", str(tmp_path / name / "run")]
                        for name in ("one", "two"))  # fmt: skip
            with monkeypatch.context() as patch:
                kill_at(patch, 29, signal.SIGTERM)
                interrupted(one, tmp_path / "one" / "run")
            copies = "spot/job/checkpoints/run"
            assert "checkpoint-30 of 36 steps is whole, also in gs://spot/job/checkpoints/run" in caplog.text
            found = {path.split("/")[4] for path in bucket.find(copies)} - {"run_state.json"}
            assert found == {path.name for path in (tmp_path / "one/.checkpoints/run").glob("checkpoint-*")}
            with pytest.raises(UserError, match=r"holds an unfinished run \(last: checkpoint-30\)"):
                train.main(two)
            content = bucket.cat_file(f"{copies}/checkpoint-30/optimizer.pt")
            bucket.pipe_file(f"{copies}/checkpoint-30/optimizer.pt", content[:-100])
            bucket.pipe_file(f"{copies}/checkpoint-99/model.safetensors", b"half")

            monkeypatch.setenv("AIP_MODEL_DIR", "gs://spot/job/model/")
            train.main([*two, "--resume"])
            assert (
                "checkpoint-30: incomplete (optimizer.pt is not as it was uploaded), stepped over"
                in caplog.text
            )
            log = (tmp_path / "two" / ".checkpoints" / "run" / "train.log").read_text()
            assert "step 1/36" not in log
            assert "step 36/36" in log
            assert weights_of(tmp_path / "two" / "run") == reference
            files = json.loads(bucket.cat_file("spot/job/model/complete.json"))["files"]
            assert files["model.safetensors"] == reference
            assert {f"spot/job/model/{name}" for name in [*files, "complete.json"]} == set(
                bucket.find("spot")
            )
        finally:
            emulator.stop()

    def test_that_is_none(self, recipe, tmp_path, monkeypatch):
        """One error before anything is trained."""
        monkeypatch.setenv("AIP_CHECKPOINT_DIR", "nowhere://bucket")
        with pytest.raises(UserError, match="nowhere://bucket/run: ") as error:
            train.main([str(recipe), "--trainer.output_dir", str(tmp_path / "run")])
        assert error.value.exit_code == 2
