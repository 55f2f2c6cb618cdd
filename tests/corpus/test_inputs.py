"""One reader: the snapshot as JSON Lines, Parquet or from the Hub is the corpus of the CSV of its papers."""

import gzip
import json
import shutil
from email.utils import format_datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import COUNT, papers, write_csv

from arxiv_cls.cli import main
from arxiv_cls.corpus import records
from arxiv_cls.corpus.ids import parse_id
from arxiv_cls.corpus.papers import file_digests, read_papers
from arxiv_cls.corpus.splits import SPLITS
from arxiv_cls.errors import UserError

OLD = ("math-0309136v2", "hep-th-9901001v1", "cs-9308101v1")


def rows_of(count=COUNT, archives=OLD):
    """Papers of the five labels, the first ones with identifiers of the old style."""
    rows = papers(count)
    return [row | ({"id": archives[n]} if n < len(archives) else {}) for n, row in enumerate(rows)]


def listed(number, row):
    """The categories of a paper: every third one has a second."""
    return row["category_code"] + (" math.ST cs.AI" if number % 3 == 0 else "")


def snapshot(rows):
    """The papers as arXiv's snapshot has them: line breaks in the texts, the version and dates apart."""
    lines = []
    for number, row in enumerate(rows):
        base, version = parse_id(row["id"])
        day = pd.Timestamp(row["published_date"]).to_pydatetime()
        title, abstract = (row[key].replace(" ", "\n  ", 1) for key in ("title", "summary"))
        versions = [
            {
                "version": f"v{n + 1}",
                "created": format_datetime(day.replace(year=day.year + n)).replace("-0000", "GMT"),
            }
            for n in range(version)
        ]
        lines.append(
            {
                "id": base,
                "title": title,
                "abstract": f"  {abstract}\n",
                "categories": listed(number, row),
                "versions": versions,
                "update_date": "2024-01-01",
                "authors_parsed": [["A", "B", ""]],
            }
        )
    return lines


def write(path, lines):
    """JSON Lines, or Parquet, by the name."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(lines), path)
        return path
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(text)
    else:
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.fixture
def joined(tmp_path):
    """The CSV with its column of all categories, made as a user makes it."""
    rows = rows_of()
    source = write_csv(tmp_path / "papers.csv", rows)
    table = "".join(f"{parse_id(row['id'])[0]}\t{listed(n, row)}\n" for n, row in enumerate(rows))
    (tmp_path / "categories.tsv.gz").write_bytes(gzip.compress(table.encode()))
    out = tmp_path / "joined.csv"
    main(["data", "join", str(source), str(tmp_path / "categories.tsv.gz"), str(out)])
    return out


def test_categories_of_other_papers(tmp_path):
    """Nothing is written where no id is in the file."""
    source, out = write_csv(tmp_path / "papers.csv", rows_of(3)), tmp_path / "joined.csv"
    (tmp_path / "categories.tsv").write_text("2001.00001\tcs.CL\n")
    with pytest.raises(UserError, match=r"categories\.tsv: none of its ids is in the 3 rows"):
        main(["data", "join", str(source), str(tmp_path / "categories.tsv"), str(out)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["categories.tsv", "papers.csv"]


@pytest.mark.parametrize(
    ("table", "out", "said"),
    [
        ("1501.00001\tcs.CL\nnone\tcs.CL\n", "joined.csv", "line 2: no id, tab and codes: 'none"),
        ("1501.00001\tcs.CL\n", "papers.csv", "papers.csv: is an input itself"),
        ("1501.00001\tcs.CL\n", "categories.tsv", "categories.tsv: is an input itself"),
    ],
)
def test_a_join_that_is_refused(tmp_path, table, out, said):
    """The inputs stay as they are."""
    source = write_csv(tmp_path / "papers.csv", rows_of(3))
    (tmp_path / "categories.tsv").write_text(table)
    before = source.read_bytes()
    with pytest.raises(UserError) as error:
        main(["data", "join", str(source), str(tmp_path / "categories.tsv"), str(tmp_path / out)])
    assert said in str(error.value)
    assert (source.read_bytes(), (tmp_path / "categories.tsv").read_text()) == (before, table)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.json.zst", "a.parquet"])
@pytest.mark.parametrize("config", ["top5", "top3"])
def test_the_same_corpus_as_the_csv(build, joined, tmp_path, name, config):
    """Splits, features, texts outside the labels and report; without its categories it is the plain CSV's."""
    of_csv, of_file = (
        build(config, csv=joined),
        build(config, csv=write(tmp_path / name, snapshot(rows_of()))),
    )
    plain = build(config, csv=tmp_path / "papers.csv")
    for split in SPLITS:
        assert of_file.splits[split].to_list() == of_csv.splits[split].to_list()
        assert of_csv.splits[split].remove_columns("categories").to_list() == plain.splits[split].to_list()
    assert of_file.outside_papers() == of_csv.outside_papers()
    assert of_file.report == of_csv.report
    assert {len(row["categories"]) for row in of_file.splits["train"]} == {1, 2, 3}
    assert all(row["categories"][0] == of_file.labels[row["label"]] for row in of_file.splits["train"])


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
def test_multi_label(build, joined, tmp_path, name):
    """Every listed category of the set is a label, the first of them `label`, from any kind of file."""
    options = {"task": "multi_label", "labels": ["cs.AI", "math.ST"]}
    corpus = build(csv=joined, **options)
    of_file = build(csv=write(tmp_path / name, snapshot(rows_of())), **options)
    rows = [row for split in SPLITS for row in corpus.splits[split].to_list()]
    assert rows == [row for split in SPLITS for row in of_file.splits[split].to_list()]
    for row in rows:
        known = [corpus.labels.index(code) for code in row["categories"] if code in corpus.labels]
        assert (row["labels"], row["label"]) == (sorted(known), known[0])
    assert {len(row["labels"]) for row in rows} == {1, 2}
    assert any(row["categories"][0] not in corpus.labels for row in rows)
    counts = corpus.targets("train").sum(axis=0).tolist()
    train = corpus.splits["train"]["labels"]
    assert counts == [sum(number in labels for labels in train) for number in (0, 1)]
    # Papers without a label of the set stay outside.
    assert len(rows) + corpus.report.outside_config == COUNT


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_multi_label_needs_all_categories(build, tmp_path, name):
    """A file with one category a paper is refused, with the command that helps."""
    lines = [line | {"categories": line["categories"].split()[0]} for line in snapshot(rows_of())]
    path = tmp_path / name
    write_csv(path, rows_of()) if name == "a.csv" else write(path, lines)
    with pytest.raises(UserError, match="names one category a paper") as caught:
        build(csv=path, task="multi_label")
    assert "arxiv-cls data join" in caught.value.hint


