"""`make data SOURCE=kaggle`: the real kagglehub, with a server on loopback in Kaggle's place."""

from __future__ import annotations

import errno
import hashlib
import io
import random
import socket
import zipfile
from pathlib import Path

import pytest
from local_servers import KAGGLE_ARCHIVE as ARCHIVE
from local_servers import FileServer, serve

from arxiv_cls.corpus import fetch
from arxiv_cls.corpus.fetch import fetch_from_kaggle
from arxiv_cls.errors import UserError

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


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty folder, the checksums of the small file, and nobody's credentials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "KAGGLE_MD5", hashlib.md5(CRLF, usedforsecurity=False).hexdigest())
    monkeypatch.setattr(fetch, "KAGGLE_SHA256_LF", hashlib.sha256(LF).hexdigest())
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "nobody"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "set by the download"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def csv() -> Path:
    """Where the file goes."""
    return Path("data/raw/arxiv_kaggle.csv")


@pytest.fixture
def server(monkeypatch):
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


class TestDownload:
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


class TestRefused:
    """What is not the file is said to be so, in a line, and leaves nothing behind."""

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
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
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
