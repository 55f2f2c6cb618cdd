"""The best trial of a sweep as a recipe that a person can read, keep and run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from arxiv_cls.recipe import GROUPS, load_recipe
from arxiv_cls.training.sweep_file import Sweep


def best_recipe(sweep: Sweep, values: Mapping[str, Any], value: float, record: Mapping[str, Any]) -> str:
    """The recipe of the sweep with the best values in it, and comments that say where they come from.

    The fixed overrides of the search (fewer papers, fewer epochs) are left out and named.

    Args:
        sweep: the search.
        values: of the best trial, by `group.key`.
        value: its metric on the validation split.
        record: its `run.json`.

    Returns:
        YAML text.
    """
    base = load_recipe(sweep.recipe, [], sweep.schema())
    data, commit = record["data"], record["git"]["commit"]
    lines = [
        f"# The best of {sweep.path.as_posix()}: {sweep.metric} {value:.4f} on the validation split",
        f"# of {data['csv']} (md5 {data['md5']}), one seed, code of commit {str(commit)[:12]}.",
        f"# Everything else is as in {sweep.recipe.as_posix()}. Not measured on the test split.",
    ]
    if sweep.fixed:
        lines.append(f"# Searched with {' '.join(sweep.fixed)}, which is not part of this recipe.")
    for group in GROUPS:
        section = dict(base.given[group])
        section |= {
            key.partition(".")[2]: best for key, best in values.items() if key.startswith(f"{group}.")
        }
        if not section:
            continue
        lines += ["", f"{group}:"]
        for key, item in section.items():
            # A mapping in flow style is the line of a key, whatever its value is, between braces.
            text = yaml.safe_dump({key: item}, default_flow_style=True, allow_unicode=True, width=10_000)
            text = text.strip()[1:-1]
            if f"{group}.{key}" in values:
                text += f"  # swept, was {getattr(getattr(base, group), key)}"
            lines.append(f"  {text}")
    return "\n".join(lines) + "\n"


def write_best_recipe(path: Path, text: str) -> None:
    """Writes the recipe beside its place and moves it there: a reader never sees half of it."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
