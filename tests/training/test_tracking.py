"""Trackers: W&B offline with its run file read back, a local trackio board."""

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
from arxiv_cls.errors import UserError
from arxiv_cls.record.files import file_sha256
from arxiv_cls.training import fine_tuning, trackers
from arxiv_cls.training.trackers import Trackers

RELEASE = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"
HEADER_BYTES, BLOCK_BYTES, LAST_CHUNK_TYPES = 7, 32768, (1, 4)
KEY = "0123456789" * 4
NO_ANSWER = "offline (127.0.0.1:9 cannot be reached"


def run_files(folder: Path) -> list[Path]:
    """The files of the offline runs in a run's folder, oldest first."""
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


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


def read_run(run_file: Path) -> SimpleNamespace:
    """What a run logged, its summary, configuration and exit code, once W&B's process has written the end."""
    from google.protobuf.message import DecodeError

    deadline, codes = time.monotonic() + 60, []
    while not codes:
        assert time.monotonic() < deadline, "the run file has no end"
        time.sleep(0.1)
        try:
            records = recorded(run_file)
        except (struct.error, DecodeError):
            continue
        codes = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]

    def values(items: Any) -> dict[str, Any]:
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    return SimpleNamespace(
        history=values(item for record in records for item in record.history.item),
        summary=values(item for record in records for item in record.summary.update),
        config=values(item for record in records for item in record.run.config.update),
        artifacts=[record.artifact for record in records if record.WhichOneof("record_type") == "artifact"],
        exit_code=codes[0],
    )


