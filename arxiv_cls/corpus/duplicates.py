"""Papers with the same text, and pairs with almost the same.

Texts are compared in a normal form: Unicode NFKC, case folded, every run of characters that are neither
letters nor digits (punctuation, white space, underscores) one space, none at the ends. A text with nothing
left is taken as it stands. Near-duplicates are found by MinHash and banding (Broder 1997; Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, chapter 3) and confirmed by the exact Jaccard similarity.
"""

from __future__ import annotations

import itertools
import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from tqdm import tqdm

logger = logging.getLogger(__name__)

THRESHOLD = 0.8  # of the Jaccard similarity, from which two texts count as one
SHINGLE_WORDS = 3
PERMUTATIONS = 128
MISS_PROBABILITY = 0.001  # of a pair that is exactly at the threshold
LARGEST_BUCKET = 200  # texts in one bucket that are all compared with each other
HASH_SEED = 20_070_401
VERSION = 1  # of the method: part of the cache's key
_TEXTS_AT_ONCE = 2_000
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """The form in which texts are compared, see the module's docstring."""
    if text.isascii():
        folded = text.lower()  # NFKC changes nothing there, and folding is this.
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _NO_LETTER_OR_DIGIT.sub(" ", folded).strip() or text


def find_duplicates(
    titles: pa.ChunkedArray, abstracts: pa.ChunkedArray, base_ids: Sequence[str], splits: np.ndarray
) -> dict[int, int]:
    """Which papers to drop so that no text is there twice.

    The copy in test stays, else the one in validation: a test set must not change because its texts turn up
    in a training set. Within one split the first by base id stays.

    Args:
        titles, abstracts, base_ids: (papers,) strings.
        splits: (papers,) int, number of the split, test the highest.

    Returns:
        Position of each copy to drop, to the position of the one that stays.
    """
    # Only papers that share their title can be duplicates, and titles are a tenth of the text.
    by_title: dict[str, list[int]] = defaultdict(list)
    for position, title in enumerate(titles.to_pylist()):
        by_title[normalise(title)].append(position)
    found: dict[int, int] = {}
    for positions in (several for several in by_title.values() if len(several) > 1):
        by_abstract: dict[str, list[int]] = defaultdict(list)
        for position in positions:
            by_abstract[normalise(abstracts[position].as_py())].append(position)
        for copies in by_abstract.values():
            kept, *others = sorted(copies, key=lambda copy: (-int(splits[copy]), base_ids[copy]))
            found |= dict.fromkeys(others, kept)
    return found


def method(threshold: float = THRESHOLD) -> list[float]:
    """What decides the pairs beside the texts: part of every cache key."""
    return [VERSION, SHINGLE_WORDS, PERMUTATIONS, MISS_PROBABILITY, LARGEST_BUCKET, HASH_SEED, threshold]


