"""A model that is not what was evaluated is not released; and a release that was changed does not verify."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from factories import change_json, record_again
from local_hub import LocalHub
from test_gate_rescoring import evaluated
from test_released import publish

from arxiv_cls.errors import UserError
from arxiv_cls.export import onnx_export
from arxiv_cls.models.prediction import ONNX_FILES
from arxiv_cls.record import files
from arxiv_cls.record.directory import read_model_directory
from arxiv_cls.record.manifest import (
    MANIFEST,
    RECORD_COMMANDS,
    RECORD_OF,
    RENDERED,
    TRANSFORMER,
    files_in,
    foreign_files,
    release_files,
)
from arxiv_cls.release.card import render_model_card
from arxiv_cls.release.gate_checks import check_checksums, check_onnx
from arxiv_cls.release.push_model import run_gate
from arxiv_cls.release.rescoring import rebuild_corpus, score_with_engines
from arxiv_cls.release.verify import VerifyReport, verify_release
from arxiv_cls.scoring.scored_papers import read_predictions

PUSHED = [entry for entry in MANIFEST if entry.pushed and entry.path not in RENDERED]
OF_A_TRANSFORMER = [
    entry.path for entry in PUSHED if TRANSFORMER in entry.kinds and entry.path != "eval/terms.json"
]


@pytest.fixture
def model(whole_model: Path, tmp_path: Path) -> Path:
    """A copy with every file of a transformer."""
    return shutil.copytree(whole_model, tmp_path / "v0.1.0" / "model")


def failed(folder: Path) -> dict[str, str]:
    """The checks that refuse, with their reasons."""
    return {result.check: result.reason for result in run_gate(folder).refused}


def verified(hub: LocalHub, model: Path, sample_csv: Path) -> VerifyReport:
    """The report on the model as a release, with the card that it would have."""
    card = render_model_card(model, repo_id="user/model", version="v0.1.0").encode()
    publish(hub, model, **{"README.md": card})
    return verify_release("user/model@v0.1.0", csv=sample_csv)


class TestEveryFile:
    """Every file that is pushed has its checksum on record."""

    def test_the_records_name_every_file(self, model: Path) -> None:
        """The manifest and the records know the same files, and the model has them all."""
        assert {entry.path for entry in PUSHED} == set(RECORD_OF)
        assert set(release_files(model, TRANSFORMER)) == set(OF_A_TRANSFORMER)

    @pytest.mark.parametrize("path", OF_A_TRANSFORMER)
    def test_one_byte(self, model: Path, path: str, tmp_path: Path) -> None:
        """Changed after it was recorded: the gate refuses and names it."""
        content = (model / path).read_bytes()
        (model / path).write_bytes(content[:-1] + (b" " if content[-1:] != b" " else b"\n"))
        with pytest.raises(UserError) as refusal:
            run_gate(model, csv=tmp_path / "none.csv").raise_if_refused()
        assert path in str(refusal.value)

    def test_taken_away(self, model: Path) -> None:
        """So does a file that is gone, and one that nobody recorded."""
        (model / "eval/out_of_scope.png").unlink()
        (model / "onnx/model_int8.onnx").unlink()
        (model / "eval/terms.json").write_text("{}")
        reason = check_checksums(read_model_directory(model)).reason
        assert "onnx/model_int8.onnx (run `arxiv-cls export`)" in reason
        assert "eval/out_of_scope.png (run `arxiv-cls evaluate`)" in reason
        assert "no checksum on record: eval/terms.json (run `arxiv-cls visualize`)" in reason

    @pytest.mark.parametrize("record", ["eval/metrics.json", "onnx/parity.json"])
    def test_checksum_taken_away(self, hub: LocalHub, model: Path, sample_csv: Path, record: str) -> None:
        """A release of this version does not verify without it; one from before checksums does."""
        content = json.loads((model / record).read_text())
        (model / record).write_text(json.dumps({k: v for k, v in content.items() if k != "record_sha256"}))
        report = verified(hub, model, sample_csv)
        assert not report.reproduced
        assert f"no checksum on record: {record}" in report.identity[0]

    def test_read_once(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process hashes a file once, and again after it changed."""
        read, digest = [], hashlib.file_digest

        def counted(file: BinaryIO, name: str) -> object:
            read.append(file.name)
            return digest(file, name)

        monkeypatch.setattr(hashlib, "file_digest", counted)
        monkeypatch.setattr(files, "CLOCK_TICK_NS", 0)
        for _ in range(2):
            assert check_checksums(read_model_directory(model)).passed
            assert check_onnx(read_model_directory(model)).passed
        hashed = RECORD_OF.keys() & set(files_in(model)) - set(RECORD_COMMANDS)
        assert len(read) == len(set(read)) == len(hashed)
        (model / "model.safetensors").write_bytes(b"other")
        assert not check_checksums(read_model_directory(model)).passed


