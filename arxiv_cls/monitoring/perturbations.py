"""Changes of texts that production meets: each takes a text, a severity from 0 to 1 and a random generator.

A text is title, blank line, abstract, as the model was trained on. The severity is the share of words (or
sentences) that change; of changes that a text has or has not, the share of texts that have it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Perturbation = Callable[[str, float, random.Random], str]

SENTENCE_END = re.compile(r"(?<=[.!?])\s")
LATEX = (
    r"$\mathcal{L}(\theta)=\sum_{i=1}^{n}\ell(x_i)$",
    r"\emph{see} \cite{smith2015}",
    r"\textbf{state of the art}",
    r"$O(n \log n)$",
)
HTML = ("<p>", "</p>", "<br/>", "<i>et al.</i>", "&nbsp;", "&lt;", '<a href="#ref1">[1]</a>')
# Phrases of fields that the label sets of computer science leave out.
DOMAIN_PHRASES = (
    "in patients with type 2 diabetes",
    "the magnetic field of the galaxy",
    "of the stock market index",
    "gene expression in tumour cells",
    "the boundary of the manifold",
    "at room temperature",
    "a randomised controlled trial",
    "the Hubble constant",
)
MASK = "[MASK]"


def _words(text: str, severity: float, draw: random.Random, change: Callable[[str], str]) -> str:
    """The text with this share of its words changed; the white space stays."""
    parts = re.split(r"(\s+)", text)
    changed = [change(part) if part.strip() and draw.random() < severity else part for part in parts]
    return "".join(changed)


def words_dropped(text: str, severity: float, draw: random.Random) -> str:
    """Words are missing; never all of them."""
    return _words(text, severity, draw, lambda word: "").strip() or text


def words_masked(text: str, severity: float, draw: random.Random) -> str:
    """Words are hidden."""
    return _words(text, severity, draw, lambda word: MASK)


def typos(text: str, severity: float, draw: random.Random) -> str:
    """Two neighbouring letters of a word have changed places."""

    def swapped(word: str) -> str:
        if len(word) < 3:
            return word
        at = draw.randrange(len(word) - 1)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return _words(text, severity, draw, swapped)


def _sentences(text: str, severity: float, draw: random.Random, change: Callable[[str], str]) -> str:
    """The text with this share of the abstract's sentences changed."""
    title, blank, abstract = text.partition("\n\n")
    if not blank:
        title, abstract = "", title
    sentences = SENTENCE_END.split(abstract)
    changed = [change(one) if draw.random() < severity else one for one in sentences]
    return title + blank + " ".join(changed)


def domain_phrases(text: str, severity: float, draw: random.Random) -> str:
    """Sentences speak of another field at their end."""
    return _sentences(text, severity, draw, lambda one: f"{one} {draw.choice(DOMAIN_PHRASES)}")


def latex(text: str, severity: float, draw: random.Random) -> str:
    """Sentences carry commands of LaTeX."""
    return _sentences(text, severity, draw, lambda one: f"{one} {draw.choice(LATEX)}")


def html(text: str, severity: float, draw: random.Random) -> str:
    """Sentences carry tags and entities."""
    return _sentences(text, severity, draw, lambda one: f"{draw.choice(HTML)}{one}{draw.choice(HTML)}")


def abstract_truncated(text: str, severity: float, draw: random.Random) -> str:
    """The end of the abstract is missing; a word stays."""
    title, blank, abstract = text.partition("\n\n")
    if not blank:
        title, abstract = "", title
    words = abstract.split()
    return title + blank + " ".join(words[: max(1, round(len(words) * (1 - severity)))])


def title_missing(text: str, severity: float, draw: random.Random) -> str:
    """The title is missing."""
    _, blank, abstract = text.partition("\n\n")
    return abstract if blank and draw.random() < severity and abstract.strip() else text


def upper_case(text: str, severity: float, draw: random.Random) -> str:
    """The text is in capitals."""
    return text.upper() if draw.random() < severity else text


def one_sentence(text: str, severity: float, draw: random.Random) -> str:
    """Of the abstract the first sentence is there."""
    title, _, abstract = text.partition("\n\n")
    if draw.random() >= severity:
        return text
    return f"{title}\n\n{SENTENCE_END.split(abstract.strip(), maxsplit=1)[0]}"


def gibberish(text: str, severity: float, draw: random.Random) -> str:
    """Random letters of the same length."""
    if draw.random() >= severity:
        return text
    return "".join(draw.choice("abcdefghijklmnopqrstuvwxyz     ") for _ in range(len(text) - 1)) + "x"


def near_scope(others: Sequence[str]) -> Perturbation:
    """A perturbation: sentences are those of papers of neighbouring fields."""
    sentences = [
        one for text in others for one in SENTENCE_END.split(text.partition("\n\n")[2]) if one.strip()
    ]

    def perturb(text: str, severity: float, draw: random.Random) -> str:
        return _sentences(text, severity, draw, lambda one: draw.choice(sentences))

    return perturb


PERTURBATIONS: dict[str, Perturbation] = {
    "words dropped": words_dropped,
    "words masked": words_masked,
    "domain phrases": domain_phrases,
    "abstract truncated": abstract_truncated,
    "one sentence": one_sentence,
    "title missing": title_missing,
    "LaTeX": latex,
    "HTML": html,
    "typos": typos,
    "upper case": upper_case,
}


def perturbed(texts: Sequence[str], change: Perturbation, severity: float, seed: int) -> list[str]:
    """The texts after a change; each has a generator of its own, so that their order does not matter."""
    return [change(text, severity, random.Random(f"{seed}:{text}")) for text in texts]
