"""`arxiv-cls data fetch` with the real DVC: the tracked file as its .dvc file names it, or a reason."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from local_servers import FileServer, serve
from make_sample import sample_csv_bytes

from arxiv_cls.corpus import build_corpus
from arxiv_cls.corpus.fetch import TRACKED_CSV, fetch_from_dvc, file_md5, tracked_md5
from arxiv_cls.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONTENT = sample_csv_bytes(60)


def run(*command: str) -> str:
    """Runs git or DVC in the current folder, without what this machine has configured."""
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
    }
    program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else ["git"]
    if command[:2] == ("git", "commit"):
        program += ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    result = subprocess.run(
        [*program, *command[1:]], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def object_name(content: bytes) -> str:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return f"files/md5/{digest[:2]}/{digest[2:]}"


def write_object(remote: Path, content: bytes, name: str | None = None) -> Path:
    """Lays a content out as a DVC directory remote does."""
    path = remote / (name or object_name(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_dvc_file(content: bytes) -> None:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    Path(f"{TRACKED_CSV}.dvc").write_text(
        f"outs:\n- md5: {digest}\n  size: {len(content)}\n  hash: md5\n  path: arxiv.csv\n"
    )


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A downloaded copy in small: the committed DVC configuration and a tracked CSV that is not there."""
    folder = tmp_path / "project"
    shutil.copytree(
        ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local")
    )
    shutil.copy(ROOT / ".dvcignore", folder)
    (folder / "data/raw").mkdir(parents=True)
    shutil.copy(ROOT / "data/raw/.gitignore", folder / "data/raw")
    monkeypatch.chdir(folder)
    # The machine's own cloud settings must not decide what a test sees.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_dvc_file(CONTENT)
    return folder


@pytest.fixture
def clone(project) -> Path:
    """The same with a git history."""
    run("git", "init", "--quiet", "--initial-branch", "main")
    run("git", "add", ".")
    run("git", "commit", "--quiet", "-m", "The project")
    return project


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


class TestCommittedDvcFile:
    """The repository tracks the file that its documentation names."""

    def test_names_the_published_content(self, monkeypatch):
        monkeypatch.chdir(ROOT)
        assert tracked_md5(TRACKED_CSV) == "d10cc8bb6456f1a889ca3bec2d4cfa95"

    @pytest.mark.parametrize(
        "text", ["", "outs: 3\n", "outs: []\n", "- a list\n", "outs:\n- path: x\n", "a: [\n"]
    )
    def test_broken_dvc_file_says_how_to_restore_it(self, project, text):
        Path(f"{TRACKED_CSV}.dvc").write_text(text)
        with pytest.raises(UserError, match="is not a DVC file") as caught:
            fetch_from_dvc()
        assert "git checkout" in caught.value.hint

    def test_outside_the_project(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=r"arxiv\.csv\.dvc is not there"):
            fetch_from_dvc()


class TestDirectoryRemote:
    """Any directory laid out as a DVC remote will do, and nothing tracked changes."""

    def test_relative_directory_in_a_fresh_clone(self, clone):
        write_object(clone.parent / "shared/dvc-store", CONTENT)
        message = fetch_from_dvc("../shared/dvc-store")
        assert TRACKED_CSV.read_bytes() == CONTENT
        assert file_md5(TRACKED_CSV) in message
        assert run("git", "status", "--porcelain") == ""
        assert not Path(".dvc/config.local").exists()
        # What is in place is not asked for again: this remote could not be reached.
        assert "in place" in fetch_from_dvc("../nowhere")
        # And a copy of it is in the cache, so that a deleted file comes back without a remote.
        TRACKED_CSV.unlink()
        fetch_from_dvc("../nowhere")
        assert TRACKED_CSV.read_bytes() == CONTENT

    def test_damaged_cache_is_mended(self, clone, caplog):
        """A cached copy with another content is told, thrown away and fetched again."""
        remote = clone.parent / "store"
        write_object(remote, CONTENT)
        damaged = write_object(Path(".dvc/cache"), b"X" + CONTENT[1:], object_name(CONTENT))
        fetch_from_dvc(str(remote))
        assert TRACKED_CSV.read_bytes() == CONTENT == damaged.read_bytes()
        assert "is damaged in DVC's cache" in caplog.text

    @pytest.mark.slow
    def test_without_git_history(self, project):
        write_object(project.parent / "store", CONTENT)
        fetch_from_dvc("../store")
        assert TRACKED_CSV.read_bytes() == CONTENT

    def test_damaged_copy_is_not_taken(self, project):
        write_object(project.parent / "store", CONTENT.replace(b"a", b"b"), object_name(CONTENT))
        with pytest.raises(UserError) as caught:
            fetch_from_dvc("../store")
        assert caught.value.exit_code == 3
        assert not TRACKED_CSV.exists()
        # The damaged copy is not kept in the cache either: a good remote mends it.
        write_object(project.parent / "good", CONTENT)
        fetch_from_dvc("../good")
        assert TRACKED_CSV.read_bytes() == CONTENT

    def test_unknown_content_in_the_way_is_kept(self, project):
        write_object(project.parent / "store", CONTENT)
        TRACKED_CSV.write_bytes(b"my own rows")
        with pytest.raises(UserError, match="in the way"):
            fetch_from_dvc("../store")
        assert TRACKED_CSV.read_bytes() == b"my own rows"
        fetch_from_dvc("../store", force=True)
        assert TRACKED_CSV.read_bytes() == CONTENT


