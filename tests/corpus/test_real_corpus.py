"""Holds the build of the real CSV, and that a build killed with SIGKILL is never taken for whole."""

import signal
import subprocess
import sys
from collections import Counter

import pytest
from factories import papers, write_csv

from arxiv_cls.corpus import build_corpus
from arxiv_cls.corpus.duplicates import normalise
from arxiv_cls.corpus.ids import split_position

pytestmark = pytest.mark.slow

TOP5 = ["cs.AI", "cs.CL", "cs.CV", "cs.LG", "stat.ML"]

# Kills its own process, as `kill -9` would, when the build reaches the named method for the n-th time.
KILLED_BUILD = """
import os, signal, sys
from arxiv_cls.corpus import build_corpus
from arxiv_cls.corpus.builder import ArxivBuilder
csv, cache, method, calls = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
original, seen = getattr(ArxivBuilder, method), []
def killing(self, *arguments, **options):
    seen.append(1)
    if len(seen) == calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *arguments, **options)
setattr(ArxivBuilder, method, killing)
build_corpus(csv=csv, cache_dir=cache)
"""


PEAK_OF_A_BUILD = """
import sys
from arxiv_cls.corpus import load_arxiv
from arxiv_cls.corpus.builder import ArxivBuilder
from arxiv_cls.record.run_record import peak_resident_bytes
load_arxiv("top5", csv=sys.argv[1], cache_dir=sys.argv[2])
ArxivBuilder._split_generators = None  # a second build would call it
load_arxiv("top5", csv=sys.argv[1], cache_dir=sys.argv[2])
print(peak_resident_bytes())
"""


def test_memory_and_the_second_call(real_csv, tmp_path):
    """A build stays under 1 GB, and the second call takes it from the cache."""
    command = [sys.executable, "-c", PEAK_OF_A_BUILD, str(real_csv), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_000_000_000


def test_top5(real_csv):
    """15,176 / 3,294 / 3,324 papers by hash; only duplicates are missing, and none from test."""
    corpus = build_corpus("top5", csv=real_csv)
    assert corpus.labels == TOP5
    report = corpus.report
    assert (report.rows_read, report.rejected, report.merged) == (136_238, 0, 0)
    dropped = Counter(duplicate.split for duplicate in report.duplicates)
    sizes = report.split_sizes()
    assert sizes["train"] + dropped["train"] == 15_176
    assert sizes["validation"] + dropped["validation"] == 3_294
    assert sizes["test"] + dropped["test"] == 3_324
    assert dropped["test"] == 0
    assert corpus.data.md5 == "d10cc8bb6456f1a889ca3bec2d4cfa95"

    seen_ids, seen_texts = set(), set()
    for split, (low, high) in {"train": (0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1)}.items():
        rows = corpus.splits[split]
        assert all(low <= split_position(base, 42) < high for base in rows["arxiv_id"])
        assert all(text.strip() for text in rows["text"])
        texts = {(normalise(t), normalise(a)) for t, a in zip(rows["title"], rows["abstract"], strict=True)}
        assert len(texts) == rows.num_rows
        assert not texts & seen_texts
        assert not set(rows["arxiv_id"]) & seen_ids
        seen_texts |= texts
        seen_ids |= set(rows["arxiv_id"])


@pytest.mark.parametrize(("config", "labels"), [("top10", 10), ("top20", 20), ("archive", 8), ("all", 153)])
def test_other_configs(real_csv, config, labels):
    """Every label has papers in every split, and every row is accounted for."""
    corpus = build_corpus(config, csv=real_csv)
    report = corpus.report
    assert len(corpus.labels) == labels
    assert all(count > 0 for split in report.splits.values() for count in split.values())
    assert report.papers + report.outside_config + len(report.duplicates) == 136_238


def test_time_split(real_csv):
    """The default boundaries cut top5 about 70 / 15 / 15."""
    sizes = build_corpus("top5", csv=real_csv, split="time").report.split_sizes()
    shares = [size / sum(sizes.values()) for size in sizes.values()]
    assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.01)


@pytest.mark.parametrize(
    ("method", "calls"), [("_split_generators", 1), ("_generate_tables", 2), ("_save_info", 1)]
)
def test_killed_build(tmp_path, method, calls):
    """Killed before, between and after the writing of the splits: the next build is whole."""
    csv = write_csv(tmp_path / "papers.csv", papers(200))
    arguments = [sys.executable, "-c", KILLED_BUILD, str(csv), str(tmp_path / "cache"), method, str(calls)]
    killed = subprocess.run(arguments, check=False, capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not [p for p in (tmp_path / "cache").rglob("*.arrow") if ".incomplete" not in p.parent.name]
    after = build_corpus(csv=csv, cache_dir=tmp_path / "cache")
    clean = build_corpus(csv=csv, cache_dir=tmp_path / "clean")
    assert after.report == clean.report
    assert all(after.splits[split].to_list() == clean.splits[split].to_list() for split in clean.splits)
    assert sorted(p.name for p in after.cache_dir.iterdir()) == sorted(
        p.name for p in clean.cache_dir.iterdir()
    )
