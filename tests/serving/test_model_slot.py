"""The slot: what a loaded model says of itself, and the switch."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from factories import LABELS, write_onnx_model

from arxiv_cls.errors import UserError
from arxiv_cls.models import predictor
from arxiv_cls.record.files import file_sha256
from arxiv_cls.serving.model_info import CascadeInfo, Info, describe
from arxiv_cls.serving.model_slot import ModelSlot, load_model
from arxiv_cls.serving.settings import ServingSettings

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"


def loaded(name: str) -> SimpleNamespace:
    """Stands for a loaded model."""
    return SimpleNamespace(name=name, version="1", loaded_in=0.0)


class TestLoadModel:
    """A directory of either kind becomes a served model."""

    def test_onnx(self, tmp_path):
        """Name of the directory, version and sha256 of the very file that is computed with."""
        write_onnx_model(tmp_path / "tiny")
        model = load_model(f"{tmp_path}/tiny/", ServingSettings(model="x", threads=1))
        content = (tmp_path / "tiny" / "onnx" / "model.onnx").read_bytes()
        assert model.name == "tiny"
        assert model.weights_sha256 == hashlib.sha256(content).hexdigest()
        assert model.version == model.weights_sha256[:12]
        assert model.predictor.labels == LABELS
        assert model.run["data"]["csv"] == "tiny.csv"

    def test_other_weights_are_another_version(self, tmp_path):
        """Two models of one name are told apart."""
        settings = ServingSettings(model="x", threads=1)
        write_onnx_model(tmp_path / "a" / "tiny")
        write_onnx_model(tmp_path / "b" / "tiny", seed=1)
        first, second = (load_model(str(tmp_path / one / "tiny"), settings) for one in "ab")
        assert first.name == second.name
        assert first.version != second.version

    @pytest.mark.parametrize(
        ("named", "version"),
        [("", "0" * 12), ("@main", "0" * 12), ("@refs/pr/1", "0" * 12), ("@v1.2.0", "v1.2.0")],
    )
    def test_version_of_a_hub_model(self, tmp_path, monkeypatch, named, version):
        """A release tag stays what it is; a branch moves on, so the commit is told."""
        snapshot = write_onnx_model(tmp_path / "snapshots" / ("0" * 40))
        monkeypatch.setattr(predictor, "locate_model", lambda model, revision, engine: snapshot)
        model = load_model(f"user/name{named}", ServingSettings(model="x", threads=1))
        assert (model.name, model.version) == ("user/name", version)

    def test_without_an_export(self, tmp_path):
        """The error names the command that makes one."""
        write_onnx_model(tmp_path / "tiny")
        (tmp_path / "tiny" / "onnx" / "model.onnx").unlink()
        with pytest.raises(UserError, match=r"onnx/model\.onnx") as refused:
            load_model(str(tmp_path / "tiny"), ServingSettings(model="x"))
        assert "arxiv-cls export" in str(refused.value)

    def test_a_damaged_record(self, tmp_path):
        """A run.json that is no JSON is an error, not a guess."""
        write_onnx_model(tmp_path / "tiny")
        (tmp_path / "tiny" / "run.json").write_text("{")
        with pytest.raises(UserError, match=r"run\.json: not JSON"):
            load_model(str(tmp_path / "tiny"), ServingSettings(model="x"))


class TestCascade:
    """Two models as one: both are told."""

    @pytest.fixture
    def pair(self, tmp_path):
        """A transformer, a baseline, and the record that joins them, fitted for fp32."""
        transformer, baseline = write_onnx_model(tmp_path / "tiny"), RELEASES / "tiny-tfidf"
        record = {
            "schema_version": 1,
            "engine": "onnx",
            "threshold": 0.6,
            "max_tokens": 16,
            "set_threshold": 0.2,
            "transformer_sha256": file_sha256(transformer / "onnx" / "model.onnx"),
            "baseline_sha256": file_sha256(baseline / "model.skops"),
        }
        (transformer / "eval" / "cascade.json").write_text(json.dumps(record))
        return transformer, baseline

    def test_both_are_told(self, pair):
        """The version names both; the baseline has its own entry."""
        transformer, baseline = pair
        model = load_model(str(transformer), ServingSettings(model="x", cascade=str(baseline), threads=1))
        assert model.version == f"{model.weights_sha256[:12]}+{model.baseline.version}"
        assert (model.baseline.name, model.baseline.threshold, model.baseline.max_tokens) == (
            "tiny-tfidf",
            0.6,
            16,
        )
        assert model.baseline.weights_sha256 == file_sha256(baseline / "model.skops")
        assert model.baseline.version == model.baseline.weights_sha256[:12]
        info = describe(model, ServingSettings(model="x"))
        assert Info(**info).cascade == CascadeInfo(
            baseline="tiny-tfidf",
            baseline_version=model.baseline.version,
            baseline_sha=model.baseline.weights_sha256,
            threshold=0.6,
            max_tokens=16,
        )

    def test_the_engine_that_was_fitted(self, pair):
        """Taken where none is named; another one that is named is refused."""
        settings = ServingSettings(model="x", cascade=str(pair[1]), threads=1)
        assert load_model(str(pair[0]), settings).predictor.engine == "tfidf+onnx"
        (pair[0] / "onnx" / "model_int8.onnx").write_bytes((pair[0] / "onnx" / "model.onnx").read_bytes())
        with pytest.raises(UserError, match="fitted for the engine onnx, not int8"):
            load_model(str(pair[0]), settings.model_copy(update={"engine": "int8"}))

    def test_without_a_record(self, pair):
        """The engine that `arxiv-cls cascade` fits by default is the one that is asked for."""
        (pair[0] / "eval" / "cascade.json").unlink()
        with pytest.raises(UserError, match=r"onnx/model_int8\.onnx"):
            load_model(str(pair[0]), ServingSettings(model="x", cascade=str(pair[1])))


class TestModelSlot:
    """One model answers until the next one is whole."""

    def test_the_old_one_stays(self):
        """While the new one loads, and when that fails."""

        def load(name):
            if name == "broken":
                raise UserError("broken")
            return loaded(name)

        async def test():
            slot = ModelSlot(load)
            assert slot.current is None
            await slot.switch("old")
            with pytest.raises(UserError):
                await slot.switch("broken")
            assert slot.current.name == "old"
            await slot.switch("new")
            assert slot.current.name == "new"

        asyncio.run(test())

    def test_one_at_a_time(self):
        """A second switch during the first is refused; who hangs up does not stop the first."""
        go_on = threading.Event()

        def load(name):
            assert go_on.wait(30)
            return loaded(name)

        async def test():
            slot = ModelSlot(load)
            first = asyncio.ensure_future(slot.switch("first"))
            await asyncio.sleep(0)
            assert await slot.switch("second") is None
            first.cancel()
            await asyncio.sleep(0)
            go_on.set()
            while slot.current is None:
                await asyncio.sleep(0.01)
            assert slot.current.name == "first"

        asyncio.run(test())
