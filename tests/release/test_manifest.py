"""The list of files that a model directory may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import make_model_dir

from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import (
    MANIFEST,
    TFIDF,
    TRANSFORMER,
    foreign_files,
    missing_files,
    model_kind,
    release_files,
)


class TestManifest:
    """The list itself, and a directory held against it."""

    def test_every_path_is_listed_once(self) -> None:
        """A path with two entries would have two rules."""
        paths = [entry.path for entry in MANIFEST]
        assert len(paths) == len(set(paths))

    @pytest.mark.parametrize("kind", [TRANSFORMER, TFIDF])
    def test_kind_and_files_of_a_whole_directory(self, tmp_path: Path, kind: str) -> None:
        """Only the card is missing before it is written; nothing is foreign; all is released."""
        folder = make_model_dir(tmp_path / "model", kind)
        assert model_kind(folder) == kind
        assert missing_files(folder, kind) == ["README.md"]
        assert missing_files(folder, kind, before_evaluation=True) == []
        assert foreign_files(folder, kind) == []

    def test_log_stays_at_home_and_strangers_are_named(self, tmp_path: Path) -> None:
        """`train.log` may lie there and is not pushed; a checkpoint folder is foreign."""
        folder = make_model_dir(tmp_path / "model")
        (folder / "train.log").write_text("epoch 1")
        (folder / "checkpoint-10").mkdir()
        (folder / "checkpoint-10/optimizer.pt").write_bytes(b"x")
        assert foreign_files(folder, TRANSFORMER) == ["checkpoint-10/optimizer.pt"]
        assert "train.log" not in release_files(folder, TRANSFORMER)

    def test_weights_of_the_other_kind_are_foreign(self, tmp_path: Path) -> None:
        """A skops file has no place beside a transformer."""
        folder = make_model_dir(tmp_path / "model")
        (folder / "model.skops").write_bytes(b"x")
        assert foreign_files(folder, TRANSFORMER) == ["model.skops"]

    def test_not_a_model_directory(self, tmp_path: Path) -> None:
        """The message says what to name instead."""
        with pytest.raises(UserError, match="is not a model directory"):
            model_kind(tmp_path)
