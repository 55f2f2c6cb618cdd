"""The verdict of one check of the gate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from arxiv_cls.export.handler_file import HANDLER, REQUIREMENTS, REQUIREMENTS_TEXT, handler_source
from arxiv_cls.recipe import portable_path
from arxiv_cls.record.directory import is_pickle, unreadable
from arxiv_cls.record.files import COMMANDS, RECORD_OF, changed_files
from arxiv_cls.record.manifest import (
    CARD,
    CASCADE,
    MAP_RECORD,
    METRICS,
    ONNX_PARITY,
    PREDICTION_SETS,
    PREDICTIONS,
    RENDERED,
    RUN_RECORD,
    SCOPE,
    TERMS,
    files_in,
    foreign_files,
    missing_files,
    release_files,
)
from arxiv_cls.record.model_directory import ModelDirectory
from arxiv_cls.record.run_record import commit_exists, run_git
from arxiv_cls.release.check_result import CheckResult, listed
from arxiv_cls.release.comparison import EngineAnswers, RebuiltData, answers_of_engines
from arxiv_cls.release.secret_scan import scan_files
from arxiv_cls.scoring.metrics import SCALAR_METRICS, compute_metrics
from arxiv_cls.scoring.scored_papers import read_predictions

NO_EXPORT = "no export"


def check_onnx(evidence: ModelDirectory) -> CheckResult:
    """`check_exports`, and the handler beside an export is the one that `arxiv-cls export` writes now."""
    result = check_exports(evidence)
    if not result.passed or result.found == NO_EXPORT:
        return result
    return _stale_handler(evidence.model_dir) or result


def check_exports(evidence: ModelDirectory) -> CheckResult:
    """Every ONNX export was checked as it is, and agrees with the weights; nothing to check before one."""
    exports = [path for path in files_in(evidence.model_dir) if path.endswith(".onnx")]
    if not exports:
        return CheckResult("onnx", True, NO_EXPORT, "agreement of every export", "nothing exported")
    parity = evidence.optional_json(ONNX_PARITY) or {}
    records = evidence.exports
    for path in exports:
        if path in records and _excess(records[path]) == math.inf:
            reason = f"how far {path} lies from the weights was not measured: run `arxiv-cls export` again"
            found = str(records[path].get("max_difference"))
            return CheckResult("onnx", False, found, "a finite difference", reason, overridable=False)
    if parity.get("weights_sha256") != evidence.weights_sha256():
        found = str(parity.get("weights_sha256"))[:12]
        reason = "the export was not checked against these weights: run `arxiv-cls export` again"
        return CheckResult("onnx", False, found, evidence.weights_sha256()[:12], reason)
    for path in exports:
        checked, found = records.get(path, {}).get("sha256"), evidence.sha256(path)
        if checked != found:
            reason = f"{path} is not the file that was checked: run `arxiv-cls export` again"
            return CheckResult("onnx", False, found[:12], str(checked)[:12], reason)
        if kept := _labels_lost(records[path]):
            return CheckResult("onnx", False, kept[0], kept[1], f"{path} loses too much of the model")
    excess, path = max((_excess(records[path]), path) for path in exports)
    found, wanted = str(records[path].get("max_difference")), f"at most {records[path].get('tolerance')}"
    if excess > 0:
        return CheckResult("onnx", False, found, wanted, f"{path} differs from the weights")
    return CheckResult("onnx", True, found, wanted, f"{path} agrees")


def _stale_handler(model_dir: Path) -> CheckResult | None:
    """A refusal where what Inference Endpoints would run is not what `arxiv-cls export` writes now."""
    for name, content in ((HANDLER, handler_source()), (REQUIREMENTS, REQUIREMENTS_TEXT)):
        path = model_dir / name
        found = path.read_bytes() if path.is_file() else None
        if found == content.encode():
            continue
        shown = "no file" if found is None else hashlib.sha256(found).hexdigest()[:12]
        wanted = hashlib.sha256(content.encode()).hexdigest()[:12]
        reason = f"{name} is not the one that belongs to the export: run `arxiv-cls export` again"
        return CheckResult("onnx", False, shown, wanted, reason)
    return None


def _labels_lost(record: dict[str, Any]) -> tuple[str, str] | None:
    """What an export keeps and what it had to keep, where that is less; limits that it does not name hold."""
    equal, least = record.get("equal_labels"), record.get("least_equal_labels", 0.0)
    fall, largest = record.get("accuracy_fall"), record.get("largest_accuracy_fall", math.inf)
    if least > 0 and (equal is None or equal < least):
        return f"{equal} of the labels", f"at least {least}"
    if fall is not None and fall > largest:
        return f"{fall:.4f} of accuracy lost", f"at most {largest}"
    return None


def _excess(record: dict[str, Any]) -> float:
    difference, tolerance = record.get("max_difference"), record.get("tolerance")
    if difference is None or tolerance is None or not math.isfinite(difference):
        return math.inf
    return difference - tolerance


# What is measured or fitted for one set of weights: file, where it names them, what makes it anew.
MADE_FOR_WEIGHTS = (
    (PREDICTION_SETS, "weights_sha256", "evaluate"),
    (SCOPE, "weights_sha256", "evaluate"),
    (CASCADE, "transformer_sha256", "cascade"),
    (TERMS, "weights_sha256", "visualize"),
    (MAP_RECORD, "weights_sha256", "visualize"),
)


def check_files(evidence: ModelDirectory) -> CheckResult:
    """Only files of the manifest, and all that it requires."""
    foreign = foreign_files(evidence.model_dir, evidence.kind)
    # The card is rendered by the release itself.
    missing = [path for path in missing_files(evidence.model_dir, evidence.kind) if path != CARD]
    problems = [f"outside the manifest: {listed(foreign)}"] if foreign else []
    problems += [f"missing: {listed(missing)}"] if missing else []
    return CheckResult(
        "files",
        not problems,
        f"{len(foreign)} foreign and {len(missing)} missing",
        "0 and 0",
        "; ".join(problems) or "exactly the files of the manifest",
        overridable=METRICS not in missing,
    )


def check_checksums(evidence: ModelDirectory) -> CheckResult:
    """Every file is as the step recorded it that wrote it, or measured the model with it."""
    paths = [p for p in release_files(evidence.model_dir, evidence.kind) if p not in RENDERED]
    changed, unrecorded = changed_files(evidence.model_dir, paths, evidence.sha256)

    def told(paths: list[str]) -> str:
        commands = sorted({COMMANDS[RECORD_OF[path]] for path in paths})
        return f"{listed(paths)} (run {', '.join(f'`arxiv-cls {name}`' for name in commands)})"

    problems = [f"not as recorded: {told(changed)}, or restore the file"] if changed else []
    problems += [f"no checksum on record: {told(unrecorded)}"] if unrecorded else []
    return CheckResult(
        "checksums",
        not problems,
        f"{len(changed)} changed and {len(unrecorded)} not recorded of {len(paths)}",
        "0 and 0",
        "; ".join(problems) or "every file is as recorded",
        METRICS in paths,
        checked=bool(changed) or len(unrecorded) == 0,
    )


def check_pickles(evidence: ModelDirectory) -> CheckResult:
    """No Python pickle under any name: loading one runs its author's code. What cannot be read may be one."""
    paths = files_in(evidence.model_dir)
    damaged = [
        f"{path} ({why})" for path in paths if (why := unreadable(evidence.model_dir / path)) is not None
    ]
    found = [path for path in paths if is_pickle(evidence.model_dir / path)]
    problems = [f"a pickle runs code when it is loaded: {listed(found)}"] if found else []
    problems += [f"cannot be read, so it could be one: {listed(damaged)}"] if damaged else []
    shown = f"{len(found)} and {len(damaged)} unreadable" if damaged else str(len(found))
    return CheckResult("pickles", not problems, shown, "0", "; ".join(problems) or "no pickles")


