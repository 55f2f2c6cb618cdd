"""A number changed on a card by hand is found and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_hub import LocalHub
from model_dirs import change_json, make_model_dir, write_json

from arxiv_cls.errors import UserError
from arxiv_cls.record.model_directory import read_model_directory
from arxiv_cls.release.card import ModelCard, build_model_card, render
from arxiv_cls.release.push_model import push_model
from arxiv_cls.release.verify import FIELD, FRONT_MATTER, CardDifference, check_card, compare_card


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """A filled card."""
    model = read_model_directory(make_model_dir(tmp_path_factory.mktemp("card") / "m"))
    recorded = model.optional_json("eval/examples.json")
    assert recorded is not None
    return build_model_card(model, recorded["examples"], repo_id="user/m", version="v0.1.0")


class TestCardCheck:
    """One change at a time."""

    def test_untouched(self, card: ModelCard) -> None:
        """No difference is reported where there is none."""
        assert compare_card(render(card), card) == []

    def test_every_number_of_the_body_is_watched(self, card: ModelCard) -> None:
        """All shown fields get another text at once; each is named, with both values."""
        marked = render(card, mark=True)
        fields = [(match[1], match[2]) for match in FIELD.finditer(marked)]
        assert len(fields) > 80
        found = compare_card(FIELD.sub(r"\g<2>9", marked), card)
        assert [(d.field, d.on_card, d.recorded) for d in found] == [
            (field, text + "9", text) for field, text in fields
        ]

    def test_one_number_in_a_row_of_numbers(self, card: ModelCard) -> None:
        """Of a table row with five numbers only the changed one is named."""
        marked = render(card, mark=True)
        match = next(m for m in FIELD.finditer(marked) if m[1] == "metrics.per_class.cs.CV.recall")
        text = FIELD.sub(r"\2", marked[: match.start(2)] + "0.001" + marked[match.end(2) :])
        (difference,) = compare_card(text, card)
        assert str(difference) == (
            f"metrics.per_class.cs.CV.recall: the card says '0.001', the record {match[2]!r}"
        )

    def test_metric_of_the_front_matter(self, card: ModelCard) -> None:
        """The results index that leaderboards read is watched by the metric's name."""
        text = render(card)
        value = text.split("name: Macro F1")[0].rsplit("value: ", 1)[1].split()[0]
        (difference,) = compare_card(text.replace(f"value: {value}", "value: 0.99"), card)
        assert "Macro F1.value" in difference.field
        assert (difference.on_card, difference.recorded) == ("0.99", value)

    def test_widget_score(self, card: ModelCard) -> None:
        """An example's output is watched too."""
        (difference,) = compare_card(render(card).replace("score: 0.7\n", "score: 0.9\n"), card)
        assert difference.field == "metadata: widget[0].output[0].score"

    def test_changed_wording(self, card: ModelCard) -> None:
        """Text that is no field is reported by its line."""
        text = render(card).replace("## Limits and biases", "## No limits")
        (difference,) = compare_card(text, card)
        number = text.splitlines().index("## No limits") + 1
        assert difference.field == f"line {number}"

    def test_removed_and_added_lines(self, card: ModelCard) -> None:
        """A limit that was deleted, and a claim that was added, are both seen."""
        lines = render(card).splitlines(keepends=True)
        place = next(number for number, line in enumerate(lines) if line.startswith("- The labels are"))
        assert len(compare_card("".join(lines[:place] + lines[place + 1 :]), card)) == 1
        assert len(compare_card("".join([*lines[:place], "- It is perfect.\n", *lines[place:]]), card)) == 1

    def test_broken_front_matter(self, card: ModelCard) -> None:
        """YAML that does not parse is a difference, not a crash."""
        text = render(card)
        front = FRONT_MATTER.match(text)
        assert front is not None
        (difference,) = compare_card(f"---\na: [\n---\n{text[front.end() :]}", card)
        assert difference.field == "metadata"
        assert compare_card(text[front.end() :], card)[0].field == "metadata"

    @pytest.mark.parametrize(
        "index", ["text", "[text]", "[{results: text}]", "[{results: [text]}]", "[{results: [{metrics: 3}]}]"]
    )
    def test_malformed_results_index(self, card: ModelCard, index: str) -> None:
        """A results index of another shape is a difference, not a crash."""
        lines = render(card).splitlines(keepends=True)
        first = lines.index("model-index:\n")
        after = next(
            i for i in range(first + 1, len(lines)) if lines[i][0] not in " -" or lines[i] == "---\n"
        )
        text = "".join([*lines[:first], f"model-index: {index}\n", *lines[after:]])
        assert any("model-index" in difference.field for difference in compare_card(text, card))


class TestOverrides:
    """The notice of overridden checks is held against `eval/gate.json`, not against itself."""

    @pytest.fixture
    def released(self, hub: LocalHub, tmp_path: Path) -> Path:
        """A model directory as it lies there after a release with two overrides."""
        folder = make_model_dir(tmp_path / "m")
        change_json(folder / "run.json", git={"commit": None, "dirty": True})
        push_model(folder, "user/m", overrides=["commit", "clean-tree"])
        return folder

    def differences(self, folder: Path) -> list[CardDifference]:
        """What `verify` finds on the card of the release."""
        return check_card(read_model_directory(folder), "user/m", "v0.1.0")

    def test_untouched(self, released: Path) -> None:
        """The released card is what the record says."""
        assert self.differences(released) == []
        assert check_card(read_model_directory(released), None, None) == []

    def test_changed_value(self, released: Path) -> None:
        """The check is named, with the sentence on the card and the recorded one."""
        card = (released / "README.md").read_text()
        (released / "README.md").write_text(card.replace("found dirty=True", "found dirty=None"))
        (difference,) = self.differences(released)
        assert difference.field == "gate.clean-tree"
        assert "dirty=None" in difference.on_card
        assert "dirty=True" in difference.recorded

    def test_deleted_notice(self, released: Path) -> None:
        """The whole block, or one of its lines."""
        card = (released / "README.md").read_text()
        lines = card.splitlines(keepends=True)
        (released / "README.md").write_text("".join(line for line in lines if not line.startswith(">")))
        assert any("commit: trained outside" in found.recorded for found in self.differences(released))
        (released / "README.md").write_text("".join(line for line in lines if "> - commit" not in line))
        (difference,) = self.differences(released)
        assert "commit: trained outside" in difference.recorded

    def test_invented_notice(self, released: Path) -> None:
        """A card may not tell of an override that the record does not know."""
        (released / "eval/gate.json").unlink()
        assert any("clean-tree" in found.on_card for found in self.differences(released))

    def test_broken_record(self, released: Path) -> None:
        """The file is named."""
        write_json(released / "eval/gate.json", {"overridden": [{"check": "commit"}]})
        with pytest.raises(UserError, match=r"eval/gate\.json: overridden\.0\.found: Field required"):
            self.differences(released)
