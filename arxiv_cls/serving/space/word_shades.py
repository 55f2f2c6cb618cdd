"""Weights of words as shades of colour, so that a paragraph stays readable as one."""

from __future__ import annotations

from collections.abc import Sequence

FULL = 0.3
"""Log-odds that give the full colour at least: where nothing decides, nothing should shine."""
FAINTEST = 0.12
"""Shades below this share of the full colour are left out."""


def shades(words: Sequence[tuple[str, float]]) -> list[tuple[str, float | None]]:
    """What `gr.HighlightedText` shows: (text, shade from -1 against to 1 for, None for no colour).

    The heaviest word has the full colour, unless all are light. White space between words has none, and
    neighbours without colour are one piece. Joined, the pieces are the text.

    Args:
        words: what `attribute` gives.
    """
    heaviest = max([FULL, *(abs(weight) for _, weight in words)])
    pieces: list[tuple[str, float | None]] = []
    for word, weight in words:
        shade = weight / heaviest
        core = word.rstrip() if abs(shade) >= FAINTEST else ""
        for text, value in ((core, shade), (word[len(core) :], None)):
            if value is None and pieces and pieces[-1][1] is None:
                pieces[-1] = (pieces[-1][0] + text, None)
            elif text:
                pieces.append((text, value))
    return pieces