def check_secrets(evidence: ModelDirectory) -> CheckResult:
    """No token, key or password in any text file that would be pushed."""
    found = scan_files(evidence.model_dir, release_files(evidence.model_dir, evidence.kind))
    reason = f"looks like a secret: {listed(found)}" if found else "no secrets"
    return CheckResult("secrets", not found, str(len(found)), "0", reason)


def check_weights_evaluated(evidence: ModelDirectory) -> CheckResult:
    """Run record, evaluation and the rules stored with it all belong to the weights on disk."""
    on_disk = evidence.weights_sha256()
    trained = evidence.run.get("weights_sha256")
    if trained != on_disk:
        reason = f"{RUN_RECORD} describes the training of other weights: train again, or restore the file"
        return CheckResult("weights", False, str(trained)[:12], on_disk[:12], reason)
    for path, key, verb in MADE_FOR_WEIGHTS:
        record = evidence.optional_json(path)
        if record is not None and record.get(key) != on_disk:
            reason = f"{path} was made with other weights: run `arxiv-cls {verb}` again"
            return CheckResult("weights", False, str(record.get(key))[:12], on_disk[:12], reason)
    evaluated = (evidence.evaluation or {}).get("weights_sha256")
    reason = (
        "evaluated with these weights"
        if evaluated == on_disk
        else f"{METRICS} was measured with other weights"
        if evaluated
        else f"not evaluated: no weights_sha256 in {METRICS}"
    )
    found = str(evaluated)[:12]
    return CheckResult(
        "weights", evaluated == on_disk, found, on_disk[:12], reason, evidence.evaluation is not None
    )