class TestUnreachable:
    """One line, exit status 3, at once, with what to pass instead."""

    def refused(self, remote: str | None, match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            fetch_from_dvc(remote)
        assert caught.value.exit_code == 3
        assert "REMOTE=" in caught.value.hint
        assert "\n" not in caught.value.message
        assert not TRACKED_CSV.exists()

    def test_default_remote_is_google_storage_and_says_so(self, project, monkeypatch):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{closed_port()}")
        self.refused(None, r"DVC remote gs://\S+ cannot be reached: .*Connection refused")

    def test_http(self, project):
        self.refused(f"http://127.0.0.1:{closed_port()}/store", "cannot be reached: .*Connection refused")

    def test_no_such_directory(self, project):
        self.refused("../nowhere", "no such directory")

    def test_remote_without_the_data(self, project):
        (project.parent / "empty").mkdir()
        self.refused("../empty", "does not hold the data with md5")

    def test_unknown_kind_of_url(self, project):
        self.refused("bogus://place", "Unsupported URL type")


@pytest.mark.slow
class TestKilled:
    """Nothing half-written is taken for whole, and the next run works."""

    def test_killed_in_the_middle_then_run_again(self, project):
        content = sample_csv_bytes(300)
        write_dvc_file(content)
        with serve(FileServer({f"/store/{object_name(content)}": content}, stall_after=50_000)) as server:
            program = (
                "import sys; from arxiv_cls.corpus.fetch import fetch_from_dvc; fetch_from_dvc(sys.argv[1])"
            )
            process = subprocess.Popen(
                [sys.executable, "-c", program, f"{server.url}/store"],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.DEVNULL,
            )
            assert server.stalled.wait(60)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert not TRACKED_CSV.exists()
            server.go_on.set()
            fetch_from_dvc(f"{server.url}/store")
        assert TRACKED_CSV.read_bytes() == content


@pytest.mark.slow
class TestGoogleStorage:
    """A gs:// remote, proven on an emulator of Google's storage on loopback."""

    def test_push_then_fetch(self, clone, monkeypatch):
        server_module = pytest.importorskip("gcp_storage_emulator.server")
        port = closed_port()
        emulator = server_module.create_server("127.0.0.1", port, in_memory=True, default_bucket="papers")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        emulator.start()
        try:
            with pytest.raises(UserError, match="does not hold the data"):
                fetch_from_dvc("gs://papers/dvc")
            TRACKED_CSV.write_bytes(CONTENT)
            run("dvc", "add", str(TRACKED_CSV))
            run("dvc", "remote", "add", "--local", "emulator", "gs://papers/dvc")
            run("dvc", "push", "--remote", "emulator")
            run("dvc", "remote", "remove", "--local", "emulator")
            shutil.rmtree(".dvc/cache")
            TRACKED_CSV.unlink()
            fetch_from_dvc("gs://papers/dvc")
        finally:
            emulator.stop()
        assert TRACKED_CSV.read_bytes() == CONTENT


def split_ids(cache: Path) -> dict[str, set[str]]:
    """Base ids per split of the tracked CSV as it is now."""
    splits = build_corpus("top5", csv=TRACKED_CSV, cache_dir=cache).splits
    return {name: set(split["arxiv_id"]) for name, split in splits.items()}


@pytest.mark.slow
class TestRollBack:
    """With the real git and DVC: add, commit, grow, commit, go back."""

    def test_older_commit_brings_older_rows_and_splits(self, clone, tmp_path):
        def commit(message: str) -> None:
            run("dvc", "add", str(TRACKED_CSV))
            run("git", "add", ".")
            run("git", "commit", "--quiet", "-m", message)

        header, *rows = sample_csv_bytes(400).splitlines(keepends=True)
        older, newer = b"".join([header, *rows[:250]]), b"".join([header, *rows])
        TRACKED_CSV.write_bytes(older)
        commit("older data")
        splits_before = split_ids(tmp_path / "cache")

        TRACKED_CSV.write_bytes(newer)
        commit("newer data")
        splits_after = split_ids(tmp_path / "cache")
        assert all(splits_before[name] < splits_after[name] for name in splits_before)
        run("dvc", "remote", "add", "--local", "store", str(tmp_path / "store"))
        run("dvc", "push", "--all-commits", "--remote", "store")
        run("dvc", "remote", "remove", "--local", "store")

        # Back: the older content is in DVC's cache, no remote is asked.
        run("git", "checkout", "--quiet", "HEAD~1")
        fetch_from_dvc("../nowhere")
        assert TRACKED_CSV.read_bytes() == older
        assert split_ids(tmp_path / "cache") == splits_before

        # Forward with DVC's own command.
        run("git", "checkout", "--quiet", "-")
        run("dvc", "checkout", str(TRACKED_CSV))
        assert split_ids(tmp_path / "cache") == splits_after

        # On another machine there is no cache: the remote has both versions.
        shutil.rmtree(".dvc/cache")
        TRACKED_CSV.unlink()
        run("git", "checkout", "--quiet", "HEAD~1")
        with pytest.raises(UserError, match="no such directory"):
            fetch_from_dvc("../nowhere")
        fetch_from_dvc("../store")
        assert TRACKED_CSV.read_bytes() == older
        assert split_ids(tmp_path / "cache") == splits_before
