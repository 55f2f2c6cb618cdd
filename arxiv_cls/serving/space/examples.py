"""Titles and abstracts to try, written for this page: none is a real paper."""

from __future__ import annotations

EXAMPLES: tuple[tuple[str, str, str], ...] = (
    (
        "Street scenes",
        "Seeing through drizzle: segmenting street scenes in bad weather",
        "Segmentation networks that work on clear days lose their grip when rain smears the windscreen. We "
        "train an encoder and a decoder on pairs of dry and wet images of the same street, and let the "
        "features of a wet image move towards those of its dry twin. On three benchmarks of road scenes the "
        "mean intersection over union rises by several points in rain and fog and does not fall in "
        "sunshine. The method adds no cost when an image is labelled.",
    ),
    (
        "Low-resource translation",
        "Borrowed words as bridges in low-resource machine translation",
        "Parallel text is scarce for most of the languages of the world, but their vocabularies share "
        "loanwords with larger neighbours. We extract such pairs from monolingual corpora, align them by "
        "sound and use them as anchors for the embeddings of a translation model. For eleven language pairs "
        "with fewer than fifty thousand sentences each, BLEU rises over back-translation alone. An analysis "
        "of the errors shows that named entities and verbs of motion gain most.",
    ),
    (
        "Planning",
        "Plans that explain their detours: constraint reasoning for household robots",
        "A planner that obeys a person's wishes often takes a path that looks foolish. We describe a system "
        "that keeps the preference rules which forced each detour and states the smallest set of them as a "
        "reason. The search runs over a logic program with weighted constraints, and a heuristic from "
        "relaxed plans keeps it tractable. In a study with a simulated kitchen, people predicted the next "
        "action of the agent more often when they had read its reasons.",
    ),
    (
        "Optimisers",
        "Warm restarts from the edge of stability",
        "Gradient descent on deep networks hovers where the sharpness of the loss meets the limit that the "
        "learning rate sets. We turn this remark into a schedule: whenever the largest eigenvalue of the "
        "Hessian settles, the learning rate is raised until the training leaves the basin. Residual networks "
        "and small transformers reach the same training loss in a third fewer steps, and their test error is "
        "no worse. An ablation shows that the batch size decides how often a restart pays.",
    ),
    (
        "Gaussian processes",
        "Posterior contraction of sparse Gaussian processes with learned inducing points",
        "Inducing points make Gaussian process regression affordable, and little is known about what is lost "
        "when they are fitted to the data. We prove that the variational posterior contracts around the true "
        "function at the minimax rate up to a logarithm, provided that the number of points grows with the "
        "effective dimension of the kernel. The proof bounds the divergence by the tail of the spectrum. "
        "Simulations agree with the theory, and confidence bands keep their coverage.",
    ),
    (
        "Not machine learning",
        "Nesting sites of tree frogs along a gradient of night-time light",
        "Artificial light has spread into the wetlands where many tree frogs breed. During four seasons we "
        "counted egg masses at sixty ponds between a town and a nature reserve and measured brightness at "
        "night, water depth and cover. Ponds under bright lamps held fewer egg masses, and females laid them "
        "deeper among the reeds. The effect was strongest in spring, before the leaves had opened.",
    ),
)
"""(name, title, abstract): one for each category of `top5`, and one that belongs to none of them."""
