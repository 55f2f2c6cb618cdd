"""The gate on what was exported: agreement with the weights, and the handler that serves it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from factories import change_json, write_json
from test_gate import failed, run_gate

from arxiv_cls.errors import UserError
from arxiv_cls.export.handler import write_handler


class TestOnnx:
    """Parity counts once there is an export."""

    @pytest.fixture
    def exported(self, model: Path) -> Path:
        """A directory with one export and the handler that serves it."""
        (model / "onnx").mkdir()
        (model / "onnx/model.onnx").write_bytes(b"graph")
        write_handler(model)
        return model

    def parity(self, model: Path, difference: float | None, **limits: float) -> None:
        """Writes the record of a parity check."""
        weights = json.loads((model / "run.json").read_text())["weights_sha256"]
        record = {"max_difference": difference, "tolerance": 1e-4, **limits}
        record["sha256"] = hashlib.sha256((model / "onnx/model.onnx").read_bytes()).hexdigest()
        exports = {"weights_sha256": weights, "exports": {"onnx/model.onnx": record}}
        write_json(model / "onnx/parity.json", exports)

    def test_unchecked_export(self, exported: Path) -> None:
        """An export that nobody compared is refused."""
        assert failed(run_gate(exported)) == ["onnx"]

    @pytest.mark.parametrize(
        ("difference", "limits", "refused"),
        [
            (1e-6, {}, []),
            (0.02, {}, ["onnx"]),
            (None, {}, ["onnx"]),
            (1e-6, {"equal_labels": 0.995, "least_equal_labels": 0.99}, []),
            (1e-6, {"equal_labels": 0.98, "least_equal_labels": 0.99}, ["onnx"]),
            (1e-6, {"accuracy_fall": 0.001, "largest_accuracy_fall": 0.002}, []),
            (1e-6, {"accuracy_fall": 0.003, "largest_accuracy_fall": 0.002}, ["onnx"]),
        ],
    )
    def test_agreement(
        self, exported: Path, difference: float | None, limits: dict, refused: list[str]
    ) -> None:
        """Within the tolerance it passes, beyond it or unknown it does not; int8 has limits of its own."""
        self.parity(exported, difference, **limits)
        assert failed(run_gate(exported)) == refused

    def test_other_file_or_weights(self, exported: Path) -> None:
        """A graph that was put there after the check, and a check of earlier weights, are refused."""
        self.parity(exported, 1e-6)
        change_json(exported / "onnx/parity.json", weights_sha256="0" * 64)
        assert failed(run_gate(exported)) == ["onnx"]
        self.parity(exported, 1e-6)
        (exported / "onnx/model.onnx").write_bytes(b"another graph")
        assert failed(run_gate(exported)) == ["onnx"]

    def test_unmeasured_difference_cannot_be_overridden(self, exported: Path) -> None:
        """The card would have a hole where the difference stands: no override is offered that then fails."""
        self.parity(exported, None)
        report = run_gate(exported, overrides=["onnx"])
        assert failed(report) == ["onnx"]
        with pytest.raises(UserError, match="run `arxiv-cls export` again") as refusal:
            report.raise_if_refused()
        assert "--override" not in str(refusal.value)

    @pytest.mark.parametrize("name", ["handler.py", "requirements.txt"])
    @pytest.mark.parametrize("content", ["class EndpointHandler: ...", None], ids=["edited", "missing"])
    def test_handler_that_is_not_ours(self, exported: Path, name: str, content: str | None) -> None:
        """An endpoint would run a stale, edited or missing handler beside a graph that was checked."""
        self.parity(exported, 1e-6)
        if content is None:
            (exported / name).unlink()
        else:
            (exported / name).write_text(content)
        report = run_gate(exported)
        assert failed(report) == ["onnx"]
        assert f"{name} is not the one that belongs to the export" in report.refused[0].reason
        assert report.refused[0].found != report.refused[0].wanted