def test_a_bad_line_costs_that_line(tmp_path, capsys):
    """With its number, the reason of the CSV, and every row counted; blank lines are none.

    An unknown category costs the paper only as the first.
    """
    lines = [json.dumps(line).encode() for line in snapshot(rows_of(20))]
    lines[3] = lines[3][:60]
    lines[5] = b"[1, 2]"
    lines[7] = lines[7].replace(b'"abstract": "', b'"abstract": "\xff')
    lines[9] = b""
    lines[11] = lines[11].replace(b'"id": "', b'"id": "x')
    lines[12] = json.dumps(json.loads(lines[12]) | {"categories": "cs.XX"}).encode()
    lines[10] = json.dumps(json.loads(lines[10]) | {"categories": "cs.CL cs.XX"}).encode()
    lines[13] = json.dumps(json.loads(lines[13]) | {"abstract": None}).encode()
    lines[14] = json.dumps(json.loads(lines[14]) | {"versions": []}).encode()
    lines[15] = json.dumps(json.loads(lines[15]) | {"title": "a\0b"}).encode()
    path = tmp_path / "papers.json"
    path.write_bytes(b"\n".join(lines))
    found = read_papers(path)
    assert [(r.line, r.where + r.reason.partition(":")[0]) for r in found.rejects] == [
        (4, records.BAD_JSON), (6, records.BAD_JSON), (8, "invalid UTF-8"),
        (12, "id: malformed arXiv id"), (13, "categories: unknown category"),
        (14, "abstract: missing or empty"), (16, "title: NUL byte"),
    ]  # fmt: skip
    assert (found.rows_read, len(found.table)) == (19, 12)
    assert found.table["line"].to_pylist() == [1, 2, 3, 5, 7, 9, 11, 15, 17, 18, 19, 20]
    # Without versions the day of the last change stands for the first.
    assert str(found.table["published"][7]) == "2024-01-01"
    small = [row for block in blocks(path, 100) for row in block.table["arxiv_id"].to_pylist()]
    assert small == found.table["arxiv_id"].to_pylist()


