"""Finds what must not be published: secrets in text files.

The patterns are the public token formats of the services that this project's users log in to, plus one
for an assignment of a long random value to a telling name. What is found is never printed whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from arxiv_cls.record.directory import unreadable

TEXT_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".md", ".txt", ".py", ".log", ".toml", ".cfg", ".csv"})

SECRET_PATTERNS: dict[str, re.Pattern[str]] = {
    "Hugging Face token": re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    "W&B key": re.compile(r"\bwandb_v1_[A-Za-z0-9_]{20,}"),
    "W&B key in a setting": re.compile(r"(?i)wandb[^\n]{0,40}?\b[0-9a-f]{40}\b"),
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "Google service account": re.compile(r'"type"\s*:\s*"service_account"'),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})"),
    "Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "OpenAI-style key": re.compile(r"\bsk-[A-Za-z0-9_-]{32,}"),
    "private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    "password in a URL": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']{3,}@"),
    "secret in a setting": re.compile(
        r"(?i)\b[\w.-]*(?:api[_-]?key|secret|passwd|password|access[_-]?token|auth[_-]?token)[\w.-]*[\"']?"
        r"\s*[:=]\s*[\"']?(?=[^\s\"']*[0-9])(?=[^\s\"']*[A-Za-z])[A-Za-z0-9_+/=.-]{16,}"
    ),
}


@dataclass(frozen=True)
class SecretFinding:
    """Where a secret stands: the path as given, the line (from 1) and the kind; never the value."""

    path: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.kind}"


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced, for messages that quote other programs."""
    for kind, pattern in SECRET_PATTERNS.items():
        text = pattern.sub(f"<{kind}>", text)
    return text


def find_secrets(text: str, path: str) -> list[SecretFinding]:
    """Secrets in a text, at most one of each kind per line.

    Args:
        text: what to look at.
        path: the name to report.
    """
    return [
        SecretFinding(path, number, kind)
        for number, line in enumerate(text.splitlines(), start=1)
        for kind, pattern in SECRET_PATTERNS.items()
        if pattern.search(line)
    ]


def scan_files(root: Path, paths: list[str]) -> list[SecretFinding]:
    """Secrets in the text files among `paths` (POSIX paths below `root`).

    A tokenizer's vocabulary is left out: it is a list of words, megabytes long, that nobody types into. So is
    a file that cannot be read, of which `unreadable` tells.
    """
    findings = []
    for path in paths:
        file = root / path
        if file.suffix not in TEXT_SUFFIXES or path in {"tokenizer.json", "vocab.txt", "vocab.json"}:
            continue
        if unreadable(file) is None:
            findings += find_secrets(file.read_text(encoding="utf-8", errors="replace"), path)
    return findings
