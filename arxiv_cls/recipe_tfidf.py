"""The recipe of a baseline: what `train_tfidf.py` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from arxiv_cls.recipe import LARGEST_SEED, DataConfig, ReleaseConfig, option


@dataclass
class TfidfModelConfig:
    """The terms, the linear models on them and the trees on top."""

    classifier: Literal["xgboost", "linear"] = option(
        "xgboost", "`xgboost`: trees that start from the linear models' score; `linear`: that score alone."
    )
    ngram_max: int = option(2, "Longest term, in words.", minimum=1)
    min_df: int = option(2, "A term must occur in this many training papers.", minimum=1)
    title_weight: float = option(
        0.5, "Weight of the title's own terms beside those of the whole text; 0: none.", minimum=0
    )
    folds: int = option(
        5, "Parts in which training papers get scores from linear models that did not see them.", minimum=2
    )
    svm_cost: float = option(0.2, "Cost C of the linear support vector machine.", above=0)
    ridge_penalty: float = option(1.5, "Penalty of the ridge classifier.", above=0)
    naive_bayes_smoothing: float = option(0.1, "Smoothing of complement naive Bayes.", above=0)
    components: int = option(
        64, "Dimensions of the latent semantic analysis that the trees read; 0: none.", minimum=0
    )
    components_min_df: int = option(
        20, "The analysis reads terms that occur in this many training papers.", minimum=1
    )
    max_depth: int = option(4, "Depth of a tree.", minimum=1)
    min_child_weight: float = option(5.0, "Smallest sum of second derivatives in a leaf.", minimum=0)
    subsample: float = option(0.7, "Share of the papers that a boosting round sees.", above=0)
    colsample_bytree: float = option(0.4, "Share of the features that a tree sees.", above=0)
    reg_alpha: float = option(0.0, "L1 penalty of the leaves.", minimum=0)
    reg_lambda: float = option(2.0, "L2 penalty of the leaves.", minimum=0)
    max_bin: int = option(64, "Histogram bins of a feature.", minimum=2)

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        shares = (("subsample", self.subsample), ("colsample_bytree", self.colsample_bytree))
        return [f"{name}: {value} is a share, at most 1" for name, value in shares if value > 1]


@dataclass
class TfidfTrainerConfig:
    """How the trees are grown, and where the run goes; the names are those of `TrainingArguments`."""

    output_dir: str | None = option(None, "Model directory; default outputs/<recipe's file name>.")
    num_train_epochs: int = option(400, "Boosting rounds at most; not used by `linear`.", minimum=1)
    learning_rate: float = option(0.1, "Step of a boosting round.", above=0)
    early_stopping_patience: int = option(
        15, "Stop after this many rounds without a lower log-loss on the validation split.", minimum=1
    )
    seed: int = option(
        42, "Seed of the folds, the linear models and the trees.", minimum=0, maximum=LARGEST_SEED
    )
    cpu_threads: int | None = option(None, "Threads; null: the cores of the machine.", minimum=1)
    report_to: str | list[str] = option("none", "Trackers: none, wandb, trackio, or a list of them.")

    @property
    def trackers(self) -> list[str]:
        """The names in `report_to`, without `none`."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in names if name != "none"]

    def problems(self) -> list[str]:
        """What is wrong with the group as a whole, a sentence each."""
        return [
            f"report_to: {name!r} is not one of none, wandb, trackio"
            for name in self.trackers
            if name not in ("wandb", "trackio")
        ]


@dataclass
class TfidfRecipe:
    """A complete training run of a baseline."""

    name: str
    given: dict[str, dict[str, Any]]
    model: TfidfModelConfig
    data: DataConfig
    trainer: TfidfTrainerConfig
    release: ReleaseConfig
