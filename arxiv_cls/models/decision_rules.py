"""What a model directory says beyond the scores: prediction sets, and what is out of scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.models.prediction_sets import load_set_threshold, prediction_set
from arxiv_cls.models.scope import ScopeRule, load_scope


@dataclass(frozen=True)
class DecisionRules:
    """The rules of one model; a rule that it does not have is None and answers None.

    Attributes:
        set_threshold: score from which a label is in the 90% prediction set.
        scope: tells papers inside the model's categories from others.
    """

    set_threshold: float | None = None
    scope: ScopeRule | None = None

    @classmethod
    def load(cls, model_dir: str | Path) -> DecisionRules:
        """Reads `eval/prediction_sets.json` and `eval/scope.json` where they are.

        Raises:
            UserError: when one is damaged or of a later version.
        """
        return cls(load_set_threshold(model_dir), load_scope(model_dir))

    def set_of(self, scores: Mapping[str, float]) -> tuple[str, ...] | None:
        """The prediction set of one paper, highest score first.

        Args:
            scores: {label: score} of all labels.
        """
        return None if self.set_threshold is None else tuple(prediction_set(scores, self.set_threshold))

    def scope_of(self, text: str) -> tuple[bool | None, float | None]:
        """Whether a text is in scope, and its score between 0 (outside) and 1 (inside)."""
        if self.scope is None:
            return None, None
        score = self.scope.score(text)
        return score >= self.scope.threshold, score
