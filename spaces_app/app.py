"""The Space: `python app.py`, with the project's wheel beside it and the model's name in space.json.

The variable MODEL (a Hub id, also `user/name@v0.1.0`, or a directory) wins over the file and does without it.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The Hub installs requirements.txt before it copies the repository, so that file cannot name the wheel; a
# wheel of plain Python runs from where it lies.
sys.path[:0] = [str(wheel) for wheel in sorted(HERE.glob("arxiv_cls-*.whl"))]

from arxiv_cls.errors import UserError, run_main  # noqa: E402
from arxiv_cls.space.page import open_page  # noqa: E402


def main(argv: list[str]) -> None:
    """Opens the page with the model that the Space is for."""
    file, model = HERE / "space.json", os.environ.get("MODEL")
    if not file.is_file() and not model:
        raise UserError("there is no model to show: space.json is missing", hint="set the variable MODEL")
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    open_page(model or config["model"], engine=config.get("engine"))


if __name__ == "__main__":
    run_main(main)
