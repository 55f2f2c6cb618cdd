"""README's first screen and its tree; docs_pages.py and its two tests hold what every page must."""

from __future__ import annotations

import re

from docs_pages import ROOT, text


class TestReadme:
    """What the front page must have."""

    def test_tree_is_the_real_one(self):
        """Every line of the annotated tree is a path of the repository, and every room is in it."""
        block = re.search(
            r"^```text\n(arxiv_cls/.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL
        ).group(1)
        seen, folders = set(), []
        for line in block.splitlines():
            depth = (len(line) - len(line.lstrip())) // 2
            # Names come first, two spaces end them: `train.py  train_tfidf.py   what they do`.
            names = [name for name in re.split(r"\s{2,}", line.strip()) if re.fullmatch(r"[\w./-]+", name)]
            names = [name for name in names if re.search(r"[/.]|file$", name)]
            assert names, line
            for name in names:
                path = "/".join([*folders[:depth], name.rstrip("/")])
                assert (ROOT / path).exists(), path
                seen.add(path)
            folders = [*folders[:depth], names[0].rstrip("/")]
        rooms = {f"arxiv_cls/{path.parent.name}" for path in (ROOT / "arxiv_cls").glob("*/__init__.py")}
        assert rooms <= seen

    def test_first_screen(self):
        """One sentence, the one command with what it prints, the table of results with their deviations."""
        first_screen = "\n".join(text("README.md").splitlines()[:62])
        assert re.match(r"# arxiv_cls\n\n[^\n]+\.\n\n<!-- slow", first_screen)
        assert "make demo" in first_screen
        assert "Results on the synthetic sample" in first_screen
        assert re.search(r"^\| `recipes/.*±", first_screen, re.MULTILINE)

    def test_short(self):
        """A front page, not a manual."""
        assert len(text("README.md").splitlines()) < 250
