"""A fine-tuned transformer as a predictor, computed by torch in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar

from arxiv_cls.models.loading import load_classifier
from arxiv_cls.models.prediction import EncodedText, Predictor, check_texts, scores_of
from arxiv_cls.record.model_files import token_limit

# Tokens of a batch, padding included: bounds the memory whatever the lengths of the texts. On a CPU larger
# batches fall out of the cache: MiniLM on two cores of a Xeon scored 50 to 59 papers a second with 1,024
# tokens, 44 with 8,192.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 8192}


class TransformerPredictor(Predictor):
    """Scores texts with a sequence classifier of transformers, on the device where that is."""

    kind = "transformer"

    def __init__(self, model, tokenizer, directory: Path) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        # The token of an unknown word is one of them.
        self._special_ids = set(tokenizer.all_special_ids)
        max_length = token_limit(model.config.to_dict(), tokenizer.model_max_length)
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        super().__init__(labels, directory, "model.safetensors", "torch", max_length)

    @classmethod
    def load(
        cls, directory: str | Path, device: str | torch.device | None = None, threads: int | None = None
    ) -> TransformerPredictor:
        """Loads a model directory onto a device; None: a GPU where there is one, else the CPU.

        `threads` sets torch's CPU threads, for the whole process; None leaves them.

        Raises:
            UserError: the directory holds no sequence classifier; see `load_classifier`.
        """
        # A bar for files that are read in a tenth of a second only tears the output apart.
        disable_progress_bar()
        directory = Path(directory)
        model, tokenizer = load_classifier(directory)
        if threads is not None:
            torch.set_num_threads(threads)
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(chosen), tokenizer, directory)

    def predict_proba(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Calibrated probabilities, (texts, labels) float64; rows sum to 1, but for a multi-label model."""
        return self._probabilities(self._tokenize(texts)[0], progress)

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text with its token ids.

        Raises:
            UserError: as of `check_texts`.
        """
        check_texts(texts)
        return [
            EncodedText(text, len(ids), truncated, ids, no_known_words=self._special_ids.issuperset(ids))
            for text, ids, truncated in zip(texts, *self._tokenize(texts), strict=True)
        ]

    def _encoded_proba(self, encoded: Sequence[EncodedText]) -> np.ndarray:
        return self._probabilities([item.payload for item in encoded], progress=False)

    def _probabilities(self, ids: list[list[int]], progress: bool) -> np.ndarray:
        logits = np.empty((len(ids), len(self.labels)), dtype=np.float64)
        for rows, batch in self._batches(ids, progress):
            logits[rows] = self.model(**batch).logits.double().cpu().numpy()
        return scores_of(logits, multi_label=self.multi_label) if len(ids) else logits

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """The last hidden states, averaged over the tokens of each text: (texts, hidden size) float32."""
        ids, _ = self._tokenize(texts)
        embeddings = np.empty((len(ids), self.model.config.hidden_size), dtype=np.float32)
        for rows, batch in self._batches(ids, progress):
            hidden = self.model.base_model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            embeddings[rows] = ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy()
        return embeddings

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        if not len(texts):
            return [], []
        limit = self.max_length
        # One pass without truncation tells which texts are cut; the cut then keeps the closing token.
        ids = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        truncated = [len(tokens) > limit for tokens in ids]
        if any(truncated):
            cut = [position for position, is_cut in enumerate(truncated) if is_cut]
            shortened = self.tokenizer([texts[at] for at in cut], truncation=True, max_length=limit)
            for position, tokens in zip(cut, shortened["input_ids"], strict=True):
                ids[position] = tokens
        return ids, truncated

    def _batches(self, ids: list[list[int]], progress: bool) -> Iterator[tuple[list[int], dict]]:
        """Rows and padded inputs, longest first, so that a batch that is too large fails at once."""
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        tokens = TOKENS_PER_BATCH.get(self.model.device.type, max(TOKENS_PER_BATCH.values()))
        bar = tqdm(total=len(ids), desc="score", unit="paper", disable=not progress)
        start = 0
        with torch.inference_mode(), bar:
            while start < len(order):
                longest = len(ids[order[start]])
                rows = order[start : start + max(1, tokens // longest)]
                start += len(rows)
                batch = self.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
                kept = {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
                yield rows, kept
                bar.update(len(rows))


def fold_temperature(model: nn.Module, temperature: float) -> None:
    """Divides weight and bias of the last layer by the temperature, in place: softmax(logits / T) in one.

    Raises:
        ValueError: a temperature that is not above 0, or no such layer.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature must be above 0, got {temperature}")
    layer = output_layer(model)
    with torch.no_grad():
        layer.weight.div_(temperature)
        if layer.bias is not None:
            layer.bias.div_(temperature)


def fold_label_calibration(model: nn.Module, scale: np.ndarray, shift: np.ndarray) -> None:
    """Makes the last layer give logits * scale + shift, in place; both are (labels,).

    Raises:
        ValueError: no such layer, or one without a bias and a shift that is not 0.
    """
    layer = output_layer(model)
    factor, addend = (torch.as_tensor(part, dtype=layer.weight.dtype) for part in (scale, shift))
    factor, addend = factor.to(layer.weight.device), addend.to(layer.weight.device)
    with torch.no_grad():
        layer.weight.mul_(factor[:, None])
        if layer.bias is not None:
            layer.bias.mul_(factor).add_(addend)
        elif addend.any():
            raise ValueError(f"{type(model).__name__} has no bias in its last layer")


def output_layer(model: nn.Module) -> nn.Linear:
    """The layer that the logits of a sequence classifier come out of.

    Raises:
        ValueError: no linear layer has `num_labels` outputs.
    """
    linear = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    layers = [layer for layer in linear if layer.out_features == model.config.num_labels]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer with num_labels outputs")
    return layers[-1]
