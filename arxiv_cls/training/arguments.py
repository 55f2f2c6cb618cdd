"""The recipe of a transformer: what `train.py` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from transformers import TrainingArguments

from arxiv_cls.recipe import LARGEST_SEED, DataConfig, Limits, ReleaseConfig, option


@dataclass
class TransformerModelConfig:
    """Which pretrained encoder, and how long a text it reads."""

    name_or_path: str = option(
        "distilbert/distilbert-base-uncased",
        "Hub id, directory, or package:NAME/FOLDER for weights that an installed Python package carries.",
    )
    revision: str | None = option(None, "Branch, tag or commit of the Hub id.")
    max_length: int = option(
        256, "Longest input, in tokens; saved as the tokenizer's model_max_length.", minimum=8
    )
    attention_dropout: float | None = option(
        None, "Dropout of the attention weights, a probability; null keeps the checkpoint's.", minimum=0
    )
    hidden_dropout: float | None = option(
        None, "Dropout of the hidden states, a probability; null keeps the checkpoint's.", minimum=0
    )

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        named = (("attention_dropout", self.attention_dropout), ("hidden_dropout", self.hidden_dropout))
        return [
            f"{name}: {value} is not below 1" for name, value in named if value is not None and value >= 1
        ]


@dataclass
class TransformerTrainerConfig(TrainingArguments):
    """`TrainingArguments` with defaults for this task and the few fields it lacks.

    `output_dir` is the model directory; checkpoints are kept outside of it.
    """

    # Of inherited fields; torch and numpy would refuse these values in the middle of a run.
    LIMITS: ClassVar[dict[str, Limits]] = {
        "learning_rate": Limits(above=0),
        "num_train_epochs": Limits(above=0),
        "gradient_accumulation_steps": Limits(minimum=1),
        "label_smoothing_factor": Limits(minimum=0),
        "weight_decay": Limits(minimum=0),
        "adam_beta1": Limits(minimum=0, below=1),
        "adam_beta2": Limits(minimum=0, below=1),
        "adam_epsilon": Limits(minimum=0),
        "warmup_steps": Limits(minimum=0),
        "max_grad_norm": Limits(minimum=0),
        "eval_steps": Limits(minimum=0),
        "save_steps": Limits(minimum=0),
        "dataloader_num_workers": Limits(minimum=0),
        "data_seed": Limits(minimum=0, maximum=LARGEST_SEED),
    }

    output_dir: str | None = option(None, "Model directory; default outputs/<recipe's file name>.")
    per_device_train_batch_size: int = option(32, "Papers per device and step.", minimum=1)
    per_device_eval_batch_size: int = option(64, "Papers per device and evaluation step.", minimum=1)
    eval_strategy: Literal["no", "steps", "epoch"] = option("epoch", "When to evaluate: no, steps or epoch.")
    save_strategy: Literal["no", "steps", "epoch"] = option(
        "epoch", "When to write a checkpoint: no, steps or epoch."
    )
    save_total_limit: int | None = option(2, "How many checkpoints are kept beside the best one.", minimum=1)
    logging_steps: float = option(
        50, "Steps between two lines of the log; below 1 a share of the run.", minimum=0
    )
    load_best_model_at_end: bool = option(True, "Go back to the epoch with the best metric_for_best_model.")
    metric_for_best_model: str | None = option(
        "macro_f1", "Metric of the validation split that names the best epoch."
    )
    report_to: str | list[str] = option("none", "Trackers: none, wandb, trackio, or a list of them.")
    seed: int = option(
        42, "Seed of the head, the dropout and the order of the batches.", minimum=0, maximum=LARGEST_SEED
    )

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "auto: bf16 where the device computes in it (on a CPU: AVX512-BF16 or AMX), else fp32."
    )
    head_learning_rate: float | None = option(
        None, "Learning rate of the new head; null: learning_rate.", above=0
    )
    layerwise_learning_rate_decay: float = option(
        1.0, "Factor on the learning rate from each encoder layer to the one below it.", above=0
    )
    freeze: list[str] = option(
        [], "Parts that stay as they are: embeddings, encoder, or layer numbers as in layer.0."
    )
    head_only_epochs: float = option(0.0, "Epochs at the start in which only the head learns.", minimum=0)
    class_weighting: Literal["none", "balanced", "sqrt"] = option(
        "none", "Weight of a class in the loss: equal, inverse to its count, or to the count's square root."
    )
    teacher_weight: float = option(
        0.0,
        "Share of each training target that comes from a TF-IDF model that has not seen the paper.",
        minimum=0,
    )
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations without a better metric_for_best_model.", minimum=1
    )
    length_grouping: bool = option(True, "Batches of papers of similar length, in random order.")
    cpu_threads: int | None = option(
        None, "Threads per process on a CPU; null: cores divided by local processes.", minimum=1
    )
    profile_steps: int = option(
        0, "Steps recorded by torch's profiler into <checkpoints>/profile; 0: none.", minimum=0
    )

    def __post_init__(self) -> None:
        if self.bf16 or self.fp16:
            raise ValueError("bf16, fp16: name the precision (auto, fp32, bf16, fp16) in trainer.precision")
        model_directory, trackers = self.output_dir, self.report_to
        super().__post_init__()
        # The parent replaces both: None by a folder of its own, "none" by an empty list.
        self.output_dir = model_directory
        names = [trackers] if isinstance(trackers, str) else list(trackers)
        self.trackers = [name for name in names if name != "none"]
        # Runs are opened by arxiv_cls.training.tracking, which bounds the wait for the network.
        self.report_to = []

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        wrong = [
            f"{key}: a release goes to the Hub by `make push-model`, after its checks"
            for key in ("push_to_hub", "hub_token", "hub_model_id")
            if getattr(self, key)
        ]
        wrong += [
            f"report_to: {name!r} is not one of none, wandb, trackio"
            for name in self.trackers
            if name not in ("wandb", "trackio")
        ]
        if self.teacher_weight > 1:
            wrong.append("teacher_weight: is a share, at most 1")
        if self.layerwise_learning_rate_decay > 1:
            wrong.append("layerwise_learning_rate_decay: must be at most 1")
        if self.head_only_epochs >= self.num_train_epochs and self.max_steps <= 0:
            wrong.append("head_only_epochs: must leave an epoch for the encoder (num_train_epochs)")
        if self.early_stopping_patience and not self.load_best_model_at_end:
            wrong.append("early_stopping_patience: needs load_best_model_at_end: true")
        if not 0 <= self.label_smoothing_factor < 1:
            wrong.append("label_smoothing_factor: must be at least 0 and below 1")
        return wrong


@dataclass
class TransformerRecipe:
    """A complete fine-tuning run."""

    name: str
    given: dict[str, dict[str, Any]]
    model: TransformerModelConfig
    data: DataConfig
    trainer: TransformerTrainerConfig
    release: ReleaseConfig
