"""The synthetic sample: reproducible, in the format of the real CSV, neither trivial nor hopeless."""

from __future__ import annotations

import ast
import csv
import datetime
import io
import re

import pytest
from factories import COLUMNS
from make_sample import sample_csv_bytes

from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.label_sets import LABEL_SETS


def test_committed_file_is_what_the_script_writes(sample_csv, run_python, tmp_path):
    """Byte for byte, so nobody edits it by hand; line ends of Windows change nothing else."""
    done = run_python("scripts/make_sample.py", tmp_path / "sample.csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sample.csv").read_bytes() == sample_csv.read_bytes()
    assert sample_csv.stat().st_size < 1_000_000
    assert sample_csv_bytes(100, seed=1) != sample_csv_bytes(100, seed=2)
    assert sample_csv_bytes(60, crlf=True).replace(b"\r\n", b"\n") == sample_csv_bytes(60)


def test_format_and_quirks(sample_csv):
    """Both id styles, versions, short dates in order, long names, authors as literals, quotes, duplicates."""
    content = sample_csv.read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert tuple(rows[0]) == COLUMNS
    names = [row["id"] for row in rows]
    for pattern in (r"abs-\d{4}\.\d{4}v1", r"abs-\d{4}\.\d{5}v1", r"cs-\d{7}v1", r"hep-th-\d{7}v\d"):
        assert any(re.fullmatch(pattern, name) for name in names), pattern
    bases = [re.sub(r"v\d+$", "", name) for name in names]
    assert len(set(names)) == len(names)
    assert 10 < len(bases) - len(set(bases)) < 0.15 * len(bases)
    days = [datetime.datetime.strptime(row["published_date"], "%m/%d/%y").date() for row in rows]
    assert days == sorted(days)
    assert not any(re.match(r"0|\d+/0", row["published_date"]) for row in rows)
    assert days[0].year < 2000 < 2019 <= days[-1].year
    assert all(CATEGORY_NAMES[row["category_code"]] == row["category"] for row in rows)
    for row in rows:
        authors = ast.literal_eval(row["authors"])
        assert all(name.startswith("Synthetic ") for name in authors)
        assert row["first_author"] == repr(authors[0])
        assert int(row["summary_word_count"]) == len(row["summary"].split())
    assert any("," in row["title"] for row in rows)
    assert '""' in content
    texts: dict[str, set[str]] = {}
    for row, base in zip(rows, bases, strict=True):
        texts.setdefault(row["title"] + row["summary"], set()).add(base)
    assert sum(len(same) > 1 for same in texts.values()) >= 5


@pytest.mark.parametrize("seed", [42, 7])
def test_linear_model_does_well_and_far_from_perfectly(seed):
    """Between 0.75 and 0.93 on the default label set."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    papers = list(csv.DictReader(io.StringIO(sample_csv_bytes(seed=seed).decode(), newline="")))
    papers = [
        row
        for row in papers
        if row["category_code"] in LABEL_SETS["top5"].labels and row["id"].endswith("v1")
    ]
    train = [row for index, row in enumerate(papers) if index % 3]
    test = papers[::3]
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    features = vectorizer.fit_transform(f"{row['title']}\n\n{row['summary']}" for row in train)
    model = LinearSVC().fit(features, [row["category_code"] for row in train])
    held_out = vectorizer.transform(f"{row['title']}\n\n{row['summary']}" for row in test)
    assert 0.75 < model.score(held_out, [row["category_code"] for row in test]) < 0.93
