"""A load on the endpoint in the mix of its users: 5 predictions to 3 health checks to 1 look at the root.

    make load-test [HOST=http://127.0.0.1:8000] [USERS=16] [SECONDS=30]

or, with MODEL=, on a server that is started for the test and ended after it. Texts are the synthetic sample.
The run fails when a request fails or gets anything but an answer; a 429, which is how the endpoint says that
its queue is full, is counted on a line of its own and is no failure.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

from locust import HttpUser, between, task

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "arxiv_sample.csv"

with SAMPLE.open(encoding="utf-8", newline="") as file:
    PAPERS = itertools.cycle(
        [{"title": row["title"].strip(), "abstract": row["summary"].strip()} for row in csv.DictReader(file)]
    )


class Reader(HttpUser):
    """One client, which waits a little between its requests."""

    wait_time = between(0.01, 0.05)

    @task(5)
    def predict(self) -> None:
        """A paper; the answer must name a category."""
        with self.client.post("/predict", json=next(PAPERS), catch_response=True) as response:
            if response.status_code == 429:
                response.request_meta["name"] = "/predict (429, queue full)"
                response.success()
            elif response.status_code != 200:
                response.failure(f"status {response.status_code}")
            elif "predicted_class_name" not in response.json():
                response.failure("an answer without a category")

    @task(3)
    def health(self) -> None:
        """The probe of a load balancer."""
        self.client.get("/health")

    @task(1)
    def root(self) -> None:
        """What this is."""
        self.client.get("/")
