"""Look for secrets in the files given, with the scanner that guards a release.

Run as: .venv/bin/python scripts/check_secrets.py FILE ...        (pre-commit does)
"""

from __future__ import annotations

import sys
from pathlib import Path

from arxiv_cls.record.directory import find_secrets


def main(paths: list[str]) -> int:
    """Prints where a secret stands, never the secret; returns 1 when there is one."""
    findings = [
        finding for path in paths for finding in find_secrets(Path(path).read_text(errors="replace"), path)
    ]
    for finding in findings:
        print(finding, file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
