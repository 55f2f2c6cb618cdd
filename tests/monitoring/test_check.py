"""`arxiv-cls monitor drift` on logs in the endpoint's format: verdicts, counts, files, exit status."""

from __future__ import annotations

import errno
import json
import re
import shutil
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from google.auth.credentials import AnonymousCredentials
from local_servers import storage_emulator
from monitoring.conftest import LABELS, START, VERSION, Traffic, lines_of, write_traffic

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.monitoring import windows
from arxiv_cls.monitoring.check import check_drift, parse_time
from arxiv_cls.monitoring.log_reader import LogReader
from arxiv_cls.record.model_files import MULTI_LABEL
from arxiv_cls.scoring.reference import FEATURES


@pytest.fixture(scope="module")
def quiet() -> list[str]:
    """Lines of 700 papers like those of the reference."""
    return lines_of(Traffic(700, 21))


class TestReader:
    """What is a row, what is counted."""

    def test_a_row(self, write_log, quiet):
        """Scores in the model's order, features in the reference's; schema 1 lacks two fields."""
        line = json.loads(quiet[0])
        old = {key: value for key, value in line.items() if key not in ("index", "markup_share")}
        lines = [quiet[0], json.dumps(old | {"schema_version": 1}) + "\n"]
        row, old_row = LogReader(str(write_log(lines)), LABELS)
        assert row.scores == tuple(line["scores"][label] for label in LABELS)
        assert row.features[:2] == (line["characters"], line["words"])
        assert row.features[FEATURES.index("tokens_per_word")] == line["tokens"] / line["words"]
        assert (row.request_id, row.place, row.version, row.half) == ("r0", 0, VERSION, "baseline")
        assert old_row.place == 0
        assert np.isnan(old_row.features[FEATURES.index("markup_share")])

    def test_what_is_counted(self, write_log, quiet):
        """Torn and foreign lines, clocks that differ, files that go; other files are not read."""
        line = json.loads(quiet[0])
        foreign = [
            "not json\n", "[]\n", "\n", "{}\n", '{"time": 3}\n',
            *(json.dumps(line | change) + "\n" for change in (
                {"scores": [1.0]}, {"scores": dict.fromkeys(LABELS, float("nan"))},
                {"scores": dict.fromkeys(LABELS, 0.9)}, {"words": "many"}, {"characters": 10**400},
                {"time": "yesterday"}, {"index": float("inf")}, {"characters": -5},
                {"time": "0001-01-01T00:00:00+23:00"}, {"request_id": "a\n::set-output"},
                {"model_version": "\x1b[2J"}, {"model_version": "v" * 1000},
            )),
        ]  # fmt: skip
        future = json.dumps(line | {"time": "2999-01-01T00:00:00+00:00"}) + "\n"
        folder = write_log([*quiet[:10], *foreign, future, quiet[3], quiet[11], quiet[10][:200]])
        write_log(["what is this"], "notes.txt")
        write_log(quiet[20:25])
        write_log(quiet[30:35], "requests-gone.jsonl")
        reader = LogReader(str(folder), LABELS)
        (folder / "requests-gone.jsonl").unlink()
        assert len(list(reader)) == 18
        counted = {"files": 2, "rows": 18, "foreign": len(foreign), "torn": 1, "gone": 1}
        assert {name: reader.counts[name] for name in counted} == counted
        assert (reader.counts["in_the_future"], reader.counts["out_of_order"]) == (1, 2)

    @pytest.mark.parametrize(
        ("target", "message"), [("none", "no file"), ("s3://bucket/x", "a directory, a file or gs://")]
    )
    def test_no_log(self, tmp_path, monkeypatch, target, message):
        """Nothing there, or another kind of address."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=message):
            LogReader(target, LABELS)

    def test_no_permission(self, released, write_log, quiet, monkeypatch):
        """The file is named, as the log that it is."""

        def refuse(self, path: str, mode: str) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", path)

        folder = write_log(quiet)
        monkeypatch.setattr(LocalFileSystem, "open", refuse)
        with pytest.raises(UserError, match=r"--log .*\.jsonl: cannot be read: Permission denied"):
            check_drift(released, str(folder))

    def test_period(self, write_log, quiet):
        """Rows outside are counted."""
        start = START.timestamp()
        reader = LogReader(str(write_log(quiet)), LABELS, start + 10, start + 19)
        assert len(list(reader)) == 10
        assert reader.counts["outside_period"] == 690

    @pytest.mark.parametrize("text", ["7d", "12h", "30m", "2w", "2026-05-01", "2026-05-01T10:00:00+02:00"])
    def test_times(self, text):
        """Ages and dates."""
        assert parse_time(text, "--since") > 0

    @pytest.mark.parametrize("text", ["soon", "", "7 days", "999999999w"])
    def test_no_times(self, text):
        """Words, and ages longer than the calendar."""
        with pytest.raises(UserError, match=f"--since {text}: an age such as"):
            parse_time(text, "--since")

    @pytest.mark.slow
    def test_bucket(self, quiet, monkeypatch):
        """Each object of gs:// is read once, in the order of names."""
        from google.cloud import storage

        with storage_emulator(monkeypatch):
            bucket = storage.Client(project="p", credentials=AnonymousCredentials()).bucket("logs")
            for number in range(100):
                lines = "".join(quiet[3 * number : 3 * number + 3])
                blob = bucket.blob(f"papers/requests-{number:04d}.jsonl")
                blob.upload_from_string(lines[:-5] if number == 99 else lines)
            bucket.blob("papers/notes.txt").upload_from_string("mine")
            bucket.blob("other/requests-1.jsonl").upload_from_string(quiet[0])
            reader = LogReader("gs://logs/papers", LABELS)
            rows = list(reader)
        assert [row.request_id for row in rows] == [f"r{number}" for number in range(299)]
        assert (reader.counts["files"], reader.counts["torn"]) == (100, 1)