def blocks(path, size):
    """A file in small blocks, each checked by itself."""
    from arxiv_cls.corpus.papers import json_blocks

    return [records.check_rows(records.json_lines(*block)) for block in json_blocks(path, size)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b'[{"id": "0901.4761"}]', "one JSON list"),
        # Broken off after the first block, which says enough.
        ("a.json.gz", gzip.compress(b"[" + b" " * (20 << 20))[:-30], "one JSON list"),
        ("a.json.gz", gzip.compress(b'{"id": "0901.4761"}\n' * 999)[:-30], "cannot be read"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.json", b"", "the file is empty"),
        ("hf://datasets/user", None, "no file of a dataset on the Hub"),
        ("hf://datasets/user/a--b/papers.json", None, "a--b/papers.json: Cannot have"),
    ],
)
def test_a_file_that_is_none(tmp_path, name, content, said):
    """One message."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_papers(name if content is None else tmp_path / name)


@pytest.mark.parametrize("revision", [None, "v1.0.0", "refs/convert/parquet", "refs/pr/1"])
def test_from_the_hub(build, joined, tmp_path, monkeypatch, revision):
    """The copy in the Hub client's cache, asked for once; the address goes on record with its commit."""
    file = write(tmp_path / "papers.jsonl.gz", snapshot(rows_of()))
    cached = tmp_path / "hub" / "snapshots" / ("a" * 40) / "data" / "papers.jsonl.gz"
    cached.parent.mkdir(parents=True)
    shutil.copyfile(file, cached)

    asked = []

    def download(*names, **options):
        asked.append((*names, *options.values()))
        return str(cached)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    at = f"@{revision}" if revision else ""
    corpus = build(csv=f"hf://datasets/user/arxiv{at}/data/papers.jsonl.gz")
    # A push between two requests would put another commit on record than the file's.
    assert asked == [("user/arxiv", "data/papers.jsonl.gz", "dataset", revision)]
    assert corpus.data.csv == f"hf://datasets/user/arxiv@{'a' * 40}/data/papers.jsonl.gz"
    assert (corpus.data.md5, corpus.data.sha256) == file_digests(file)
    assert corpus.splits["test"].to_list() == build(csv=joined).splits["test"].to_list()


def test_texts_that_are_not_asked_for(build, tmp_path, monkeypatch):
    """Outside the labels a share of the texts is held, the same whatever the order of the rows."""
    monkeypatch.setattr("arxiv_cls.corpus.builder._MOST_OUTSIDE", 20)
    monkeypatch.setattr("arxiv_cls.corpus.papers._BLOCK", 4000)
    lines = snapshot(rows_of())
    first, second = (
        build(csv=write(tmp_path / name, part), labels=["cs.CL", "cs.CV"])
        for name, part in (("a.json", lines), ("b.json", lines[::-1]))
    )
    held = [sorted(corpus.outside_papers()["arxiv_id"].to_pylist()) for corpus in (first, second)]
    assert held[0] == held[1]
    assert 5 < len(held[0]) <= 20
    assert all(first.outside_papers()["abstract"].to_pylist())
    assert first.report.outside_config == COUNT * 3 // 5


class TestOptions:
    """Labels of one's own, and other shares."""

    def test_own_labels(self, csv, build):
        """Sorted, so that their order does not matter; a code that arXiv lacks is named."""
        corpus = build(csv=csv, labels=["cs.LG", "cs.CL"])
        assert (corpus.labels, corpus.report.config, corpus.report.papers) == (["cs.CL", "cs.LG"], "own", 80)
        with pytest.raises(UserError, match=r"data\.labels: cs\.XX"):
            build(csv=csv, labels=["cs.LG", "cs.XX"])

    def test_ratios(self, csv, build):
        """A paper's place is the same, the borders move; the usual shares are the usual corpus."""
        corpus, usual = build(csv=csv, ratios=[0.5, 0.25, 0.25]), build(csv=csv)
        sizes = list(corpus.report.split_sizes().values())
        assert [size / COUNT for size in sizes] == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
        assert set(usual.splits["test"]["arxiv_id"][:]) < set(corpus.splits["test"]["arxiv_id"][:])
        same = build(csv=csv, ratios=[0.7, 0.15, 0.15])
        assert all(same.splits[split].to_list() == usual.splits[split].to_list() for split in SPLITS)
        assert "shares 0.5, 0.25, 0.25" in corpus.report.summary()