class TestWandb:
    """Without a key or an answer: offline, in the run's folder, no prompt."""

    @pytest.fixture(autouse=True)
    def no_key_of_another_test(self):
        """W&B keeps the key that it found for the life of the process."""
        from wandb.sdk.lib import wbauth

        wbauth.unauthenticate_session()

    @pytest.mark.parametrize(
        ("key", "mode", "host", "reason"),
        [
            (None, "online", "closed", "no API key"),
            (KEY, "", "closed", "127.0.0.1:9 cannot be reached"),
            (KEY, "", "silent", "127.0.0.1:"),
        ],
    )
    def test_offline_without_a_prompt(self, tmp_path, monkeypatch, capsys, caplog, key, mode, host, reason):
        """Also where the host accepts and never answers; in bounded time, and the key stands nowhere."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1] if host == "silent" else 9
            variables = {"WANDB_MODE": mode, "WANDB_API_KEY": key or "", "HOME": str(tmp_path)}
            variables["WANDB_BASE_URL"] = f"http://127.0.0.1:{port}"
            for name, value in variables.items():
                monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
            start = time.monotonic()
            with Trackers("wandb", "tiny", tmp_path / "run", {}):
                assert time.monotonic() - start < 15
        assert caplog.text.count(f"W&B: offline ({reason}") == 1
        assert "cannot be reached" in caplog.text or not key
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        assert files
        if key:
            captured = capsys.readouterr()
            assert not [path for path in files if key.encode() in path.read_bytes()]
            assert key not in captured.out + captured.err + caplog.text


class TestWhereItReports:
    """`report_to: auto`: one line says where, or why not."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        """A person without a login, who starts runs in an empty folder."""
        import wandb

        wandb.teardown()  # it keeps key and address for the life of a process
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
            monkeypatch.setenv(name, "x")  # what `.env` sets is taken back after the test
            monkeypatch.delenv(name)

    @pytest.mark.parametrize(
        ("report_to", "variables", "file", "said"),
        [
            ("auto", {}, None, "not reported (no WANDB_API_KEY and no login)"),
            ("none", {"WANDB_MODE": "offline"}, None, "not reported (trainer.report_to is none)"),
            ("wandb", {"WANDB_MODE": "disabled"}, None, "not reported (WANDB_MODE is disabled)"),
            ("auto", {"WANDB_MODE": "offline"}, None, "offline (WANDB_MODE is offline)"),
            ("auto", {"WANDB_API_KEY": KEY}, None, NO_ANSWER),
            ("auto", {}, (".netrc", f"machine 127.0.0.1:9 login user password {KEY}"), NO_ANSWER),
            ("auto", {}, (".env", f"A='\nexport WANDB_API_KEY='{KEY}' # mine"), NO_ANSWER),
            ("auto", {}, (".env", f"\ufeffWANDB_API_KEY = {KEY}"), NO_ANSWER),
            ("auto", {"WANDB_MODE": "disabled"}, (".env", "WANDB_MODE=offline"), "WANDB_MODE is disabled"),
        ],
    )  # fmt: skip
    def test_one_line(self, tmp_path, monkeypatch, caplog, report_to, variables, file, said):
        """By key, login, `.env` and mode; the environment wins over `.env`, and no key is shown."""
        caplog.set_level("INFO", logger="arxiv_cls")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if file:
            (tmp_path / file[0]).write_text(file[1] + "\n", encoding="utf-8")
            (tmp_path / file[0]).chmod(0o600)
        with Trackers(report_to, "tiny", tmp_path / "run", {}) as trackers:
            assert bool(trackers.runs) == ("not reported" not in said and "disabled" not in said)
        assert caplog.text.count("W&B: ") == 1
        assert said in caplog.text
        assert KEY not in caplog.text

    @pytest.mark.parametrize(
        ("line", "value"),
        [
            ("=a b # mine", "a b"),
            (" = a#b", "a#b"),
            ('="a # b"# c', None),
            ('="a # b" # c', "a # b"),
            ("= # nothing", ""),
        ],
    )
    def test_values_of_the_file(self, tmp_path, monkeypatch, line, value):
        """Blanks around them, quotes and comments are not part of them."""
        monkeypatch.setenv("WANDB_PROJECT", "x")
        monkeypatch.delenv("WANDB_PROJECT")
        (tmp_path / ".env").write_text(f"WANDB_PROJECT{line}\n")
        if value is None:
            with pytest.raises(UserError, match="line 1: a quote is not closed"):
                trackers.read_env_file(tmp_path / ".env")
            return
        trackers.read_env_file(tmp_path / ".env")
        assert os.environ["WANDB_PROJECT"] == value

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"A=1\nWANDB_API_KEY='abc\n", r"^\.env, line 2: a quote is not closed"),
            ("WANDB_API_KEY=abc\n".encode("utf-16"), r"^\.env: not UTF-8 text \(byte 0\)"),
        ],
    )
    def test_a_broken_file(self, tmp_path, content, said):
        """Named by its line; its content is not shown."""
        (tmp_path / ".env").write_bytes(content)
        with pytest.raises(UserError, match=said) as error:
            Trackers("auto", "tiny", tmp_path / "run", {})
        assert "abc" not in str(error.value)


@pytest.mark.parametrize(
    ("metric", "goal", "ours", "others", "best"),
    [
        ("macro_f1", "maximize", 0.7, [0.6, None], True),
        ("macro_f1", "maximize", 0.7, [0.6, 0.8], False),
        ("lrap", "maximize", 0.7, [0.6], True),
        ("log_loss", "minimize", 0.7, [0.6], False),
        ("log_loss", "minimize", 0.7, [], True),
        ("f1/cs.CL", "maximize", None, [], False),
    ],
)
def test_best_of_a_sweep(monkeypatch, metric, goal, ours, others, best):
    """The alias `best` goes to a run that no other run of its sweep beats, by the sweep's own metric."""
    import wandb

    name = f"validation/{metric}"
    runs = [SimpleNamespace(id=str(n), summary={name: value}) for n, value in enumerate([*others, 0.1])]
    sweep = SimpleNamespace(config={"metric": {"name": name, "goal": goal}}, runs=runs)
    asked = []
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(sweep=lambda path: asked.append(path) or sweep))
    # The last of the runs is this one: what it has sent so far does not count.
    run = SimpleNamespace(entity="e", project="p", sweep_id="s", id=str(len(others)), offline=False)
    assert trackers._is_best_of_sweep(run, {name: ours} if ours else {}) is best
    assert asked == ["e/p/s"]


