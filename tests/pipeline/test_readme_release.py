"""The release that README and docs/releasing.md show, run as it is written in a clean clone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from local_hub import LocalHub
from test_docs import blocks

from arxiv_cls.record.manifest import TRANSFORMER, release_files

pytestmark = pytest.mark.slow

NAME = "tests/pipeline/test_readme_release.py"


def test_train_evaluate_push_and_use(make_clone, tmp_path):
    """Both pages show the same commands; they end with a category from the Hub, in a cache that was empty."""
    (readme,) = (block.code for block in blocks("README.md") if block.run_by == NAME)
    (releasing,) = (block.code for block in blocks("docs/releasing.md") if block.run_by == NAME)
    assert readme == releasing
    clone = make_clone()
    (tmp_path / "home").mkdir()
    with LocalHub() as hub:
        variables = hub.environment(tmp_path / "home").items()
        of_hub = {name: value for name, value in variables if name.startswith("HF_")}
        clone = replace(clone, environment=clone.environment | of_hub)
        printed = clone.run("bash", "-euo", "pipefail", "-c", readme)
        repository = hub.repository("user/arxiv-demo")
        released = set(repository.files("v0.1.0")) - {".gitattributes"}
    assert released == set(release_files(clone.root / "outputs" / "demo", TRANSFORMER))
    assert "[{'label': 'cs.CL'" in printed.splitlines()[-1]
