"""arxiv_cls: train, verify and release classifiers that name the arXiv category of a paper."""

__version__ = "0.1.0"
