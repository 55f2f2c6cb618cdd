"""The download from Kaggle: whole and known, or not there; continued where it broke."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import zipfile
from pathlib import Path

import pytest
from local_servers import FileServer, serve

from arxiv_cls.corpus import kaggle
from arxiv_cls.corpus.kaggle import ExpectedCsv, fetch_from_kaggle
from arxiv_cls.errors import UserError

# Random letters: an archive of them is about as long as they are, so it arrives in several pieces.
LINES = "\n".join(f"{random.Random(row).getrandbits(4000):x}" for row in range(400)) + "\n"
LF, CRLF = LINES.encode(), LINES.replace("\n", "\r\n").encode()
EXPECTED = ExpectedCsv(
    md5_crlf=hashlib.md5(CRLF, usedforsecurity=False).hexdigest(),
    sha256_lf=hashlib.sha256(LF).hexdigest(),
    largest=len(CRLF),
)


def archive(*members: tuple[str, bytes]) -> bytes:
    """A zip file of these members, the same bytes every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


WHOLE = archive(("arXiv_scientific dataset.csv", CRLF))


@pytest.fixture
def server():
    with serve(FileServer({"/data": WHOLE})) as running:
        yield running


@pytest.fixture
def csv(tmp_path) -> Path:
    return tmp_path / "raw" / "arxiv_kaggle.csv"


def fetch(csv: Path, server: FileServer) -> str:
    return fetch_from_kaggle(csv, f"{server.url}/data", EXPECTED)


def assert_nothing_left(csv: Path) -> None:
    assert not csv.parent.exists() or list(csv.parent.iterdir()) == []


class TestGoodDownload:
    """The file arrives under its name, alone."""

    def test_arrives_whole_and_alone(self, server, csv):
        assert "checksum as expected" in fetch(csv, server)
        assert csv.read_bytes() == CRLF
        assert list(csv.parent.iterdir()) == [csv]

    def test_line_feeds_are_the_other_known_form(self, server, csv):
        server.files["/data"] = archive(("folder/x.csv", LF), ("readme.txt", b"hello"))
        fetch(csv, server)
        assert csv.read_bytes() == LF

    def test_second_call_asks_nobody(self, server, csv):
        fetch(csv, server)
        server.requests.clear()
        assert "in place" in fetch(csv, server)
        assert server.requests == []

    def test_a_wrong_file_of_that_name_is_replaced_only_by_a_whole_one(self, server, csv):
        csv.parent.mkdir()
        csv.write_bytes(b"older")
        server.status = 404
        with pytest.raises(UserError):
            fetch(csv, server)
        assert csv.read_bytes() == b"older"
        server.status = None
        fetch(csv, server)
        assert csv.read_bytes() == CRLF

    def test_url_comes_from_the_environment(self, server, csv, monkeypatch):
        monkeypatch.setenv(kaggle.URL_VARIABLE, f"{server.url}/data")
        fetch_from_kaggle(csv, expected=EXPECTED)
        assert csv.read_bytes() == CRLF


class TestBrokenConnection:
    """A download goes on where it broke, and never mixes two files."""

    def test_dropped_twice_is_continued_by_ranges(self, server, csv):
        server.drops = [50_000, 30_000]
        fetch(csv, server)
        assert csv.read_bytes() == CRLF
        assert [request[2] for request in server.requests] == [None, "bytes=50000-", "bytes=80000-"]

    def test_server_without_ranges_sends_it_all_again(self, server, csv):
        server.ranges, server.drops = False, [50_000]
        fetch(csv, server)
        assert csv.read_bytes() == CRLF

    def test_file_changed_in_between_starts_anew(self, server, csv, monkeypatch):
        monkeypatch.setattr(kaggle, "ATTEMPTS", 1)
        server.files["/data"] = archive(("arXiv_scientific dataset.csv", CRLF[::-1]))
        server.drops = [50_000, 0]
        with pytest.raises(UserError, match="50,000 bytes are kept"):
            fetch(csv, server)
        server.files["/data"], server.etag = WHOLE, '"two"'
        fetch(csv, server)
        assert csv.read_bytes() == CRLF
        assert len(server.requests) == 3

    def test_no_etag_and_a_changed_file_costs_one_more_download(self, server, csv):
        csv.parent.mkdir()
        server.etag = None
        csv.with_name(csv.name + ".zip.part").write_bytes(b"x" * 1000)
        fetch(csv, server)
        assert csv.read_bytes() == CRLF
        assert [request[2] for request in server.requests] == ["bytes=1000-", None]

    def test_giving_up_keeps_what_came_and_says_so(self, server, csv, monkeypatch):
        monkeypatch.setattr(kaggle, "ATTEMPTS", 2)
        server.drops = [40_000, 0, 0]
        with pytest.raises(UserError, match="2 times in a row; 40,000 bytes are kept") as caught:
            fetch(csv, server)
        assert caught.value.exit_code == 3
        assert not csv.exists()
        fetch(csv, server)
        assert csv.read_bytes() == CRLF
        assert server.requests[-1][2] == "bytes=40000-"

    def test_killed_in_the_middle_then_run_again(self, server, csv):
        server.stall_after = 60_000
        program = (
            "import sys; from pathlib import Path; from arxiv_cls.corpus.kaggle import *;"
            "fetch_from_kaggle(Path(sys.argv[1]), sys.argv[2], ExpectedCsv(*sys.argv[3:5], int(sys.argv[5])))"
        )
        arguments = [str(csv), f"{server.url}/data", EXPECTED.md5_crlf, EXPECTED.sha256_lf, str(len(CRLF))]
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL)
        assert server.stalled.wait(60)
        part = csv.with_name(csv.name + ".zip.part")
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not csv.exists()
        server.go_on.set()
        fetch(csv, server)
        assert csv.read_bytes() == CRLF
        assert server.requests[-1][2] is not None, "the second run starts over instead of going on"

    def test_killed_after_the_last_byte_unpacks_without_asking_again(self, server, csv):
        fetch(csv, server)
        csv.unlink()
        part = csv.with_name(csv.name + ".zip.part")
        part.write_bytes(WHOLE)
        part.with_name(part.name + ".json").write_text(f'{{"etag": null, "total": {len(WHOLE)}}}')
        server.requests.clear()
        fetch(csv, server)
        assert csv.read_bytes() == CRLF
        assert server.requests == []


