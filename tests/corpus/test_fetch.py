"""`arxiv-cls data fetch` with the real DVC and the real kagglehub: the file that is meant, or a reason."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from local_servers import KAGGLE_ARCHIVE as ARCHIVE
from local_servers import FileServer, free_port, serve, storage_emulator
from make_sample import sample_csv_bytes

from arxiv_cls.corpus import fetch
from arxiv_cls.corpus.fetch import (
    TRACKED_CSV,
    fetch_from_dvc,
    fetch_from_kaggle,
    fetch_snapshot,
    file_md5,
    tracked_md5,
)
from arxiv_cls.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONTENT = sample_csv_bytes(60)


def run(*command: str) -> str:
    """Runs git or DVC in the current folder, without what this machine has configured."""
    settings = {"DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else ["git"]
    if command[:2] == ("git", "commit"):
        program += ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    result = subprocess.run(
        [*program, *command[1:]], env=os.environ | settings, capture_output=True, text=True, check=False
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


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """The machine's own settings must not decide what a test sees."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


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
    write_dvc_file(CONTENT)
    return folder


@pytest.fixture
def clone(project) -> Path:
    """The same with a git history."""
    run("git", "init", "--quiet", "--initial-branch", "main")
    run("git", "add", ".")
    run("git", "commit", "--quiet", "-m", "The project")
    return project


def test_committed_dvc_file(monkeypatch, tmp_path):
    """It names the published content; elsewhere there is none."""
    monkeypatch.chdir(ROOT)
    assert tracked_md5(TRACKED_CSV) == "d10cc8bb6456f1a889ca3bec2d4cfa95"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"arxiv\.csv\.dvc is not there"):
        fetch_from_dvc()


@pytest.mark.parametrize(
    "text", ["", "outs: 3\n", "outs: []\n", "- a list\n", "outs:\n- path: x\n", "a: [\n"]
)
def test_broken_dvc_file_says_how_to_restore_it(project, text):
    Path(f"{TRACKED_CSV}.dvc").write_text(text)
    with pytest.raises(UserError, match="is not a DVC file") as caught:
        fetch_from_dvc()
    assert "git checkout" in caught.value.hint


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
        # An older commit names other content: what the cache knows gives way to it, and comes back.
        older = sample_csv_bytes(60, seed=1)
        write_object(clone.parent / "shared/dvc-store", older)
        for content, remote in ((older, "../shared/dvc-store"), (CONTENT, "../nowhere")):
            write_dvc_file(content)
            fetch_from_dvc(remote)
            assert TRACKED_CSV.read_bytes() == content

    def test_damaged_cache_is_mended(self, clone, caplog):
        """A cached copy with another content is told, thrown away and fetched again."""
        remote = clone.parent / "store"
        write_object(remote, CONTENT)
        damaged = write_object(Path(".dvc/cache"), b"X" + CONTENT[1:], object_name(CONTENT))
        fetch_from_dvc(str(remote))
        assert TRACKED_CSV.read_bytes() == CONTENT == damaged.read_bytes()
        assert "is damaged in DVC's cache" in caplog.text

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


@pytest.mark.parametrize(
    ("remote", "match"),
    [
        (None, r"DVC remote gs://\S+ cannot be reached: .*Connection refused"),
        ("http://HOST/store", "cannot be reached: .*Connection refused"),
        ("../nowhere", "no such directory"),
        ("..", "does not hold the data with md5"),
        ("bogus://place", "Unsupported URL type"),
    ],
)
def test_unreachable(project, monkeypatch, remote, match):
    """One line, exit status 3, at once, with what to pass instead; the default is Google's storage."""
    host = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}")
    with pytest.raises(UserError, match=match) as caught:
        fetch_from_dvc(remote and remote.replace("HOST", host))
    assert caught.value.exit_code == 3
    assert "REMOTE=" in caught.value.hint
    assert "\n" not in caught.value.message
    assert not TRACKED_CSV.exists()


@pytest.mark.slow
def test_killed_in_the_middle_then_run_again(project):
    """Nothing half-written is taken for whole, and the next run works."""
    content = sample_csv_bytes(300)
    write_dvc_file(content)
    program = "import sys; from arxiv_cls.corpus.fetch import fetch_from_dvc; fetch_from_dvc(sys.argv[1])"
    with serve(FileServer({f"/store/{object_name(content)}": content}, stall_after=50_000)) as server:
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
def test_push_then_fetch(clone, monkeypatch):
    """A gs:// remote, proven on an emulator of Google's storage on loopback."""
    with storage_emulator(monkeypatch):
        with pytest.raises(UserError, match="does not hold the data"):
            fetch_from_dvc("gs://logs/dvc")
        TRACKED_CSV.write_bytes(CONTENT)
        run("dvc", "add", str(TRACKED_CSV))
        run("dvc", "remote", "add", "--local", "emulator", "gs://logs/dvc")
        run("dvc", "push", "--remote", "emulator")
        run("dvc", "remote", "remove", "--local", "emulator")
        shutil.rmtree(".dvc/cache")
        TRACKED_CSV.unlink()
        fetch_from_dvc("gs://logs/dvc")
    assert TRACKED_CSV.read_bytes() == CONTENT


# Random digits: their archive has 2 MB, and kagglehub writes what has come by the megabyte.
LINES = "\n".join(f"{random.Random(row).getrandbits(4000):x}" for row in range(4000)) + "\n"
LF, CRLF = LINES.encode(), LINES.replace("\n", "\r\n").encode()


