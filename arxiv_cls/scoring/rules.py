"""Decision rules stored beside a model: prediction sets and the out-of-scope threshold."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from arxiv_cls.scoring.map_plots import plot_out_of_scope
from arxiv_cls.scoring.model_data import file_sha256
from arxiv_cls.scoring.prediction_set_fitting import fit_prediction_sets
from arxiv_cls.scoring.scope_fitting import FEWEST_PAPERS, PAPERS_A_SIDE, fit_scope, outside_papers
from arxiv_cls.scoring.scored_papers import ScoredPapers, score_papers, write_json

logger = logging.getLogger(__name__)


# Each rule with the plot that shows it.
RULE_FILES = (("prediction_sets.json",), ("scope.json", "out_of_scope.png"))


def drop_stale_rules(folder: Path, weights_sha256: str) -> None:
    """Takes away rules that were fitted for other weights, so that no card shows them for these.

    Args:
        folder: `eval/` of the model directory.
        weights_sha256: of the weights that are there now.
    """
    for names in RULE_FILES:
        path = folder / names[0]
        if not path.is_file():
            continue
        try:
            fitted_for = json.loads(path.read_text(encoding="utf-8")).get("weights_sha256")
        except (ValueError, AttributeError):
            fitted_for = None
        if fitted_for != weights_sha256:
            for name in names:
                (folder / name).unlink(missing_ok=True)


def fit_rules(
    predictor: Any,
    corpus: Any,
    tested: ScoredPapers,
    folder: Path,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Fits the rules on the validation split and writes `prediction_sets.json` and `scope.json`.

    Args:
        predictor: the model.
        corpus: its corpus.
        tested: its scores of the test split.
        folder: `eval/` of the model directory.
        progress: show a bar.

    Returns:
        {"prediction_sets": ..., "scope": ... or None} as written; there is no scope rule when the label set
        leaves out too few papers of the file, and an older one is taken away.

    Raises:
        UserError: when the data cannot be read.
    """
    weights = file_sha256(Path(predictor.weights_path))
    held_out = score_papers(predictor, corpus.splits["validation"], corpus.labels, progress=progress)
    sets = fit_prediction_sets(held_out.labels, held_out.probabilities, tested.labels, tested.probabilities)
    sets["weights_sha256"] = weights
    write_json(sets, folder / "prediction_sets.json")

    texts = {
        name: list(corpus.splits[name].select(range(min(PAPERS_A_SIDE, len(corpus.splits[name]))))["text"])
        for name in ("train", "validation", "test")
    }
    outside = outside_papers(corpus)
    found = fit_scope(texts["train"], texts["validation"], texts["test"], outside)
    if found is None:
        logger.info("no out-of-scope rule: fewer than %s papers inside or outside the labels", FEWEST_PAPERS)
        for name in ("scope.json", "out_of_scope.png"):
            (folder / name).unlink(missing_ok=True)
        return {"prediction_sets": sets, "scope": None}
    scope, scores_in, scores_out = found
    scope["weights_sha256"] = weights
    write_json(scope, folder / "scope.json")
    plot_out_of_scope(scores_in, scores_out, scope["threshold"], folder / "out_of_scope.png")
    return {"prediction_sets": sets, "scope": scope}
