"""Sends the papers of a CSV to an endpoint; or prints what a webhook gets.

Run as: python scripts/traffic.py papers.csv [--url URL] [--papers N] [--skip N] [--others SHARE]
        python scripts/traffic.py --webhook 8002
"""

from __future__ import annotations

import argparse
import json
import random
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

from arxiv_cls.corpus.papers import read_papers
from arxiv_cls.errors import UserError, run_main
from arxiv_cls.scoring.scored_papers import texts_of, true_columns

TEXTS_IN_REQUEST = 20


class Webhook(BaseHTTPRequestHandler):
    """Prints the title and the text of a message."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(f"{message['text']}\n  {message['alerts'][0]['annotations']['description']}", flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing but the messages."""


def call(url: str, body: object = None) -> dict:
    """The reply to a GET, or to a POST when there is a body."""
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)
    except OSError as error:
        raise UserError(f"{url}: {error}", hint="`make serve MODEL=...` starts an endpoint") from None


def main(argv: list[str]) -> None:
    """Sends texts, or listens until it is ended.

    Raises:
        UserError: no file, too few papers in it, or an endpoint that does not answer.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", nargs="?", help="papers in the schema of the data")
    parser.add_argument("--url", default="http://localhost:8000", help="of the endpoint")
    parser.add_argument("--papers", type=int, default=600, help="how many to send")
    parser.add_argument("--skip", type=int, default=0, help="of the papers with a label of the model")
    parser.add_argument("--others", type=float, default=0.0, help="share of papers without such a label")
    parser.add_argument("--webhook", type=int, metavar="PORT", help="instead: listen on this port")
    arguments = parser.parse_args(argv)
    if arguments.webhook:
        HTTPServer(("127.0.0.1", arguments.webhook), Webhook).serve_forever()
    if not arguments.csv:
        raise UserError("name a CSV with papers, or --webhook PORT")
    table = read_papers(arguments.csv, required=("title", "abstract", "category")).table
    known = true_columns(table["category"].to_pylist(), call(f"{arguments.url}/info")["labels"]) >= 0
    wanted = round(arguments.others * arguments.papers)
    papers = texts_of(table.filter(known))[arguments.skip :][: arguments.papers - wanted]
    texts = papers + texts_of(table.filter(~known))[:wanted]
    if len(texts) < arguments.papers:
        raise UserError(f"{arguments.csv}: only {len(texts)} such papers")
    random.Random(0).shuffle(texts)
    for first in range(0, len(texts), TEXTS_IN_REQUEST):
        part = texts[first : first + TEXTS_IN_REQUEST]
        call(f"{arguments.url}/predict", {"inputs": [[text] for text in part]})
    print(f"{len(texts):,} texts sent")


if __name__ == "__main__":
    run_main(main)