class TestVerdict:
    """One verdict, and what to do."""

    def test_out_of_scope(self, released, write_log):
        """`out-of-scope share 3.6% -> 30%: look at ...`; what clients chose is text in the report."""
        lines = lines_of(Traffic(300, 25, outside=0.3), request="<script>")
        record = check_drift(released, str(write_log(lines)), out=released.parent / "out")
        said = r"out-of-scope share 3\S*% -> 30%: look at these request ids: <script>\d+#0, .*severity high"
        assert re.match(said, record["action"])
        assert "<script>" not in (released.parent / "out/report.html").read_text()

    def test_two_windows_running(self, released, write_log, tmp_path):
        """One p < 0.02 is watch, the second is an alarm, also when the first has left the period."""
        folder = str(write_log(lines_of(Traffic(600, 34, mix=(0.12, 0.25, 0.26, 0.25, 0.12)))))
        for since in (None, (START + timedelta(seconds=10)).isoformat()):
            record = check_drift(released, folder, since=since, out=tmp_path)
            assert all(0.001 < window["p"] < 0.02 for window in record["history"])
            assert [window["verdict"] for window in record["history"]] == ["watch", "alarm"]
            assert record["verdict"] == "alarm"
        assert record["groups"][0]["windows"] == 1

    @pytest.mark.parametrize(("rows", "verdict", "windows"), [(99, "too_few", 0), (100, "ok", 1)])
    def test_few(self, released, write_log, quiet, rows, verdict, windows):
        """Under 100 distinct texts there is no answer; a log without a whole window is tested as it is."""
        record = check_drift(released, str(write_log(quiet[:rows] * 5)))
        assert record["verdict"] == verdict
        assert record["groups"][0]["windows"] == windows
        assert (record["log"]["repeated"], record["log"]["distinct"]) == (4 * rows, rows)

    @pytest.mark.parametrize(
        ("end", "said"),
        [(-7, "only lines that cannot be read: 1 torn, 0 foreign"), (None, "no row of this period")],
    )
    def test_nothing_to_compare(self, released, write_log, quiet, end, said):
        """No line that can be read, or none of the period."""
        folder = write_log([quiet[0][:end]])
        record = check_drift(released, str(folder), since="2026-06-01")
        assert (record["verdict"], record["action"]) == ("too_few", f"the log has {said}")

    def test_rows_repeat_after_many_others(self, released, write_log, quiet, monkeypatch):
        """What is remembered is bounded, and is at least `REMEMBERED` rows."""
        monkeypatch.setattr(windows, "REMEMBERED", 50)
        lines = [*quiet[:49], *quiet[:49], *quiet[100:140], quiet[48], *quiet[200:400], quiet[0]]
        record = check_drift(released, str(write_log(lines)))
        assert record["log"]["repeated"] == 50

    def test_other_versions(self, released, write_log, quiet):
        """Rows of other models are never mixed in; alone they are named."""
        folder = write_log(lines_of(Traffic(300, 22, words=60), version="v1.2.0"))
        record = check_drift(released, str(folder))
        assert record["verdict"] == "too_few"
        assert "the log has v1.2.0 (300 rows)" in record["action"]
        assert check_drift(released, str(folder), versions=["v1.2.0"])["verdict"] == "alarm"
        write_log(quiet[:300])
        assert check_drift(released, str(folder))["verdict"] == "ok"

    def test_a_clock_that_is_ahead(self, released, write_log, quiet):
        """One row of the future makes no old version the newest, and no window end there."""
        old = lines_of(Traffic(150, 22), start=START - timedelta(days=1), version="v1.2.0")
        old[100] = json.dumps(json.loads(old[100]) | {"time": "9999-12-31T23:59:59-23:00"}) + "\n"
        write_log(old)
        record = check_drift(released, str(write_log(quiet)), versions=["v1.2.0"])
        assert record["groups"][0]["model_version"] == VERSION
        assert [window["end"][:10] for window in record["history"]] == [
            "2026-04-30",
            "2026-05-01",
            "2026-05-01",
        ]

    def test_other_labels(self, released, write_log, quiet):
        """Lines of a model with other labels are no foreign ones: they are named by its version."""
        other = {"model_version": "v0.9.0", "scores": {"math.AG": 0.6, "math.NT": 0.4}}
        record = check_drift(
            released, str(write_log(json.dumps(json.loads(one) | other) + "\n" for one in quiet))
        )
        assert "the log has v0.9.0, other labels (700 rows)" in record["action"]
        assert record["log"]["bad"] == {"torn": 0, "foreign": 0}

    def test_a_cascade_without_its_reference(self, released, write_log):
        """What makes it is named."""
        record = check_drift(released, str(write_log(lines_of(Traffic(50, 3), version=f"{VERSION}+v1"))))
        assert f"`arxiv-cls monitor reference {released} --cascade BASELINE` makes it" in record["action"]

    def test_multi_label(self, released, tmp_path):
        """Refused in one line, by the check and where the reference would be made."""
        config = json.loads((released / "config.json").read_text())
        several = {"problem_type": MULTI_LABEL, "label_thresholds": [0.5] * len(LABELS)}
        (released / "config.json").write_text(json.dumps(config | several))
        for words in (["drift", str(released), "--log", str(tmp_path)], ["reference", str(released)]):
            with pytest.raises(UserError, match="is a multi-label model: monitoring compares"):
                main(["monitor", *words])

    def test_halves_of_a_cascade(self, released, write_log, reference_traffic, tmp_path):
        """Each half has its own reference, and both together; no row is counted twice."""
        directory = tmp_path / "transformer"
        shutil.copytree(released, directory)
        labels = json.loads((released / "config.json").read_text())["id2label"]
        (directory / "config.json").write_text(json.dumps({"id2label": labels}))
        (directory / "model.skops").rename(directory / "model.safetensors")
        (directory / "monitoring/reference.parquet").unlink()
        for half, engine in (("a", "tfidf"), ("b", "int8")):
            write_traffic(tmp_path / half, reference_traffic, b"weights of the baseline", engine)
        first, second = (pq.read_table(tmp_path / half) for half in "ab")
        both = pa.concat_tables([first, second.replace_schema_metadata(first.schema.metadata)])
        pq.write_table(both, directory / "monitoring/cascade.parquet")
        version = f"{VERSION}+other"
        write_log(lines_of(Traffic(300, 21), version=version))
        folder = write_log(lines_of(Traffic(300, 31, words=60), version=version, answered_by="int8"))
        record = check_drift(directory, str(folder))
        verdicts = {group["answered_by"]: group["verdict"] for group in record["groups"]}
        assert verdicts == {"baseline": "ok", "transformer": "alarm", "cascade": "alarm"}
        assert (record["verdict"], record["log"]["distinct"]) == ("alarm", 600)
        assert record["action"].startswith("transformer: ")
        # Alone, the same half is another model: there is no reference of it here.
        alone = check_drift(directory, str(write_log(lines_of(Traffic(50, 3)))))
        assert alone["log"]["other_versions"] == {"no reference (baseline)": 50}


