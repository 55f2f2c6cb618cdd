"""Changed texts, and what a model loses on them."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.monitoring import robustness
from arxiv_cls.monitoring.robustness import CHANGES, changed, near_scope
from arxiv_cls.record.files import changed_files
from arxiv_cls.record.manifest import files_in

TEXT = "A title of five words\n\nThe first sentence is here. The second is there! A third one ends it."
ALL = {
    **CHANGES,
    "near scope": near_scope(["T\n\nOther things. More of them."]),
}


class TestChanges:
    """What they do to a text."""

    @pytest.mark.parametrize("name", ALL)
    def test_every_change(self, name):
        """A text changes and is never empty; the same seed gives the same; texts of one word work."""
        change = ALL[name]
        (after,) = changed([TEXT], change, 0.9, 1)
        assert after != TEXT
        assert after.strip()
        assert changed(["x", TEXT], change, 0.9, 1)[1] == after
        for short in ("word", "a\n\nb", "\n\nb", "word\n\n"):
            assert changed([short], change, 1.0, 3)[0].strip()
        assert changed([TEXT], change, 0.0, 1)[0].split() == TEXT.split() or name == "abstract truncated"

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("abstract truncated", "A title of five words\n\nThe first sentence is here. The second"),
            ("title missing", TEXT.partition("\n\n")[2]),
            ("one sentence", "A title of five words\n\nThe first sentence is here."),
            ("upper case", TEXT.upper()),
        ],
    )
    def test_by_hand(self, name, expected):
        """What is left."""
        severity = 0.5 if name == "abstract truncated" else 1.0
        assert CHANGES[name](TEXT, severity, random.Random(0)) == expected

    def test_share_of_words(self):
        """About as many words as the severity says."""
        text = " ".join(["word"] * 2000)
        dropped = CHANGES["words dropped"](text, 0.3, random.Random(0)).split()
        assert len(dropped) == pytest.approx(1400, abs=80)
        masked = CHANGES["words masked"](text, 0.3, random.Random(0)).split()
        assert masked.count("[MASK]") == pytest.approx(600, abs=80)


class TestMeasured:
    """`arxiv-cls monitor robustness` on a model."""

    def test_files(self, trained, tmp_path, capsys, monkeypatch):
        """JSON and plot in the model directory, recorded; each change with its interval and risk."""
        directory = tmp_path / "model"
        shutil.copytree(trained, directory)
        monkeypatch.setattr(robustness, "WINDOW", 20)
        monkeypatch.setattr(robustness, "FEWEST_PAPERS", 40)
        monkeypatch.setattr(robustness, "RUNS", 5)
        assert not main(["monitor", "robustness", str(directory), "--severity", "0.2,0.9"])
        assert "words dropped" in capsys.readouterr().out
        record = json.loads((directory / "monitoring/robustness.json").read_text())
        assert len(record["changes"]) == 2 * len({entry["change"] for entry in record["changes"]})
        worst = next(e for e in record["changes"] if (e["change"], e["severity"]) == ("words masked", 0.9))
        difference, low, high = worst["accuracy_change"]
        assert low <= difference <= high
        assert difference == pytest.approx(worst["accuracy"] - record["accuracy"])
        assert worst["risk"] in ("low", "moderate", "high")
        assert 0 <= worst["noticed"] <= 1
        names = ["monitoring/robustness.json", "monitoring/robustness.png", "monitoring/reference.parquet"]
        differing, unrecorded = changed_files(directory, files_in(directory))
        assert not set(names) & {*differing, *unrecorded}

    @pytest.mark.parametrize(
        ("engine", "said"), [("tfidf", "written to {}/monitoring"), ("onnx", "nothing is written")]
    )
    def test_where(self, released, monkeypatch, capsys, engine, said):
        """What an export answers is no part of the release: it needs a folder of its own, which is said."""
        record = {"papers": 1, "accuracy": 0.5, "macro_f1": 0.5, "changes": [], "engine": engine}
        monkeypatch.setattr(robustness, "measure_robustness", lambda model, **options: record)
        main(["monitor", "robustness", str(released)])
        assert said.format(released) in capsys.readouterr().out

    @pytest.mark.parametrize("text", ["2", "0.5,0", "much", "-0.1"])
    def test_severity(self, trained, text):
        """Shares above 0 and at most 1; the message has them as they were given."""
        with pytest.raises(UserError, match=f"--severity {text}: shares"):
            main(["monitor", "robustness", str(trained), "--severity", text])
