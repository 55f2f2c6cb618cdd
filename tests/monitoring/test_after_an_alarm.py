"""What to run after an alarm, and Evidently's report beside ours."""

from __future__ import annotations

import json
import shlex
import sys

import numpy as np
import pytest
from monitoring.conftest import Traffic, lines_of

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.scoring.reference import Rows, load_references


def write_run(directory, **changes) -> None:
    run = {
        "schema_version": 1, "kind": "tfidf", "recipe": "tfidf_linear", "weights_sha256": "e7" * 32,
        "data": {"csv": "arxiv.csv", "config": "top5", "sha256": "a1" * 32, "splits": {"train": 4321},
                 "newest_training_paper": "2019-12-31"},
        "overrides": ["trainer.output_dir", "model.svm_cost=0.5"],
    }  # fmt: skip
    (directory / "run.json").write_text(json.dumps(run | changes))


class TestRetrainPlan:
    """`arxiv-cls monitor retrain-plan`."""

    def test_filled_in(self, released, capsys):
        """From the model's own record; what the recipe does not say is named."""
        write_run(released)
        main(["monitor", "retrain-plan", str(released), "--repo", "user/name"])
        plan = capsys.readouterr().out
        for part in (
            "trained on 4321 papers up to 2019-12-31 of arxiv.csv, sha256 a1a1a1a1a1a1",
            "not as recipes/tfidf_linear.yaml says, write it there first: model.svm_cost\n",
            "make reproduce RECIPE=recipes/tfidf_linear.yaml OVERWRITE=1\n",
            f"arxiv-cls compare {released}-released outputs/tfidf_linear --data data/raw/arxiv.csv\n",
            "push-model outputs/tfidf_linear --repo user/name --csv data/raw/arxiv.csv --create-pr\n",
            "make deploy MODEL=user/name@VERSION IMAGE=IMAGE LOG=LOG SERVICE_ACCOUNT=ACCOUNT SERVE_ARGS=",
            "make deploy-monitor MODEL=user/name@VERSION IMAGE=MONITOR_IMAGE LOG=LOG OUT=OUT ",
        ):
            assert part in plan

    def test_a_record_is_no_code(self, released, capsys):
        """Words of a model that somebody else made stay words."""
        write_run(released, recipe="x; touch canary\n$(touch canary)")
        main(["monitor", "retrain-plan", str(released)])
        for line in capsys.readouterr().out.replace("\n$", "").splitlines():
            assert line.startswith("#") or "touch" not in shlex.split(line, comments=True)

    def test_refused(self, released):
        """A record that says nothing of recipe and data."""
        with pytest.raises(UserError, match=r"run\.json names no recipe"):
            main(["monitor", "retrain-plan", str(released)])
        with pytest.raises(UserError, match="is not a repository id"):
            main(["monitor", "retrain-plan", str(released), "--repo", "no slash"])


def test_evidently_fails(released, write_log, tmp_path, monkeypatch, caplog):
    """An exception of theirs is named; ours is written, and its exit status stays."""

    def fail(*_: object) -> None:
        raise ValueError("their own")

    monkeypatch.setattr("arxiv_cls.monitoring.report.write_evidently", fail)
    log, out = write_log(lines_of(Traffic(300, 31, outside=0.5))), tmp_path / "out"
    words = ["monitor", "drift", str(released), "--log", str(log), "--out", str(out), "--evidently"]
    assert main(words) == 3
    assert {path.name for path in out.iterdir()} == {"drift.json", "history.json", "report.html"}
    assert "Evidently: ValueError: their own" in caplog.text


@pytest.mark.slow
class TestEvidently:
    """`arxiv-cls monitor drift --evidently`."""

    def test_beside_ours(self, released, write_log, tmp_path):
        """A page of its own for the newest window; the verdict and its files are the same."""
        log = write_log(lines_of(Traffic(300, 31)))
        out = tmp_path / "out"
        assert not main(
            ["monitor", "drift", str(released), "--log", str(log), "--out", str(out), "--evidently"]
        )
        page = (out / "evidently-baseline.html").read_text()
        assert "</html>" in page
        assert "score cs.CL" in page
        assert json.loads((out / "drift.json").read_text())["verdict"] == "ok"

    def test_columns_that_say_nothing(self, released, tmp_path):
        """Constant and empty columns, and an empty window, are no crash."""
        from arxiv_cls.monitoring.report import write_evidently

        reference = next(iter(load_references(released).values()))
        rows = reference.rows.take(np.arange(300))
        features = rows.features.copy()
        features[:, 0], features[:, 1] = np.nan, 7.0
        assert write_evidently(tmp_path / "a.html", reference, Rows(rows.scores, features, rows.in_scope))
        assert not write_evidently(tmp_path / "b.html", reference, rows.take(np.arange(0)))
        assert [path.name for path in tmp_path.glob("*.html")] == ["a.html"]


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("fastapi", ["serve", "m", "--log", "x"], "drift"),
        ("scipy", ["drift", "m", "--log", "x"], "drift"),
        ("evidently.presets", ["drift", "MODEL", "--log", "LOG", "--out", "OUT", "--evidently"], "monitor"),
    ],
)
def test_missing_extra(released, write_log, tmp_path, run_python, missing, words, extra):
    """One line that names the extra which brings all of it."""
    log = write_log(lines_of(Traffic(100, 31)))
    given = {"MODEL": str(released), "LOG": str(log), "OUT": str(tmp_path / "out")}
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from arxiv_cls.cli import entry_point; entry_point()"
    )
    done = run_python("-c", program, "monitor", *(given.get(word, word) for word in words))
    assert (done.returncode, done.stderr.count("\n")) == (2, 2), done.stderr
    assert f'pip install "arxiv_cls[{extra}]"' in done.stderr
    assert sys.executable not in done.stderr
