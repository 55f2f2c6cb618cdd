"""The verbs `arxiv-cls data ...`, as a person types them, on the sample."""

from __future__ import annotations

import json

import pytest

from arxiv_cls.cli import main
from arxiv_cls.corpus.stats import write_record
from arxiv_cls.errors import UserError


def data(*arguments: object) -> None:
    """Runs `arxiv-cls data <arguments>`."""
    main(["data", *map(str, arguments)])


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

    def test_fetch_takes_one_source(self):
        with pytest.raises(UserError, match="Kaggle as the source"):
            data("fetch", "--source", "kaggle", "--remote", "somewhere")


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
