"""From a real endpoint, which is killed, over its own request log to verdict and measured accuracy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.request

import numpy as np
import pytest
from factories import SAMPLE
from local_servers import lines_in, start_process

from arxiv_cls.cli import main
from arxiv_cls.corpus import build_corpus
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.monitoring.check import check_drift
from arxiv_cls.monitoring.feedback import measure_feedback
from arxiv_cls.record.files import file_sha256
from arxiv_cls.scoring.evaluation import evaluate_model

pytestmark = pytest.mark.slow
TEXTS_IN_REQUEST = 30


def post(url: str, texts: list[str], request_id: str) -> None:
    """Classifies a batch."""
    body = json.dumps({"inputs": [[text] for text in texts]}).encode()
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    with urllib.request.urlopen(urllib.request.Request(url + "/predict", body, headers), timeout=60) as reply:
        assert len(json.loads(reply.read())) == len(texts)


def test_kill_and_check(trained, tmp_path):
    """Each answered text is a row after kill -9; a torn line more is counted; labels join by id and index."""
    log = tmp_path / "log"
    corpus = build_corpus("top5", csv=str(SAMPLE))
    papers = [row for split in ("train", "validation", "test") for row in corpus.splits[split].to_list()]
    papers = papers[: 5 * TEXTS_IN_REQUEST]
    server = start_process(trained, "--request-log", log, output=tmp_path / "output.txt")
    try:
        server.wait_until_ready()
        for number in range(5):
            part = papers[number * TEXTS_IN_REQUEST : (number + 1) * TEXTS_IN_REQUEST]
            post(server.url, [row["text"] for row in part], f"batch-{number}")
        end = time.monotonic() + 30
        while len(lines_in(log)) < len(papers) and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(30)
    (file,) = log.iterdir()
    with file.open("a") as torn:
        torn.write('{"schema_version": 2, "time": "20')
    record = check_drift(trained, str(log), out=tmp_path / "out")
    assert (record["log"]["rows_read"], record["log"]["bad"]) == (150, {"torn": 1, "foreign": 0})
    assert record["groups"][0]["model_version"] == file_sha256(trained / "model.skops")[:12]
    assert record["groups"][0]["window"]["distinct"] + record["groups"][0]["repeated"] == 150
    rows = [
        {"request_id": f"batch-{at // TEXTS_IN_REQUEST}", "index": at % TEXTS_IN_REQUEST,
         "category": corpus.labels[row["label"]]}
        for at, row in enumerate(papers)
    ]  # fmt: skip
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    measured = measure_feedback(trained, str(log), tmp_path / "labels.jsonl")
    assert measured["n"] == measured["served"] == 150
    # Papers of the training split among them: joined wrongly, a fifth would be right.
    assert measured["accuracy"] > 0.5


def test_a_cascade(trained, exported, tmp_path):
    """`arxiv-cls cascade` writes the reference of both halves, and the endpoint's rows find theirs."""
    model, log = tmp_path / "model", tmp_path / "log"
    shutil.copytree(exported, model)
    evaluate_model(model, rules=False)
    words = ["cascade", str(model), str(trained), "--engine", "onnx", "--max-accuracy-loss", "0.9"]
    assert not main(words)
    # Whatever was fitted: here each half shall answer some.
    rule = json.loads((model / "eval/cascade.json").read_text())
    papers = build_corpus("top5", csv=str(SAMPLE)).splits["train"].to_list()[:120]
    scores = load_predictor(trained).predict_proba([row["text"] for row in papers]).max(axis=1)
    rule["threshold"] = float(np.median(scores))
    (model / "eval/cascade.json").write_text(json.dumps(rule))
    assert not main(["monitor", "reference", str(model), "--cascade", str(trained)])
    server = start_process(model, "--cascade", trained, "--request-log", log, output=tmp_path / "output.txt")
    try:
        server.wait_until_ready()
        for number in range(4):
            part = papers[number * TEXTS_IN_REQUEST : (number + 1) * TEXTS_IN_REQUEST]
            post(server.url, [row["text"] for row in part], f"batch-{number}")
    finally:
        server.process.terminate()
        server.process.wait(60)
    record = check_drift(model, str(log))
    assert record["log"]["other_versions"] == {}
    rows = {group["answered_by"]: group["rows"] for group in record["groups"]}
    assert rows.keys() == {"baseline", "transformer", "cascade"}
    assert rows["baseline"] + rows["transformer"] == rows["cascade"] == 120
    assert {one["answered_by"] for one in record["references"] if one["cascade"]} == {
        "baseline", "transformer",
    }  # fmt: skip
