"""Writes `handler.py` and `requirements.txt` into a model directory, for Inference Endpoints.

An endpoint has the model's repository and nothing of this package, so the handler carries the sources that it
needs; a test compares the copy with them.
"""

from __future__ import annotations

import ast
from pathlib import Path

from arxiv_cls.record.files import write_atomically

HANDLER = "handler.py"
REQUIREMENTS = "requirements.txt"
SOURCES = (
    "models/hardware.py",
    "models/onnx_engine.py",
    "export/endpoint_handler.py",
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
    imports: set[str] = set()
    bodies = []
    for path in SOURCES:
        source = (Path(__file__).parents[1] / path).read_text(encoding="utf-8")
        last = 0
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                last = node.end_lineno or last
                imports.add(ast.unparse(node))
        bodies.append("\n".join(source.splitlines()[last:]).strip())
    kept = sorted(
        line for line in imports if "arxiv_cls" not in line and not line.startswith("from __future__")
    )
    return "\n".join([DOCSTRING, *kept, "\n"]) + "\n\n\n".join(bodies) + "\n"


def write_handler(model_dir: Path) -> None:
    """Writes `handler.py` and `requirements.txt`."""
    write_atomically(model_dir / HANDLER, handler_source())
    write_atomically(model_dir / REQUIREMENTS, REQUIREMENTS_TEXT)
