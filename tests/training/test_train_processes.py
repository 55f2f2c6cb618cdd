"""Runs in processes of their own: a kill and the same bytes, two processes at a time, the launcher."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from factories import ROOT
from local_servers import free_port
from safetensors.numpy import load_file

from arxiv_cls.record.manifest import missing_files

pytestmark = pytest.mark.slow


class TestKillAndResume:
    """`kill -9` in the middle of training."""

    @pytest.fixture(scope="class")
    def whole(self, write_recipe, tmp_path_factory, run_python):
        """A recipe, and the weights of the run that nobody killed."""
        folder = tmp_path_factory.mktemp("whole")
        keys = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
        recipe = write_recipe(folder / "tiny.yaml", trainer=keys | {"distillation_weight": 0.3})
        done = run_python("arxiv_cls/train.py", recipe, "--trainer.output_dir", folder / "model")
        assert done.returncode == 0, done.stderr
        return recipe, (folder / "model" / "model.safetensors").read_bytes()

    @pytest.mark.parametrize("kill_after", ["checkpoint-2", "checkpoint-8"], ids=["epoch 1", "epoch 2"])
    def test_resumed_run_ends_with_the_same_weights(self, kill_after, whole, tmp_path, run_python):
        """Killed after a checkpoint, then --resume."""
        (recipe, weights), killed = whole, tmp_path / "killed"
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

        resumed = run_python(*command[1:], "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert (killed / "model.safetensors").read_bytes() == weights


def test_two_processes_as_one(write_recipe, tmp_path, run_python):
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
    assert missing_files(two, "transformer") == []
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


class Launched:
    """Launchers of one run, each in a session of its own as on a host of its own; all end with the block."""

    def __init__(self, tmp_path, recipe, launchers, *words):
        script = ["arxiv_cls/train.py", str(recipe), "--no-evaluate"]
        script += ["--trainer.output_dir", str(tmp_path / "run")]
        self.model, self.folder = tmp_path / "run", tmp_path / ".checkpoints" / "run"
        self.logs = [tmp_path / f"host-{rank}.log" for rank in range(len(launchers))]
        env = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", *launcher, *script, *words], cwd=ROOT, env=env, start_new_session=True,
                stderr=log.open("w"),
            )
            for log, launcher in zip(self.logs, launchers, strict=True)
        ]  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            for worker in [*self.workers(process), process.pid] if process.poll() is None else []:
                os.kill(worker, signal.SIGKILL)
            process.wait()

    @staticmethod
    def workers(launcher):
        """The training processes of a launcher."""
        return [child.pid for child in psutil.Process(launcher.pid).children()]

    def after(self, name):
        """Waits for a file of the run."""
        deadline = time.monotonic() + 300
        while not (self.folder / name).exists():
            assert all(process.poll() is None for process in self.processes), self.logs[0].read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def statuses(self, seconds):
        """Exit statuses of the launchers, which end within so many seconds."""
        return [process.wait(timeout=seconds) for process in self.processes]


class TestInterrupted:
    """SIGTERM under `accelerate launch`, whose exit status is 1 whatever the script's: hence the marker."""

    @pytest.mark.parametrize("processes", [1, 2])
    def test_resumed_run_ends_with_the_same_weights(self, processes, write_recipe, tmp_path, run_python):
        """Sent to the launcher, or to one rank of two: both stop after the same step, none is left over."""
        keys = {"num_train_epochs": 6, "per_device_train_batch_size": 8 // processes}
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer=keys)
        several = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(free_port())]
        launcher = ["accelerate.commands.launch", "--quiet", *(several if processes > 1 else [])]
        whole = ["arxiv_cls/train.py", recipe, "--no-evaluate", "--trainer.output_dir", tmp_path / "whole"]
        done = run_python("-m", *launcher, *whole)
        assert done.returncode == 0, done.stderr
        with Launched(tmp_path, recipe, [launcher]) as run:
            run.after("checkpoint-12/complete")
            workers = run.workers(run.processes[0])
            assert len(workers) == processes
            os.kill(run.processes[0].pid if processes == 1 else workers[1], signal.SIGTERM)
            assert run.statuses(30) == [-signal.SIGTERM if processes == 1 else 1]
            for worker in workers:
                psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], timeout=30)
                assert not psutil.pid_exists(worker)
            assert "whole; the same command with --resume goes on" in (run.folder / "interrupted").read_text()
            assert not run.model.exists()
        done = run_python("-m", *launcher, *whole[:-1], tmp_path / "run", "--resume")
        assert done.returncode == 0, done.stderr
        ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole"))
        assert ours == theirs

    def test_hours_of_two_processes(self, write_recipe, tmp_path, run_python):
        """Past the limit both stop after the same step, with a whole checkpoint."""
        recipe = write_recipe(tmp_path / "tiny.yaml")
        launch = ["-m", "accelerate.commands.launch", "--quiet", "--multi_gpu", "--num_processes", "2"]
        words = ["arxiv_cls/train.py", recipe, "--trainer.output_dir", tmp_path / "run"]
        port = ["--main_process_port", free_port()]
        done = run_python(*launch, *port, *words, "--trainer.max_hours", "1e-9")
        assert done.returncode == 1, done.stderr
        folder = tmp_path / ".checkpoints" / "run"
        assert "(trainer.max_hours)" in (folder / "interrupted").read_text()
        assert [path.parent.name for path in folder.glob("checkpoint-*/complete")] == ["checkpoint-1"]
        assert not (tmp_path / "run").exists()