class TestRefused:
    """What is not the file is said to be so, in a line, and leaves nothing behind."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"<html>please log in</html>", "not a zip archive"),
            (archive(("arXiv.csv", CRLF.replace(b"1", b"2"))), "is not the known file"),
            (archive(("a.csv", CRLF), ("b.csv", CRLF)), "holds 2 CSV files"),
            (archive(("notes.txt", CRLF)), "holds 0 CSV files"),
            (archive(("bomb.csv", b"0" * 20_000_000)), "exceeds the known"),
            (WHOLE[:3000] + b"\0" * 100 + WHOLE[3100:], "not a zip archive"),
        ],
        ids=["login page", "other content", "two files", "no csv", "bomb", "damaged"],
    )
    def test_wrong_archive(self, server, csv, content, message):
        server.files["/data"] = content
        with pytest.raises(UserError, match=message) as caught:
            fetch(csv, server)
        assert caught.value.exit_code == 3
        assert "in a browser" in caught.value.hint
        assert_nothing_left(csv)

    def test_names_in_the_archive_are_not_paths(self, server, csv, tmp_path):
        server.files["/data"] = archive(("../../outside.csv", CRLF))
        fetch(csv, server)
        assert list(csv.parent.iterdir()) == [csv]
        assert not list(tmp_path.parent.glob("outside.csv"))

    def test_404_at_once(self, server, csv):
        server.status = 404
        with pytest.raises(UserError, match="answers 404") as caught:
            fetch(csv, server)
        assert caught.value.exit_code == 3
        assert len(server.requests) == 1

    def test_unreachable_at_once(self, csv):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/data"
        with pytest.raises(UserError, match="cannot be reached: Connection refused") as caught:
            fetch_from_kaggle(csv, url, EXPECTED)
        assert caught.value.exit_code == 3
        assert_nothing_left(csv)

    @pytest.mark.parametrize(
        "error",
        [
            ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed"),
            OSError(errno.ENETUNREACH, "Network is unreachable"),
            OSError(errno.EHOSTUNREACH, "No route to host"),
        ],
        ids=["TLS", "no network", "no route"],
    )
    def test_network_errors_are_tried_again(self, server, csv, monkeypatch, error):
        """They are `OSError`s like those of a full disk, and are not told as such."""
        read, broken = http.client.HTTPResponse.read1, []

        def read1(response, size):
            if len(broken) < 2:
                broken.append(size)
                raise error
            return read(response, size)

        monkeypatch.setattr(http.client.HTTPResponse, "read1", read1)
        fetch(csv, server)
        assert csv.read_bytes() == CRLF
        monkeypatch.setattr(kaggle, "ATTEMPTS", 2)
        csv.unlink()
        broken.clear()
        with pytest.raises(UserError, match=re.escape(f"{error.strerror}, 2 times in a row")) as caught:
            fetch(csv, server)
        assert caught.value.exit_code == 3

    def test_no_network_at_the_start(self, csv, monkeypatch):
        """Nothing was there yet: said at once, and nothing is left behind."""

        def unreachable(*arguments, **options):
            raise urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

        monkeypatch.setattr("urllib.request.urlopen", unreachable)
        with pytest.raises(UserError, match="cannot be reached: Network is unreachable") as caught:
            fetch_from_kaggle(csv, "https://example.org/data", EXPECTED)
        assert caught.value.exit_code == 3
        assert_nothing_left(csv)

    def test_full_disk_is_told_as_such(self, server, csv, monkeypatch):
        """An error while writing is the disk's."""

        def full(archive, *arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(kaggle, "_unpack", full)
        with pytest.raises(UserError, match=r"cannot write .*No space left on device") as caught:
            fetch(csv, server)
        assert caught.value.exit_code == 2

    def test_folder_in_the_way(self, server, csv):
        csv.mkdir(parents=True)
        with pytest.raises(UserError, match="cannot write"):
            fetch(csv, server)
