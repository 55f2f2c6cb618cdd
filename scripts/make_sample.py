"""Writes the synthetic sample: a few hundred invented papers in the exact format of the real CSV.

Run as: python scripts/make_sample.py data/sample/arxiv_sample.csv [--papers N] [--seed S] [--crlf]

It has the quirks of the real file (both id styles, m/d/yy dates, author lists as Python literals, quoted
fields with commas and doubled quotes) and the ones a builder must survive (several versions of a paper, the
same text under two ids, near-duplicates). A share of the labels is wrong on purpose and neighbouring
categories share words, so a good classifier of the five default categories lands near 0.85 and not at 1.00.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

HEADER = (
    "id", "title", "category", "category_code", "published_date", "updated_date",
    "authors", "first_author", "summary", "summary_word_count",
)  # fmt: skip
DEFAULT_PAPERS, DEFAULT_SEED = 840, 42
MINIMUM_PAPERS = 50

LABEL_NOISE = 0.07  # share of papers filed under a neighbouring category
NEW_VERSIONS = 0.05  # share of papers that come in two or three versions
EXACT_DUPLICATES, NEAR_DUPLICATES = 0.012, 0.012  # shares of papers that repeat another's text
FIRST_NEW_STYLE = datetime.date(2007, 4, 1)  # arXiv changed its identifiers in April 2007
LAST_DAY = datetime.date(2020, 12, 28)

T = TypeVar("T")


class SampleCategory(NamedTuple):
    """What the generator knows about one category; a term reads the same as singular mass or plural."""

    name: str  # the long name, as in the real file
    papers: int  # per 1,000 of the sample
    first_year: int
    borrows_from: tuple[str, ...]  # codes of the neighbours whose terms it uses, and whose papers it loses
    terms: tuple[str, ...]


def _terms(text: str) -> tuple[str, ...]:
    return tuple(" ".join(term.split()) for term in text.split(","))


SAMPLE_CATEGORIES: dict[str, SampleCategory] = {
    "cs.CL": SampleCategory(
        "Computation and Language",
        papers=215,
        first_year=1994,
        borrows_from=("cs.LG", "cs.AI"),
        terms=_terms("""
            machine translation, word embeddings, dependency parsing, named entity recognition, question
            answering, language models, dialogue systems, text summarization, sentiment analysis,
            morphological analysis, speech transcripts, sentence representations, low-resource
            languages, parallel corpora, discourse relations, part-of-speech tags, lexical semantics,
            reading comprehension, treebanks, subword vocabularies
        """),
    ),
    "cs.LG": SampleCategory(
        "Machine Learning",
        papers=185,
        first_year=1998,
        borrows_from=("stat.ML", "cs.CV", "cs.AI"),
        terms=_terms("""
            stochastic gradient descent, deep networks, representation learning, reinforcement learning,
            graph networks, generative adversarial training, transfer learning, federated learning,
            adversarial examples, online learning, model compression, recurrent networks, weight
            pruning, multi-task training, policy gradients, data augmentation, hyperparameter search,
            overparameterised networks, few-shot learning, training curricula
        """),
    ),
    "cs.CV": SampleCategory(
        "Computer Vision and Pattern Recognition",
        papers=165,
        first_year=1999,
        borrows_from=("cs.LG", "eess.SP"),
        terms=_terms("""
            object detection, image segmentation, convolutional features, pose estimation, optical flow,
            face recognition, depth maps, video frames, point clouds, scene understanding, image
            retrieval, saliency maps, super-resolution, visual tracking, medical scans, stereo matching,
            texture synthesis, camera calibration, action recognition, pedestrian crops
        """),
    ),
    "cs.AI": SampleCategory(
        "Artificial Intelligence",
        papers=140,
        first_year=1993,
        borrows_from=("cs.LG", "cs.CL"),
        terms=_terms("""
            knowledge bases, automated planning, constraint satisfaction, ontologies, belief revision,
            answer set programs, heuristic search, multi-agent systems, description logics, causal
            models, case-based reasoning, game trees, commonsense reasoning, argumentation frameworks,
            fuzzy rules, preference elicitation, satisfiability solvers, expert systems, plan
            recognition, decision diagrams
        """),
    ),
    "stat.ML": SampleCategory(
        "Machine Learning (Statistics)",
        papers=125,
        first_year=2007,
        borrows_from=("cs.LG", "stat.ME"),
        terms=_terms("""
            Gaussian processes, kernel methods, variational inference, Bayesian nonparametrics, sparse
            regression, generalisation bounds, posterior approximations, mixture models, matrix
            completion, multi-armed bandits, Markov chain Monte Carlo samplers, spectral clustering,
            latent variable models, model selection criteria, concentration inequalities, random
            forests, minimax rates, covariance estimation, boosting, density ratios
        """),
    ),
    "stat.ME": SampleCategory(
        "Methodology",
        papers=16,
        first_year=2007,
        borrows_from=("stat.ML",),
        terms=_terms("""
            confidence intervals, survival data, propensity scores, missing observations, hypothesis
            tests, longitudinal studies, clinical trials, bootstrap resampling, spatial covariates,
            regression splines
        """),
    ),
    "math.CO": SampleCategory(
        "Combinatorics",
        papers=20,
        first_year=1993,
        borrows_from=("math.PR",),
        terms=_terms("""
            chromatic numbers, random graphs, Young tableaux, perfect matchings, extremal set systems,
            planar maps, Ramsey numbers, matroids, lattice paths, hypergraph colourings
        """),
    ),
    "math.PR": SampleCategory(
        "Probability",
        papers=18,
        first_year=1995,
        borrows_from=("math.CO", "cond-mat.stat-mech"),
        terms=_terms("""
            random walks, Brownian motion, large deviations, martingales, percolation clusters,
            branching processes, stochastic differential equations, mixing times, limit theorems, Levy
            processes
        """),
    ),
    "hep-th": SampleCategory(
        "High Energy Physics - Theory",
        papers=20,
        first_year=1993,
        borrows_from=("quant-ph",),
        terms=_terms("""
            conformal field theories, string compactifications, supersymmetric gauge theories, black
            hole entropy, scattering amplitudes, branes, holographic duals, anomalies, moduli spaces,
            topological strings
        """),
    ),
    "quant-ph": SampleCategory(
        "Quantum Physics",
        papers=18,
        first_year=1995,
        borrows_from=("hep-th",),
        terms=_terms("""
            entangled states, quantum error correction, Bell inequalities, qubit gates, decoherence,
            quantum channels, adiabatic evolution, photon pairs, quantum key distribution, spin
            squeezing
        """),
    ),
    "cond-mat.stat-mech": SampleCategory(
        "Statistical Mechanics",
        papers=16,
        first_year=1996,
        borrows_from=("math.PR", "physics.soc-ph"),
        terms=_terms("""
            spin glasses, Ising models, phase transitions, critical exponents, transport coefficients,
            fluctuation theorems, growth processes, lattice gases, glassy dynamics, heat baths
        """),
    ),
    "physics.soc-ph": SampleCategory(
        "Physics and Society",
        papers=12,
        first_year=2001,
        borrows_from=("cond-mat.stat-mech", "q-bio.PE"),
        terms=_terms("""
            opinion dynamics, scale-free networks, traffic jams, voter models, citation networks,
            mobility patterns, city sizes, evolutionary games, wealth distributions, cascading failures
        """),
    ),
    "q-bio.PE": SampleCategory(
        "Populations and Evolution",
        papers=12,
        first_year=2003,
        borrows_from=("math.PR",),
        terms=_terms("""
            epidemic outbreaks, phylogenetic trees, predator-prey cycles, mutation rates, genetic drift,
            species abundances, vaccination strategies, fitness landscapes, host-parasite coevolution,
            migration waves
        """),
    ),
    "q-fin.ST": SampleCategory(
        "Statistical Finance",
        papers=12,
        first_year=2008,
        borrows_from=("physics.soc-ph",),
        terms=_terms("""
            stock returns, order books, volatility clustering, market crashes, portfolio weights, price
            impact, exchange rates, credit spreads, high-frequency trades, tail risk
        """),
    ),
    "eess.SP": SampleCategory(
        "Signal Processing",
        papers=12,
        first_year=2012,
        borrows_from=("cs.CV",),
        terms=_terms("""
            channel estimation, antenna arrays, radar echoes, compressed sensing, beamforming,
            electrocardiograms, spectrum sensing, adaptive filters, phase retrieval, localisation
            beacons
        """),
    ),
    "econ.EM": SampleCategory(
        "Econometrics",
        papers=12,
        first_year=2012,
        borrows_from=("stat.ME",),
        terms=_terms("""
            instrumental variables, panel data, treatment effects, structural breaks, demand systems,
            auction bids, wage equations, policy evaluations, identification strategies, unit roots
        """),
    ),
}

# {a}, {b}: terms; {n}: a number from 2 to 30. Subjects take no verb that would show their number.
TITLES = (
    "{a} with {b}",
    "Towards {a} from {b}",
    "{b} for {a}",
    "On the limits of {a}",
    "A note on {a}, {b}, and what lies between",
    'What can "{b}" tell us about {a}?',
    "Revisiting {a}: the case of {b}",
    "From {a} to {b} in {n} steps",
    "How far can {a} go without {b}?",
    "Improved {a} via {b}",
)
OPENINGS = (
    "We study {a} in the presence of {b}.",
    "The relation between {a} and {b} has received much attention in recent years.",
    "In this paper we propose a new approach to {a}.",
    "Despite their wide use, {a} can be hard to analyse.",
    "This work revisits {a} from the viewpoint of {b}.",
    "We consider the problem of combining {a} with {b}, which is of both practical and theoretical interest.",
)
BODIES = (
    "Our method builds on {a} and needs no prior information about {b}.",
    "Earlier attempts relied on {a}, on {b}, or on both, and did not scale.",
    "We show that {a} can be reduced to {b} under mild assumptions.",
    "The key observation is that {a} can carry over to the setting of {b}.",
    'What is usually called "{a}" turns out to be a special case of {b}.',
    "A careful comparison with {a} reveals a gap of {n} percent.",
    "We derive a bound of order $O(n^{{-1/{n}}})$ that involves {a} and {b} only.",
    "The framework covers {a}, {b}, and several settings that were treated one at a time before.",
    "This makes it possible to treat {a} and {b} on an equal footing.",
    "Examples with {n} parameters illustrate the role of {a}.",
    "Both simple and elaborate versions of {a} are covered by the analysis.",
    "No such result was known for {b}, even with {a} given in advance.",
)
CLOSINGS = (
    "Experiments on {n} problems confirm the findings.",
    "The results suggest that {a} may deserve a closer look.",
    "We close with a list of open questions about {b}.",
    "Numerical evidence supports the claim for up to {n} components.",
    "Applications to {a} are discussed.",
    "The approach is simple, and it compares well with the state of the art.",
)
# What any paper may talk about, whatever its category.
SHARED_TERMS = _terms("""
    large data sets, simulation studies, optimisation problems, noisy measurements, network structure,
    probabilistic models, efficient algorithms, approximation schemes, learning methods, dynamical
    systems, high-dimensional settings, hierarchical models, benchmark problems, linear models, error
    estimates, information measures, sampling procedures, convergence results, structured
    representations, feature sets, neural models, graph structures, classification tasks, time series