class TestHosts:
    """Two hosts on loopback, as `recipes/accelerate/multi_host.yaml` and docs/training.md say, with gloo."""

    def test_same_as_one_host(self, write_recipe, tmp_path, run_python):
        """The same weights; with a rank killed both end within seconds, or start again and end with them."""
        keys = {"num_train_epochs": 8, "per_device_train_batch_size": 4}
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer=keys)

        def static():
            port = str(free_port())
            address = ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--num_processes", "2"]
            launch = ["accelerate.commands.launch", "--config_file", "recipes/accelerate/multi_host.yaml"]
            return [[*launch, *address, "--machine_rank", rank] for rank in "01"]

        one = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        one += ["--main_process_port", free_port(), "arxiv_cls/train.py", recipe, "--no-evaluate"]
        done = run_python(*one, "--trainer.output_dir", tmp_path / "one")
        assert done.returncode == 0, done.stderr
        weights = (tmp_path / "one" / "model.safetensors").read_bytes()
        with Launched(tmp_path, recipe, static()) as run:
            assert run.statuses(300) == [0, 0]
            assert (run.model / "model.safetensors").read_bytes() == weights

        with Launched(tmp_path, recipe, static(), "--overwrite") as run:
            run.after("checkpoint-24/complete")
            os.kill(run.workers(run.processes[1])[0], signal.SIGKILL)
            assert run.statuses(30) == [1, 1]
            assert (run.model / "model.safetensors").read_bytes() == weights

        elastic = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "1"]
        elastic += [
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            f"127.0.0.1:{free_port()}",
            "--rdzv-id",
            "two",
        ]
        with Launched(tmp_path, recipe, [elastic, elastic], "--resume", "--overwrite") as run:
            run.after("checkpoint-72/complete")
            os.kill(run.workers(run.processes[1])[0], signal.SIGKILL)
            assert run.statuses(300) == [0, 0]
            assert (run.model / "model.safetensors").read_bytes() == weights


class TestLauncher:
    """`accelerate launch arxiv_cls/train.py recipes/distilbert.yaml`, exactly as the README has it."""

    command = ("arxiv_cls/train.py", "recipes/distilbert.yaml")
    launch = ("-m", "accelerate.commands.launch")

    def test_no_hub(self, tmp_path, sample_csv, run_python):
        """Our last line tells what to do; the traceback after it is the launcher's, which --quiet omits."""
        offline = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
        done = run_python(*self.launch, *self.command, "--data.csv", sample_csv, env=offline)
        assert done.returncode != 0
        ours, theirs = done.stderr.split("Traceback", 1)
        error = ours[ours.rindex("error:") :]
        assert "error: the model distilbert/distilbert-base-uncased cannot be reached" in error
        assert "local-distilbert" in error
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