def check_data_evaluated(evidence: ModelDirectory) -> CheckResult:
    """The evaluation is of the test split of the data that the model was trained on."""
    evaluation, data = evidence.evaluation or {}, evidence.run.get("data", {})
    found = (evaluation.get("data_sha256"), evaluation.get("split"))
    wanted = (data.get("sha256"), "test")
    passed = found == wanted and wanted[0] is not None
    reason = "evaluated on the test split of its own data"
    if not passed:
        reason = (
            f"{METRICS} belongs to another split or other data" if evidence.evaluation else "not evaluated"
        )
    return CheckResult(
        "data",
        passed,
        f"{str(found[0])[:12]} {found[1]}",
        f"{str(wanted[0])[:12]} {wanted[1]}",
        reason,
        evidence.evaluation is not None,
    )


def check_predictions(evidence: ModelDirectory) -> CheckResult:
    """The recorded metrics are those of the recorded predictions: each of them, and the number of papers."""
    path, evaluation = evidence.model_dir / PREDICTIONS, evidence.evaluation
    if evaluation is None or not path.is_file():
        reason = f"{METRICS} or {PREDICTIONS} is missing"
        return CheckResult("predictions", False, "nothing", "both files", reason, evaluation is not None)
    predictions = read_predictions(path)
    metrics = compute_metrics(predictions.labels, predictions.probabilities, predictions.label_names)
    measured = dict(_figures(metrics, len(predictions.labels)))
    recorded = dict(_figures(evaluation.get("metrics") or {}, evaluation.get("papers")))
    wrong = [name for name in measured | recorded if not _same(recorded.get(name), measured.get(name))]
    name = wrong[0] if wrong else "macro_f1"
    found, wanted = _shown(recorded.get(name)), _shown(measured.get(name))
    reason = f"all {len(measured)} figures of {METRICS} are those of {PREDICTIONS}"
    if wrong:
        reason = f"not the figures of {PREDICTIONS} in {METRICS}: {listed(wrong)}"
    # A card with a hole in it is not written.
    complete = all(_is_number(recorded.get(name)) for name in measured)
    return CheckResult("predictions", not wrong, f"{name} {found}", wanted, reason, complete)


