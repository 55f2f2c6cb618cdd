"""The verbs `arxiv-cls data ...`, as a person types them, on the sample."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from arxiv_cls.corpus import commands
from arxiv_cls.corpus.stats import write_record
from arxiv_cls.errors import UserError


def data(*arguments: object) -> None:
    """Runs `data <arguments>` through the real parser."""
    parser = argparse.ArgumentParser()
    commands.register(parser.add_subparsers())
    parsed = parser.parse_args(["data", *map(str, arguments)])
    parsed.run(parsed)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


class TestVerbs:
    """Each prints what a person wants to know."""

    def test_build(self, sample_csv, capsys):
        data("build", "--csv", sample_csv)
        out = capsys.readouterr().out
        assert "rows read" in out
        assert "stat.ML" in out

    def test_check_finds_the_planted_near_duplicates(self, sample_csv, capsys):
        data("check", "--csv", sample_csv, "--show", 1)
        out = capsys.readouterr().out
        assert "rows read" in out
        assert "near-duplicate pairs across splits" in out
        assert " 0 near-duplicate" not in out
        assert "and test" in out

    def test_stats(self, sample_csv, tmp_path, capsys):
        data("stats", "--csv", sample_csv, "--config", "archive", "--out", tmp_path / "plots")
        out = capsys.readouterr().out
        assert "words per paper" in out
        assert str(tmp_path / "plots" / "years.png") in out
        assert len(list((tmp_path / "plots").iterdir())) == 3

    def test_sample_as_committed(self, sample_csv, tmp_path, capsys):
        data("sample", tmp_path / "again.csv")
        assert (tmp_path / "again.csv").read_bytes() == sample_csv.read_bytes()
        assert "synthetic" in capsys.readouterr().out

    def test_sample_with_windows_line_ends_gives_the_same_report(self, tmp_path, capsys):
        data("sample", tmp_path / "unix.csv", "--papers", 120, "--seed", 3)
        data("sample", tmp_path / "windows.csv", "--papers", 120, "--seed", 3, "--crlf")
        assert (tmp_path / "windows.csv").stat().st_size > (tmp_path / "unix.csv").stat().st_size
        capsys.readouterr()
        reports = []
        for name in ("unix.csv", "windows.csv"):
            data("build", "--csv", tmp_path / name)
            reports.append(capsys.readouterr().out)
        assert reports[0] == reports[1]

    def test_fetch_takes_one_source(self):
        with pytest.raises(UserError, match="Kaggle as the source"):
            data("fetch", "--source", "kaggle", "--remote", "somewhere")


class TestLight:
    """The help answers at once: registering the verbs imports no library for data."""

    def test_imports_nothing_heavy(self):
        program = (
            "import argparse, sys; from arxiv_cls.corpus import commands;"
            "commands.register(argparse.ArgumentParser().add_subparsers());"
            "heavy = ('numpy', 'pyarrow', 'datasets', 'dvc', 'matplotlib', 'torch');"
            "print([name for name in heavy if name in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"


class TestRecords:
    """`--out FILE` of build and check."""

    def test_written_whole(self, tmp_path):
        """Folders are made, and no half-written file is left beside it."""
        path = tmp_path / "new" / "check.json"
        write_record({"papers": 1}, path)
        assert json.loads(path.read_text()) == {"papers": 1}
        assert list(path.parent.iterdir()) == [path]

    def test_place_that_cannot_be_made(self, tmp_path):
        """Below a file, or where a folder is: one error that names it."""
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        for path in (tmp_path / "file" / "check.json", tmp_path / "folder"):
            with pytest.raises(UserError, match="cannot write") as error:
                write_record({}, path)
            assert str(path) in error.value.message
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
