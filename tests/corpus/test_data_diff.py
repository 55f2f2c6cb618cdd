"""What changes between two versions of the data: counts, papers and the mix of labels, as Markdown."""

from __future__ import annotations

import pytest
from factories import COUNT, paper, papers, write_csv

from arxiv_cls.cli import main
from arxiv_cls.corpus.builder import BuildReport
from arxiv_cls.corpus.stats import DataDiff, compare_corpora
from arxiv_cls.errors import UserError


@pytest.fixture
def compare(tmp_path, build, csv):
    """Compares the 200 papers of the fixture with the rows given."""

    def run(rows: list[dict[str, str]], config: str = "top5") -> DataDiff:
        new = write_csv(tmp_path / "new papers.csv", rows)
        return compare_corpora(build(config, csv=csv), build(config, csv=new))

    return run


def report(splits: dict[str, dict[str, int]], **changes: object) -> BuildReport:
    """A report with these counts and nothing else of note."""
    values = {
        "config": "top5",
        "split": "paper",
        "seed": 42,
        "time_boundaries": None,
        "rows_read": 100,
        "rejected": 0,
        "rejected_by_reason": {},
        "rejects_file": None,
        "merged": 0,
        "outside_config": 0,
        "duplicates": [],
        "left_out": 0,
        "splits": splits,
    }
    return BuildReport(**values | changes)


class TestPapers:
    """Papers are compared by their base id."""

    def test_same_file(self, compare):
        """No change, no warning."""
        diff = compare(papers(COUNT))
        assert (diff.added, diff.gone, diff.moved, diff.relabelled, diff.rewritten) == ({}, {}, [], [], [])
        assert diff.warnings() == []
        assert "Nothing that needs a closer look." in diff.markdown()

    def test_row_order_is_no_change(self, compare):
        """The same rows in another order are the same data."""
        diff = compare(papers(COUNT)[::-1])
        assert not diff.added
        assert not diff.gone
        assert not diff.rewritten

    def test_new_rows(self, compare):
        """New papers come with their labels; the old ones stay in their splits."""
        diff = compare(papers(COUNT + 50))
        assert sum(map(len, diff.added.values())) == 50
        assert diff.added_labels == dict.fromkeys(("cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"), 10)
        assert diff.moved == []
        assert "| rows read | 200 | 250 | +50 |" in diff.markdown()
        assert "Papers: 50 new, 0 gone, 0 with another label, 0 with another text." in diff.markdown()

    def test_changed_rows(self, compare):
        """Another label and another text are counted apart; a newer version of a paper is the same paper."""
        rows = papers(COUNT)
        rows[0] = paper(0, category_code="cs.LG")
        rows[1] = paper(1, id="abs-1501.00001v2", summary="A new abstract of it, as long as the old one.")
        diff = compare(rows)
        assert diff.relabelled == ["1501.00000"]
        assert diff.rewritten == ["1501.00001"]
        assert not diff.added
        assert not diff.gone

    def test_lost_test_papers_are_a_warning(self, compare, build, csv):
        """A smaller test split is not the one that released models were measured on."""
        lost = set(build(csv=csv).splits["test"]["arxiv_id"][:3])
        rows = [row for row in papers(COUNT) if row["id"][4:-2] not in lost]
        diff = compare(rows)
        assert set(diff.gone["test"]) == lost
        assert any(warning.startswith("Papers that leave the test split: 3;") for warning in diff.warnings())


class TestLabelShift:
    """The mix of labels of the new papers, against what chance gives."""

    def test_by_hand(self):
        """Old 3:1, 100 new 1:1: distance 0.25; chance: sqrt(2 * 0.75 * 0.25 / (100 pi)) = 0.0345."""
        old = report({"train": {"a": 75, "b": 25}})
        distance, chance = DataDiff(old, old, added_labels={"a": 50, "b": 50}).label_shift()
        assert distance == pytest.approx(0.25)
        assert chance == pytest.approx(0.034549, abs=1e-6)

    def test_same_mix_is_no_warning(self):
        """As many new papers of each label as the old mix would give."""
        old = report({"train": {"a": 75, "b": 25}})
        diff = DataDiff(old, old, added_labels={"a": 30, "b": 10})
        assert diff.label_shift()[0] == pytest.approx(0)
        assert diff.warnings() == []

    def test_another_mix_is_a_warning(self):
        """Only one label comes in."""
        old = report({"train": {"a": 75, "b": 25}})
        (warning,) = DataDiff(old, old, added_labels={"b": 40}).warnings()
        assert "another mix of labels: distance 0.750" in warning

    def test_no_new_papers(self):
        """Nothing came, nothing moved."""
        old = report({"train": {"a": 75, "b": 25}})
        assert DataDiff(old, old).label_shift() == (0.0, 0.0)


class TestWarnings:
    """What a person should look at."""

    def test_labels_that_come_and_go(self):
        """A label set that changes is named: released models do not know it."""
        old, new = report({"test": {"a": 2, "b": 2}}), report({"test": {"b": 2, "c": 2}})
        (warning,) = DataDiff(old, new).warnings()
        assert "without a and with c" in warning

    def test_rejects_and_moves(self):
        """More rows that cannot be used; papers in another split."""
        counts = {"train": {"a": 2}}
        diff = DataDiff(report(counts, rejected=1), report(counts, rejected=2), moved=["1501.00001"])
        assert diff.warnings() == [
            "Papers that change their split: 1.",
            "More rows are rejected: 2.00% after 1.00%.",
        ]


class TestVerb:
    """`arxiv-cls data diff OLD NEW`."""

    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path, monkeypatch):
        """A cache of the test's own."""
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def test_to_the_screen_and_to_a_file(self, csv, tmp_path, capsys):
        """The same Markdown on both ways."""
        new, out = write_csv(tmp_path / "new.csv", papers(COUNT + 10)), tmp_path / "report.md"
        main(["data", "diff", str(csv), str(new)])
        main(["data", "diff", str(csv), str(new), "--out", str(out)])
        assert capsys.readouterr().out == out.read_text()
        assert out.read_text().startswith("## Data report, label set top5\n")

    def test_no_such_folder(self, csv, tmp_path):
        """A report that cannot be written is one line."""
        with pytest.raises(UserError, match="cannot write"):
            main(["data", "diff", str(csv), str(csv), "--out", str(tmp_path / "no" / "report.md")])
