"""`arxiv-cls monitor feedback`: labels joined with the log, accuracy beside the release, power by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from monitoring.conftest import LABELS, Traffic, lines_of

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.feedback import (
    compare_with_release,
    measure_feedback,
    power_of,
    read_labels,
)
from arxiv_cls.scoring.intervals import wilson_interval

RELEASED = {"n": 3324, "accuracy": 0.8, "macro_f1": 0.75}


@pytest.fixture
def served(write_log) -> tuple[str, Traffic]:
    """A log of 600 texts, two in a request."""
    traffic = Traffic(600, 51)
    return str(write_log(lines_of(traffic, texts_in_request=2))), traffic


def csv_of(traffic: Traffic, rows: range, column: str = "category") -> str:
    """Labels of some of the texts."""
    lines = [f"r{at // 2},{at % 2},{LABELS[traffic.truth[at]]}" for at in rows]
    return "\n".join([f"request_id,index,{column}", *lines]) + "\n"


class TestMeasured:
    """What is joined and measured."""

    def test_accuracy(self, released, served, tmp_path, capsys):
        """Of 400 labels of 600 served texts, with Wilson's interval; macro-F1 with the bootstrap's."""
        log, traffic = served
        (tmp_path / "labels.csv").write_text(csv_of(traffic, range(400)))
        out = tmp_path / "out"
        words = ["monitor", "feedback", str(released), "--log", log, "--labels", str(tmp_path / "labels.csv")]
        assert not main([*words, "--out", str(out)])
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

    def test_json_lines_and_all_categories(self, released, served, tmp_path):
        """The first is the true one; an answer among the others is listed."""
        log, traffic = served
        rows = []
        for at in range(100):
            own = [LABELS[traffic.truth[at]], "math.OC", LABELS[traffic.scores[at].argmax()]]
            rows.append(json.dumps({"request_id": f"r{at // 2}", "index": at % 2, "categories": own}))
        (tmp_path / "labels.jsonl").write_text("\n".join([*rows, "torn {"]))
        record = measure_feedback(released, log, tmp_path / "labels.jsonl")
        correct = (traffic.scores.argmax(axis=1) == traffic.truth)[:100]
        assert (record["accuracy"], record["listed_accuracy"]) == (pytest.approx(correct.mean()), 1.0)
        assert record["labels"]["bad"] == 1

    def test_worse(self, released, served, tmp_path):
        """A third of the labels changed: the answer is yes, with the drop."""
        log, traffic = served
        traffic.truth[::3] = (traffic.scores[::3].argmax(axis=1) + 1) % 5
        (tmp_path / "labels.csv").write_text(csv_of(traffic, range(600)))
        record = measure_feedback(released, log, tmp_path / "labels.csv")
        assert record["comparison"]["worse"]
        assert "worse than released, by" in record["comparison"]["answer"]

    def test_selected_labels(self, released, served, tmp_path):
        """Labels of one predicted category alone: the record says that they are not like the rest."""
        log, traffic = served
        of_one = [at for at in range(600) if traffic.scores[at].argmax() == 2]
        (tmp_path / "labels.csv").write_text(csv_of(traffic, of_one))
        assert measure_feedback(released, log, tmp_path / "labels.csv")["selection_p"] < 1e-6

    def test_what_does_not_fit(self, released, served, tmp_path):
        """Contradicting, repeated, unknown and bad labels are counted; other categories are no errors."""
        log, traffic = served
        lines = csv_of(traffic, range(50)).splitlines()
        lines += [
            lines[1],
            lines[1],
            "r1,0,q-bio.GN",
            "none,0,cs.AI",
            ",0,cs.AI",
            "r9,x,cs.AI",
            "r100,0,q-bio.GN",
        ]
        (tmp_path / "labels.csv").write_text("\n".join(lines))
        record = measure_feedback(released, log, tmp_path / "labels.csv")
        assert record["n"] == 49
        assert (record["other_labels"], record["labelled"]) == (1, 50)
        counts = {key: value for key, value in record["labels"].items() if key not in ("file", "sha256")}
        assert counts == {"rows": 57, "bad": 2, "repeated": 2, "contradicting": 1, "not_in_the_log": 1}

    def test_over_time(self, released, write_log, tmp_path):
        """Weeks with too few labels are pooled."""
        from datetime import timedelta

        from monitoring.conftest import START

        traffic = Traffic(100, 3)
        for week, part in enumerate((slice(0, 40), slice(40, 50), slice(50, 100))):
            lines = lines_of(traffic, start=START + timedelta(days=7 * week))[part]
            log = write_log(lines)
        rows = [f"r{at},{LABELS[traffic.truth[at]]}" for at in range(100)]
        (tmp_path / "labels.csv").write_text("\n".join(["request_id,category", *rows]))
        record = measure_feedback(released, str(log), tmp_path / "labels.csv")
        assert [run["n"] for run in record["over_time"]] == [40, 60]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("request_id,category\nnobody,cs.AI\n", "none of its 1 labels belongs"),
            ("id,label\n1,cs.AI\n", "no row with `request_id`"),
            (None, "labels.csv: no file"),
        ],
    )
    def test_refused(self, released, served, tmp_path, content, message):
        """No label of any text, no labels, no file."""
        if content:
            (tmp_path / "labels.csv").write_text(content)
        with pytest.raises(UserError, match=message):
            measure_feedback(released, served[0], tmp_path / "labels.csv")

    @pytest.mark.parametrize("column", ["request_id", "arxiv_id"])
    def test_one_text_requests_need_no_index(self, tmp_path, column):
        """`index` is 0 where it is not there; a client may have sent the arXiv id as its request id."""
        (tmp_path / "labels.csv").write_text(f"{column},category\n0901.4761,cs.AI\n")
        assert list(read_labels(str(tmp_path / "labels.csv"))[0]) == [("0901.4761", 0)]


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
        answer = compare_with_release(0.79, 600, RELEASED)["answer"]
        assert "600 labels show a drop of 5 points with a probability of at least 0.8" in answer
        assert "take it for nothing" in compare_with_release(0.79, 20, RELEASED)["answer"]
