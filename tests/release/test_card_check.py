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
        assert differences(folder, card) == []
        assert differences(folder, render_model_card(folder, repo_id="user/m")) == []
        assert differences(folder, render_model_card(folder)) == []

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ("0.250 | 0.900 |", "0.250 | 0.990 |", "0.250 | 0.990 | 1.40 |', the records"),
            ("With its threshold, 0.347", "With its threshold, 0.1", "threshold, 0.1 on a scale"),
            ("| train papers | 1,400 |", "| train papers | 9,400 |", "papers | 9,400 |', the records"),
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
            f"model-index, Macro F1, metric_value: the card says 0.99, the records {value}"
        ]
        assert (
            "dataset_split: the card says 'all'"
            in differences(folder, card.replace("split: test\n", "split: all\n", 1))[0]
        )
        entry = card[card.index("    - type: accuracy") : card.index("    - type: f1")]
        assert "the card has no Accuracy" in " ".join(differences(folder, card.replace(entry, "", 1)))
        more = card.replace(entry, entry + entry.replace("Acc", "Other acc"), 1)
        assert differences(folder, more) == ["model-index: the card has 8 entries, the records 7"]

    @pytest.mark.parametrize(
        "index",
        [
            "text",
            "[text]",
            "[{results: text}]",
            "[{results: [text]}]",
            "[{results: [{metrics: 3}]}]",
            "3",
            "[]",
        ],
    )
    def test_malformed_front_matter(self, model: tuple[Path, str], index: str) -> None:
        """A results index of another shape, or what is no YAML, is a difference, not a crash."""
        folder, card = model
        first, end = card.index("model-index:"), card.index("\n---\n", 4)
        assert differences(folder, f"{card[:first]}model-index: {index}{card[end:]}")
        assert differences(folder, f"---\na: [\n{card[end:]}") != []
        assert any("model-index" in found for found in differences(folder, card[end + 5 :]))

    def test_card_of_another_version(self, model: tuple[Path, str]) -> None:
        """Its text is not checked, and that is said; its numbers in the results index are."""
        folder, card = model
        other = card.replace("(template ", "(template 0").replace("## Limits", "## Other limits")
        (folder / "README.md").write_text(other)
        found, (left,) = check_card(read_model_directory(folder))
        assert found == []
        assert left.startswith("the text of README.md")
        value = card.split("name: Macro F1")[0].rsplit("value: ", 1)[1].split()[0]
        (folder / "README.md").write_text(other.replace(f"value: {value}", "value: 0.99"))
        assert len(check_card(read_model_directory(folder))[0]) == 1


class TestOverrides:
    """The notice of overridden checks is compared with `eval/gate.json`, not with itself."""

    @pytest.fixture
    def released(self, hub: LocalHub, tmp_path: Path) -> tuple[Path, str]:
        """A model directory as it lies there after a release with two overrides, and its card."""
        folder = make_model_dir(tmp_path / "m")
        change_json(folder / "run.json", git={"commit": None, "dirty": True})
        push_model(folder, "user/m", overrides=["commit", "clean-tree"])
        return folder, (folder / "README.md").read_text()

    def test_changed_or_deleted_notice(self, released: tuple[Path, str]) -> None:
        """A value, one of its lines, the whole block; the released card is what the record says."""
        folder, card = released
        assert differences(folder, card) == []
        (difference,) = differences(folder, card.replace("found dirty=True", "found dirty=None"))
        assert "dirty=None" in difference
        assert "dirty=True" in difference
        lines = card.splitlines(keepends=True)
        (difference,) = differences(folder, "".join(line for line in lines if "> - commit" not in line))
        assert "the records '> - commit: trained outside" in difference
        without = differences(folder, "".join(line for line in lines if not line.startswith(">")))
        assert any("> - commit: trained outside" in found for found in without)

    def test_record(self, released: tuple[Path, str]) -> None:
        """A card may not tell of an override that the record does not know; a broken record is named."""
        folder, card = released
        (folder / "eval/gate.json").unlink()
        assert any("clean-tree" in found for found in differences(folder, card))
        write_json(folder / "eval/gate.json", {"overridden": [{"check": "commit"}]})
        with pytest.raises(UserError, match=r"eval/gate\.json: overridden\.0\.found: Field required"):
            differences(folder, card)
