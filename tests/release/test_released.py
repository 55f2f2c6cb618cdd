"""Releases of every version of this project still load, score the same, and verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from local_hub import LFS_SUFFIXES, Blob, LocalHub, Repository

from arxiv_cls import __version__
from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.manifest import CARD, METRICS, foreign_files, missing_files, model_kind
from arxiv_cls.release.card import render_model_card
from arxiv_cls.release.verify import verify_release

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases"
FIXTURES = sorted(path.parent for path in RELEASES.glob("v*/*/config.json"))
BASELINE = RELEASES / "v0.1.0" / "tiny-tfidf"
TARGET = "user/tiny-tfidf@v0.1.0"


def named(folder: Path) -> str:
    """Version and name of a fixture."""
    return f"{folder.parent.name}-{folder.name}"


def publish(hub: LocalHub, folder: Path, **changed: bytes) -> None:
    """Puts a committed release on the Hub as it is, or with files changed by hand."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    content = {name: path.read_bytes() for name, path in files.items()} | changed
    repository = Repository()
    blobs = {name: Blob(data, name.endswith(LFS_SUFFIXES)) for name, data in content.items()}
    repository.commit("main", f"Release {folder.parent.name}", blobs)
    repository.tag(folder.parent.name, "main")
    hub.repositories["models", f"user/{folder.name}"] = repository


class TestOldReleases:
    """One fixture of each kind for each version."""

    def test_there_is_one_of_this_version(self) -> None:
        """Who raises the version makes its fixtures, with `tests/fixtures/make_release.py`."""
        current = {model_kind(folder) for folder in FIXTURES if folder.parent.name == f"v{__version__}"}
        assert current == {"transformer", "tfidf"}

    @pytest.mark.parametrize("folder", FIXTURES, ids=named)
    def test_loads_and_scores_the_same(self, folder: Path) -> None:
        """The scores that were recorded when it was released, to 1e-5; its files are all known."""
        examples = json.loads((folder / "eval/examples.json").read_text())["examples"]
        predictions = load_predictor(folder).predict([example["text"] for example in examples])
        for example, prediction in zip(examples, predictions, strict=True):
            assert prediction.label == next(iter(example["scores"]))
            assert prediction.scores == pytest.approx(example["scores"], abs=1e-5)
        assert missing_files(folder, model_kind(folder)) == []
        assert foreign_files(folder, model_kind(folder)) == []


