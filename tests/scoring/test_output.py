"""Output that cannot be written and input that cannot be read: one clear error, nothing half-written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from factories import ROOT

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError

MODEL = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"
SCORES = MODEL / "eval" / "predictions.parquet"
COMPARE = ["compare", SCORES, SCORES, "--json"]


def run(*words: object, largest_file: int = resource.RLIM_INFINITY, encoding: str = "utf-8", **options):
    """`arxiv-cls` in a process of its own, whose files can have so many bytes."""
    options = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    return subprocess.run(
        [sys.executable, "-m", "arxiv_cls.cli", *map(str, words)], stderr=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding}, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY)),
        **options,
    )  # fmt: skip


@pytest.fixture
def places(tmp_path):
    """A directory, a file, a CSV of two papers and a model that does not know its training papers."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "papers.csv").write_text("title,summary,category_code\na,b,cs.AI\nc,d,cs.CL\n")
    shutil.copytree(MODEL, tmp_path / "model", ignore=lambda *found: ["recipe.yaml"])
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["predict", MODEL, "--csv", "{}/papers.csv", "--out", "{}/folder"], "{}/folder: is a directory"),
        ([*COMPARE, "{}/folder"], "{}/folder: is a directory"),
        ([*COMPARE, "{}/file/a.json"], "{}/file: File exists"),
        # As root a file could take the place of a device.
        ([*COMPARE, "/dev/null"], "/dev/null: is a directory or a device"),
        (["evaluate", MODEL, "--csv", "{}/papers.csv", "--out", "{}/file"], "{}/file is no folder"),
    ],
)
def test_place_that_is_taken(places, words, told):
    """A directory or a device where a file has to go, and the other way round."""
    before = sorted(places.rglob("*"))
    with pytest.raises(UserError, match=told.format(places)):
        main([str(word).format(places) for word in words])
    assert sorted(places.rglob("*")) == before
    assert (places / "file").read_text() == "kept"
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    "words",
    [[*COMPARE, "{}/folder/new"], ["evaluate", "{}/model", "--csv", "{}/papers.csv", "--out", "{}/folder"]],
    ids=["compare", "evaluate"],
)
def test_full_disk(places, words):
    """Nothing half-written stays."""
    done = run(*(str(word).format(places) for word in words), largest_file=1000)
    assert (done.returncode, done.stderr.decode().splitlines()[-2]) == (
        2,
        "error: the output: File too large",
    )
    assert list((places / "folder").iterdir()) == []


def test_full_standard_output():
    """`> /dev/full`: one error and no second one at exit."""
    with Path("/dev/full").open("wb") as full:
        done = run("predict", MODEL, "a text", stdout=full)
    error = "error: the output: No space left on device\n  name another place to write to\n"
    assert (done.returncode, done.stderr.decode()) == (2, error)


def test_latin_1():
    """Characters that the terminal does not have are shown as `?`; --top-k before the text."""
    done = run("predict", MODEL, "--top-k", "2", "Schr\u00f6dinger \u91cf\u5b50 text", encoding="latin-1")
    lines = done.stdout.decode("latin-1").splitlines()
    assert (done.returncode, lines[0]) == (0, "Schr\u00f6dinger ?? text")
    assert [line.startswith("   0.") for line in lines[1:4]] == [True, True, False]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8:surrogateescape", "latin-1"])
def test_bytes_on_standard_input(places, encoding):
    """Read in the terminal's encoding; what is not of it is refused."""
    (places / "input").write_bytes(b"caf\xe9 learning\n")
    with (places / "input").open("rb") as text:
        done = run("predict", MODEL, stdin=text, encoding=encoding)
    if encoding == "latin-1":
        assert (done.returncode, done.stdout[:4]) == (0, b"caf\xe9")
    else:
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"error: predict: a text is not UTF-8\n")
