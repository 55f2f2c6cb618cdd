"""The list of files that a model directory may hold."""

from __future__ import annotations

from pathlib import Path

from factories import make_model_dir

from arxiv_cls.record.manifest import TRANSFORMER, foreign_files, release_files


def test_what_is_not_pushed(tmp_path: Path) -> None:
    """`train.log` may lie there; a checkpoint and weights of the other kind are foreign."""
    folder = make_model_dir(tmp_path / "model")
    (folder / "train.log").write_text("epoch 1")
    (folder / "checkpoint-10").mkdir()
    for name in ("checkpoint-10/optimizer.pt", "model.skops"):
        (folder / name).write_bytes(b"x")
    assert foreign_files(folder, TRANSFORMER) == ["checkpoint-10/optimizer.pt", "model.skops"]
    assert not {"train.log", "model.skops"} & set(release_files(folder, TRANSFORMER))