def search(texts: list[str], groups: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    """Pairs of texts from different groups whose similarity is at least `threshold`.

    Args:
        texts: the texts; case, punctuation and white space do not count.
        groups: (texts,) int, group of each text.
        threshold: exact Jaccard similarity, 0 to 1.

    Returns:
        (first, second, similarity), `first` in the lower group. A pair at the threshold is missed with a
        probability of at most 0.001, a more similar one more rarely.
    """
    shingles, starts = _shingles(texts)
    candidates: set[tuple[int, int]] = set()
    rows = _rows_per_band(threshold)
    signatures = _signatures(shingles, starts)
    for first_row in range(0, PERMUTATIONS - rows + 1, rows):
        candidates.update(_candidates(signatures[:, first_row : first_row + rows], groups))
    ends = np.append(starts[1:], len(shingles))
    found = []
    for first, second in sorted(candidates):
        left = np.unique(shingles[starts[first] : ends[first]])
        right = np.unique(shingles[starts[second] : ends[second]])
        common = len(np.intersect1d(left, right, assume_unique=True))
        similarity = common / (len(left) + len(right) - common)
        if similarity >= threshold:
            found.append((first, second, similarity))
    return found


def _rows_per_band(threshold: float) -> int:
    """The most selective band that still misses a pair at the threshold rarely enough.

    A pair of similarity s shares a band of r rows with probability s^r, so it is in none of b bands with
    (1 - s^r)^b.
    """
    misses = {rows: (1 - threshold**rows) ** (PERMUTATIONS // rows) for rows in range(1, PERMUTATIONS + 1)}
    return max(rows for rows, probability in misses.items() if probability <= MISS_PROBABILITY)


def _shingles(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """64-bit hashes of all shingles of all texts, uint64 (shingles,), and where each text's begin, (texts,).

    Every text is followed by blanks, so that short texts have shingles too.
    """
    vocabulary: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)
    blanks = [0] * (SHINGLE_WORDS - 1)
    shingles: list[np.ndarray] = [np.zeros(0, dtype=np.uint64)]
    counts: list[int] = []
    for chunk in _chunks("reading texts", len(texts)):
        words = [normalise(text).split() or [""] for text in texts[chunk]]
        numbers = [[vocabulary[word] for word in one] + blanks for one in words]
        flat = np.fromiter(itertools.chain.from_iterable(numbers), dtype=np.uint64)
        hashed = np.zeros(len(flat) - SHINGLE_WORDS + 1, dtype=np.uint64)
        for place in range(SHINGLE_WORDS):
            hashed = _mix(hashed + flat[place : place + len(hashed)])
        # The windows that begin in the blanks would reach into the next text.
        begins_in_text = np.ones(len(flat), dtype=bool)
        ends = np.cumsum([len(one) for one in numbers])
        for blank in range(1, SHINGLE_WORDS):
            begins_in_text[ends - blank] = False
        shingles.append(hashed[begins_in_text[: len(hashed)]])
        counts += [len(one) for one in words]
    return np.concatenate(shingles), np.cumsum(counts, dtype=np.int64) - np.array(counts, dtype=np.int64)


def _chunks(what: str, texts: int) -> Iterator[slice]:
    """Runs over the texts, some at a time, with a progress bar where somebody watches."""
    with tqdm(total=texts, desc=what, unit="paper", delay=2, leave=False, disable=None) as bar:
        for first in range(0, texts, _TEXTS_AT_ONCE):
            last = min(first + _TEXTS_AT_ONCE, texts)
            yield slice(first, last)
            bar.update(last - first)


def _mix(values: np.ndarray) -> np.ndarray:
    """Scrambles uint64 values, one to one: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _signatures(shingles: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """MinHash signatures, uint64 (texts, PERMUTATIONS): texts agree in a column as often as they overlap."""
    generator = np.random.default_rng(HASH_SEED)
    keys = generator.integers(0, 2**63, size=PERMUTATIONS, dtype=np.uint64)
    signatures = np.empty((len(starts), PERMUTATIONS), dtype=np.uint64)
    ends = np.append(starts[1:], len(shingles))
    for texts in _chunks("hashing", len(starts)):
        chunk = shingles[starts[texts.start] : ends[texts.stop - 1]]
        offsets = starts[texts] - starts[texts.start]
        for column, key in enumerate(keys):
            # The shingles are mixed already, so a multiplication by an odd number reorders them well enough.
            permuted = (chunk ^ key) * (key | np.uint64(1))
            signatures[texts, column] = np.minimum.reduceat(permuted, offsets)
    return signatures


def _candidates(band: np.ndarray, groups: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of different groups that agree in a whole band: (texts, rows) uint64."""
    bucket = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        bucket = _mix(bucket ^ column)
    order = np.argsort(bucket, kind="stable")
    # Runs of equal values, each a bucket; most hold one text.
    begins = np.concatenate(([0], np.flatnonzero(np.diff(bucket[order])) + 1, [len(order)]))
    for run in np.flatnonzero(np.diff(begins) > 1):
        members = order[begins[run] : begins[run + 1]]
        if len(members) > LARGEST_BUCKET:
            logger.warning("%d texts look alike: each is compared with its neighbours only", len(members))
            pairs: Iterator[tuple[int, int]] = itertools.pairwise(members.tolist())
        else:
            pairs = itertools.combinations(members.tolist(), 2)
        for pair in pairs:
            first, second = sorted(pair, key=lambda text: groups[text])
            if groups[first] < groups[second]:
                yield first, second
