"""What may be in a run's way, what is resumed, and that a model directory appears whole."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.training.run_directory import COMPLETE, STARTING_WEIGHTS, RunDirectory
from arxiv_cls.training.trainer import MarkComplete

SAME = {"trainer.learning_rate": 0.1, "data sha256": "abc", "processes": 1}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """The folder of a run named `model`."""
    return RunDirectory(tmp_path / "outputs" / "model")


def unfinished(run: RunDirectory, *steps: int, incomplete: int | None = None) -> None:
    """A run that was killed after these checkpoints, while it wrote another."""
    run.prepare(SAME, resume=False, overwrite=False)
    for step in (*steps, *([incomplete] if incomplete else [])):
        checkpoint = run.folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        if step != incomplete:
            (checkpoint / COMPLETE).touch()


class TestPrepare:
    """Start, resume, overwrite."""

    def test_unfinished_run_in_the_way(self, run):
        """Work of hours is not deleted unasked."""
        unfinished(run, 5, 10)
        with pytest.raises(UserError, match=r"unfinished run .*checkpoint-10"):
            run.prepare(SAME, resume=False, overwrite=False)
        assert len(run.checkpoints()) == 2
        run.prepare(SAME, resume=False, overwrite=True)
        assert not run.checkpoints()

    def test_incomplete_checkpoint_is_not_resumed(self, run):
        """The newest folder lacks its mark: the one before it is taken, the incomplete one goes."""
        unfinished(run, 20, 100, incomplete=150)
        assert run.prepare(SAME, resume=True, overwrite=False).name == "checkpoint-100"
        assert not (run.folder / "checkpoint-150").exists()

    def test_other_recipe_or_data(self, run):
        """The error names each key with both values; without an unfinished run there is nothing to resume."""
        with pytest.raises(UserError, match="no unfinished run"):
            run.prepare(SAME, resume=True, overwrite=False)
        unfinished(run, 5)
        changed = SAME | {"trainer.learning_rate": 0.2, "data sha256": "def"}
        with pytest.raises(UserError) as error:
            run.prepare(changed, resume=True, overwrite=False)
        assert "trainer.learning_rate: was 0.1, is 0.2" in str(error.value)
        assert "data sha256: was 'abc', is 'def'" in str(error.value)
        assert run.checkpoints()

    def test_resume_and_overwrite(self, run):
        """Together: this very run is gone on with, any other is replaced."""
        unfinished(run, 5)
        assert run.prepare(SAME, resume=True, overwrite=True).name == "checkpoint-5"
        assert run.prepare(SAME | {"processes": 2}, resume=True, overwrite=True) is None
        assert not run.checkpoints()
        assert run.prepare(SAME, resume=True, overwrite=True) is None

    def test_starting_weights(self, run):
        """Others are refused; a run from before they were recorded can be gone on with."""
        unfinished(run, 5)
        now = {STARTING_WEIGHTS: "a", "data.near_duplicates": "keep"}
        assert run.prepare(SAME | now, resume=True, overwrite=False)
        with pytest.raises(UserError, match="starting weights sha256: was 'a', is 'b'"):
            run.prepare(SAME | now | {STARTING_WEIGHTS: "b"}, resume=True, overwrite=False)

    def test_records_stay(self, run):
        """Logs, profiles and runs that were not uploaded yet are the person's, whatever is overwritten."""
        unfinished(run, 5, 10, incomplete=15)
        records = ["train.log", "wandb/offline-run-1/run-1.wandb", "profile/trace.json"]
        for name in records:
            path = run.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a record")
        run.staging.mkdir()
        assert run.prepare(SAME | {"processes": 2}, resume=False, overwrite=True) is None
        assert all((run.folder / name).is_file() for name in records)
        assert not list(run.folder.glob("checkpoint-*"))
        assert not run.staging.exists()
        run.prepare(SAME, resume=False, overwrite=False)
        assert all((run.folder / name).is_file() for name in records)


