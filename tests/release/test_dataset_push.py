"""The corpus on the local Hub: what `load_dataset` gives is what `load_arxiv` gives."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from local_hub import LocalHub

from arxiv_cls.corpus.papers import DataVersion
from arxiv_cls.errors import UserError
from arxiv_cls.release.push_dataset import ConfigFiles, push_dataset, render_dataset_card

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
        assert "> **Synthetic papers.**" in card
        assert "arXiv metadata is in the public domain" not in card
        assert (metadata["pretty_name"], metadata["license"]) == (
            "Synthetic papers by category",
            "apache-2.0",
        )
        assert "synthetic" in metadata["tags"]
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

    def test_numbers_on_the_card(self, pushed: dict[str, bytes], sample_csv: Path) -> None:
        """Rows, md5, labels and papers, worked out from the CSV and the Parquet files without our code."""
        card = pushed["README.md"].decode()
        content = sample_csv.read_bytes()
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        assert f"`{sample_csv.name}`, {len(rows):,} rows" in card
        assert f"md5 `{hashlib.md5(content).hexdigest()}`" in card
        assert f"sha256 `{hashlib.sha256(content).hexdigest()}`" in card
        tables = {
            path: pq.read_table(io.BytesIO(data))
            for path, data in pushed.items()
            if path.endswith(".parquet")
        }
        for config in ("top5", "archive"):
            sizes, labels = [], set()
            for split in ("train", "validation", "test"):
                table = tables[f"{config}/{split}-00000-of-00001.parquet"]
                sizes.append(table.num_rows)
                labels |= set(table["label"].to_pylist())
            line = next(line for line in card.splitlines() if line.startswith(f"| `{config}`"))
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert cells[1:] == [str(len(labels)), *(f"{size:,}" for size in sizes)]
        # Every paper of the sample has an archive, so this label set holds them all.
        every = pa.concat_tables(table for path, table in tables.items() if path.startswith("archive/"))
        assert len(set(every["arxiv_id"].to_pylist())) == every.num_rows
        assert f"Titles and abstracts of {every.num_rows:,} synthetic papers" in card
        # Newest version of each paper, and of papers with one text in two splits only one copy.
        newest = {}
        for row in sorted(rows, key=lambda row: int(row["id"].rpartition("v")[2])):
            newest[row["id"].rpartition("v")[0]] = f"{row['title']} {row['summary']}".lower().split()
        texts = {" ".join(words) for words in newest.values()}
        assert (len(rows), len(newest)) == (925, 859)
        assert len(texts) <= every.num_rows <= len(newest)

    def test_papers_of_arxiv(self) -> None:
        """A card of the real file has no such notice; its numbers stand where they belong."""
        sizes = {"train": 15_176, "validation": 3_294, "test": 3_324}
        config = ConfigFiles("top5", ["cs.AI", "cs.CL"], sizes, [], {})
        data = DataVersion("data/raw/arxiv.csv", "0" * 32, "1" * 64, 152_544_933, 136_238)
        card = render_dataset_card("user/arxiv-papers", "v1.0.0", [config], data)
        assert "ynthetic" not in card
        assert "Titles and abstracts of 21,794 arXiv papers" in card
        assert "`arxiv.csv`, 136,238 rows of arXiv metadata" in card
        assert "| 2 | 15,176 | 3,294 | 3,324 |" in card
        assert "  note  = {made with arxiv_cls from arXiv metadata}" in card
        assert yaml.safe_load(card.split("---\n")[1])["size_categories"] == ["10K<n<100K"]
        assert "`categories`" not in card

    def test_the_full_snapshot(self) -> None:
        """Its size class, and the column that only a file with all categories has."""
        features = [{"name": "categories", "sequence": "string"}]
        sizes = dict.fromkeys(("train", "validation", "test"), 900_000)
        config = ConfigFiles("top5", ["cs.AI", "cs.CL"], sizes, features, {})
        data = DataVersion("snapshot.json", "0" * 32, "1" * 64, 4_000_000_000, 2_700_000)
        card = render_dataset_card("user/arxiv-papers", None, [config], data)
        assert yaml.safe_load(card.split("---\n")[1])["size_categories"] == ["1M<n<10M"]
        assert "| `categories` | list of strings |" in card

    def test_no_file(self, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The option that names it is told; of a file of the Hub why it does not come."""

        def no_answer(*names: str, **options: str) -> None:
            raise OSError("no answer")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", no_answer)
        with pytest.raises(UserError, match=r"user/papers/papers\.csv: no answer"):
            push_dataset(REPO, csv="hf://datasets/user/papers/papers.csv")
        with pytest.raises(UserError, match=r"none\.csv: no such file.*\n.*--csv FILE"):
            push_dataset(REPO, csv=tmp_path / "none.csv")


def same_in_a_new_process(hub: LocalHub, csv: Path, configs: list[str], tmp_path: Path) -> str:
    """Compares `load_dataset` with an empty cache with `load_arxiv`; returns what the process printed."""
    program = f"""
        from datasets import load_dataset
        from arxiv_cls.corpus import load_arxiv
        for config in {configs!r}:
            hub = load_dataset({REPO!r}, config, revision="v0.1.0")
            here = load_arxiv(config, csv={str(csv)!r}, cache_dir={str(datasets.config.HF_DATASETS_CACHE)!r})
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
