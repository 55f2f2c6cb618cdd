"""The end of every run: record, evaluation on the test split, card, and the directory in its place."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from arxiv_cls.record.files import update_file
from arxiv_cls.release.card import write_model_card
from arxiv_cls.scoring.evaluation import evaluate_model
from arxiv_cls.scoring.report import evaluation_table
from arxiv_cls.training.run_directory import RunFolder
from arxiv_cls.training.tracking import Trackers

logger = logging.getLogger(__name__)


def finish_run(
    run: RunFolder, record: dict[str, Any], trackers: Trackers, csv: str, *, evaluate: bool = True
) -> None:
    """Evaluates what was staged, completes its record, and publishes it as the model directory.

    Args:
        run: its staging directory holds the weights and the recipe.
        record: from `build_run_record`; gets the metrics of the test split.
        trackers: get the metrics of both splits.
        csv: the data file; the recipe on record may hold its name only.
        evaluate: False leaves the test split and the card to later commands: the pipeline's next stages, and
            a sweep, which may not look at the test split.

    Raises:
        UserError: the staged model cannot be evaluated.
    """
    trackers.log_metrics("validation", record["metrics"]["validation"])
    if not evaluate:
        _write_record(record, run.staging)
        run.publish()
        logger.info("model directory, not evaluated yet: %s", run.model_dir)
        return
    # The evaluation reads the record, and the record then holds the evaluation.
    _write_record(record, run.staging)
    evaluation = evaluate_model(run.staging, split="test", data=csv, progress=True)
    record["metrics"]["test"] = evaluation["metrics"]
    _write_record(record, run.staging)
    update_file(run.staging, "run.json")
    write_model_card(run.staging)
    trackers.log_final(evaluation, run.staging)
    run.publish()
    print(evaluation_table(evaluation))
    logger.info("model directory: %s", run.model_dir)


def _write_record(record: dict[str, Any], directory: Path) -> None:
    (directory / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