class TestAtWork:
    """One run in a folder at a time."""

    def test_second_run_is_refused(self, run):
        """It is told which process is at work; when that one ends, the folder is free."""
        with run.lock():
            second = RunDirectory(run.model_dir).lock()
            with pytest.raises(UserError, match=r"at work there \(process \d+ on") as error, second:
                pytest.fail("two runs at a time")
            assert "--resume" in error.value.hint
        with RunDirectory(run.model_dir).lock():
            assert (run.folder / "process").is_file()

    def test_a_killed_run_holds_nothing(self, run):
        """Its lock goes with its process, whatever it left in the folder."""
        code = (
            "import os, sys; from arxiv_cls.training.run_directory import RunDirectory\n"
            "with RunDirectory(sys.argv[1]).lock():\n    os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, run.model_dir], check=False)
        assert done.returncode == -9
        assert (run.folder / "process").is_file()
        with run.lock():
            assert run.prepare(SAME, resume=False, overwrite=False) is None

    def test_folder_that_cannot_be_made(self, tmp_path):
        """One error with the place."""
        (tmp_path / "file").touch()
        with (
            pytest.raises(UserError, match="cannot be written"),
            RunDirectory(tmp_path / "file" / "x").lock(),
        ):
            pytest.fail("there is no such folder")


class TestMarks:
    """The mark of a whole checkpoint, and the time in it."""

    def test_seconds_add_up_over_a_kill(self, run):
        """A resumed run starts its clock at what the checkpoint had seen, and knows whether it had ended."""
        unfinished(run, 5)
        (run.folder / "checkpoint-5" / COMPLETE).write_text("120.5")
        marks = MarkComplete(run.checkpoints()[-1])
        (run.folder / "checkpoint-7").mkdir()
        assert not marks.ended
        state = SimpleNamespace(is_world_process_zero=True, global_step=7)
        control = SimpleNamespace(should_training_stop=True)
        marks.on_save(SimpleNamespace(output_dir=str(run.folder)), state, control)
        assert run.checkpoints()[-1].name == "checkpoint-7"
        assert float((run.folder / "checkpoint-7" / COMPLETE).read_text().split()[0]) >= 120.5
        assert MarkComplete(run.checkpoints()[-1]).ended


class TestModelDirectory:
    """What is in the place of the result."""

    def test_finished_run(self, run):
        """Needs --overwrite, and then stays until the new one is whole."""
        run.model_dir.mkdir(parents=True)
        (run.model_dir / "run.json").write_text("old")
        with pytest.raises(UserError, match="a finished run is in the way"):
            run.prepare(SAME, resume=False, overwrite=False)
        run.prepare(SAME, resume=False, overwrite=True)
        assert (run.model_dir / "run.json").read_text() == "old"
        run.staging.mkdir()
        (run.staging / "run.json").write_text("new")
        run.publish()
        assert (run.model_dir / "run.json").read_text() == "new"
        assert not run.staging.exists()

    def test_killed_between_the_two_renames(self, run):
        """The older model is put back, and is in the way as before."""
        run.replaced.mkdir(parents=True)
        (run.replaced / "run.json").write_text("old")
        run.model_dir.parent.mkdir(exist_ok=True)
        with pytest.raises(UserError, match="a finished run is in the way"):
            run.prepare(SAME, resume=False, overwrite=False)
        assert (run.model_dir / "run.json").read_text() == "old"

    def test_foreign_directory_is_never_deleted(self, run):
        """Not even with --overwrite: it may be anything."""
        run.model_dir.mkdir(parents=True)
        (run.model_dir / "thesis.tex").write_text("years of work")
        with pytest.raises(UserError, match="holds no model of this project"):
            run.prepare(SAME, resume=False, overwrite=True)
        assert (run.model_dir / "thesis.tex").exists()

    def test_remains_of_a_run(self, run):
        """DVC takes the files of training away and leaves those of later stages: --overwrite may go on."""
        (run.model_dir / "eval").mkdir(parents=True)
        run.prepare(SAME, resume=False, overwrite=True)
        (run.model_dir / "eval").mkdir(exist_ok=True)
        (run.model_dir / "eval" / "metrics.json").write_text("{}")
        (run.model_dir / "README.md").write_text("card")
        with pytest.raises(UserError, match="holds no model of this project"):
            run.prepare(SAME, resume=False, overwrite=False)
        run.prepare(SAME, resume=False, overwrite=True)
        assert (run.model_dir / "README.md").exists()
        (run.model_dir / "eval" / "metrics.json").unlink()
        with pytest.raises(UserError, match="holds no model of this project"):
            run.prepare(SAME, resume=False, overwrite=True)

    def test_a_file(self, run):
        """A file is in the place of the directory."""
        run.model_dir.parent.mkdir(parents=True)
        run.model_dir.write_text("")
        with pytest.raises(UserError, match="is a file"):
            run.prepare(SAME, resume=False, overwrite=True)
