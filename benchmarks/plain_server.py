"""The server that a user would write: FastAPI around `pipeline()`, as tutorials have it.

    python benchmarks/plain_server.py MODEL PORT

`bench_serving.py` starts it beside the endpoint.
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Request(BaseModel):
    """One text."""

    text: str


def plain_app(model: str) -> FastAPI:
    """An application with one route; it has loaded its model when it is made."""
    classify = pipeline("text-classification", model=model, truncation=True)
    app = FastAPI()

    # Not async: FastAPI then runs each request in a thread, so that requests do not wait for each other.
    @app.post("/predict")
    def predict(request: Request) -> dict:
        return classify(request.text)[0]

    return app


if __name__ == "__main__":
    # Annotations of the route are looked up in this module: the class must be here, not in the function.
    uvicorn.run(plain_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