def archive(*members: tuple[str, bytes]) -> bytes:
    """A zip file of these members, the same bytes every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


WHOLE = archive(("arXiv_scientific dataset.csv", CRLF))


@pytest.fixture
def csv(tmp_path, monkeypatch) -> Path:
    """Where the file goes, in an empty folder, with the checksums of the small file and no credentials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "KAGGLE_MD5", hashlib.md5(CRLF, usedforsecurity=False).hexdigest())
    monkeypatch.setattr(fetch, "KAGGLE_SHA256_LF", hashlib.sha256(LF).hexdigest())
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "nobody"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "set by the download"))
    return Path("data/raw/arxiv_kaggle.csv")


@pytest.fixture
def server(monkeypatch, csv):
    """In Kaggle's place."""
    with serve(FileServer({ARCHIVE: WHOLE})) as running:
        monkeypatch.setattr("kagglesdk.kaggle_http_client.get_endpoint", lambda environment: running.url)
        yield running


def files() -> set[str]:
    """Everything that is in the data folder."""
    return {path.name for path in Path("data/raw").iterdir()}


def refused(match: str, status: int = 3) -> UserError:
    """The download fails with one error of two lines."""
    with pytest.raises(UserError, match=match) as caught:
        fetch_from_kaggle()
    assert caught.value.exit_code == status
    assert "\n" not in caught.value.message
    return caught.value


class TestKaggle:
    """The file arrives whole and known, under its name and, where there is none, under the recipes' name."""

    def test_arrives_under_both_names(self, server, csv):
        """A second call asks nobody."""
        said = fetch_from_kaggle()
        assert "checksum as expected" in said
        assert "data/raw/arxiv.csv: a copy of it" in said
        assert csv.read_bytes() == Path("data/raw/arxiv.csv").read_bytes() == CRLF
        assert files() == {"arxiv_kaggle.csv", "arxiv.csv"}
        server.requests.clear()
        assert "in place" in fetch_from_kaggle()
        assert server.requests == []

    def test_the_whole_snapshot(self, server, csv):
        """arXiv's own file arrives under its name; a second call asks nobody."""
        snapshot, line = Path("data/raw/arxiv-metadata-oai-snapshot.json"), b'{"id": "0901.4761"}\n'
        server.files[ARCHIVE] = archive((snapshot.name, line))
        assert "20 bytes" in fetch_snapshot()
        assert (snapshot.read_bytes(), files()) == (line, {snapshot.name})
        server.requests.clear()
        assert "in place" in fetch_snapshot()
        assert server.requests == []

    def test_other_names_and_line_feeds(self, server, csv):
        """The team's file stays; a wrong file of this name gives way to a whole one; LF is the other form."""
        csv.parent.mkdir(parents=True)
        Path("data/raw/arxiv.csv").write_text("the team's")
        csv.write_bytes(b"older")
        server.status = 404
        refused("answers 404")
        assert csv.read_bytes() == b"older"
        server.status = None
        server.files[ARCHIVE] = archive(("folder/x.csv", LF), ("readme.txt", b"hello"))
        fetch_from_kaggle()
        assert csv.read_bytes() == LF
        assert Path("data/raw/arxiv.csv").read_text() == "the team's"

    def test_a_dropped_connection_is_taken_up_where_it_broke(self, server, csv):
        """Within a run, and by the next run when one gave up."""
        server.drops = [1_500_000]
        fetch_from_kaggle()
        assert csv.read_bytes() == CRLF
        assert server.requests[-1][2] == f"bytes={2**20}-"
        csv.unlink()
        server.drops = [1_500_000, *[0] * 9]
        refused("cannot be reached: .*IncompleteRead")
        assert not csv.exists()
        server.drops = []
        fetch_from_kaggle()
        assert csv.read_bytes() == CRLF
        assert server.requests[-1][2] == f"bytes={2**20}-"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"<html>please log in</html>", "no whole archive"),
            (WHOLE[:3000] + b"\0" * 100 + WHOLE[3100:], "no whole archive"),
            (archive(("arXiv.csv", CRLF.replace(b"1", b"2"))), "not the known file: arXiv.csv"),
            (archive(("a.csv", CRLF), ("b.csv", CRLF)), "not the known file: a.csv .*b.csv"),
            (archive(("notes.txt", CRLF)), "not the known file: no CSV"),
        ],
        ids=["login page", "damaged", "other content", "two files", "no csv"],
    )
    def test_wrong_archive(self, server, content, message):
        """With what to do instead."""
        server.files[ARCHIVE] = content
        assert "in a browser" in refused(message).hint
        assert files() == set()

    def test_no_network(self, csv, monkeypatch):
        """Which thing could not be reached, and what to pass instead."""
        url = f"http://127.0.0.1:{free_port()}"
        monkeypatch.setattr("kagglesdk.kaggle_http_client.get_endpoint", lambda environment: url)
        error = refused("Kaggle cannot be reached: Connection refused")
        assert "make data REMOTE=" in error.hint
        assert files() == set()

    def test_disk(self, server, csv, monkeypatch):
        """A full disk and a folder in the way are no fault of the network."""
        csv.mkdir(parents=True)
        refused("cannot write data/raw/arxiv_kaggle.csv: Is a directory", 2)
        csv.rmdir()

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("shutil.copyfile", full)
        refused("cannot write .*No space left on device", 2)
        assert not Path("data/raw/arxiv.csv").exists()
