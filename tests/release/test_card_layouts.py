"""Cards of every released layout are still understood, and what only some models have is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from model_dirs import (
    PNG,
    TFIDF,
    TRANSFORMER,
    add_every_section,
    add_export,
    change_json,
    make_model_dir,
    write_json,
)

from arxiv_cls.errors import UserError
from arxiv_cls.record.model_directory import read_model_directory
from arxiv_cls.release.card import LAYOUT, build_model_card, layout_of, render, render_model_card
from arxiv_cls.release.verify import check_card, compare_card

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
RELEASES = sorted(path.parent for path in FIXTURES.glob("releases/v*/*/config.json"))
WRITTEN = {"repo_id": "user/m", "version": "v0.1.0", "overrides": ["quality: worse"]}


class TestEarlierLayouts:
    """`tests/fixtures/cards` holds a card of each layout, written by the version that released it."""

    @pytest.mark.parametrize("kind", [TRANSFORMER, TFIDF])
    @pytest.mark.parametrize("layout", range(1, LAYOUT))
    def test_a_card_comes_out_as_it_was_written(self, tmp_path: Path, layout: int, kind: str) -> None:
        """Byte for byte, every section included; and the check finds nothing to tell."""
        written = (FIXTURES / "cards" / f"layout-{layout}-{kind}.md").read_text()
        folder = add_every_section(make_model_dir(tmp_path / "m", kind))
        change_json(folder / "run.json", git={"commit": "c" * 40, "dirty": False})
        model = read_model_directory(folder)
        examples = model.optional_json("eval/examples.json")
        assert examples is not None
        card = build_model_card(model, examples["examples"], **WRITTEN)
        assert render(card, layout=layout) == written
        assert layout_of(written) == layout
        assert compare_card(written, card) == []

    @pytest.mark.parametrize("folder", RELEASES, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
    def test_released_fixtures(self, folder: Path) -> None:
        """The cards of the committed releases are what their records say."""
        assert check_card(read_model_directory(folder), f"user/{folder.name}", folder.parent.name) == []

    def test_a_local_directory_that_was_pushed(self) -> None:
        """`verify outputs/name` after a release: the card names its repository and version itself."""
        assert check_card(read_model_directory(RELEASES[0]), None, None) == []

    def test_a_number_in_a_sentence_is_named(self, tmp_path: Path) -> None:
        """The threshold in the middle of the paragraph on the scope, in an old card and in a new one."""
        model = read_model_directory(add_every_section(make_model_dir(tmp_path / "m")))
        examples = model.optional_json("eval/examples.json")
        assert examples is not None
        card = build_model_card(model, examples["examples"], **WRITTEN)
        for layout in range(1, LAYOUT + 1):
            text = render(card, layout=layout).replace("With its threshold, 0.347", "With its threshold, 0.1")
            (difference,) = compare_card(text, card)
            assert str(difference) == "scope.threshold: the card says '0.1', the record '0.347'"

    def test_layout_of_a_later_version(self, tmp_path: Path) -> None:
        """It is refused by name; it is not held against the wrong template."""
        card = render_model_card(make_model_dir(tmp_path / "m"))
        assert layout_of(card) == LAYOUT
        later = card.replace(f"<!-- Card layout {LAYOUT},", f"<!-- Card layout {LAYOUT + 1},")
        with pytest.raises(UserError, match=f"layout {LAYOUT + 1}, and this version knows"):
            layout_of(later)


class TestExtras:
    """Exports, the map of the embeddings, the terms of a baseline."""

    def test_exports(self, tmp_path: Path) -> None:
        """The file with its size, and how far it lies from the weights; the line that loads it."""
        folder = add_export(make_model_dir(tmp_path / "m"))
        card = render_model_card(folder, repo_id="user/m", version="v0.1.0")
        measured = "the weights | 3,293 | 100.00% | 0.00 points | 3.2e-07 | 0.0001 |"
        assert f"| `onnx/model.onnx` | ONNX export, fp32 | 2 MB | {measured}" in card
        assert 'load_predictor("user/m@v0.1.0", engine="onnx")' in card
        assert "Inference Endpoints" not in card
        (folder / "handler.py").write_text("class EndpointHandler: ...")
        assert "`handler.py` and `requirements.txt` serve them on Inference Endpoints" in render_model_card(
            folder
        )

    def test_int8_is_the_engine_where_there_is_one(self, tmp_path: Path) -> None:
        """Held against the fp32 export; on example texts no accuracy was measured, and the card says so."""
        folder = add_export(make_model_dir(tmp_path / "m"))
        (folder / "onnx/model_int8.onnx").write_bytes(b"smaller")
        parity = json.loads((folder / "onnx/parity.json").read_text())
        int8 = {"reference": "onnx/model.onnx", "max_difference": 0.051, "tolerance": 0.2}
        parity["exports"]["onnx/model_int8.onnx"] = int8
        write_json(folder / "onnx/parity.json", parity)
        card = render_model_card(folder)
        measured = "| `onnx/model.onnx` | example texts | not measured | not measured | 0.051 | 0.2 |"
        assert f"ONNX export, int8 | 0 MB {measured}" in card
        assert 'engine="int8")' in card

    def test_export_that_was_not_compared(self, tmp_path: Path) -> None:
        """No card with a hole in it."""
        with pytest.raises(UserError, match=r"onnx/model\.onnx\.max_difference"):
            render_model_card(add_export(make_model_dir(tmp_path / "m"), difference=None))

    def test_training_curve(self, tmp_path: Path) -> None:
        """A linear baseline grew no trees: its plot of losses is empty, and not on the card."""
        folder = make_model_dir(tmp_path / "m", TFIDF)
        assert "](training_curve.png)" in render_model_card(folder)
        change_json(folder / "run.json", training={"rounds": 0, "papers_seen": 1400})
        assert "](training_curve.png)" not in render_model_card(folder)

    def test_terms_and_map(self, tmp_path: Path) -> None:
        """Shown where they are; terms of earlier weights are not."""
        folder = make_model_dir(tmp_path / "m", TFIDF)
        assert "## What it looks at" not in render_model_card(folder)
        weights = read_model_directory(folder).weights_sha256()
        record = {"weights_sha256": weights, "terms": {"cs.CL": {"parsing": 2.0, "title:words": 1.0}}}
        write_json(folder / "eval/terms.json", record)
        assert '| `cs.CL` | "parsing", "title:words" |' in render_model_card(folder)
        change_json(folder / "eval/terms.json", weights_sha256="0" * 64)
        assert "parsing" not in render_model_card(folder)
        (folder / "eval/embeddings.png").write_bytes(PNG)
        assert "](eval/embeddings.png)" in render_model_card(folder)