@pytest.mark.parametrize("step", ["staged", "write_handler", "write_step_record"])
def test_killed_export(model: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whatever it had written by then, the gate says to export again; the next export cleans up."""

    def exported(folder: Path, staging: Path, *_: object) -> dict:
        for path in ONNX_FILES.values():
            (staging / Path(path).name).write_bytes(b"a graph of other weights")
        return {"exports": {path: {"sha256": "0" * 64} for path in ONNX_FILES.values()}}

    def killed(*_: object) -> None:
        (model / "onnx/.model.onnx.77").write_bytes(b"half")
        raise SystemExit(137)

    whole = getattr(onnx_export, step)
    monkeypatch.setattr(onnx_export, "_papers", lambda *_: None)
    monkeypatch.setattr(onnx_export, "_export", exported)
    monkeypatch.setattr(onnx_export, step, killed)
    with pytest.raises(SystemExit):
        onnx_export.export_model(model)
    assert "run `arxiv-cls export`" in check_checksums(read_model_directory(model)).reason
    assert not check_onnx(read_model_directory(model)).passed
    monkeypatch.setattr(onnx_export, step, whole)
    onnx_export.export_model(model)
    assert foreign_files(model, TRANSFORMER) == []


def swap_two_labels(model: Path) -> None:
    """Every answer of two labels is the other one."""
    names = json.loads((model / "config.json").read_text())["id2label"]
    names["0"], names["1"] = names["1"], names["0"]
    label2id = {name: int(key) for key, name in names.items()}
    change_json(model / "config.json", id2label=names, label2id=label2id)


def keep_the_case(model: Path) -> None:
    """The tokenizer's file as it is reads other words; transformers repairs it from the settings."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    change_json(model / "tokenizer.json", **tokenizer)


def make_up_the_run(model: Path) -> None:
    """A commit and a number of papers that do not exist."""
    run = json.loads((model / "run.json").read_text())
    run["data"]["splits"]["test"] = 100_000
    change_json(model / "run.json", git={"commit": "c" * 40, "dirty": False}, data=run["data"])


CHANGES = {
    swap_two_labels: ("config.json", {"answers": "pipeline() scores differ"}),
    keep_the_case: ("tokenizer.json", {"answers": "onnx reads other tokens than pipeline()"}),
    make_up_the_run: ("run.json", {"commit": "no such commit", "corpus": "data.splits"}),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
class TestWhatIsTriedAgain:
    """Answers, data and commit are compared with the model, whatever its checksums are."""

    def test_gate(self, model: Path, change: Callable[[Path], None]) -> None:
        """Refused by the checksum; and, where the records were made again, by what it does."""
        assert failed(model) == {}
        path, wanted = CHANGES[change]
        recorded = (model / "eval/metrics.json").read_bytes()
        change(model)
        (model / "eval/metrics.json").write_bytes(recorded)
        assert f": {path} (run `arxiv-cls evaluate`)" in failed(model)["checksums"]
        found = failed(record_again(model))
        assert set(found) == set(wanted)
        assert all(text in found[check] for check, text in wanted.items())

    def test_verify(
        self, hub: LocalHub, model: Path, sample_csv: Path, change: Callable[[Path], None]
    ) -> None:
        """A release that holds it does not reproduce, and the reason is told."""
        change(model)
        report = verified(hub, record_again(model), sample_csv)
        assert not report.reproduced
        told = "\n".join(report.identity).replace("answers of ", "").replace(": ", " ")
        assert all(text in told for text in CHANGES[change][1].values())
        assert report.summary().count("\nNOT REPRODUCED") == 1


class TestUnchanged:
    """The model as it was evaluated."""

    def test_verify_tries_every_engine(self, hub: LocalHub, model: Path, sample_csv: Path) -> None:
        """And lists what it leaves out in its verdict."""
        report = verified(hub, model, sample_csv)
        assert report.reproduced, report.summary()
        assert "answers of" not in report.summary()
        # Checksums, weights, data, exports, commit, corpus, predictions and four engines.
        assert report.passed == 11
        verdict = f"REPRODUCED ({len(report.checks) + 11} checks), NOT CHECKED:\n  - recipe: "
        assert verdict in report.summary()

    def test_without_its_data(self, model: Path, tmp_path: Path) -> None:
        """What needs the papers is refused with the option that names them; a person may go on."""
        report = run_gate(model, csv=tmp_path / "none.csv", overrides=["corpus", "answers"])
        assert [result.check for result in report.overridden] == ["corpus", "answers"]
        assert all("--csv FILE (with make CSV=FILE)" in result.reason for result in report.overridden)

    def test_baseline(self, sample_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Through its predictor."""
        folder = record_again(evaluated(tmp_path / "model", sample_csv, papers=200))
        report = run_gate(folder)
        assert report.refused == []
        assert "tfidf give the recorded scores" in report.summary()
        predictions = read_predictions(folder / "eval/predictions.parquet")
        other = replace(predictions, probabilities=predictions.probabilities[::-1])
        model = read_model_directory(folder)
        (result,) = score_with_engines(model, rebuild_corpus(model), other)
        assert result.reason.startswith("scores differ from the recorded ones by up to ")
        # A file of the Hub is that of the recorded commit, whatever the recipe's branch has now.
        cached, asked = tmp_path / "snapshots" / "abc" / "papers.csv", []
        cached.parent.mkdir(parents=True)
        cached.symlink_to(sample_csv.resolve())
        monkeypatch.setattr(
            "huggingface_hub.hf_hub_download", lambda *names, **more: asked.append(more) or str(cached)
        )
        address = "hf://datasets/user/papers@abc/papers.csv"
        change_json(folder / "run.json", data=model.run["data"] | {"csv": address})
        assert rebuild_corpus(read_model_directory(folder)).data.csv == address
        assert {more["revision"] for more in asked} == {"abc"}
