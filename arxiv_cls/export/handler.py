"""Writes `handler.py` and `requirements.txt` into a model directory, for Inference Endpoints.

An endpoint has the model's repository and nothing of this package, so the handler carries the sources that it
needs; a test compares the copy with them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from arxiv_cls.record.files import write_atomically

HANDLER = "handler.py"
REQUIREMENTS = "requirements.txt"
# What `models/onnx_engine.py` imports of the package, then itself: None stands for the whole file.
SOURCES: tuple[tuple[str, set[str] | None], ...] = (
    ("record/model_files.py", {"MULTI_LABEL", "NO_LIMIT", "OFFSET_POSITIONS", "token_limit"}),
    ("record/run_record.py", {"available_cores"}),
    ("models/prediction.py", {"text_problem"}),
    ("models/onnx_engine.py", None),
)
DOCSTRING = '''"""Answers requests of Hugging Face Inference Endpoints from the ONNX file of this repository.

Made by `arxiv-cls export` from the sources of arxiv_cls; needs onnxruntime, tokenizers and numpy.
"""

from __future__ import annotations
'''
# Lower bounds only: the endpoint's own image brings a transformers that wants a tokenizers of its time.
# onnxruntime 1.20 reads padding where the last attention has a query of one token; 1.22 does not.
REQUIREMENTS_TEXT = "numpy\nonnxruntime>=1.22\ntokenizers>=0.20\n"


def handler_source() -> str:
    """The text of `handler.py`."""
    imports: list[ast.Import | ast.ImportFrom] = []
    parts = []
    for path, names in SOURCES:
        source = (Path(__file__).parents[1] / path).read_text(encoding="utf-8")
        lines, end = source.splitlines(), 0
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(node)
                end = node.end_lineno or end
            elif names and names & {getattr(node, "name", ""), lines[node.lineno - 1].split(" ")[0]}:
                parts.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        if names is None:
            parts.append("\n".join(lines[end:]).strip())
    body, needed = "\n\n\n".join(parts), set()
    for node in imports:
        for alias in node.names:
            if re.search(rf"\b{alias.asname or alias.name}\b", body):
                origin = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
                needed.add(f"{origin}import {ast.unparse(alias)}")
    kept = sorted(line for line in needed if "arxiv_cls" not in line)
    return "\n".join([DOCSTRING, *kept, "\n", body]) + "\n"


def write_handler(model_dir: Path) -> None:
    """Writes `handler.py` and `requirements.txt`."""
    write_atomically(model_dir / HANDLER, handler_source())
    write_atomically(model_dir / REQUIREMENTS, REQUIREMENTS_TEXT)
