"""The list of files that a model directory may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import make_model_dir

from arxiv_cls.record.manifest import (
    TFIDF,
    TRANSFORMER,
    foreign_files,
    missing_files,
    model_kind,
    release_files,
)


class TestManifest:
    """A directory compared with the list."""

    @pytest.mark.parametrize("kind", [TRANSFORMER, TFIDF])
    def test_kind_and_files_of_a_whole_directory(self, tmp_path: Path, kind: str) -> None:
        """Only the card is missing before it is written; nothing is foreign; all is listed."""
        folder = make_model_dir(tmp_path / "model", kind)
        assert model_kind(folder) == kind
        assert missing_files(folder, kind) == ["README.md"]
        assert missing_files(folder, kind, before_evaluation=True) == []
        assert foreign_files(folder, kind) == []

    def test_what_is_not_pushed(self, tmp_path: Path) -> None:
        """`train.log` may lie there; a checkpoint and weights of the other kind are foreign."""
        folder = make_model_dir(tmp_path / "model")
        (folder / "train.log").write_text("epoch 1")
        (folder / "checkpoint-10").mkdir()
        for name in ("checkpoint-10/optimizer.pt", "model.skops"):
            (folder / name).write_bytes(b"x")
        assert foreign_files(folder, TRANSFORMER) == ["checkpoint-10/optimizer.pt", "model.skops"]
        assert not {"train.log", "model.skops"} & set(release_files(folder, TRANSFORMER))
