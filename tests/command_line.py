"""Command lines for tests: parsed as `arxiv-cls` does, or run by a shell."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import typer.main

from arxiv_cls.cli import app


def commands() -> dict[str, Any]:
    """Every command by its words, such as `data build`."""
    found: dict[str, Any] = {}

    def walk(group: Any, prefix: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, f"{prefix}{name} ")
            else:
                found[f"{prefix}{name}"] = command

    walk(typer.main.get_command(app), "")
    return found


def parsed(words: list[str]) -> dict[str, Any]:
    """The parameters that a command gets; raises typer's error for words that it does not take."""
    for name, command in commands().items():
        parts = name.split()
        if words[: len(parts)] == parts:
            return command.make_context(name, list(words[len(parts) :])).params
    raise AssertionError(f"no such command: {words}")


def shell_environment() -> dict[str, str]:
    """Our variables, with this Python first on the path and nothing for make to install."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return inherited | {"PATH": path, "MAKEFLAGS": "-- READY="}
