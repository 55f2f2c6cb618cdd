"""A fine-tuned transformer as a predictor, computed by onnxruntime, without torch or transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.onnx_engine import TOKENS_PER_BATCH, OnnxEngine
from arxiv_cls.models.prediction import ONNX_FILES, EncodedText, Predictor, check_texts, one_error
from arxiv_cls.record.directory import check_directory
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.model_files import ClassifierConfig, check_length, read_model_file, read_record


class OnnxPredictor(Predictor):
    """Scores texts with an ONNX export of a model: the engine "onnx" (fp32) or "int8".

    `tokens_per_batch` bounds rows times longest row of a forward pass.
    """

    kind = "transformer"

    def __init__(self, session: OnnxEngine, directory: Path, engine: str) -> None:
        super().__init__(session.labels, directory, ONNX_FILES[engine], engine, session.max_length)
        self.session = session
        # int8 takes the range of its activations from the whole batch: alone, a text gets the same answer
        # whatever is asked with it (in company its score moved by up to 0.05).
        self.tokens_per_batch = 1 if engine == "int8" else TOKENS_PER_BATCH

    @classmethod
    def load(cls, directory: str | Path, engine: str = "onnx", threads: int | None = None) -> OnnxPredictor:
        """Loads an export from a model directory.

        Args:
            directory: the model directory.
            engine: "onnx" or "int8".
            threads: forward passes at a time, one core each; None for all cores that this process may use.

        Raises:
            UserError: there is no export, it is not the one on record, it was made from other weights, it
                cannot be read, its records contradict it, or something in the directory could run code.
        """
        directory, file = Path(directory), ONNX_FILES[engine]
        check_directory(directory)
        hint = f"`arxiv-cls export {directory}` writes it anew"
        if not (directory / file).is_file():
            raise UserError(f"{directory} has no {file}, which the engine {engine} needs", hint=hint)
        _refuse_other_export(directory, file, hint)
        check_length(directory, read_record(directory / "config.json", ClassifierConfig))
        with one_error(directory, f"the export {file} cannot be loaded", hint):
            return cls(OnnxEngine(directory, file, threads), directory, engine)

    def limit_tokens(self, max_length: int) -> None:
        """Reads at most so many tokens of a text from now on, and never more than before."""
        self.session.limit_tokens(max_length)
        self.max_length = self.session.max_length

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text with its token ids.

        Raises:
            UserError: as of `check_texts`.
        """
        check_texts(texts)
        tokenized = self.session.tokenize(texts)
        return [
            EncodedText(
                text, len(ids), truncated, ids, no_known_words=self.session.special_ids.issuperset(ids)
            )
            for text, (ids, truncated) in zip(texts, tokenized, strict=True)
        ]

    def _encoded_proba(self, encoded: Sequence[EncodedText]) -> np.ndarray:
        return self.session.probabilities([item.payload for item in encoded], self.tokens_per_batch)

    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities, (texts, labels) float64; rows sum to 1."""
        from tqdm.auto import tqdm

        ids = [ids for ids, _ in self.session.tokenize(texts)]
        with tqdm(total=len(ids), desc="score", unit="paper", disable=not progress) as bar:
            return self.session.probabilities(ids, self.tokens_per_batch, bar.update)


def _refuse_other_export(directory: Path, file: str, hint: str) -> None:
    """Makes sure that an ONNX file is the one on record, and belongs to the weights beside it.

    A directory without a record of parity has nothing to compare, one without the weights (an ONNX download)
    only the file. MiniLM's 90 MB are read in a tenth of a second.
    """
    parity = read_model_file(directory, "onnx/parity.json")
    if parity is None:
        return
    weights, exported = directory / "model.safetensors", parity.get("weights_sha256")
    if weights.is_file() and (found := file_sha256(weights)) != exported:
        raise UserError(
            f"{directory}/onnx was exported from other weights (sha256 {str(exported)[:12]}) than "
            f"{weights.name} (sha256 {found[:12]})",
            hint=hint,
        )
    recorded = parity.get("exports", {}).get(file, {}).get("sha256")
    if (found := file_sha256(directory / file)) != recorded:
        raise UserError(
            f"{directory}/{file} (sha256 {found[:12]}) is not the file that parity.json was measured on "
            f"(sha256 {str(recorded)[:12]})",
            hint=hint,
        )
