"""Runs in processes of their own: a kill and the same bytes, two processes at a time, the launcher."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from factories import ROOT
from safetensors.numpy import load_file

from arxiv_cls.models.loading import write_local_distilbert
from arxiv_cls.record.manifest import missing_files

pytestmark = pytest.mark.slow


class TestKillAndResume:
    """`kill -9` in the middle of training."""

    @pytest.mark.parametrize("kill_after", ["checkpoint-2", "checkpoint-8"], ids=["epoch 1", "epoch 2"])
    def test_resumed_run_ends_with_the_same_weights(self, kill_after, write_recipe, tmp_path, run_python):
        """Killed after a checkpoint, then --resume: the weights of the run that nobody killed."""
        keys = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer=keys | {"distillation_weight": 0.3})
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        done = run_python("arxiv_cls/train.py", recipe, "--trainer.output_dir", whole)
        assert done.returncode == 0, done.stderr

        command = [sys.executable, "arxiv_cls/train.py", str(recipe), "--trainer.output_dir", str(killed)]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.DEVNULL)
        mark = tmp_path / ".checkpoints" / "killed" / kill_after / "complete"
        deadline = time.monotonic() + 300
        while not mark.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not killed.exists()

        again = run_python(*command[1:])
        assert again.returncode == 2
        assert "holds an unfinished run" in again.stderr
        other = run_python(*command[1:], "--resume", "--trainer.learning_rate", "0.5")
        assert other.returncode == 2
        assert "trainer.learning_rate: was 0.001, is 0.5" in other.stderr
        resumed = run_python(*command[1:], "--resume")
        assert resumed.returncode == 0, resumed.stderr
        ours, theirs = ((run / "model.safetensors").read_bytes() for run in (killed, whole))
        assert ours == theirs


class TestTwoProcesses:
    """Two processes over gloo against one with the same global batch."""

    def test_same_result_within_rounding(self, write_recipe, tmp_path, run_python):
        """The training size is a multiple of the global batch, there is no dropout; the world size is 2."""
        recipe = write_recipe(tmp_path / "tiny.yaml", model={"attention_dropout": 0.0, "hidden_dropout": 0.0})
        one, two = tmp_path / "one", tmp_path / "two"
        done = run_python("arxiv_cls/train.py", recipe, "--trainer.output_dir", one)
        assert done.returncode == 0, done.stderr
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--quiet"]
        words = ["--trainer.output_dir", two, "--per_device_train_batch_size", "8"]
        done = run_python(*launch, "arxiv_cls/train.py", recipe, *words)
        assert done.returncode == 0, done.stderr
        records = [json.loads((run / "run.json").read_text()) for run in (one, two)]
        assert [record["device"]["processes"] for record in records] == [1, 2]
        assert [record["training"]["global_batch_size"] for record in records] == [16, 16]
        assert [record["training"]["steps"] for record in records] == [12, 12]
        ours, theirs = (load_file(run / "model.safetensors") for run in (one, two))
        differences = [abs(ours[name] - theirs[name]).max() for name in ours]
        assert max(differences) < 1e-4
        # Each line is written by one process, on the screen and in the log.
        log = (tmp_path / ".checkpoints" / "two" / "train.log").read_text()
        for text in (log, done.stderr):
            assert text.count("step 12/12 eval_loss") == 1
            assert text.count("925 rows read") == 1
        assert "pin_memory" not in done.stderr

        # A finished run in the way: one error, and no process ends in a traceback.
        again = run_python(*launch, "arxiv_cls/train.py", recipe, *words)
        assert again.returncode != 0
        assert again.stderr.count("a finished run is in the way") == 1
        # The launcher's own traceback is all that follows.
        assert again.stderr.count("Traceback") == 1
        assert 'train.py", line' not in again.stderr


class TestLauncher:
    """`accelerate launch arxiv_cls/train.py recipes/distilbert.yaml`, exactly as the README has it."""

    command = ("arxiv_cls/train.py", "recipes/distilbert.yaml")
    launch = ("-m", "accelerate.commands.launch")

    @pytest.mark.parametrize("processes", [1, 2])
    def test_it_trains(self, processes, tmp_path, tiny_encoder, sample_csv, run_python):
        """From a local DistilBERT, on the sample: a whole model directory, from one process and from two."""
        start = write_local_distilbert(tmp_path / "start", str(tiny_encoder))
        several = ["--multi_gpu", "--num_processes", processes] if processes > 1 else []
        words = ["--model.name_or_path", start, "--data.csv", sample_csv, "--data.max_samples", 96]
        words += ["--trainer.output_dir", tmp_path / "model", "--trainer.use_cpu", "true"]
        done = run_python(*self.launch, *several, *self.command, *words)
        assert done.returncode == 0, done.stderr
        assert missing_files(tmp_path / "model", "transformer") == []
        record = json.loads((tmp_path / "model" / "run.json").read_text())
        assert record["device"]["processes"] == processes
        assert "macro" in done.stdout

    @pytest.mark.parametrize(
        ("words", "message", "hint"),
        [
            ((), "error: the model distilbert/distilbert-base-uncased cannot be reached", "local-distilbert"),
            (("--model.name_or_path", "ENCODER", "--data.csv", "none.csv"), "none.csv", "make data"),
        ],
        ids=["no Hub", "no CSV"],
    )
    def test_what_is_missing(self, words, message, hint, tmp_path, tiny_encoder, sample_csv, run_python):
        """Our last line tells what to do; the traceback after it is the launcher's, which --quiet omits."""
        offline = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
        words = [str(tiny_encoder) if word == "ENCODER" else word for word in words]
        done = run_python(*self.launch, *self.command, "--data.csv", sample_csv, *words, env=offline)
        assert done.returncode != 0
        ours, theirs = done.stderr.split("Traceback", 1)
        error = ours[ours.rindex("error:") :]
        assert message in error
        assert hint in error
        assert "CalledProcessError" in theirs
        assert "Traceback" not in theirs

    def test_quiet_with_the_configuration_for_a_cpu(self, tiny_encoder, tmp_path, run_python):
        """One line that says how to get the data, and no traceback at all."""
        launch = [*self.launch, "--quiet", "--config_file", "recipes/accelerate/cpu.yaml"]
        words = ["--model.name_or_path", tiny_encoder, "--data.csv", tmp_path / "none.csv"]
        done = run_python(*launch, *self.command, *words)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert "none.csv" in line
        assert "make data" in done.stderr