class TestVerify:
    """`arxiv-cls verify` on a release of the sample."""

    @pytest.mark.parametrize("folder", FIXTURES, ids=named)
    def test_every_number_reproduces(self, hub: LocalHub, sample_csv: Path, folder: Path) -> None:
        """All recorded numbers, from another process than the one that measured them, and the card's."""
        publish(hub, folder)
        # Another number of threads may add up a transformer's floats in another order.
        # Wilson ends of the first release were computed with a normal quantile of seven digits.
        tolerance = 1e-7 if model_kind(folder) == "tfidf" else 1e-5
        target = f"user/{folder.name}@{folder.parent.name}"
        report = verify_release(target, csv=sample_csv, tolerance=tolerance)
        assert report.reproduced, report.summary()
        recorded = json.loads((folder / METRICS).read_text())
        assert report.papers == recorded["papers"]
        checked = {check.field: check.recorded for check in report.checks}
        assert checked["metrics.macro_f1"] == recorded["metrics"]["macro_f1"]
        assert checked["prediction_sets.levels.0.9.coverage"] > 0
        assert len(checked) > 80
        # What it does not check, it says in the verdict.
        verdict = report.summary().split("\nREPRODUCED (")[1]
        for told in (
            f"{len(report.checks) + report.passed} checks), NOT CHECKED:",
            "\n  - how long the training took",
            "\n  - checksums: no checksum on record: ",
            "\n  - the text of README.md: another version's template wrote it",
        ):
            assert told in verdict
        assert "answers of" not in verdict
        assert ("onnx/parity.json" in report.summary()) == (folder / "onnx/parity.json").is_file()

    def test_number_on_the_card_changed_by_hand(
        self, hub: LocalHub, sample_csv: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The place is named, and the status is 1."""
        folder, csv = BASELINE, str(sample_csv)
        examples = json.loads((folder / "eval/examples.json").read_text())["examples"]
        card = render_model_card(folder, repo_id="user/tiny-tfidf", version="v0.1.0", examples=examples)
        publish(hub, folder, **{CARD: card.encode()})
        assert main(["verify", TARGET, "--csv", csv]) == 0
        publish(hub, folder, **{CARD: card.replace("| Macro F1 | 0.889 |", "| Macro F1 | 0.999 |").encode()})
        assert main(["verify", TARGET, "--csv", csv]) == 1
        printed = capsys.readouterr().out
        assert ": the card says '| Macro F1 | 0.999 | " in printed
        assert "NOT REPRODUCED" in printed

    def test_another_onnx_file(self, hub: LocalHub, sample_csv: Path) -> None:
        """It is not the one whose agreement was measured; a malformed record is one error with the file."""
        export = {"sha256": "0" * 64, "equal_labels": 1.0, "max_difference": 0.0, "tolerance": 1e-4}
        weights = json.loads((BASELINE / "run.json").read_text())["weights_sha256"]
        parity = json.dumps({"weights_sha256": weights, "exports": {"onnx/model.onnx": export}})
        publish(hub, BASELINE, **{"onnx/model.onnx": b"graph", "onnx/parity.json": parity.encode()})
        (problem,) = verify_release(TARGET, csv=sample_csv).identity
        assert problem.startswith("onnx: onnx/model.onnx is not the file that was checked")
        publish(hub, BASELINE, **{"onnx/parity.json": b'{"exports": {"onnx/model.onnx": "x"}}'})
        with pytest.raises(UserError, match=r"onnx/parity\.json: exports"):
            verify_release(TARGET, csv=sample_csv)

    def test_number_in_the_record_changed_by_hand(self, hub: LocalHub, sample_csv: Path) -> None:
        """Scoring again tells the true one; the card disagrees with the record as well."""
        record = json.loads((BASELINE / METRICS).read_text())
        true_value = record["metrics"]["macro_f1"]
        record["metrics"]["macro_f1"] = 0.999
        publish(hub, BASELINE, **{METRICS: json.dumps(record).encode()})
        report = verify_release(TARGET, csv=sample_csv)
        (failed,) = [check for check in report.checks if not check.reproduced]
        assert (failed.field, failed.recorded) == ("metrics.macro_f1", 0.999)
        assert failed.rescored == pytest.approx(true_value, abs=1e-9)
        assert any("Macro F1" in difference for difference in report.card)

    @pytest.mark.parametrize(
        ("target", "csv", "expected"),
        [
            (TARGET, "other.csv", r"is not the data of this release(.|\n)*make data"),
            (TARGET, "none.csv", "is not there"),
            ("user/tiny-tfidf@v9.0.0", None, "knows no such version"),
            ("user/nothing@v0.1.0", None, "knows no such repository"),
            ("user/tiny-tfidf", None, "names no version"),
        ],
    )
    def test_refused(
        self, hub: LocalHub, sample_csv: Path, tmp_path: Path, target: str, csv: str | None, expected: str
    ) -> None:
        """Data of another version, with the way to the right one; a release that is not there."""
        publish(hub, BASELINE)
        (tmp_path / "other.csv").write_bytes(sample_csv.read_bytes() + b"\n")
        with pytest.raises(UserError, match=expected):
            verify_release(target, csv=tmp_path / csv if csv else sample_csv)


@pytest.mark.parametrize("folder", FIXTURES, ids=named)
def test_commands_on_a_hub_id(
    hub: LocalHub, sample_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """`user/name` in place of a directory: the recorded label, the recorded figures, no difference."""
    publish(hub, folder)
    model, data = f"user/{folder.name}", ["--data", str(sample_csv)]
    example = json.loads((folder / "eval/examples.json").read_text())["examples"][0]
    main(["predict", model, example["text"]])
    assert next(iter(example["scores"])) in capsys.readouterr().out
    main(["evaluate", model, *data, "--out", str(tmp_path / "out")])
    recorded = json.loads((folder / METRICS).read_text())["metrics"]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert found["macro_f1"] == pytest.approx(recorded["macro_f1"], abs=1e-5)
    assert f"{found['macro_f1']:.4f}" in capsys.readouterr().out
    main(["compare", model, str(folder), *data])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("macro_f1"))
    assert row.split()[3] in ("+0.0000", "-0.0000")
