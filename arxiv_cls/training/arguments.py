"""The recipe of a transformer: what `train.py` reads."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from transformers import TrainingArguments

from arxiv_cls.recipe import LARGEST_SEED, TRACKERS, Recipe, Tracker, TransformerModelConfig
from arxiv_cls.scoring.metrics import LOWER_IS_BETTER

# Keys of TrainingArguments that would have no effect here, or break the run; all others have their effect.
REFUSED = {
    "name the precision in trainer.precision": "bf16 fp16 bf16_full_eval fp16_full_eval",
    "a release goes to the Hub by `make push-model`, after its checks": (
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"
    ),
    "a run is named after its recipe file; the project is WANDB_PROJECT or TRACKIO_PROJECT": (
        "run_name project trackio_space_id trackio_bucket_id trackio_static_space_id"
    ),
    "train.py always trains and evaluates; it takes --resume and --no-evaluate": (
        "do_train do_eval do_predict resume_from_checkpoint restore_callback_states_from_checkpoint"
    ),
    "the metrics need every prediction of the validation split": (
        "prediction_loss_only batch_eval_metrics eval_do_concat_batches eval_use_gather_object "
        "include_for_metrics label_names remove_unused_columns dataloader_drop_last"
    ),
    "a checkpoint is always whole, so that --resume goes on from it; the first process writes it": (
        "save_only_model ignore_data_skip enable_jit_checkpoint save_on_each_node log_on_each_node"
    ),
    "batches are made by trainer.length_grouping and per_device_train_batch_size": (
        "auto_find_batch_size train_sampling_strategy length_column_name accelerator_config "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order"
    ),
    "`accelerate launch` starts the processes": "fsdp fsdp_config deepspeed parallelism_config local_rank",
    "a loss that is no number ends the run": "logging_nan_inf_filter",
    "it has no effect on a text classifier": "use_cache use_liger_kernel liger_kernel_config",
    "the optimizers that take it are not supported": "optim_target_modules",
}

# What `accelerate launch` sets for a model that is divided among the processes.
SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}  # fmt: skip

LogLevel = Literal["debug", "info", "warning", "error", "critical", "passive"]


@dataclass(config=ConfigDict(arbitrary_types_allowed=True), kw_only=True)
class TransformerTrainerConfig(TrainingArguments):
    """`TrainingArguments` with defaults for this task and the few fields it lacks.

    `output_dir` is the model directory; checkpoints are kept outside of it.
    """

    REFUSED_KEYS: ClassVar[dict[str, str]] = {
        key: reason for reason, keys in REFUSED.items() for key in keys.split()
    }

    output_dir: str | None = Field(None, description="Model directory; default outputs/<recipe's file name>.")
    per_device_train_batch_size: int = Field(32, ge=1, description="Papers per device and step.")
    per_device_eval_batch_size: int = Field(64, ge=1, description="Papers per device and evaluation step.")
    eval_strategy: Literal["no", "steps", "epoch"] = Field("epoch", description="When to evaluate.")
    save_strategy: Literal["no", "steps", "epoch"] = Field("epoch", description="When to write a checkpoint.")
    save_total_limit: int | None = Field(
        2, ge=1, description="Checkpoints that are kept beside the best one."
    )
    logging_steps: float = Field(
        50, ge=0, description="Steps between two lines of the log; below 1 a share of the run."
    )
    load_best_model_at_end: bool = Field(True, description="Go back to the best metric_for_best_model.")
    metric_for_best_model: str | None = Field(
        "macro_f1", description="Metric of the validation split that names the best epoch."
    )
    report_to: Tracker | list[Tracker] = Field("auto", description=TRACKERS)
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="Seed of head, dropout and order of batches.")

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 where the device has it (CPU: AVX512-BF16 or AMX), else fp16 (GPU) or fp32.",
    )
    head_learning_rate: float | None = Field(None, gt=0, description="Of the head; null: learning_rate.")
    layerwise_learning_rate_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor on the learning rate from each encoder layer to the one below it.",
    )
    freeze: list[str] = Field(
        default_factory=list,
        description="Parts that do not learn: embeddings, encoder, or layers as in layer.0.",
    )
    head_only_epochs: float = Field(
        0.0, ge=0, description="Epochs at the start in which only the head learns."
    )
    class_weighting: Literal["none", "balanced", "sqrt"] = Field(
        "none", description="Weight of a class in the loss: equal, 1 / count, or 1 / sqrt(count)."
    )
    distillation_weight: float = Field(
        0.0, ge=0, le=1, description="Share of a TF-IDF model's probabilities in the target of a paper."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Stop after this many evaluations without a better metric_for_best_model."
    )
    length_grouping: bool = Field(True, description="Batches of papers of similar length, in random order.")
    cpu_threads: int | None = Field(
        None, ge=1, description="Threads per process on a CPU; null: cores divided by local processes."
    )
    profile_steps: int = Field(
        0, ge=0, description="Steps recorded by torch's profiler into <checkpoints>/profile; 0: none."
    )

    max_hours: float | None = Field(
        None,
        ge=0,
        description="Stop after so many hours, with a checkpoint and exit status 75; 0 with --resume: train "
        "no further, the last checkpoint becomes the model.",
    )
    checkpoint_dir: str | None = Field(
        None,
        description="Checkpoints are copied there: gs://bucket/folder or a mount; null: AIP_CHECKPOINT_DIR.",
    )

    # Inherited fields: torch and numpy would refuse some values in the middle of a run.
    lr_scheduler_kwargs: dict[str, Any] | None = Field(None)
    greater_is_better: bool | None = Field(None)
    learning_rate: float = Field(TrainingArguments.learning_rate, gt=0)
    num_train_epochs: float = Field(TrainingArguments.num_train_epochs, gt=0)
    gradient_accumulation_steps: int = Field(TrainingArguments.gradient_accumulation_steps, ge=1)
    label_smoothing_factor: float = Field(TrainingArguments.label_smoothing_factor, ge=0, lt=1)
    weight_decay: float = Field(TrainingArguments.weight_decay, ge=0)
    adam_beta1: float = Field(TrainingArguments.adam_beta1, ge=0, lt=1)
    adam_beta2: float = Field(TrainingArguments.adam_beta2, ge=0, lt=1)
    adam_epsilon: float = Field(TrainingArguments.adam_epsilon, ge=0)
    warmup_steps: float = Field(TrainingArguments.warmup_steps, ge=0)
    max_grad_norm: float = Field(TrainingArguments.max_grad_norm, ge=0)
    eval_steps: float | None = Field(TrainingArguments.eval_steps, ge=0)
    save_steps: float = Field(TrainingArguments.save_steps, gt=0)
    eval_accumulation_steps: int | None = Field(TrainingArguments.eval_accumulation_steps, ge=1)
    dataloader_num_workers: int = Field(TrainingArguments.dataloader_num_workers, ge=0)
    data_seed: int | None = Field(TrainingArguments.data_seed, ge=0, le=LARGEST_SEED)
    neftune_noise_alpha: float | None = Field(None, ge=0)
    log_level: LogLevel = Field("passive")
    log_level_replica: LogLevel = Field("warning")
    torch_compile_mode: (
        Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    ) = Field(None)

    def __post_init__(self) -> None:
        given, direction = (self.output_dir, self.report_to), self.greater_is_better
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        self.greater_is_better = metric not in LOWER_IS_BETTER
        if direction not in (None, self.greater_is_better):
            raise ValueError(
                f"greater_is_better: a {'greater' if not direction else 'lower'} {metric} is better"
            )
        super().__post_init__()
        # The parent sets a folder of its own, and takes "none" for a tracker in a list.
        self.output_dir, self.report_to = given
        if self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            mode = {"mode": "max" if self.greater_is_better else "min"}
            self.lr_scheduler_kwargs = mode | (self.lr_scheduler_kwargs or {})

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        # These take seconds to import: a wrong key of the group is reported before.
        import torch
        from accelerate.utils import DynamoBackend
        from transformers import Trainer, get_scheduler

        wrong = []
        for variable, name in SHARDED.items():
            if os.environ.get(variable, "").lower() in ("true", "1"):
                wrong.append(
                    f"`accelerate` is set to {name}, but each process holds the whole model: 16 bytes a "
                    "parameter, 1 GB for DistilBERT; take distributed_type: MULTI_GPU"
                )
        if (self.torch_compile_backend or "no").upper() not in DynamoBackend.__members__:
            known = ", ".join(DynamoBackend.__members__).lower()
            wrong.append(f"torch_compile_backend: {self.torch_compile_backend!r}; there are {known}")
        if self.head_only_epochs >= self.num_train_epochs and self.max_steps <= 0:
            wrong.append("head_only_epochs: must leave an epoch for the encoder (num_train_epochs)")
        if self.early_stopping_patience and not self.load_best_model_at_end:
            wrong.append("early_stopping_patience: needs load_best_model_at_end: true")
        key = "optim"
        try:
            kind, options = Trainer.get_optimizer_cls_and_kwargs(self)
            optimizer = kind([torch.zeros(1, requires_grad=True)], **options)
            key = "lr_scheduler_type, lr_scheduler_kwargs"
            get_scheduler(self.lr_scheduler_type, optimizer, 1, 10, self.lr_scheduler_kwargs)
        except (ImportError, TypeError, ValueError, RuntimeError) as error:
            wrong.append(f"{key}: {' '.join(str(error).split())}")
        return wrong


@dataclass
class TransformerRecipe(Recipe):
    """A complete fine-tuning run."""

    model: TransformerModelConfig
    trainer: TransformerTrainerConfig
