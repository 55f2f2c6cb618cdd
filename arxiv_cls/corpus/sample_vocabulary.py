"""The words the synthetic sample is made of: terms per category, and sentence frames for all of them.

A term is a noun phrase that reads the same as singular mass or plural ("word embeddings"), so that every
frame stays grammatical. Neighbouring categories borrow each other's terms: that, and the shared frames,
is what keeps the sample from being separable.
"""

from __future__ import annotations

from typing import NamedTuple


class SampleCategory(NamedTuple):
    """What the generator knows about one category."""

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