class TestCommand:
    """The command line, its files and its exit status."""

    def test_files(self, released, write_log, quiet, tmp_path, capsys):
        """drift.json, a self-contained report, the history; an alarm names the shift, status 3."""
        folder, out = write_log(quiet[:600]), tmp_path / "out"
        words = ["monitor", "drift", str(released), "--log", str(folder), "--out", str(out)]
        assert not main(words)
        assert "ok: nothing to do" in capsys.readouterr().out
        # Windows whose lines were rotated away stay; those that are read again are there once.
        next(folder.iterdir()).unlink()
        start = START + timedelta(days=1)
        shifted = lines_of(Traffic(300, 22, words=100, outside=0.2), start=start, request="s")
        write_log(shifted)
        for _ in range(2):
            assert main(words) == 3
        assert "alarm: " in capsys.readouterr().out
        record = json.loads((out / "drift.json").read_text())
        assert (record["schema_version"], record["verdict"]) == (1, "alarm")
        assert record["references"][0]["sha256"]
        assert [window["verdict"] for window in record["history"]] == ["ok", "ok", "alarm"]
        (group,) = record["groups"]
        assert "words" in group["top_columns"]
        assert group["window"]["out_of_scope"] > 0.15
        outside = [line["request_id"] for line in map(json.loads, shifted) if not line["in_scope"]]
        assert group["requests"]["out_of_scope"] == [f"{name}#0" for name in outside[:10]]
        assert group["severity"] == "moderate"
        page = (out / "report.html").read_text()
        assert len(page) < 1_000_000
        assert page.count("data:image/svg+xml;base64,") >= 10
        assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
        assert "alarm" in page
        assert '<meta name="viewport"' in page
        assert "few training papers" in page
        assert sorted(path.name for path in out.iterdir()) == ["drift.json", "history.json", "report.html"]

    def test_what_it_needs(self, released, write_log, quiet, tmp_path, run_python):
        """It works without pandas and without what trains: a monitor fits beside a small endpoint."""
        absent = ["pandas", "evidently", "torch", "transformers", "datasets", "sklearn", "xgboost"]
        code = f"""
import sys
from pathlib import Path
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import arxiv_cls.monitoring.service, arxiv_cls.serving.server
from arxiv_cls.monitoring.check import check_drift
check_drift(sys.argv[1], sys.argv[2], out=Path(sys.argv[3]))
"""
        done = run_python("-c", code, released, write_log(quiet[:300]), tmp_path / "out")
        assert done.returncode == 0, done.stderr[-2000:]
        assert (tmp_path / "out/report.html").is_file()

    def test_a_moving_start_moves_no_window(self, released, write_log, quiet, tmp_path):
        """Two whole windows, a rest that waits; with --since they are those of the run before."""
        out, folder = tmp_path / "out", str(write_log(quiet))
        first = check_drift(released, folder, out=out)
        (group,) = first["groups"]
        assert (first["verdict"], group["windows"], group["waiting"], group["distinct"]) == (
            "ok",
            2,
            100,
            700,
        )
        assert group["window"]["accuracy"]["low"] < group["window"]["accuracy"]["accuracy"]
        since = (START + timedelta(seconds=100)).isoformat()
        second = check_drift(released, folder, since=since, out=out)
        assert second["groups"][0]["window"] == group["window"]
        assert second["history"] == first["history"]

    def test_an_earlier_start(self, released, write_log, quiet, tmp_path):
        """A longer period in the same folder compares all of its rows."""
        folder = str(write_log(quiet))
        for start, distinct in ((400, 300), (0, 700)):
            since = (START + timedelta(seconds=start)).isoformat()
            assert check_drift(released, folder, since=since, out=tmp_path)["log"]["distinct"] == distinct

    def test_a_damaged_history(self, released, write_log, quiet, tmp_path):
        """Is named, and not overwritten."""
        history = tmp_path / "out/history.json"
        history.parent.mkdir()
        history.write_text('{"windows": [{}]}')
        with pytest.raises(UserError, match=r"no history of windows.*\n.*move it away"):
            check_drift(released, str(write_log(quiet)), out=history.parent)
        assert history.read_text() == '{"windows": [{}]}'

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["none"], "no file"),
            (["x", "--window", "50"], "fewer than 100"),
            (["x", "--since", "1d", "--until", "2d"], "--since 1d is after --until 2d"),
        ],
    )
    def test_errors_are_2(self, released, tmp_path, monkeypatch, words, message):
        """Whatever goes wrong, it is no alarm."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=message) as refusal:
            main(["monitor", "drift", str(released), "--log", *words])
        assert refusal.value.exit_code == 2