class TestTrackio:
    """A local board, on request."""

    def test_points_and_plots_are_on_the_board(self, tmp_path, run_python):
        """One board beside the runs of all recipes; a process of its own: trackio reads its folder once."""
        pytest.importorskip("trackio")
        done = run_python(
            "-c",
            "import sys; from pathlib import Path; from arxiv_cls.training.trackers import Trackers\n"
            f"run = Path({str(tmp_path)!r}) / 'outputs' / '.checkpoints' / 'tiny'\n"
            "with Trackers('trackio', 'tiny', run, {'recipe': {}}) as trackers:\n"
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
        run = SimpleNamespace(
            log=lambda values, **more: calls.append(values), finish=lambda: calls.append("end")
        )
        board = SimpleNamespace(init=lambda **options: run, Image=lambda path: ("image", Path(path).name))
        monkeypatch.setitem(sys.modules, "trackio", board)
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
        with Trackers(["trackio"], "tiny", tmp_path / "outputs" / ".checkpoints" / "tiny", {}) as trackers:
            trackers.log_evaluation({"metrics": {"accuracy": 0.75, "per_class": {}}}, RELEASE)
        logged, end = calls
        assert logged["test/accuracy"] == 0.75
        assert logged["test/confusion_matrix"] == ("image", "confusion_matrix.png")
        assert end == "end"


class TestWholeRuns:
    """`report_to: wandb` in a recipe: losses, metrics, confusion matrix, recipe, data version."""

    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch):
        """Nothing is sent."""
        monkeypatch.setenv("WANDB_MODE", "offline")

    LOGGED = frozenset({"train/loss", "validation/macro_f1", "test/confusion_matrix/path"})

    def test_transformer(self, write_recipe, tmp_path, monkeypatch, caplog):
        """A run that fails after it is marked as failed and leaves the first one there.

        When W&B does not take the model, it is finished and copied all the same.
        """

        def no_answer(*arguments):
            raise ConnectionError("no answer")

        monkeypatch.setattr(Trackers, "log_model", no_answer)
        monkeypatch.setenv("AIP_MODEL_DIR", str(tmp_path / "copy"))
        recipe = write_recipe(tmp_path / "tiny.yaml", trainer={"report_to": "wandb", "max_steps": 4})
        words = [str(recipe), "--trainer.output_dir", str(tmp_path / "tiny")]
        train.main(words)
        assert "W&B: the model was not logged: ConnectionError: no answer" in caplog.text
        assert (tmp_path / "copy" / "model.safetensors").is_file()
        monkeypatch.delenv("AIP_MODEL_DIR")
        folder = tmp_path / ".checkpoints" / "tiny"
        (first,) = run_files(folder)
        run = read_run(first)
        assert self.LOGGED | {"eval/macro_f1"} <= set(run.history)
        assert 0 <= run.summary["test/accuracy"] <= 1
        assert run.config["recipe"]["trainer"]["max_steps"] == 4
        assert run.config["data"]["splits"]["train"] == 96
        assert run.exit_code == 0

        def fail(*arguments):
            raise RuntimeError("no memory left")

        monkeypatch.setattr(fine_tuning, "calibrate", fail)
        with pytest.raises(RuntimeError, match="no memory left"):
            train.main([*words, "--overwrite"])
        kept, second = run_files(folder)
        assert kept == first
        assert read_run(second).exit_code == 1

    def test_baseline(self, tmp_path, sample_csv):
        """Its boosting rounds are the steps."""
        keys = {"data.csv": sample_csv, "trainer.output_dir": tmp_path / "tiny",
                "trainer.report_to": "wandb", "trainer.num_train_epochs": 2}  # fmt: skip
        words = [str(word) for key, value in keys.items() for word in (f"--{key}", value)]
        train_tfidf.main([str(ROOT / "recipes" / "tfidf_xgboost.yaml"), *words])
        run = read_run(*run_files(tmp_path / ".checkpoints" / "tiny"))
        assert self.LOGGED | {"eval/loss"} <= set(run.history)
        assert run.config["recipe"]["trainer"]["num_train_epochs"] == 2
        assert run.exit_code == 0
        evaluation = json.loads((tmp_path / "tiny" / "eval" / "metrics.json").read_text())
        metrics, md5 = evaluation["metrics"], evaluation["data"]["md5"]
        assert run.summary["test/f1/cs.CL"] == metrics["per_class"]["cs.CL"]["f1"]

        data, model = run.artifacts
        assert (data.type, data.use_after_commit, data.name) == ("dataset", True, "arxiv_sample.csv")
        (reference,) = data.manifest.contents
        assert reference.ref == f"dvc://files/md5/{md5[:2]}/{md5[2:]}"
        assert (model.type, model.name, list(model.aliases)) == ("model", "tfidf_xgboost", ["latest"])
        metadata = json.loads(model.metadata)
        assert metadata["metrics"]["test/macro_f1"] == metrics["macro_f1"]
        files = {entry.path for entry in model.manifest.contents}
        assert files == set(metadata["checksums"]) >= {"model.skops", "run.json", "README.md", "terms.png"}
        assert all(
            file_sha256(tmp_path / "tiny" / path) == sha for path, sha in metadata["checksums"].items()
        )
