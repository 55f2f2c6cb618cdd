"""Proves that a model's scores are calibrated on the test split, by the way in that its users take.

Run as:

    python scripts/prove_calibration.py outputs/minilm outputs/tfidf_xgboost [--data data/raw/arxiv.csv]

A transformer is scored by plain `pipeline()`, a baseline by our predictor. For each model the line says
how many labels the temperature changed (none may), the expected calibration error (at most 0.03, where a
split is large enough for that), and what a perfectly calibrated model of that size shows by chance (95
times in 100 no more than the bound, which is the other limit).
The status is 1 when a model fails.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from arxiv_cls.errors import run_main
from arxiv_cls.models.predictor import Predictor
from arxiv_cls.scoring.calibration import chance_calibration_errors, expected_calibration_error
from arxiv_cls.scoring.scored_papers import load_model_and_corpus

LARGEST_ERROR = 0.03
SIMULATIONS = 1000


def baseline_scores(predictor: Predictor, texts: list[str]) -> tuple[np.ndarray, int]:
    """(n, k) scores of a baseline, and how many labels its temperature changed."""
    probabilities = predictor.predict_proba(texts)
    logits = predictor.model.logits(predictor.model.terms.transform(texts))
    return probabilities, int((logits.argmax(axis=1) != probabilities.argmax(axis=1)).sum())


def pipeline_scores(model_dir: Path, labels: list[str], texts: list[str]) -> tuple[np.ndarray, int]:
    """(n, k) scores of plain `pipeline()`, and how many labels the folded temperature changed.

    The weights hold the temperature. What the last layer gives without it is worked out from its inputs,
    which a hook keeps while the pipeline runs.
    """
    import torch
    from transformers import pipeline

    from arxiv_cls.models.transformer import output_layer

    classify = pipeline("text-classification", model=str(model_dir), truncation=True, top_k=None)
    layer, seen = output_layer(classify.model), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].float().cpu()))
    # Texts of like length together: a batch is padded to its longest.
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    probabilities = np.empty((len(texts), len(labels)))
    for row, scores in zip(order, classify([texts[row] for row in order], batch_size=32), strict=True):
        score_of = {entry["label"]: entry["score"] for entry in scores}
        probabilities[row] = [score_of[label] for label in labels]
    temperature = json.loads((model_dir / "run.json").read_text())["calibration"]["temperature"]
    with torch.no_grad():
        features = torch.cat(seen)
        plain = features @ (layer.weight.cpu() * temperature).T
        plain += 0 if layer.bias is None else layer.bias.cpu() * temperature
    changed = (plain.argmax(dim=1).numpy() != probabilities[order].argmax(axis=1)).sum()
    return probabilities, int(changed)


def prove(model: str, data: str | None) -> bool:
    """Prints a model's line; returns whether it is calibrated."""
    loaded = load_model_and_corpus(model, data)
    predictor, model_dir, corpus = loaded.predictor, loaded.directory, loaded.corpus
    papers = corpus.splits["test"]
    texts = list(papers["text"])
    labels = np.asarray([predictor.labels.index(name) for name in corpus.labels])[np.asarray(papers["label"])]
    if predictor.kind == "transformer":
        probabilities, changed = pipeline_scores(model_dir, predictor.labels, texts)
    else:
        probabilities, changed = baseline_scores(predictor, texts)
    error = expected_calibration_error(probabilities, labels)
    by_chance = chance_calibration_errors(probabilities, simulations=SIMULATIONS)
    bound = float(np.quantile(by_chance, 0.95))
    # On few papers chance alone is above the fixed limit: no model could keep to it.
    limit = bound if by_chance.mean() > LARGEST_ERROR else min(bound, LARGEST_ERROR)
    passed = changed == 0 and error <= limit
    print(
        f"{model}: {len(texts):,} test papers, {changed} labels changed by the temperature, calibration "
        f"error {error:.4f}, by chance {by_chance.mean():.4f} (95% below {bound:.4f}): "
        + ("calibrated" if passed else "NOT CALIBRATED"),
        flush=True,
    )
    return passed


def main(argv: list[str]) -> int:
    """Every model named; 1 when one of them fails.

    Raises:
        UserError: when a model or its data cannot be had.
    """
    parser = argparse.ArgumentParser(description="Prove that models are calibrated on their test split.")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model directory or Hub id")
    parser.add_argument(
        "--data", metavar="FILE", help="the CSV file (default: the one that the recipe names)"
    )
    arguments = parser.parse_args(argv)
    proven = [prove(model, arguments.data) for model in arguments.models]
    return 0 if all(proven) else 1


if __name__ == "__main__":
    run_main(main)
