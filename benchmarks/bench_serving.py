"""The endpoint under load, in its modes, beside a plain FastAPI + `pipeline()` server.

    python benchmarks/bench_serving.py [--model outputs/minilm] [--baseline outputs/tfidf_xgboost]
                                       [--csv data/raw/arxiv.csv] [--seconds 8] [--rounds 2]

All servers run at once on this machine and are asked in turn, one at a time, by 1, 8 and 64 clients which
send real test papers and wait for each answer; the clients take some of the same cores. A load of a few
seconds is repeated in rounds. Then each server is started anew, one by one, and the time from the start of
its process to its first answer is taken. Requests that were refused (429, 503) are counted and have no part
in the latency.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arxiv_cls.errors import UserError
from benchmarks.bench_predict import MODELS, machine, pair, test_papers
from benchmarks.children import DATA, end, run_benchmark
from benchmarks.load_client import Load, request_bytes, run_load

ROOT = Path(__file__).resolve().parents[1]
SIDES = {
    "plain": "FastAPI + pipeline()",
    "onnx": "arxiv-cls serve, ONNX fp32 (the default)",
    "int8": "arxiv-cls serve --engine int8",
    "cascade": "arxiv-cls serve --engine int8 --cascade BASELINE (the fast mode)",
}
CLIENTS = (1, 8, 64)
LONGEST_START = 120.0


class Server:
    """A server process on a port of its own."""

    def __init__(self, side: str, arguments: argparse.Namespace) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.side = side
        command = [sys.executable, "-m", "arxiv_cls.cli", "serve", arguments.model, "--port", str(self.port)]
        command += ["--log-level", "warning"]
        if side == "plain":
            command = [
                sys.executable, str(ROOT / "benchmarks" / "plain_server.py"), arguments.model, str(self.port)
            ]  # fmt: skip
        elif side == "int8":
            command += ["--engine", "int8"]
        elif side == "cascade":
            command += ["--engine", "int8", "--cascade", arguments.baseline]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def first_answer(self, request: bytes) -> float:
        """Seconds from the start of the process to its first answer with status 200."""
        while time.perf_counter() - self.started < LONGEST_START:
            if self.process.poll() is not None:
                raise UserError(f"{self.side}: the server ended with status {self.process.returncode}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                    connection.sendall(request)
                    if connection.recv(64).split(b" ")[1:2] == [b"200"]:
                        return time.perf_counter() - self.started
            except OSError:
                # Not listening yet, which is what we wait for.
                pass
            time.sleep(0.02)
        raise UserError(f"{self.side}: no answer after {LONGEST_START:.0f} s")

    def close(self) -> None:
        """Ends the process."""
        end(self.process)


def merged(loads: list[Load]) -> Load:
    """The rounds of one server at one number of clients as one."""
    whole = Load()
    for load in loads:
        whole.seconds += load.seconds
        whole.statuses += load.statuses
        whole.duration += load.duration
    return whole


def measure(servers: list[Server], texts: list[str], arguments: argparse.Namespace) -> None:
    """Loads the servers in turn and prints the table."""
    requests = {
        server.side: [request_bytes("127.0.0.1", server.port, "/predict", {"text": text}) for text in texts]
        for server in servers
    }
    found: dict[tuple[str, int], list[Load]] = {}
    for server in servers:
        run_load(server.port, requests[server.side], clients=2, seconds=1.0)
    for _ in range(arguments.rounds):
        for clients in CLIENTS:
            for server in servers:
                load = run_load(
                    server.port, requests[server.side], clients=clients, seconds=arguments.seconds
                )
                found.setdefault((server.side, clients), []).append(load)
    names = "".join(f"{name:>9}" for name in ("p50 ms", "p95 ms", "p99 ms"))
    print(f"{'side':<9}{'clients':>8}{'answers/s':>11}{'ratio':>7}{names}  other statuses")
    for clients in CLIENTS:
        stock = merged(found[servers[0].side, clients])
        for server in servers:
            load = merged(found[server.side, clients])
            others = {status: count for status, count in load.statuses.items() if status != 200}
            latencies = "".join(f"{load.percentile(share):9.1f}" for share in (0.5, 0.95, 0.99))
            ratio = load.per_second / stock.per_second if stock.per_second else float("nan")
            line = f"{server.side:<9}{clients:8d}{load.per_second:11.1f}{ratio:7.2f}{latencies}"
            print(f"{line}  {others or 'none'}")


def main(argv: list[str]) -> int:
    """Starts the servers, loads them in turn, measures their starts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help=f"transformer with its export (default: {' or '.join(MODELS)})")
    parser.add_argument("--baseline", help="the cascade's baseline (default: the model's)")
    parser.add_argument("--csv", default=DATA)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one load")
    parser.add_argument(
        "--rounds", type=int, default=2, help="loads of each server at each number of clients"
    )
    parser.add_argument("--starts", type=int, default=3, help="starts of each server")
    arguments = parser.parse_args(argv)
    sides = pair(arguments, SIDES)
    texts = test_papers(arguments.csv)[0][:512]
    probe = texts[0]
    print(f"{len(texts)} papers, {arguments.rounds} rounds of {arguments.seconds:g} s, {machine()}")
    servers = []
    try:
        for side in sides:
            servers.append(Server(side, arguments))
        for server in servers:
            server.first_answer(request_bytes("127.0.0.1", server.port, "/predict", {"text": probe}))
        measure(servers, texts, arguments)
    finally:
        for server in servers:
            server.close()
    starts: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.starts):
        for side in sides:
            server = Server(side, arguments)
            try:
                request = request_bytes("127.0.0.1", server.port, "/predict", {"text": probe})
                starts[side].append(server.first_answer(request))
            finally:
                server.close()
    for side, seconds in starts.items():
        shown = ", ".join(f"{value:.2f}" for value in seconds)
        print(f"start to first answer, {side:<8} {statistics.median(seconds):6.2f} s  (runs: {shown})")
    for side in sides:
        print(f"{side}: {SIDES[side]}")
    return 0


if __name__ == "__main__":
    run_benchmark(main)
