"""Reads the records of a model directory: the one function for each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from arxiv_cls.errors import UserError
from arxiv_cls.record.model_config import NO_LIMIT, Record, TokenizerConfig
from arxiv_cls.record.schemas import SCHEMAS

MAX_RECORD_BYTES = 32 << 20


def read_record(path: str | Path, schema: type[Record]) -> dict[str, Any]:
    """The content of a record, as it was written, once it fits its schema.

    Args:
        path: a JSON file, or YAML by its suffix.
        schema: what it has to fit.

    Raises:
        UserError: no such file, too large, not JSON or YAML, or a field that does not fit: file, field, what
            was expected and what was found.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file", hint=schema.hint)
    if (size := path.stat().st_size) > MAX_RECORD_BYTES:
        raise UserError(
            f"{path}: has {size:,} bytes, a record at most {MAX_RECORD_BYTES:,}", hint=schema.hint
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if path.suffix in {".yaml", ".yml"} else json.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "YAML" if path.suffix in {".yaml", ".yml"} else "JSON"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not {kind}: {reason}", hint=schema.hint) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", hint=schema.hint) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, found {_shown(content)}", hint=schema.hint)
    try:
        schema.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        shown = "; ".join(_problem(problem) for problem in problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{path}: {shown}{more}", hint=schema.hint) from None
    return content


def read_model_file(
    model_dir: str | Path, name: str, schemas: Mapping[str, type[Record]] = SCHEMAS
) -> dict[str, Any] | None:
    """A record of a model directory; None where the directory does not have it.

    Args:
        model_dir: the directory.
        name: POSIX path in it, a key of `schemas`.
        schemas: `SCHEMAS`, or `RELEASED` for the fields that a card needs.

    Raises:
        UserError: as `read_record`.
    """
    path = Path(model_dir) / name
    return read_record(path, schemas[name]) if path.is_file() else None


def check_length(model_dir: str | Path, config: dict[str, Any]) -> None:
    """Makes sure that a tokenizer's limit lies within the model's position table.

    Args:
        model_dir: with `tokenizer_config.json`.
        config: the checked `config.json`.

    Raises:
        UserError: the limit is longer than the table, or a record does not fit its schema.
    """
    path = Path(model_dir) / "tokenizer_config.json"
    limit = read_record(path, TokenizerConfig).get("model_max_length") or NO_LIMIT
    positions = config.get("max_position_embeddings")
    if positions is not None and positions < limit < NO_LIMIT:
        raise UserError(
            f"{path}: model_max_length: expected at most {positions}, the model's max_position_embeddings, "
            f"found {limit}",
            hint=TokenizerConfig.hint,
        )


def _problem(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not place:
        return message
    return f"{place}: {message}, found {_shown(problem['input'])}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=True)
    return text if len(text) <= 80 else text[:77] + "..."
