"""What a build did with every row of the CSV."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DroppedDuplicate:
    """A paper that was dropped because another has the same text."""

    arxiv_id: str
    split: str
    same_as: str
    same_as_split: str


@dataclass
class BuildReport:
    """Counts of a build.

    rows_read = rejected + merged + outside_config + duplicates + near_duplicates + left_out + papers
    """

    config: str
    split: str
    seed: int
    time_boundaries: list[str] | None  # first day of validation and of test, for `split: time`
    rows_read: int
    rejected: int
    rejected_by_reason: dict[str, int]
    rejects_file: str | None  # CSV with line, column, reason, value
    merged: int  # rows that are older versions of a paper
    outside_config: int  # papers of categories that the config does not have
    duplicates: list[DroppedDuplicate]
    left_out: int  # by max_samples
    splits: dict[str, dict[str, int]]  # split to label to papers
    near_duplicates: list[DroppedDuplicate] = field(default_factory=list)  # with data.near_duplicates: drop

    @property
    def papers(self) -> int:
        """Papers in all splits."""
        return sum(sum(labels.values()) for labels in self.splits.values())

    def counts(self) -> dict[str, Any]:
        """What became of the rows, as numbers."""
        return {
            "rows_read": self.rows_read,
            "rejected": self.rejected,
            "rejected_by_reason": self.rejected_by_reason,
            "merged": self.merged,
            "outside_config": self.outside_config,
            "duplicates": len(self.duplicates),
            "near_duplicates_dropped": len(self.near_duplicates),
            "left_out": self.left_out,
            "papers": self.papers,
        }

    def line(self) -> str:
        """The same in one line, for a log."""
        near = f", {len(self.near_duplicates):,} near-duplicates dropped" if self.near_duplicates else ""
        left_out = f", {self.left_out:,} left out by max_samples" if self.left_out else ""
        return (
            f"{self.rows_read:,} rows read, {self.rejected:,} rejected, {self.merged:,} merged, "
            f"{self.outside_config:,} outside {self.config}, {len(self.duplicates):,} duplicates dropped"
            f"{near}{left_out}: {self.papers:,} papers"
        )

    def split_sizes(self) -> dict[str, int]:
        """Papers per split."""
        return {split: sum(labels.values()) for split, labels in self.splits.items()}

    def to_dict(self) -> dict:
        """As JSON can hold it, with the sums that a reader wants."""
        return {**asdict(self), "papers": self.papers, "split_sizes": self.split_sizes()}

    @classmethod
    def from_dict(cls, values: dict) -> BuildReport:
        """The inverse of `to_dict`."""
        # A report from before near-duplicates could be dropped does not name them.
        fields = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name in ("duplicates", "near_duplicates"):
            fields[name] = [DroppedDuplicate(**duplicate) for duplicate in values.get(name, [])]
        return cls(**fields)

    def save(self, path: Path, **more: object) -> None:
        """Writes the report as JSON, `more` beside it."""
        path.write_text(json.dumps({"report": self.to_dict(), **more}, indent=2) + "\n", encoding="utf-8")

    def summary(self) -> str:
        """For a terminal: what happened to the rows, then a table of papers per split and label."""
        lines = [f"{self.rows_read:>9,} rows read"]
        lines.append(
            f"{self.rejected:>9,} rejected" + (f", see {self.rejects_file}" if self.rejected else "")
        )
        lines += [f"{count:>13,} {reason}" for reason, count in self.rejected_by_reason.items()]
        lines.append(f"{self.merged:>9,} merged into a newer version of the same paper")
        lines.append(f"{self.outside_config:>9,} outside the label set {self.config}")
        lines.append(f"{len(self.duplicates):>9,} duplicates dropped")
        lines += self._where(self.duplicates, "same text")
        if self.near_duplicates:
            lines.append(f"{len(self.near_duplicates):>9,} near-duplicates dropped")
            lines += self._where(self.near_duplicates, "almost the same text")
        if self.left_out:
            lines.append(f"{self.left_out:>9,} left out by max_samples")
        how = f"by paper, seed {self.seed}" if self.split == "paper" else "by time"
        if self.time_boundaries:
            how += f": validation from {self.time_boundaries[0]}, test from {self.time_boundaries[1]}"
        lines += [f"{self.papers:>9,} papers, split {how}", "", *self._table()]
        return "\n".join(lines)

    def _where(self, dropped: list[DroppedDuplicate], what: str) -> list[str]:
        where = Counter((duplicate.split, duplicate.same_as_split) for duplicate in dropped)
        return [f"{n:>13,} from {a}, {what} in {b}" for (a, b), n in sorted(where.items())]

    def _table(self) -> list[str]:
        """Papers per label (rows) and split (columns), with sums."""
        splits = list(self.splits)
        labels = list(next(iter(self.splits.values()), {}))
        width = max([5, *map(len, labels)])
        rows = [f"{'label':<{width}}" + "".join(f"{split:>12}" for split in splits)]
        for label in labels:
            rows.append(f"{label:<{width}}" + "".join(f"{self.splits[s][label]:>12,}" for s in splits))
        rows.append(f"{'all':<{width}}" + "".join(f"{size:>12,}" for size in self.split_sizes().values()))
        return rows
