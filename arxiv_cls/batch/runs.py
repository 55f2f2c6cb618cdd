"""A run over all shards: the manifest that fixes them, what is missing, a pool of workers, the summary.

The manifest is written once, before the first shard. A later run of the same command does what has no file
yet, on either runner; a run with other inputs, model or settings is refused by name.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from arxiv_cls.batch.inputs import Shard, check_input, checksum_of, list_files, pieces, rows_per_shard
from arxiv_cls.batch.shards import (
    Settings,
    footer_of,
    model_files,
    prepare_worker,
    schema_of,
    score_shard,
    write_output,
)
from arxiv_cls.errors import OUT_OF_MEMORY, UNREACHABLE, UserError
from arxiv_cls.models.prediction import ONNX_FILES, Predictor, load_label_thresholds
from arxiv_cls.models.predictor import load_predictor, locate_model
from arxiv_cls.record.manifest import TFIDF, model_kind, model_labels
from arxiv_cls.record.run_record import available_cores
from arxiv_cls.record.storage import file_system, storage_errors

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
Runner = Literal["local", "ray"]
_FOOTERS_AT_A_TIME = 16


@dataclass
class Summary:
    """What the files of a run hold, and how fast this run was."""

    rows: int = 0
    errors: int = 0
    out_of_scope: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    done_before: int = 0  # rows that earlier runs wrote
    seconds: float = 0.0  # of scoring in this run
    start_seconds: float = 0.0  # until the pool took work

    def add(self, counts: dict[str, Any]) -> None:
        """Counts a file in."""
        self.rows += counts["rows"]
        self.errors += counts["errors"]
        self.out_of_scope += counts["out_of_scope"]
        self.labels.update(counts["labels"])

    def lines(self, output: str) -> list[str]:
        """For a person."""
        new = self.rows - self.done_before
        shares = (
            f"  {label:<16} {count:>12,}  {count / max(1, self.rows):6.1%}"
            for label, count in self.labels.most_common()
        )
        speed = (
            f"{new:,} rows in {self.seconds:,.1f} s, {new / self.seconds:,.1f} papers/s"
            if new
            else "nothing was missing"
        )
        return [
            f"{output}: {self.rows:,} rows, {self.errors:,} with an error, "
            f"{self.out_of_scope:,} out of scope",
            *shares,
            f"{speed}; {self.done_before:,} rows from earlier runs; start {self.start_seconds:.1f} s",
        ]


def predict_files(
    model: str,
    paths: Sequence[str],
    output: str,
    *,
    engine: str | None = None,
    workers: int | None = None,
    runner: Runner = "local",
    address: str | None = None,
    shard_rows: int = 5000,
    embeddings: bool = False,
    progress: bool = False,
    load: Callable[..., Predictor] = load_predictor,
) -> Summary:
    """Scores files of any size into Parquet files of one row per record.

    Args:
        model: directory or Hub id; on a cluster, one that every host reaches.
        paths: files, folders, globs, also gs://, s3://, hf://.
        output: folder, or address in a bucket.
        engine: of a transformer; None for torch.
        workers: processes that score at a time, each with its share of this machine's cores; None for one per
            four cores (of a baseline, one per core), on a cluster for as many as it has cores.
        runner: "local" for processes, "ray" for tasks.
        address: of a Ray cluster; None for `RAY_ADDRESS` or, without it, one that is started here.
        shard_rows: rows of an output file, at most; a small input gets smaller ones.
        embeddings: the model's features in place of labels and scores.
        progress: show a bar.
        load: gets model, engine and threads.

    Raises:
        UserError: an input, the model or the output is not as it must be, or not as in the manifest; or a
            worker was killed.
    """
    if "://" not in output:
        output = str(Path(output).resolve())
    if embeddings and engine in ONNX_FILES:
        raise UserError(f"--embeddings: the engine {engine} gives none", "leave out --engine")
    manifest = _planned(model, paths, output, engine, shard_rows, embeddings)
    text = json.dumps(manifest, indent=1).encode()
    baseline = "model.skops" in manifest["model"]
    cores = available_cores()
    processes = workers or (cores if baseline else max(1, cores // 4))
    settings = Settings(
        model=model if "/" in model and not Path(model).is_dir() else str(Path(model).resolve()),
        engine=engine, model_files=manifest["model"], output=output, plan=hashlib.sha256(text).hexdigest(),
        labels=tuple(manifest["labels"]), threads=max(1, cores // processes), embeddings=embeddings,
        multi_label="labels" in manifest["columns"], load=load,
    )  # fmt: skip
    summary = Summary()
    done = _done(output, settings.plan)
    for footer in done.values():
        summary.add(footer)
    summary.done_before = summary.rows
    sizes = {source: one["bytes"] for source, one in manifest["inputs"].items()}
    missing = _missing(sizes, manifest["shard_rows"], done)
    first = next(missing, None)
    if first is not None:
        began = time.perf_counter()
        if runner == "ray":
            pool: _LocalPool | _RayPool = _RayPool(settings, workers, processes, address)
        else:
            pool = _LocalPool(settings, processes)
        with pool:
            summary.start_seconds = time.perf_counter() - began
            try:
                _score(pool, first, missing, summary, sum(sizes.values()), done, progress)
            except pool.killed:
                raise UserError(
                    "a worker was killed, as the kernel does for want of memory",
                    "fewer --workers need less; run the same command again: it does what is missing",
                    OUT_OF_MEMORY,
                ) from None
    _remove_leftovers(output)
    return summary


def _planned(
    model: str, paths: Sequence[str], output: str, engine: str | None, shard_rows: int, embeddings: bool
) -> dict[str, Any]:
    """The manifest of a run, written when the folder has none yet; another one there is refused."""
    found = list_files(paths, output)
    directory = locate_model(model, engine=engine)
    labels = model_labels(directory)
    columns = schema_of(labels, embeddings, load_label_thresholds(directory) is not None)
    wanted: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": model_files(model, engine),
        "engine": TFIDF if model_kind(directory) == TFIDF else engine or "torch",
        "labels": labels,
        "columns": {one.name: str(one.type) for one in columns},
        "most_shard_rows": shard_rows,
        "shard_rows": rows_per_shard(found, shard_rows),
        "inputs": {
            source: {"bytes": info["size"], "checksum": checksum_of(source, info)}
            for source, info in found.items()
        },
    }
    before = _read_manifest(output)
    if before is None:
        for source in found:
            check_input(source)
        write_output(output, MANIFEST, json.dumps(wanted, indent=1).encode())
        return wanted
    given, recorded = wanted["inputs"], dict(before["inputs"])
    other = [
        f"{source}: another input, or changed" for source in given if given[source] != recorded.get(source)
    ]
    other += [f"{source}: an input no more" for source in recorded if source not in given]
    names = {
        "model": "another model", "engine": "engine", "labels": "labels", "columns": "columns (--embeddings)",
        "most_shard_rows": "--shard-rows", "schema_version": "version of this program",
    }  # fmt: skip
    for key, name in names.items():
        if before.get(key) != wanted[key]:
            other.append(f"{name}: {_changed(before.get(key), wanted[key])}")
    if not other and list(given) != list(recorded):
        other.append("the inputs are in another order")
    if other:
        raise UserError(
            f"{output}: holds a run with other inputs or settings\n  " + "\n  ".join(other[:20]),
            "name another --output, or the inputs and settings that it began with",
        )
    return wanted


def _changed(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        return ", ".join(sorted(key for key in {*before, *now} if before.get(key) != now.get(key)))
    return f"{before} there, {now} now"


def _read_manifest(output: str) -> dict[str, Any] | None:
    fs, path = file_system(output)
    with storage_errors(f"{output}/{MANIFEST}"):
        try:
            content = fs.cat_file(f"{path.rstrip('/')}/{MANIFEST}")
        except FileNotFoundError:
            content = None
    if content is None:
        if _parts(output):
            raise UserError(f"{output}: holds part-*.parquet without the {MANIFEST}", "name another --output")
        return None
    try:
        return json.loads(content)
    except ValueError:
        raise UserError(f"{output}/{MANIFEST}: is damaged", "name another --output") from None


def _parts(output: str) -> list[str]:
    fs, path = file_system(output)
    with storage_errors(output):
        fs.invalidate_cache()
        return sorted(name.rsplit("/", 1)[-1] for name in fs.glob(f"{path.rstrip('/')}/part-*.parquet"))


def _done(output: str, plan: str) -> dict[str, dict[str, Any]]:
    """Footer of each whole file that is there, by its name; a damaged one is as good as missing."""
    names = _parts(output)
    with ThreadPoolExecutor(_FOOTERS_AT_A_TIME) as pool:
        read = zip(names, pool.map(lambda name: footer_of(output, name), names), strict=True)
        footers = {name: footer for name, footer in read if footer is not None}
    for name, footer in footers.items():
        if footer["plan"] != plan:
            raise UserError(
                f"{output}/{name}: is of another run than the {MANIFEST}", "name another --output"
            )
    return footers


def _missing(sizes: dict[str, int], rows: int, done: dict[str, dict[str, Any]]) -> Iterator[Shard]:
    """The shards without a file, in order; an input is read only where one of its shards is missing."""
    for number, (source, size) in enumerate(sizes.items()):
        stem = f"part-{number:05d}"
        have = [f"{stem}-{at:05d}.parquet" for at in range(sum(name.startswith(f"{stem}-") for name in done))]
        if not (have and all(name in done for name in have) and done[have[-1]]["last"]):
            yield from (shard for shard in _shards(source, size, rows, stem) if shard.name not in done)


def _shards(source: str, size: int, rows: int, stem: str) -> Iterator[Shard]:
    """The shards of an input; one is held back, since the last one says that it is."""
    held, read = None, 0.0
    for at, (position, header, data, share) in enumerate(pieces(source, rows)):
        if held is not None:
            yield held
        weight, read = size * (share - read), share
        held = Shard(f"{stem}-{at:05d}.parquet", source, position, data, weight, header)
    if held is not None:
        yield replace(held, last=True)


def _score(
    pool: _LocalPool | _RayPool,
    first: Shard,
    missing: Iterator[Shard],
    summary: Summary,
    size: int,
    done: dict[str, dict[str, Any]],
    progress: bool,
) -> None:
    """Keeps the pool busy with the missing shards, of which only those in work are held."""
    waiting: set[Future[dict[str, Any]]] = set()
    weight = sum(footer["weight"] for footer in done.values())
    began = time.perf_counter()
    shard: Shard | None = first
    bar = tqdm(
        initial=summary.rows, total=None, desc="predict", unit="paper", disable=not progress, file=sys.stderr,
        smoothing=0,
    )  # fmt: skip
    with bar:
        while shard is not None or waiting:
            while shard is not None and len(waiting) < pool.limit:
                waiting.add(pool.submit(shard))
                shard = next(missing, None)
            finished, waiting = concurrent.futures.wait(
                waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in finished:
                counts = pool.result(future)
                summary.add(counts)
                weight += counts["weight"]
                # How many records there are is known at the end: until then, as many as the bytes let expect.
                bar.total = max(summary.rows, round(summary.rows * size / weight)) if weight else None
                bar.update(counts["rows"])
        bar.total = summary.rows
    summary.seconds = time.perf_counter() - began


def _remove_leftovers(output: str) -> None:
    """Half-written files of workers that were killed; with all files there, nothing is written any more."""
    fs, path = file_system(output)
    if "file" in fs.protocol:
        for leftover in Path(path).glob(".part-*.partial"):
            leftover.unlink(missing_ok=True)


class _LocalPool:
    """Processes of this machine; `limit` shards are in work or wait."""

    killed: tuple[type[Exception], ...] = (BrokenProcessPool,)

    def __init__(self, settings: Settings, processes: int) -> None:
        self.limit, self._settings = processes + 1, settings
        others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, context, _begin_worker, (settings,))
        # All processes start now, so that their start is no part of the first shard.
        concurrent.futures.wait([self._pool.submit(time.sleep, 0.01) for _ in range(processes)])
        self._children = set(multiprocessing.active_children()) - others

    def __enter__(self) -> _LocalPool:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        """Ends the processes, also those that are at work when something failed."""
        self._pool.shutdown(wait=error is None, cancel_futures=True)
        for child in self._children:
            child.kill()
            child.join()

    def submit(self, shard: Shard) -> Future[dict[str, Any]]:
        """Queues a shard."""
        return self._pool.submit(score_shard, shard, self._settings)

    def result(self, future: Future[dict[str, Any]]) -> dict[str, Any]:
        """What `score_shard` returned or raised."""
        return future.result()


class _RayPool:
    """Tasks of a Ray cluster, or of one that is started here, on loopback only and without usage reports."""

    def __init__(self, settings: Settings, workers: int | None, processes: int, address: str | None) -> None:
        address = address or os.environ.get("RAY_ADDRESS")
        # Read when ray is imported.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address is None:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        import ray

        self._ray = ray
        self.killed = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        threads = settings.threads if address is None else 1
        self._settings = replace(settings, threads=threads)
        if address is None:
            cores = available_cores()
            options |= {"num_cpus": cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(address=address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"ray: no cluster at {address or 'this machine'}: {reason}", exit_code=UNREACHABLE
            ) from None
        self._workers = workers or (processes if address is None else None)
        # A worker that is lost costs its shard another try.
        self._task = ray.remote(num_cpus=threads, max_retries=3)(score_shard)
        if address is None:
            prepare = ray.remote(num_cpus=threads)(prepare_worker)
            ray.get([prepare.remote(self._settings) for _ in range(processes)])

    @property
    def limit(self) -> int:
        """Shards in work; unless told, more than the cluster has cores for, so that it may grow."""
        return self._workers or 2 * max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def submit(self, shard: Shard) -> Future[dict[str, Any]]:
        """Queues a shard."""
        return self._task.remote(shard, self._settings).future()

    def result(self, future: Future[dict[str, Any]]) -> dict[str, Any]:
        """What `score_shard` returned or raised."""
        try:
            return future.result()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError | ImportError) else error from None

    def __enter__(self) -> _RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the cluster; one that was started here ends."""
        self._ray.shutdown()


def _begin_worker(settings: Settings) -> None:
    """Loads the model; ends with its parent, however that ended. Ctrl-C is the parent's to answer."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    prepare_worker(settings)
