"""Encodes waiting requests, several in one call: of a cascade's baseline the call costs more than a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from arxiv_cls.serving.queue_jobs import Job

# Texts that are encoded in one call: enough to fill a batch behind a baseline that answers most of them, few
# enough that their encoding delays no answer by more than some hundredths of a second.
ENCODED_TOGETHER = 64


def encoded_together(first: Job, waiting: Iterable[Job]) -> list[Job]:
    """The jobs to encode now: the one whose turn it is, and those right behind it for the same predictor.

    Args:
        first: not yet encoded.
        waiting: all jobs in the order of their coming, `first` among them.
    """
    jobs, texts = [first], len(first.texts)
    for job in waiting:
        if job.predictor is not first.predictor or texts >= ENCODED_TOGETHER:
            break
        if job is not first and not job.cancelled and job.encoding is None:
            jobs.append(job)
            texts += len(job.texts)
    return jobs


def encode_jobs(jobs: list[Job], fail: Callable[[Job, Exception], None]) -> None:
    """Encodes jobs in one call of their predictor, and lets each check its own texts.

    Args:
        jobs: at least one, of one predictor.
        fail: is told of a job whose texts the predictor or its own check refuses; the others are not touched.
    """
    texts = [text for job in jobs for text in job.texts]
    before = time.monotonic()
    try:
        encoded = jobs[0].predictor.encode(texts)
    except Exception as error:
        if len(jobs) == 1:
            fail(jobs[0], error)
            return
        # One request must not spoil those that happened to wait beside it.
        for job in jobs:
            encode_jobs([job], fail)
        return
    took = (time.monotonic() - before) / max(1, len(texts))
    start = 0
    for job in jobs:
        job.encoded, job.encoding = encoded[start : start + len(job.texts)], took
        start += len(job.texts)
        try:
            if job.check:
                job.check(job.encoded)
        except Exception as error:
            fail(job, error)
