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


def same_in_a_new_process(hub: LocalHub, csv: Path, configs: list[str], tmp_path: Path) -> str:
    """Holds `load_dataset` with an empty cache against `load_arxiv`; returns what the process printed."""
    program = f"""
        from datasets import load_dataset
        from arxiv_cls.corpus import load_arxiv
        for config in {configs!r}:
            hub = load_dataset({REPO!r}, config, revision="v0.1.0")
            here = load_arxiv(config, csv={str(csv)!r}, cache_dir={str(tmp_path / "built")!r})
            assert set(hub) == set(here) == {{"train", "validation", "test"}}
            for split in here:
                assert hub[split].features == here[split].features, hub[split].features
                for column in here[split].column_names:
                    assert hub[split].data[column].to_pylist() == here[split].data[column].to_pylist(), column
            print(config, sum(map(len, hub.values())), len(hub["test"]))
            if config == "top5":
                assert load_dataset({REPO!r})["test"].to_list() == hub["test"].to_list()
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=hub.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
class TestLoadDataset:
    """A new process with an empty cache."""

    def test_same_rows_features_and_splits(
        self, hub: LocalHub, pushed: dict[str, bytes], sample_csv: Path, tmp_path: Path
    ) -> None:
        """`load_dataset(repo, "top5")` equals `load_arxiv("top5")`, label names and dates included."""
        assert same_in_a_new_process(hub, sample_csv, ["top5"], tmp_path).startswith("top5 ")

    def test_real_data(self, hub: LocalHub, real_csv: Path, tmp_path: Path) -> None:
        """All five label sets of the 136,238 rows; the default one and the largest come back the same."""
        result = push_dataset(REPO, csv=real_csv)
        assert (result.version, result.state) == ("v0.1.0", "released")
        files = hub.repository(REPO, "datasets").files("v0.1.0")
        assert len([path for path in files if path.endswith(".parquet")]) == 15
        printed = same_in_a_new_process(hub, real_csv, ["top5", "all"], tmp_path).splitlines()
        assert printed[0] == "top5 21789 3324"
        assert int(printed[1].split()[1]) > 130_000
