"""What the routes share: one model, how it is chosen and loaded, its queue, its counters and logs."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import CascadePredictor, fitted_engine, load_cascade
from arxiv_cls.models.prediction import Predictor
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.serving import schemas
from arxiv_cls.serving.batching import Batcher, Job
from arxiv_cls.serving.http_requests import Refused, ending, too_many_texts
from arxiv_cls.serving.monitoring import Monitoring
from arxiv_cls.serving.observability import Metrics
from arxiv_cls.serving.request_log import RequestLog, ScoredText
from arxiv_cls.serving.schemas import ServedModel
from arxiv_cls.serving.service import Service, in_thread
from arxiv_cls.serving.settings import HUB_ID, ServingSettings

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{7,40}")
NAME = re.compile(r"[\w][\w.-]{0,127}")
RELEASE_TAG = re.compile(r"v?\d+(\.\d+)+\S*")
# The first computation of an engine allocates its memory. Of some texts a tokenizer leaves next to nothing.
WARM_UP_TEXTS = ("Warm-up of the engine.", ".", "\u0301")


def allowed_model(name: str, models_dir: Path | None, allow_hub: Collection[str]) -> str:
    """The directory or Hub id to load for a name that `POST /load` was given.

    A folder's name in `models_dir`, or a Hub id; one that is allowed without a revision allows its branches
    and tags.

    Raises:
        Refused: 403 for anything outside, 404 for a name that is not there.
    """
    repository, _, revision = name.partition("@")
    if "/" in name and HUB_ID.fullmatch(name) and {name, repository} & set(allow_hub):
        if name not in allow_hub and (revision.startswith("refs/") or COMMIT.fullmatch(revision)):
            # Anyone on the Hub can open a pull request, whose commits are found under the repository's name.
            raise Refused(403, f"{name}: only a branch or a tag; another revision has to be allowed by name")
        if Path(name).expanduser().is_dir():
            raise Refused(
                403, f"{name}: a local folder has the name of this Hub id; start the server elsewhere"
            )
        return name
    if not NAME.fullmatch(name):
        raise Refused(403, "only a name in the models directory or an allowed Hub id can be loaded")
    if models_dir is None:
        raise Refused(403, "this server has no models directory: it was started without --models-dir")
    root = models_dir.resolve()
    directory = root / name
    if directory.resolve().parent != root:
        raise Refused(403, f"{name} leads out of the models directory")
    if directory.is_file():
        raise Refused(403, f"{name} is a file: a model is a directory")
    if not directory.is_dir():
        raise Refused(404, f"{name}: no such model in the models directory")
    return str(directory.resolve())


def load_model(model: str, settings: ServingSettings) -> ServedModel:
    """Loads a model (a directory or a Hub id) as the settings say, and lets it answer a few texts.

    Raises:
        UserError: no such model, or its files are not those of a model that can answer.
    """
    before = time.monotonic()
    try:
        served = _load(model, settings)
        # What requests do, so that a model which cannot is refused here and not by each of them.
        schemas.describe(served, settings)
        texts = [*WARM_UP_TEXTS, "a " * max(1, settings.max_characters // 2)]
        for prediction in served.predictor.predict(texts):
            # JSON has no NaN, which damaged weights give.
            reply = json.dumps(schemas.paper_reply(prediction, served, top_k=None), allow_nan=False)
            schemas.Paper.model_validate_json(reply, strict=True)
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # A panic in the tokenizers' Rust is no `Exception`.
        logger.warning("a model cannot be loaded", exc_info=error)
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{model}: its files are not those of a model that works: {type(error).__name__}: {reason}",
            hint="Download or export the model again.",
        ) from error
    return replace(served, loaded_in=time.monotonic() - before)


def _load(model: str, settings: ServingSettings) -> ServedModel:
    predictor: Predictor
    if settings.cascade:
        engine = settings.engine or fitted_engine(model)
        predictor = load_cascade(model, settings.cascade, engine=engine, threads=settings.threads)
    else:
        predictor = load_predictor(model, engine=settings.engine, default="onnx", threads=settings.threads)
    name, version, sha256 = _identity(model, predictor)
    cascade = None
    if isinstance(predictor, CascadePredictor):
        baseline, baseline_version, baseline_sha = _identity(str(settings.cascade), predictor.baseline)
        cascade = schemas.CascadeInfo(
            baseline=baseline,
            baseline_version=baseline_version,
            baseline_sha=baseline_sha,
            threshold=predictor.rule.threshold,
            max_tokens=predictor.rule.max_tokens,
        )
        # An answer depends on both, whichever gave it.
        version = f"{version}+{baseline_version}"
    run = read_model_file(predictor.directory, "run.json") or {}
    return ServedModel(predictor, name, version, sha256, run, loaded_in=0.0, cascade=cascade)


def _identity(model: str, predictor: Predictor) -> tuple[str, str, str]:
    """Name, version and sha256 of the weights."""
    sha256 = file_sha256(predictor.weights_path)
    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory.resolve().name, sha256[:12], sha256
    name, _, revision = model.partition("@")
    if not RELEASE_TAG.fullmatch(revision):
        # A branch moves on: the Hub's cache keeps a snapshot in a folder named after its commit.
        snapshot = predictor.directory
        revision = snapshot.name[:12] if snapshot.parent.name == "snapshots" else ""
    return name, revision or sha256[:12], sha256


class Endpoint(Service):
    """The state of the endpoint: `failure` is why the first model could not be loaded.

    Attributes:
        model: what answers; None until the first one is loaded.
    """

    settings: ServingSettings
    metrics: Metrics

    def __init__(
        self, settings: ServingSettings, load: Callable[[str, ServingSettings], ServedModel] = load_model
    ) -> None:
        super().__init__(settings, Metrics(queue_depth=lambda: self.batcher.depth))
        self.batcher = Batcher(settings, self.metrics.note_batch)
        self.request_log = RequestLog(settings, self.metrics.log_records) if settings.request_log else None
        self.monitoring = Monitoring(settings)
        self.model: ServedModel | None = None
        self._load = load
        self._first_load: asyncio.Task[None] | None = None
        self._switch: asyncio.Task[ServedModel] | None = None
        self._loader: Thread | None = None

    def start(self) -> None:
        """Starts the threads, and the loading of the first model in the background."""
        self.batcher.start()
        if self.request_log:
            self.request_log.start()
        self._first_load = asyncio.create_task(self._load_first())

    async def _load_first(self) -> None:
        try:
            await self.switch(self.settings.model)
        except Exception as error:
            logger.error("the model cannot be loaded", extra={"reason": str(error)})
            self.failure = error

    @property
    def waiting(self) -> int:  # type: ignore[override]
        """Texts that wait or are computed."""
        return self.batcher.depth

    @property
    def busy(self) -> bool:  # type: ignore[override]
        """Whether a thread still loads a model."""
        return self._loader is not None and self._loader.is_alive()

    def refuse_accepted(self) -> None:
        """Answers 503 to what waits."""
        self.batcher.refuse_accepted()

    async def switch(self, model: str) -> ServedModel | None:
        """Loads a model in the place of the old one, which stays when that fails; None during another switch.

        A request takes `self.model` once and keeps it to its end, so a switch needs no lock.

        Raises:
            UserError: the model cannot be loaded.
        """
        if self._switch is not None and not self._switch.done():
            return None
        self._switch = asyncio.create_task(self._replace_model(model))
        # The client may hang up; the switch goes on.
        return await asyncio.shield(self._switch)

    async def _replace_model(self, model: str) -> ServedModel:
        self._loader, loading = in_thread(lambda: self._load(model, self.settings), "load")
        try:
            loaded = await loading
        except Exception:
            self.metrics.model_loads.labels("failed").inc()
            raise
        self.model = loaded
        self.metrics.note_model(loaded)
        shown = {"model": loaded.name, "version": loaded.version, "engine": loaded.predictor.engine}
        logger.info("model loaded", extra=shown | {"seconds": round(loaded.loaded_in, 3)})
        return loaded

    async def stop(self) -> None:
        """Answers what was accepted and closes the request log."""
        self.ending, end = True, time.monotonic() + self.seconds_to_stop
        if not await self.batcher.close(self.seconds_to_stop / 2):
            logger.warning("accepted requests were not answered within the shutdown timeout")
        if self._first_load:
            self._first_load.cancel()
        if self.request_log:
            await in_thread(partial(self.request_log.close, end - time.monotonic()), "request-log-end")[1]

    def ready_model(self) -> ServedModel:
        """The model that answers.

        Raises:
            Refused: 503 while there is none, or while the server ends.
        """
        if self.ending:
            raise ending()
        if self.failure is not None and self.model is None:
            raise Refused(503, "the model could not be loaded; the server's log says why")
        if self.model is None:
            raise Refused(503, "the model is not loaded yet", {"Retry-After": "1"}, reason="not_loaded")
        return self.model

    async def answer(self, request: Request, body: schemas.AnyRequest) -> JSONResponse:
        """Scores the texts of a request, which is watched for a client that disconnects, and makes its reply.

        Raises:
            Refused: a limit, a full queue, no model, or a model that gives no numbers.
            UserError: a text that the model refuses.
        """
        model, texts, settings = self.ready_model(), schemas.texts_of(body), self.settings
        if len(texts) > settings.texts_per_request:
            raise too_many_texts(len(texts), settings.texts_per_request)
        longest, allowed = max(map(len, texts)), settings.max_characters
        if longest > allowed:
            raise Refused(422, f"a text has {longest} characters; at most {allowed} are allowed")
        if schemas.asks_for_other_scores(body, model.predictor):
            raise Refused(422, "parameters.function_to_apply: not the one that gives this model's scores")
        line = request.scope["state"]["log"]
        line |= {"schema": body.log_name, "texts": len(texts)}
        if settings.log_texts:
            line["content"] = texts
        accepted = time.monotonic()
        answer = await _unless_gone(request, self.batcher.answer(texts, model.predictor))
        seconds, now = time.monotonic() - accepted, datetime.now(UTC)
        self.metrics.wait_seconds.observe(answer.waited)
        line["tokens"] = sum(encoded.tokens for encoded in answer.encoded)
        line |= {"waited_milliseconds": round(answer.waited * 1000, 1), "model_version": model.version}
        strict = schemas.refuses_truncation(body)
        for number, prediction in enumerate(answer.predictions, start=1):
            if strict and prediction.truncated:
                message = f"text {number} is longer than the model reads, and truncation was refused"
                raise Refused(422, message)
            if not all(map(math.isfinite, prediction.scores.values())):
                message = f"text {number}: the model gives no number for it, its weights are damaged"
                raise Refused(500, message, reason="no_number")
        request_id = request.scope["state"]["request_id"]
        pairs = zip(answer.encoded, answer.predictions, strict=True)
        for index, (encoded, prediction) in enumerate(pairs):
            self.metrics.note_prediction(prediction)
            if self.request_log:
                self.request_log.add(
                    ScoredText(
                        now, request_id, index, body.log_name, model, encoded, prediction, answer, seconds
                    )
                )
        return JSONResponse(schemas.reply_to(body, answer.predictions, model))


async def _unless_gone(request: Request, answering: Any) -> Job:
    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue

    answer, gone = asyncio.ensure_future(answering), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            # Nobody reads this; the log and the metrics see nginx's status for a client that hung up.
            raise Refused(499, "the client hung up", reason="disconnected")
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()
