"""A card that was changed by hand differs from its records, and the place is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import add_every_section, change_json, make_model_dir, write_json
from local_hub import LocalHub

from arxiv_cls.errors import UserError
from arxiv_cls.record.directory import read_model_directory
from arxiv_cls.release.card import render_model_card
from arxiv_cls.release.push_model import push_model
from arxiv_cls.release.verify import check_card


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model directory with every section, and its card."""
    folder = add_every_section(make_model_dir(tmp_path_factory.mktemp("card") / "m"))
    return folder, render_model_card(folder, repo_id="user/m", version="v0.1.0")


def differences(folder: Path, card: str) -> list[str]:
    """What `verify` finds on a card; everything on it was checked."""
    (folder / "README.md").write_text(card)
    found, left = check_card(read_model_directory(folder))
    assert left == []
    return found


class TestCardCheck:
    """One change at a time."""

    def test_untouched(self, model: tuple[Path, str]) -> None:
        """No difference where there is none; the card of a local directory names its release itself."""
        folder, card = model
        for text in (card, render_model_card(folder, repo_id="user/m"), render_model_card(folder)):
            assert differences(folder, text) == []

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ("0.250 | 0.900 |", "0.250 | 0.990 |", "0.250 | 0.990 | 1.40 |', the records"),
            ("With its threshold, 0.347", "With its threshold, 0.1", "threshold, 0.1 on a scale"),
            ("score: 0.7\n", "score: 0.9\n", "metadata.widget[0].output[0].score: the card says 0.9, the"),
            ("license: apache-2.0\nmetrics", "license: mit\nmetrics", "metadata.license: the card says"),
            ("## Limits and biases", "## No limits", "says '## No limits', the records '## Limits"),
            ("- The labels are", "- It is perfect.\n- The labels are", "says '- It is perfect.', the"),
            ("full texts and lone titles ", "", "languages, were not tested.', the records"),
        ],
    )  # fmt: skip
    def test_changed(self, model: tuple[Path, str], before: str, after: str, expected: str) -> None:
        """A number in a table, in a sentence and in the front matter, a word, a line more: one difference."""
        folder, card = model
        assert card.count(before) == 1
        (difference,) = differences(folder, card.replace(before, after))
        assert expected in difference
        if not difference.startswith("metadata"):
            assert difference.startswith(f"line {card[: card.index(before)].count(chr(10)) + 1}: ")

    def test_metric_of_the_front_matter(self, model: tuple[Path, str]) -> None:
        """The results index that leaderboards read: a value, the data it is of, an entry more or fewer."""
        folder, card = model
        value = card.split("name: Macro F1")[0].rsplit("value: ", 1)[1].split()[0]
        assert differences(folder, card.replace(f"value: {value}", "value: 0.99")) == [
            f"model-index.Macro F1.metric_value: the card says 0.99, the records {value}"
        ]
        other_split = differences(folder, card.replace("split: test\n", "split: all\n", 1))
        assert "dataset_split: the card says 'all'" in other_split[0]
        entry = card[card.index("    - type: accuracy") : card.index("    - type: f1")]
        fewer = differences(folder, card.replace(entry, "", 1))
        assert any("model-index.Accuracy.metric_value: the card says None" in found for found in fewer)
        for more in (entry, entry.replace("Acc", "Other acc")):
            found = differences(folder, card.replace(entry, more + entry, 1))
            assert "model-index.entries: the card says 8, the records 7" in found

    @pytest.mark.parametrize(
        "index", ["text", "[text]", "[{results: text}]", "[{results: [{metrics: 3}]}]", "3", "[]"]
    )
    def test_malformed_front_matter(self, model: tuple[Path, str], index: str) -> None:
        """A results index of another shape, or what is no YAML, is a difference, not a crash."""
        folder, card = model
        first, end = card.index("model-index:"), card.index("\n---\n", 4)
        assert differences(folder, f"{card[:first]}model-index: {index}{card[end:]}")
        assert differences(folder, f"---\na: [\n{card[end:]}") != []
        assert any("model-index" in found for found in differences(folder, card[end + 5 :]))


def test_overrides(hub: LocalHub, tmp_path: Path) -> None:
    """Their notice is compared with `eval/gate.json`, not with itself; a broken record is named."""
    folder = make_model_dir(tmp_path / "m")
    change_json(folder / "run.json", git={"commit": None, "dirty": True})
    push_model(folder, "user/m", overrides=["commit", "clean-tree"])
    card = (folder / "README.md").read_text()
    assert differences(folder, card) == []
    (difference,) = differences(folder, card.replace("found dirty=True", "found dirty=None"))
    assert "dirty=None" in difference
    lines = card.splitlines(keepends=True)
    for kept in (
        [line for line in lines if "> - commit" not in line],
        [line for line in lines if not line.startswith(">")],
    ):
        told = " ".join(differences(folder, "".join(kept)))
        assert "> - commit: trained outside" in told
    (folder / "eval/gate.json").unlink()
    assert any("clean-tree" in found for found in differences(folder, card))
    write_json(folder / "eval/gate.json", {"overridden": [{"check": "commit"}]})
    with pytest.raises(UserError, match=r"eval/gate\.json: overridden\.0\.found: Field required"):
        differences(folder, card)
