"""Whatever is killed, the same command run again leaves one row per record; buckets; Ray on loopback."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from batch_papers import PAPERS, rows_of, write_papers
from factories import ROOT, write_onnx_model
from google.auth.credentials import AnonymousCredentials

from arxiv_cls.cli import main

pytestmark = pytest.mark.slow
COUNT = 1200


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """Some milliseconds a paper."""
    return write_onnx_model(tmp_path_factory.mktemp("slow") / "model", busy=300, max_length=512)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Plain and compressed: 1,200 records, some of them damaged."""
    folder = tmp_path_factory.mktemp("many")
    papers = [
        PAPERS[at % 25] | {"id": f"p{at}"} | ({"title": ""} if at % 50 == 7 else {}) for at in range(COUNT)
    ]
    return [write_papers(folder, name, papers) for name in ("a.jsonl", "b.jsonl.gz")]


def start(model, inputs, out, runner: str) -> subprocess.Popen:
    """The command in a process of its own, in small shards."""
    words = ["predict", model, "--engine", "onnx", "--output", out, "--shard-rows", "40", "--workers", "2"]
    words += ["--runner", runner, *(word for one in inputs for word in ("--input", one))]
    return subprocess.Popen(
        [sys.executable, "-m", "arxiv_cls.cli", *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def killed(model, inputs, out, runner: str, who: str, generator: random.Random) -> bool:
    """Starts a run, kills one of its processes while it scores, and whether it ended by that."""
    process = start(model, inputs, out, runner)
    try:
        wanted = len(list(out.glob("part-*"))) + generator.randrange(1, 5)
        deadline = time.monotonic() + 120
        while len(list(out.glob("part-*"))) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(generator.random() / 10)
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        workers = [
            one for one in family
            if any(word in " ".join(one.cmdline()) for word in ("spawn_main", "ray::score_shard"))
        ]  # fmt: skip
        if process.poll() is None:
            victim = psutil.Process(process.pid) if who == "driver" else generator.choice(workers)
            victim.kill()
        said, _ = process.communicate(timeout=180)
        if who == "worker" and runner == "local" and process.returncode:
            assert process.returncode == 137
            assert "a worker was killed" in said
            assert "run the same command again" in said
        # What scores ends with its driver; Ray's own agents take a minute or two.
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
        return process.returncode != 0
    finally:
        process.kill()
        process.wait()


def finished(model, inputs, out, runner: str) -> None:
    """Runs to the end: one row per record, and no half file."""
    process = start(model, inputs, out, runner)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    rows = rows_of(out)
    places = {(row["source"], row["position"]) for row in rows}
    assert len(rows) == len(places) == COUNT * len(inputs)
    assert [row["id"] for row in rows] == [f"p{at}" for at in range(COUNT)] * len(inputs)
    assert sum(row["error"] is not None for row in rows) == COUNT // 50 * len(inputs)
    assert {path.suffix for path in out.iterdir()} == {".json", ".parquet"}


@pytest.mark.parametrize(
    ("runner", "who", "then"),
    [
        ("local", "worker", "local"),
        ("local", "driver", "ray"),
        ("ray", "worker", "local"),
        ("ray", "driver", "local"),
    ],
)
def test_kills(runner, who, then, slow_model, many, tmp_path):
    """At random moments of a run that begins again and again, ended by the other runner."""
    if "ray" in (runner, then):
        pytest.importorskip("ray")
    generator = random.Random(f"{runner}{who}")
    for _ in range(int(os.environ.get("KILLS", "3"))):
        killed(slow_model, many, tmp_path / "out", runner, who, generator)
    finished(slow_model, many, tmp_path / "out", then)


def test_ray_listens_on_loopback(slow_model, many, tmp_path):
    """A cluster that is started here: no other address, and nothing is reported."""
    pytest.importorskip("ray")
    process = start(slow_model, many[:1], tmp_path / "out", "ray")
    addresses, environments = set(), []
    try:
        while process.poll() is None:
            for one in psutil.Process(process.pid).children(recursive=True):
                try:
                    found = one.net_connections("inet")
                    environments.append(one.environ().get("RAY_USAGE_STATS_ENABLED"))
                except psutil.Error:
                    continue
                addresses |= {link.laddr.ip for link in found if link.status == psutil.CONN_LISTEN}
            time.sleep(0.2)
    finally:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert set(environments) - {None} == {"0"}


def test_bucket(model, tmp_path, monkeypatch, capsys):
    """gs:// as input and output, on an emulator of Google's storage on loopback; a second run goes on."""
    import gcsfs
    from gcp_storage_emulator.server import create_server
    from google.cloud import storage
    from local_servers import free_port

    port = free_port()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    emulator = create_server("127.0.0.1", port, in_memory=True, default_bucket="papers")
    emulator.start()
    try:
        bucket = storage.Client(project="p", credentials=AnonymousCredentials()).bucket("papers")
        for name in ("a.jsonl", "b.jsonl.gz", "c.csv", "groups.parquet"):
            bucket.blob(f"in/{name}").upload_from_filename(str(write_papers(tmp_path, name)))
        gcsfs.GCSFileSystem.clear_instance_cache()
        words = ["predict", str(model), "--engine", "onnx", "--input", "gs://papers/in/*", "--workers", "1"]
        words += ["--output", "gs://papers/out", "--shard-rows", "5"]
        main(words)
        assert "100 rows, 0 with an error" in capsys.readouterr().out
        names = [blob.name for blob in bucket.list_blobs(prefix="out/part-")]
        assert len(names) == len({*names}) >= 20
        bucket.blob(names[0]).download_to_filename(str(tmp_path / "lost.parquet"))
        bucket.blob(names[0]).delete()
        main(words)
        left = 100 - pq.read_metadata(tmp_path / "lost.parquet").num_rows
        assert f"{left} rows from earlier runs" in capsys.readouterr().out
        for blob in bucket.list_blobs(prefix="out/part-"):
            blob.download_to_filename(str(tmp_path / Path(blob.name).name))
        assert [row["id"] for row in rows_of(tmp_path)] == [one["id"] for one in PAPERS] * 4
        manifest = json.loads(bucket.blob("out/manifest.json").download_as_text())
        assert all("sampled" not in one["checksum"] for one in manifest["inputs"].values())
    finally:
        emulator.stop()
