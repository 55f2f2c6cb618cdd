"""Evidently's own report of the newest window, beside ours: for people who know it, never for the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arxiv_cls.record.files import staged
from arxiv_cls.scoring.reference import FEATURES, Reference, Rows


def write_evidently(path: Path, reference: Reference, rows: Rows) -> bool:
    """Writes Evidently's HTML of a window; False where it has nothing to compare.

    What is empty on a side, or the same on both, it cannot test: such columns are left out.
    """
    import evidently.presets
    import pandas as pd

    if not len(rows):
        return False
    before, now = _columns(reference, reference.rows), _columns(reference, rows)
    kept = [name for name in before if _can_be_compared(before[name], now[name])]
    labels = np.asarray(reference.labels, dtype=object)
    data = []
    for columns, side in ((now, rows), (before, reference.rows)):
        frame = pd.DataFrame(
            {name: columns[name] for name in kept} | {"label": labels[side.scores.argmax(1)]}
        )
        definition = evidently.DataDefinition(numerical_columns=kept, categorical_columns=["label"])
        data.append(evidently.Dataset.from_pandas(frame, data_definition=definition))
    snapshot = evidently.Report([evidently.presets.DataDriftPreset()], include_tests=True).run(*data)
    with staged(path) as partial:
        snapshot.save_html(str(partial))
    return True


def _columns(reference: Reference, rows: Rows) -> dict[str, np.ndarray]:
    scores = {f"score {name}": rows.scores[:, at] for at, name in enumerate(reference.labels)}
    return scores | {name: rows.features[:, at] for at, name in enumerate(FEATURES)}


def _can_be_compared(before: np.ndarray, now: np.ndarray) -> bool:
    known = [values[~np.isnan(values)] for values in (before, now)]
    return all(map(len, known)) and len(np.unique(np.concatenate(known))) > 1
