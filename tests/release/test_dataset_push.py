"""The corpus on the local Hub: what `load_dataset` gives is what `load_arxiv` gives."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from local_hub import LocalHub

from arxiv_cls.errors import UserError
from arxiv_cls.release.dataset_push import push_dataset

REPO = "user/arxiv-papers"


@pytest.fixture
def pushed(hub: LocalHub, sample_csv: Path) -> dict[str, bytes]:
    """The files of a release of the sample, two label sets."""
    result = push_dataset(REPO, csv=sample_csv, configs=["archive", "top5"])
    assert (result.version, result.state) == ("v0.1.0", "released")
    return hub.repository(REPO, "datasets").files("v0.1.0")


class TestDatasetPush:
    """One commit with Parquet splits and a card, then a tag."""

    def test_files_card_and_rerun(self, hub: LocalHub, pushed: dict[str, bytes], sample_csv: Path) -> None:
        """Three splits for each label set; the card's counts are the files'; again changes nothing."""
        splits = [f"{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")]
        expected = {f"{config}/{split}" for config in ("top5", "archive") for split in splits}
        assert set(pushed) == expected | {"README.md", ".gitattributes"}
        card = pushed["README.md"].decode()
        metadata = yaml.safe_load(card.split("---\n")[1])
        assert [config["config_name"] for config in metadata["configs"]] == ["top5", "archive"]
        assert metadata["configs"][0]["default"] is True
        info = metadata["dataset_info"][0]
        for split in info["splits"]:
            content = pushed[f"top5/{split['name']}-00000-of-00001.parquet"]
            rows = pq.read_metadata(io.BytesIO(content)).num_rows
            assert rows == split["num_examples"]
            assert f" {rows:,} |" in card
        assert "None" not in card
        assert "nan" not in card.split()
        before = hub.repository(REPO, "datasets").state()
        assert push_dataset(REPO, csv=sample_csv, configs=["archive", "top5"]).state == "present"
        assert hub.repository(REPO, "datasets").state() == before

    def test_failed_commit_leaves_nothing_and_a_rerun_completes(
        self, hub: LocalHub, sample_csv: Path
    ) -> None:
        """As with a model."""
        hub.fail("commit", 500)
        with pytest.raises(UserError, match="answered 500"):
            push_dataset(REPO, csv=sample_csv, configs=["top5"])
        assert not hub.repository(REPO, "datasets").tags
        assert push_dataset(REPO, csv=sample_csv, configs=["top5"]).version == "v0.1.0"

    def test_no_network_before_any_work(self, hub: LocalHub, tmp_path: Path) -> None:
        """The CSV is not even looked for."""
        hub.__exit__()
        with pytest.raises(UserError, match="cannot reach the Hub"):
            push_dataset(REPO, csv=tmp_path / "none.csv")


@pytest.mark.slow
class TestLoadDataset:
    """A new process with an empty cache."""

    def test_same_rows_features_and_splits(
        self, hub: LocalHub, pushed: dict[str, bytes], sample_csv: Path, tmp_path: Path
    ) -> None:
        """`load_dataset(repo, "top5")` equals `load_arxiv("top5")`, label names and dates included."""
        program = f"""
            from datasets import load_dataset
            from arxiv_cls.corpus import load_arxiv
            hub = load_dataset({REPO!r}, "top5", revision="v0.1.0")
            here = load_arxiv("top5", csv={str(sample_csv)!r}, cache_dir={str(tmp_path / "built")!r})
            assert set(hub) == set(here) == {{"train", "validation", "test"}}
            for split in here:
                assert hub[split].features == here[split].features, hub[split].features
                assert hub[split].to_list() == here[split].to_list()
            assert load_dataset({REPO!r})["test"].to_list() == hub["test"].to_list()
            print("rows", sum(map(len, hub.values())))
        """
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env=hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.startswith("rows ")