""")

# Every author is invented and carries the given name "Synthetic": no row can be taken for a real paper.
SURNAMES = _terms("""
    Abelard, Brandt, Castellano, Dubois, Eklund, Farrow, Grünwald, Hollis, Ivanova, Jansson, Kubíček,
    Lindqvist, Marlow, Nakano, O'Dell, Petrov, Quist, Rinaldi, Sørensen, Tanaka, Ueda, Varga, Wexler,
    Xu, Yilmaz, Zeman
""")


@dataclass(frozen=True)
class _Paper:
    """One row to be: everything but the derived columns."""

    identifier: str  # as in the file, without the version
    version: int
    code: str
    title: str
    sentences: tuple[str, ...]
    published: datetime.date
    updated: datetime.date
    authors: tuple[str, ...]


class _Draw:
    """Seeded draws, the same on every Python: only `random()` is promised to be, so the rest is ours."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()

    def integer(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def one(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]

    def several(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in the order they were drawn."""
        pool = list(items)
        return [pool.pop(self.integer(0, len(pool) - 1)) for _ in range(min(count, len(pool)))]


def sample_csv_bytes(papers: int = DEFAULT_PAPERS, seed: int = DEFAULT_SEED, crlf: bool = False) -> bytes:
    """The sample as the bytes of a CSV file.

    Args:
        papers: number of different papers; versions and duplicates come on top (about 8% more rows).
        seed: of the generator; the same seed gives the same bytes on every Python and platform.
        crlf: end lines as Windows (and the public Kaggle file) does.

    Raises:
        ValueError: `papers` is too small for every category to be there.
    """
    if papers < MINIMUM_PAPERS:
        raise ValueError(f"a sample of {papers} papers is too small: at least {MINIMUM_PAPERS}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n" if crlf else "\n")
    writer.writerow(HEADER)
    writer.writerows(_row(paper) for paper in _generate(papers, _Draw(seed)))
    return text.getvalue().encode("utf-8")


def _generate(count: int, draw: _Draw) -> list[_Paper]:
    """All rows, ordered by date as in the real file."""
    shares = {code: category.papers for code, category in SAMPLE_CATEGORIES.items()}
    total = sum(shares.values())
    used: set[str] = set()
    papers: list[_Paper] = []
    for code, share in shares.items():
        for _ in range(max(2, round(count * share / total))):
            papers.append(_paper(code, draw, used))
    for paper in draw.several(papers, round(count * EXACT_DUPLICATES)):
        papers.append(_repeat(paper, draw, used))
    for paper in draw.several(papers, round(count * NEAR_DUPLICATES)):
        changed = _sentences(paper.code, draw, 1)
        papers.append(replace(_repeat(paper, draw, used), sentences=paper.sentences + changed))
    for paper in draw.several(papers, round(count * NEW_VERSIONS)):
        for version in range(2, draw.integer(2, 3) + 1):
            paper = replace(
                paper,
                version=version,
                updated=min(paper.updated + datetime.timedelta(days=draw.integer(20, 300)), LAST_DAY),
                sentences=paper.sentences + _sentences(paper.code, draw, 1),
            )
            papers.append(paper)
    return sorted(papers, key=lambda paper: (paper.published, paper.identifier, paper.version))


def _paper(code: str, draw: _Draw, used: set[str]) -> _Paper:
    neighbours = SAMPLE_CATEGORIES[code].borrows_from
    published = _date(code, draw)
    count = draw.integer(4, 6)
    # The share of its own field's terms varies from paper to paper.
    purity = draw.between(0.2, 0.65)
    sentences = _sentences(code, draw, count, purity)
    title = _fill(draw.one(TITLES), code, draw, purity)
    filed_under = draw.one(neighbours) if draw.chance(LABEL_NOISE) else code
    return _Paper(
        identifier=_identifier(filed_under, published, draw, used),
        version=1,
        code=filed_under,
        title=title,
        sentences=sentences,
        published=published,
        updated=published if draw.chance(0.7) else published + datetime.timedelta(days=draw.integer(1, 200)),
        authors=tuple(f"Synthetic {name}" for name in draw.several(SURNAMES, draw.integer(1, 4))),
    )


def _repeat(paper: _Paper, draw: _Draw, used: set[str]) -> _Paper:
    """The same text submitted again as a paper of its own."""
    published = _date(paper.code, draw)
    return replace(
        paper,
        identifier=_identifier(paper.code, published, draw, used),
        published=published,
        updated=published,
    )


def _date(code: str, draw: _Draw) -> datetime.date:
    """A day from the category's first year on; the square root makes later years fuller, as in arXiv."""
    first = datetime.date(SAMPLE_CATEGORIES[code].first_year, 1, 1)
    days = (datetime.date(2020, 1, 1) - first).days
    return first + datetime.timedelta(days=int(days * draw.between(0, 1) ** 0.5))


def _identifier(code: str, published: datetime.date, draw: _Draw, used: set[str]) -> str:
    """An unused id of the style of its day, from the end of the numbering that real papers do not reach."""
    month = f"{published.year % 100:02d}{published.month:02d}"
    while True:
        if published < FIRST_NEW_STYLE:
            # stat and eess had no archive of their own then.
            archive = {"stat": "math", "eess": "cs"}.get(code.split(".")[0], code.split(".")[0])
            identifier = f"{archive}-{month}{draw.integer(900, 999)}"
        elif published.year < 2015:
            identifier = f"abs-{month}.{draw.integer(9700, 9999)}"
        else:
            identifier = f"abs-{month}.{draw.integer(90000, 99999)}"
        if identifier not in used:
            used.add(identifier)
            return identifier


def _sentences(code: str, draw: _Draw, bodies: int, purity: float = 0.4) -> tuple[str, ...]:
    frames = [draw.one(OPENINGS), *draw.several(BODIES, bodies), draw.one(CLOSINGS)]
    frames = frames if bodies > 1 else frames[1:2]
    return tuple(_fill(frame, code, draw, purity) for frame in frames)


def _fill(frame: str, code: str, draw: _Draw, purity: float) -> str:
    first = _term(code, draw, purity)
    second = _term(code, draw, purity)
    while second == first:
        second = _term(code, draw, purity)
    sentence = frame.format(a=first, b=second, n=draw.integer(2, 30))
    return sentence[0].upper() + sentence[1:]


def _term(code: str, draw: _Draw, purity: float) -> str:
    """A term of the category, of a neighbour, or one that anybody uses."""
    if draw.chance(purity):
        return draw.one(SAMPLE_CATEGORIES[code].terms)
    if draw.chance(0.3):
        return draw.one(SAMPLE_CATEGORIES[draw.one(SAMPLE_CATEGORIES[code].borrows_from)].terms)
    return draw.one(SHARED_TERMS)


def _row(paper: _Paper) -> list[str]:
    summary = " ".join(paper.sentences)
    return [
        f"{paper.identifier}v{paper.version}",
        paper.title,
        SAMPLE_CATEGORIES[paper.code].name,
        paper.code,
        _short_date(paper.published),
        _short_date(paper.updated),
        repr(list(paper.authors)),
        repr(paper.authors[0]),
        summary,
        str(len(summary.split())),
    ]


def _short_date(day: datetime.date) -> str:
    return f"{day.month}/{day.day}/{day.year % 100:02d}"


def main() -> None:
    """Writes the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the CSV file to write")
    parser.add_argument("--papers", type=int, default=DEFAULT_PAPERS, help="different papers")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of the generator")
    parser.add_argument("--crlf", action="store_true", help="end lines as Windows does")
    arguments = parser.parse_args()
    content = sample_csv_bytes(arguments.papers, arguments.seed, arguments.crlf)
    arguments.out.write_bytes(content)
    print(f"{arguments.out}: {len(content):,} bytes of synthetic papers (seed {arguments.seed})")


if __name__ == "__main__":
    main()
