"""`arxiv-cls monitor feedback`: labels joined with the log, accuracy beside the release, power by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta

import numpy as np
import pytest
from monitoring.conftest import LABELS, START, Traffic, lines_of

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.feedback import compare_with_release, measure_feedback, power_of, read_labels
from arxiv_cls.scoring.intervals import wilson_interval


@pytest.fixture
def traffic(write_log) -> Traffic:
    """The texts of a log of 600, two in a request."""
    texts = Traffic(600, 51)
    write_log(lines_of(texts, texts_in_request=2))
    return texts


@pytest.fixture
def measure(released, tmp_path):
    """The record for a file of labels."""

    def measured(content: str | bytes, name: str = "labels.csv") -> dict:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return measure_feedback(released, str(tmp_path / "log"), tmp_path / name)

    return measured


def csv_of(traffic: Traffic, rows: Iterable[int]) -> str:
    """Labels of some of the texts."""
    lines = [f"r{at // 2},{at % 2},{LABELS[traffic.truth[at]]}" for at in rows]
    return "\n".join(["request_id,index,category", *lines]) + "\n"


class TestMeasured:
    """What is joined and measured."""

    def test_accuracy(self, released, traffic, tmp_path, capsys):
        """Of 400 labels of 600 served texts, with Wilson's interval; macro-F1 with the bootstrap's."""
        labels, out = tmp_path / "labels.csv", tmp_path / "out"
        labels.write_text(csv_of(traffic, range(400)))
        words = ["--log", tmp_path / "log", "--labels", labels, "--out", out]
        assert not main(["monitor", "feedback", str(released), *map(str, words)])
        assert "labelled   400 of 600 served" in capsys.readouterr().out
        record = json.loads((out / "feedback.json").read_text())
        correct = (traffic.scores.argmax(axis=1) == traffic.truth)[:400]
        assert record["accuracy"] == pytest.approx(correct.mean())
        assert record["accuracy_interval"] == pytest.approx(wilson_interval(correct.sum(), 400))
        low, high = record["macro_f1_interval"]
        assert low < record["macro_f1"] < high
        assert set(record["per_class"]) == set(LABELS)
        assert record["released"]["n"] == 2000
        assert not record["comparison"]["worse"]
        assert "not shown to be worse" in record["comparison"]["answer"]
        assert record["selection_p"] > 0.001

    def test_json_lines_and_all_categories(self, measure, traffic):
        """The first is the true one; an answer among the others is listed."""
        rows = []
        for at in range(100):
            own = [LABELS[traffic.truth[at]], "math.OC", LABELS[traffic.scores[at].argmax()]]
            rows.append(json.dumps({"request_id": f"r{at // 2}", "index": at % 2, "categories": own}))
        record = measure("\n".join([*rows, "torn {"]), "labels.jsonl")
        correct = (traffic.scores.argmax(axis=1) == traffic.truth)[:100]
        assert (record["accuracy"], record["listed_accuracy"]) == (pytest.approx(correct.mean()), 1.0)
        assert record["labels"]["bad"] == 1

    def test_worse(self, measure, traffic):
        """A third of the labels changed: the answer is yes, with the drop."""
        traffic.truth[::3] = (traffic.scores[::3].argmax(axis=1) + 1) % 5
        comparison = measure(csv_of(traffic, range(600)))["comparison"]
        assert comparison["worse"]
        assert "worse than released, by" in comparison["answer"]

    def test_selected_labels(self, measure, traffic):
        """Labels of one predicted category alone: the record says that they are not like the rest."""
        of_one = np.flatnonzero(traffic.scores.argmax(axis=1) == 2)
        assert measure(csv_of(traffic, of_one))["selection_p"] < 1e-6

    def test_what_does_not_fit(self, measure, traffic):
        """Contradicting, repeated, unknown and bad labels are counted; other categories are no errors."""
        lines = csv_of(traffic, range(50))
        lines += 2 * lines.splitlines(keepends=True)[1]
        lines += "r1,0,q-bio.GN\nnone,0,cs.AI\n,0,cs.AI\nr9,x,cs.AI\nr100,0,q-bio.GN\n"
        record = measure(lines)
        assert (record["n"], record["other_labels"], record["labelled"]) == (49, 1, 50)
        counts = {"rows": 57, "bad": 2, "repeated": 2, "contradicting": 1, "not_in_the_log": 1}
        assert {name: record["labels"][name] for name in counts} == counts

    def test_two_versions(self, released, measure, traffic, write_log, tmp_path):
        """A label of a text that both have answered is no less the newest one's."""
        write_log(
            lines_of(traffic, start=START - timedelta(days=1), version="v1", texts_in_request=2), "old.jsonl"
        )
        labels = tmp_path / "labels.csv"
        labels.write_text(csv_of(traffic, range(400)))
        record = measure_feedback(released, str(tmp_path / "log"), labels, versions=["v1"])
        assert (record["n"], record["labels"]["not_in_the_log"]) == (400, 0)

    def test_over_time(self, measure, write_log):
        """Weeks with too few labels are pooled."""
        traffic = Traffic(140, 3)
        for week, part in enumerate((slice(0, 40), slice(40, 50), slice(50, 100), slice(100, 110))):
            write_log(lines_of(traffic, start=START + timedelta(days=7 * week))[part])
        rows = [f"r{at},{LABELS[traffic.truth[at]]}" for at in range(110)]
        runs = measure("\n".join(["request_id,category", *rows]))["over_time"]
        assert [(run["since"], run["n"]) for run in runs] == [("2026-05-01", 40), ("2026-05-08", 70)]
        correct = (traffic.scores.argmax(axis=1) == traffic.truth)[40:110]
        assert runs[1]["correct"] == correct.sum()
        assert runs[1]["accuracy"] == pytest.approx(correct.mean())

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"request_id,category\nnobody,cs.AI\n", "none of its 1 labels belongs"),
            (b"id,label\n1,cs.AI\n", "no row with `request_id`"),
            (b"request_id,category\nr1,cs.AI\nr2,\xe9\n", r"labels\.csv, line 3: not UTF-8"),
        ],
    )
    def test_refused(self, measure, traffic, content, message):
        """No label of any text, no labels, bytes that are no text."""
        with pytest.raises(UserError, match=message):
            measure(content)

    def test_no_file(self, tmp_path):
        """It is named."""
        with pytest.raises(UserError, match=r"labels\.csv: no file"):
            read_labels(str(tmp_path / "labels.csv"))

    @pytest.mark.parametrize("column", ["request_id", "arxiv_id", "\ufeffid"])
    def test_one_text_requests_need_no_index(self, tmp_path, column):
        """`index` is 0 where it is not there; a client may have sent the arXiv id as its request id."""
        (tmp_path / "labels.csv").write_text(f"{column},category\n0901.4761,cs.AI\n", encoding="utf-8")
        assert list(read_labels(str(tmp_path / "labels.csv"))[0]) == [("0901.4761", 0)]

    @pytest.mark.parametrize(
        ("rows", "label", "counts"),
        [
            ([{"index": 1.0, "category": "cs.CL"}], ("cs.CL",), {}),
            ([{"index": "1.0", "categories": "cs.CL,cs.LG"}], ("cs.CL", "cs.LG"), {}),
            ([{"index": 1.5, "category": "cs.CL"}], None, {"bad": 1}),
            ([{"index": True, "category": "cs.CL"}], None, {"bad": 1}),
            ([{"category": "cs.CL"}, {"categories": "cs.CL cs.LG"}], ("cs.CL", "cs.LG"), {"repeated": 1}),
            ([{"category": "cs.CL"}, {"category": "cs.LG"}], None, {"contradicting": 1}),
            (
                [{"time": f"2026-05-0{day}T00:00:00.000+00:00", "category": name}
                 for day, name in ((1, "cs.CL"), (1, "cs.CV"), (3, "cs.LG"), (2, "cs.AI"))],
                ("cs.LG",), {"contradicting": 1, "repeated": 2},
            ),
        ],
    )  # fmt: skip
    def test_forms_and_corrections(self, tmp_path, rows, label, counts):
        """Whole numbers as programs write them; one primary category agrees; the latest `time` counts."""
        rows = [{"request_id": "r", "index": 1} | row for row in rows]
        rows.append({"request_id": "other", "category": "cs.AI"})
        (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
        labels, counted, _ = read_labels(str(tmp_path / "labels.jsonl"))
        assert labels.get(("r", 1)) == label
        assert counted == counts | {"rows": len(rows)} | ({"repeated": 0} if "repeated" not in counts else {})


class TestPower:
    """One-sided test of two shares at 5%, 0.80 measured on 3,324 papers."""

    @pytest.mark.parametrize(
        ("drop", "n", "power"), [(0.03, 2000, 0.83), (0.05, 500, 0.81), (0.1, 100, 0.77)]
    )
    def test_power(self, drop, n, power):
        """As simulated elsewhere, within two points; and here again by drawing."""
        found = power_of(drop, n, 0.8, 3324)
        assert found == pytest.approx(power, abs=0.02)
        generator = np.random.default_rng(0)
        now = generator.binomial(n, 0.8 - drop, 400) / n
        before = generator.binomial(3324, 0.8, 400) / 3324
        worse = [
            compare_with_release(a, n, {"n": 3324, "accuracy": b})["worse"]
            for a, b in zip(now, before, strict=True)
        ]
        assert np.mean(worse) == pytest.approx(found, abs=0.06)

    def test_the_answer_states_it(self):
        """What such a number of labels would have shown."""
        released = {"n": 3324, "accuracy": 0.8}
        answer = compare_with_release(0.79, 600, released)["answer"]
        assert "600 labels show a drop of 5 points with a probability of at least 0.8" in answer
        assert "take it for nothing" in compare_with_release(0.79, 20, released)["answer"]
