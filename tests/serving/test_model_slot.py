"""The slot: what a loaded model says of itself, and the switch."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from types import SimpleNamespace

import pytest
from served_models import LABELS, write_onnx_model

from arxiv_cls.errors import UserError
from arxiv_cls.serving.model_slot import ModelSlot, load_model
from arxiv_cls.serving.settings import ServingSettings


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
        with pytest.raises(UserError, match=r"run\.json cannot be read"):
            load_model(str(tmp_path / "tiny"), ServingSettings(model="x"))


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
