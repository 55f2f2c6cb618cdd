"""What may be in a run's way, what is resumed, and that a model directory appears whole."""

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.training.run_directory import COMPLETE, PUBLISHING, RunDirectory
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


def model(directory: Path, text: str) -> None:
    """A model directory, in so far as a run looks into it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_text(text)
    (directory / "eval").mkdir(exist_ok=True)


class TestPrepare:
    """Start, resume, overwrite."""

    def test_unfinished_run_in_the_way(self, run):
        """Work of hours is not deleted unasked; logs and runs that were not uploaded yet never are."""
        unfinished(run, 5, 10, incomplete=15)
        records = ["train.log", "wandb/offline-run-1/run-1.wandb", "profile/trace.json"]
        for path in (run.folder / name for name in records):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a record")
        run.staging.mkdir()
        with pytest.raises(UserError, match=r"unfinished run .*checkpoint-10"):
            run.prepare(SAME, resume=False, overwrite=False)
        assert len(run.checkpoints()) == 2
        assert run.prepare(SAME | {"processes": 2}, resume=False, overwrite=True) is None
        assert not [*run.folder.glob("checkpoint-*"), *run.folder.glob("model")]
        assert all((run.folder / name).is_file() for name in records)

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
        nowhere = RunDirectory(tmp_path / "file" / "x").lock()
        with pytest.raises(UserError, match="cannot be written"), nowhere:
            pytest.fail("there is no such folder")


class TestModelDirectory:
    """What is in the place of the result, and how the result gets there."""

    @pytest.mark.parametrize("place", ["directory", "link", "mount", "other disk", "no model yet"])
    def test_overwrite_twice(self, run, tmp_path, monkeypatch, place):
        """Also into what a symlink names and into what cannot be renamed; the old model stays until then."""
        if place == "link":
            run.model_dir.parent.mkdir()
            (tmp_path / "elsewhere").mkdir()
            run.model_dir.symlink_to(tmp_path / "elsewhere")
            run = RunDirectory(run.model_dir)
        elif place == "no model yet":
            run.model_dir.mkdir(parents=True)
        else:
            model(run.model_dir, "0")
        rename = Path.rename

        def refused(path, to):
            if place in ("mount", "other disk") and run.target in (path, Path(to)):
                raise OSError(errno.EBUSY if place == "mount" else errno.EXDEV, "no")
            return rename(path, to)

        monkeypatch.setattr(Path, "rename", refused)
        for number in ("1", "2"):
            run.prepare(SAME, resume=False, overwrite=True)
            model(run.staging, number)
            (run.folder / "checkpoint-5").mkdir()
            run.publish()
            assert (run.model_dir / "run.json").read_text() == number
            assert {path.name for path in run.target.iterdir()} == {"run.json", "eval"}
            assert not [path for path in run.folder.iterdir() if path.is_dir()]
        assert run.model_dir.is_symlink() == (place == "link")
        with pytest.raises(UserError, match="a finished run is in the way"):
            run.prepare(SAME, resume=False, overwrite=False)

    def test_killed_while_it_publishes(self, run):
        """Between the two renames: the older model is put back. File by file: what is there is no model."""
        model(run.replaced, "old")
        with pytest.raises(UserError, match="a finished run is in the way"):
            run.prepare(SAME, resume=False, overwrite=False)
        assert (run.model_dir / "run.json").read_text() == "old"
        (run.model_dir / PUBLISHING).touch()
        assert run.prepare(SAME, resume=False, overwrite=False) is None
        model(run.staging, "new")
        run.publish()
        assert not (run.model_dir / PUBLISHING).exists()

    def test_foreign_directory_is_never_deleted(self, run):
        """Not even with --overwrite: it may be anything, a file too."""
        run.model_dir.mkdir(parents=True)
        (run.model_dir / "thesis.tex").write_text("years of work")
        with pytest.raises(UserError, match="holds no model of this project"):
            run.prepare(SAME, resume=False, overwrite=True)
        with pytest.raises(UserError, match="is a file"):
            RunDirectory(run.model_dir / "thesis.tex").prepare(SAME, resume=False, overwrite=True)
        assert (run.model_dir / "thesis.tex").exists()

    def test_remains_of_a_run(self, run):
        """DVC takes the files of training away and leaves those of later stages: --overwrite may go on."""
        (run.model_dir / "eval").mkdir(parents=True)
        run.prepare(SAME, resume=False, overwrite=True)
        (run.model_dir / "eval" / "metrics.json").write_text("{}")
        (run.model_dir / "README.md").write_text("card")
        with pytest.raises(UserError, match="holds no model of this project"):
            run.prepare(SAME, resume=False, overwrite=False)
        run.prepare(SAME, resume=False, overwrite=True)
        assert (run.model_dir / "README.md").exists()
        (run.model_dir / "eval" / "metrics.json").unlink()
        with pytest.raises(UserError, match="holds no model of this project"):
            run.prepare(SAME, resume=False, overwrite=True)