def _figures(metrics: Mapping[str, Any], papers: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each figure that follows from the predictions alone."""
    yield from ((name, metrics.get(name)) for name in SCALAR_METRICS)
    yield "papers", papers
    for label, scores in (metrics.get("per_class") or {}).items():
        yield from ((f"{name} of {label}", value) for name, value in scores.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _same(recorded: Any, measured: Any) -> bool:
    numbers = _is_number(recorded) and _is_number(measured)
    return numbers and math.isclose(recorded, measured, abs_tol=1e-9)


def _shown(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def check_commit(evidence: ModelDirectory) -> CheckResult:
    """The code that trained it is a commit."""
    commit = evidence.run.get("git", {}).get("commit")
    if not commit:
        reason = "trained outside a git repository, or before its first commit"
        return CheckResult("commit", False, str(commit), "a commit", reason)
    exists = commit_exists(str(commit))
    reason = "trained from a commit of this repository"
    if exists is None:
        reason = "its history is not here to look the commit up in: run from a full clone of the project"
    elif not exists:
        reason = "no such commit in this repository: `git fetch`, or train again if the record was changed"
    return CheckResult("commit", bool(exists), str(commit), "a commit", reason, checked=exists is not None)


def check_clean_tree(evidence: ModelDirectory) -> CheckResult:
    """The code that trained it is that commit, unchanged."""
    dirty = evidence.run.get("git", {}).get("dirty")
    reason = "tracked files as committed" if dirty is False else "tracked files had uncommitted changes"
    return CheckResult("clean-tree", dirty is False, f"dirty={dirty}", "dirty=False", reason)


def check_recipe(evidence: ModelDirectory) -> CheckResult:
    """The recorded recipe is the file of its name in that commit, but for the keys that were overridden."""
    commit, name = evidence.run.get("git", {}).get("commit"), str(evidence.run.get("recipe"))
    overridden = evidence.run.get("overrides")
    listing = (
        run_git("ls-tree", "-r", "--name-only", "--full-tree", str(commit), "recipes/") if commit else None
    )
    paths = [p for p in (listing or "").splitlines() if PurePosixPath(p).name == f"{name}.yaml"]
    if overridden is None or len(paths) != 1:
        reason = f"whether the recipe follows from {name}.yaml of its commit: "
        reason += "its overrides are not on record" if paths else "there is no such file"
        return CheckResult("recipe", True, name, "a recipe of the commit", reason, checked=False)
    original = yaml.safe_load(run_git("show", f"{commit}:{paths[0]}") or "") or {}
    wrong = [
        f"{group}.{key}"
        for group, section in original.items()
        # The release group may be set anew after the training.
        if group != "release"
        for key, value in (section or {}).items()
        if not {key, f"{group}.{key}"} & set(overridden)
        and not _same_value((evidence.recipe.get(group) or {}).get(key), value)
    ]
    reason = f"the recipe is {paths[0]} of its commit with the overrides on record"
    if wrong:
        reason = f"other values than in {paths[0]} of its commit, and not overridden: {listed(wrong)}"
    return CheckResult("recipe", not wrong, f"{len(wrong)} other values", "0", reason)


def _same_value(recorded: Any, original: Any) -> bool:
    if recorded == original or portable_path(str(original)) == str(recorded):
        return True
    try:
        return float(recorded) == float(original)
    except (TypeError, ValueError):
        return False


def check_corpus(evidence: ModelDirectory, data: RebuiltData | None, problem: str = "") -> CheckResult:
    """What `run.json` and the predictions say of the data is what its CSV file gives.

    Args:
        evidence: the records.
        data: the corpus, rebuilt.
        problem: why it could not be.
    """
    if data is None:
        return CheckResult("corpus", False, "no data", "the data of its recipe", problem, checked=False)
    record, corpus = evidence.run.get("data", {}), data.corpus
    wanted = {
        "sha256": corpus.data.sha256,
        "md5": corpus.data.md5,
        "bytes": corpus.data.bytes,
        "rows": corpus.data.rows,
        "config": data.options["config"],
        "split": data.options.get("split", "paper"),
        "seed": data.options.get("seed", 42),
        "max_samples": data.options.get("max_samples"),
        "time_boundaries": data.options.get("time_boundaries"),
        "labels": list(corpus.labels),
        "splits": {name: len(papers) for name, papers in corpus.splits.items()},
    }
    wrong = {
        f"data.{key}": (record.get(key), value) for key, value in wanted.items() if record.get(key) != value
    }
    if set(evidence.labels) != set(corpus.labels):
        wrong["id2label of config.json"] = (listed(evidence.labels), listed(corpus.labels))
    path, test = evidence.model_dir / PREDICTIONS, corpus.splits["test"]
    if path.is_file() and not wrong:
        predictions = read_predictions(path)
        names = np.asarray(predictions.label_names, dtype=object)[predictions.labels]
        found = dict(zip(predictions.arxiv_ids, names, strict=True))
        true = dict(zip(test["arxiv_id"], (corpus.labels[label] for label in test["label"]), strict=True))
        if found != true or len(found) != len(names):
            same = len(found.items() & true.items())
            wrong[f"papers and categories of {PREDICTIONS}"] = (f"{same} of {len(true)}", len(true))
    reason = f"data, splits and labels on record follow from {portable_path(data.options['csv'])}"
    if not wrong:
        return CheckResult("corpus", True, f"{len(test)} test papers", f"{len(test)}", reason)
    found, expected = next(iter(wrong.values()))
    reason = f"not what {portable_path(data.options['csv'])} gives: {listed(list(wrong))}"
    return CheckResult("corpus", False, str(found)[:80], str(expected)[:80], reason)


def engine_answers(evidence: ModelDirectory, data: RebuiltData) -> list[EngineAnswers]:
    """`answers_of_engines` of a model whose recorded predictions are of this corpus."""
    predictions = read_predictions(evidence.model_dir / PREDICTIONS)
    return answers_of_engines(evidence, predictions, data.corpus.splits["test"])


def check_answers(evidence: ModelDirectory, data: RebuiltData | None, problem: str = "") -> CheckResult:
    """Every engine of the release gives the recorded predictions, on a sample of the test papers."""
    if data is None:
        return CheckResult("answers", False, "not scored", "the recorded scores", problem, checked=False)
    answers = engine_answers(evidence, data)
    wrong = [f"{answer.engine} {answer.problem}" for answer in answers if answer.problem]
    names = ", ".join(answer.engine for answer in answers)
    reason = "; ".join(wrong) or f"{names} give the recorded scores"
    right = len(answers) - len(wrong)
    return CheckResult("answers", not wrong, f"{right} of {len(answers)} engines", f"{len(answers)}", reason)


LOCAL_CHECKS: tuple[Callable[[ModelDirectory], CheckResult], ...] = (
    check_files,
    check_checksums,
    check_pickles,
    check_secrets,
    check_weights_evaluated,
    check_data_evaluated,
    check_predictions,
    check_commit,
    check_clean_tree,
    check_recipe,
    check_onnx,
)
