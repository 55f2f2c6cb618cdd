"""What the pipeline's first stages leave behind: small files that change exactly when the corpus does.

`dvc.yaml` makes later stages depend on them. The built splits themselves lie in the cache of `datasets`,
keyed by content, and are built again wherever that cache is empty.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import DataConfig, load_group

if TYPE_CHECKING:
    from arxiv_cls.corpus.load import Corpus
    from arxiv_cls.corpus.near_duplicates import NearDuplicates

_SEPARATOR = b"\x1e"  # ends a field: in no id, label or text


def recipe_data(recipe: str | Path) -> dict[str, Any]:
    """The keywords of `build_corpus` that a recipe of either kind names.

    Raises:
        UserError: the file is no recipe, or its `data` group is wrong.
    """
    group = dataclasses.asdict(load_group(recipe, "data", DataConfig))
    return {key: value for key, value in group.items() if value is not None}


def check_record(corpus: Corpus, near_duplicates: NearDuplicates) -> dict[str, Any]:
    """What became of each row of the file, as counts.

    Args:
        corpus: with the report of its build.
        near_duplicates: found in it.
    """
    report = corpus.report
    pairs = Counter(f"{pair.split} and {pair.same_as_split}" for pair in near_duplicates.pairs)
    return {
        "md5": corpus.data.md5,
        **report.counts(),
        "near_duplicates": {"threshold": near_duplicates.threshold, "pairs": dict(sorted(pairs.items()))},
    }


def build_record(corpus: Corpus, options: dict[str, Any]) -> dict[str, Any]:
    """The splits: how they were made, papers per label, and a checksum of their content.

    Args:
        corpus: the built corpus.
        options: the keywords of `build_corpus` that made it.
    """
    return {
        "data": {"md5": corpus.data.md5, "sha256": corpus.data.sha256, "rows": corpus.data.rows},
        "options": options,
        "labels": corpus.labels,
        "papers": corpus.report.splits,
        "sha256": {name: _content_sha256(papers) for name, papers in corpus.splits.items()},
    }


def write_record(record: dict[str, Any], path: Path) -> None:
    """Writes a record as JSON, whole or not at all; folders are made.

    Raises:
        UserError: the file cannot be written there.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may be the folder that cannot be
            part.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "name another file: --out"
        ) from None


def _content_sha256(papers: Any) -> str:
    digest = hashlib.sha256()
    columns = (papers[name][:] for name in ("arxiv_id", "label", "text"))
    for fields in zip(*columns, strict=True):
        for field in fields:
            digest.update(str(field).encode("utf-8"))
            digest.update(_SEPARATOR)
    return digest.hexdigest()
