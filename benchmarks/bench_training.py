"""Fine-tuning throughput: recipes/minilm.yaml beside the stock Trainer, on the same papers.

    python benchmarks/bench_training.py [--csv data/raw/arxiv.csv] [--papers 2000] [--sides stock ours]

Stock is `transformers.Trainer` with its defaults and texts padded to 256 tokens. Both sides train all
layers for one epoch on the first `--papers` training papers in hash order, at most 256 tokens of each, with
the recipe's batch, seed and learning rate, from the same weights, and are scored on the first half as many
test papers. The recipe's teacher is left out, since it changes the targets and not the speed. Lines below
ours take one thing away or freeze a part. Each run is a process of its own. Papers per second are over the
training loop alone, without imports, tokenising and scoring.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arxiv_cls.errors import UserError
from benchmarks.children import DATA, run_benchmark, run_child

ROOT = Path(__file__).resolve().parents[1]
MAX_LENGTH = 256
SIDES = {
    "stock": "Trainer's defaults, padded to 256 tokens",
    "ours": "recipes/minilm.yaml",
    "ours-fp32": "ours without bf16",
    "ours-dropout": "ours with the checkpoint's attention dropout",
    "ours-frozen-embeddings": "ours, embeddings frozen",
    "ours-frozen-half": "ours, embeddings and the lower three of six layers frozen",
}
OVERRIDES = {
    "ours": [],
    "ours-fp32": ["--trainer.precision", "fp32"],
    "ours-dropout": ["--model.attention_dropout", "0.1"],
    "ours-frozen-embeddings": ["--trainer.freeze", "[embeddings]"],
    "ours-frozen-half": ["--trainer.freeze", "[embeddings, layer.0, layer.1, layer.2]"],
}


def run_side(side: str, csv: str, papers: int) -> dict[str, Any]:
    """Trains one side in this process and scores it.

    Returns:
        Training seconds, papers per second, peak memory in bytes, and for each scored paper whether the
        label was right.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
    from transformers.utils import logging as transformers_logging

    from arxiv_cls.corpus import build_corpus
    from arxiv_cls.models.loading import resolve_pretrained
    from arxiv_cls.models.transformer import TransformerPredictor
    from arxiv_cls.recipe import load_recipe
    from arxiv_cls.record.run_record import peak_resident_bytes
    from arxiv_cls.training import fine_tuning
    from arxiv_cls.training.arguments import TransformerRecipe
    from arxiv_cls.training.batches import load_tokenizer, tokenize
    from arxiv_cls.training.fine_tuning import set_cpu_threads
    from arxiv_cls.training.trainer import PaperTrainer, recipe_callbacks

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    set_cpu_threads(None)
    # Only the training papers and their order count here: the splits are those of the recipe.
    splits = build_corpus("top5", csv=csv, max_samples=max(2 * papers, 8)).splits
    splits["train"] = splits["train"].select(range(min(papers, len(splits["train"]))))
    held_out = splits["test"].select(range(min(papers // 2, len(splits["test"]))))
    recipe = load_recipe(
        ROOT / "recipes" / "minilm.yaml",
        ["--num_train_epochs", "1", "--distillation_weight", "0", "--eval_strategy", "no",
         "--save_strategy", "no", "--load_best_model_at_end", "false", "--early_stopping_patience", "null",
         "--use_cpu", "true", "--disable_tqdm", "true", "--max_length", str(MAX_LENGTH),
         *OVERRIDES.get(side, [])],
        TransformerRecipe,
    )  # fmt: skip
    source = resolve_pretrained(recipe.model.name_or_path)
    labels = splits["train"].features["label"].names
    with tempfile.TemporaryDirectory() as folder:
        if side == "stock":
            tokenizer = AutoTokenizer.from_pretrained(source)
            padded = splits["train"].map(
                lambda batch: tokenizer(
                    batch["text"], truncation=True, padding="max_length", max_length=MAX_LENGTH
                ),
                batched=True,
                keep_in_memory=True,
            )
            args = TrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=recipe.trainer.per_device_train_batch_size,
                learning_rate=recipe.trainer.learning_rate,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                seed=recipe.trainer.seed,
            )
            model = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=len(labels), id2label=dict(enumerate(labels)), dtype=torch.float32
            )
            trainer = Trainer(model=model, args=args, train_dataset=padded)
            tokenizer.model_max_length = MAX_LENGTH
        else:
            fine_tuning.apply_to_machine(recipe.trainer, Path(folder))
            tokenizer = load_tokenizer(source, recipe.model.max_length)
            tokens = tokenize(splits, tokenizer)
            model = fine_tuning.load_classifier(recipe.model, source, labels)
            callbacks = recipe_callbacks(model, recipe.trainer, Path(folder))
            trainer = PaperTrainer(
                model, recipe.trainer, tokenizer, tokens["train"], tokens["validation"], callbacks
            )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    probabilities = TransformerPredictor(model, tokenizer, Path(folder)).predict_proba(held_out["text"][:])
    right = probabilities.argmax(axis=1) == np.asarray(held_out["label"][:])
    peak = peak_resident_bytes()
    return {
        "seconds": seconds,
        "papers": len(splits["train"]),
        "papers_per_second": len(splits["train"]) / seconds,
        "peak_bytes": peak,
        "right": right.tolist(),
    }


def measure(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own."""
    words = ["--side", side, "--csv", str(arguments.csv), "--papers", str(arguments.papers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    environment["TOKENIZERS_PARALLELISM"] = "false"
    done = run_child(
        [sys.executable, __file__, *words],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise UserError(
            f"the side {side!r} ended with exit status {done.returncode}", hint="its own message is above"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    """Runs the sides one after another and prints the table; with `--side`, one of them as JSON.

    Raises:
        UserError: when there is no CSV, or a side fails.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=ROOT / DATA)
    parser.add_argument("--papers", type=int, default=2000, help="training papers (default 2000)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.side:
        print(json.dumps(run_side(arguments.side, str(arguments.csv), arguments.papers)))
        return
    if not arguments.csv.is_file():
        raise UserError(f"{arguments.csv}: no such file", hint="make data")

    import numpy as np

    print(f"one epoch on {arguments.papers:,} papers, scored on {arguments.papers // 2:,} others")
    print(f"{'side':<24}{'papers/s':>9}{'ratio':>7}{'peak GB':>9}{'accuracy':>10}   difference (95%)")
    stock = None
    for side in sorted(arguments.sides, key=list(SIDES).index):
        found = measure(side, arguments)
        right = np.asarray(found["right"], dtype=float)
        line = f"{side:<24}{found['papers_per_second']:9.2f}"
        if side == "stock":
            stock = found
        ratio = found["papers_per_second"] / stock["papers_per_second"] if stock else float("nan")
        line += f"{ratio:7.2f}{found['peak_bytes'] / 1e9:9.2f}{right.mean():10.3f}"
        if stock and side != "stock":
            difference = right - np.asarray(stock["right"], dtype=float)
            # Paired bootstrap: the papers are resampled, both sides with them.
            drawn = np.random.default_rng(0).integers(len(difference), size=(2000, len(difference)))
            low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
            line += f"   {difference.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        print(f"{line}   {SIDES[side]}", flush=True)


if __name__ == "__main__":
    run_benchmark(main)
