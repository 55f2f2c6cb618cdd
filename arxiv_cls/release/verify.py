"""Holds a released card against the records released with it, and names each field that differs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arxiv_cls.errors import UserError
from arxiv_cls.record.directory import check_directory
from arxiv_cls.record.manifest import CARD, EXAMPLES, ONNX_PARITY, PREDICTION_SETS, PREDICTIONS, SCOPE
from arxiv_cls.record.model_directory import ModelDirectory, read_model_directory
from arxiv_cls.release.card import (
    FIELD_END,
    FIELD_NAMED,
    FIELD_START,
    ModelCard,
    build_model_card,
    layout_of,
    render,
)
from arxiv_cls.release.gate import recorded_overrides
from arxiv_cls.release.gate_checks import (
    CheckResult,
    check_checksums,
    check_commit,
    check_data_evaluated,
    check_exports,
    check_recipe,
    check_weights_evaluated,
)
from arxiv_cls.release.hub import check_repo_id, connect, download_release, parse_version
from arxiv_cls.release.rescoring import (
    SCORE_TOLERANCE,
    RebuiltData,
    RescoredSplit,
    check_corpus,
    rebuild_data,
    remeasure_prediction_sets,
    remeasure_scope,
    score_test_split,
    score_with_engines,
)
from arxiv_cls.scoring.evaluation import BOOTSTRAP_SEED, evaluation_of
from arxiv_cls.scoring.metrics import SCALAR_METRICS
from arxiv_cls.scoring.report import aligned
from arxiv_cls.scoring.scored_papers import read_predictions

FIELD = re.compile(f"{FIELD_START}(.*?){FIELD_NAMED}(.*?){FIELD_END}", re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class CardDifference:
    """A field of a card that is not what the records say.

    Attributes:
        field: its name, such as `metrics.macro_f1` or `metadata: model-index[0]...value`.
        on_card: what the card says; empty where the line is gone.
        recorded: what the records say.
    """

    field: str
    on_card: str
    recorded: str

    def __str__(self) -> str:
        return f"{self.field}: the card says {self.on_card!r}, the record {self.recorded!r}"


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flatten(inner, f"{path}[{index}]")
    else:
        yield path, value


def _named_metrics(metadata: Any) -> Any:
    """The metadata with each indexed metric under its name, so that a difference can be read.

    A hand may have given the index any shape: what is not as the Hub has it stays as it is, and differs.
    """
    for model in _dicts(metadata, "model-index"):
        for result in _dicts(model, "results"):
            if entries := _dicts(result, "metrics"):
                result["metrics"] = {str(entry.get("name", entry.get("type"))): entry for entry in entries}
    return metadata


def _dicts(parent: Any, key: str) -> list[dict[str, Any]]:
    """The dictionaries in a list below a key; empty where there is anything else."""
    value = parent.get(key) if isinstance(parent, dict) else None
    items = value if isinstance(value, list) else []
    return items if all(isinstance(item, dict) for item in items) else []


def _compare_metadata(actual: str, expected: str) -> list[CardDifference]:
    try:
        found = dict(_flatten(_named_metrics(yaml.safe_load(actual))))
    except yaml.YAMLError as error:
        return [CardDifference("metadata", str(error).splitlines()[0], "valid YAML")]
    wanted = dict(_flatten(_named_metrics(yaml.safe_load(expected))))
    return [
        CardDifference(f"metadata: {path}", str(found.get(path, "")), str(wanted.get(path, "")))
        for path in wanted | found
        if found.get(path) != wanted.get(path)
    ]


def _compare_line(number: int, actual: str, marked: str) -> list[CardDifference]:
    """Differences of one line, by field where the text around the fields is as it was."""
    names = [match[1] for match in FIELD.finditer(marked)]
    values = [match[2] for match in FIELD.finditer(marked)]
    around = [re.escape(part) for part in re.split(FIELD, marked)[::3]]
    match = re.fullmatch("(.*?)".join(around), actual)
    if match is None or not names:
        expected = FIELD.sub(r"\2", marked)
        return [CardDifference(f"line {number}", actual, expected)]
    return [
        CardDifference(name, found, wanted)
        for name, found, wanted in zip(names, match.groups(), values, strict=True)
        if found != wanted
    ]


def compare_card(text: str, card: ModelCard) -> list[CardDifference]:
    """Every difference between a card's text and what the records make of it, in the card's own layout.

    Args:
        text: the released `README.md`.
        card: filled from the released records.

    Raises:
        UserError: when the card's layout is of a later version of the project.
    """
    marked = render(card, layout=layout_of(text), mark=True)
    expected = FIELD.sub(r"\2", marked)
    found, wanted = FRONT_MATTER.match(text), FRONT_MATTER.match(expected)
    assert wanted is not None
    if found is None:
        return [CardDifference("metadata", "", "front matter between two lines of ---")]
    differences = _compare_metadata(found[1], wanted[1])
    actual_lines = text[found.end() :].splitlines()
    marked_lines = marked[FRONT_MATTER.match(marked).end() :].splitlines()  # type: ignore[union-attr]
    plain_lines = [FIELD.sub(r"\2", line) for line in marked_lines]
    first = text[: found.end()].count("\n") + 1
    matcher = difflib.SequenceMatcher(None, plain_lines, actual_lines, autojunk=False)
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            continue
        for offset in range(max(i2 - i1, j2 - j1)):
            line = actual_lines[j1 + offset] if j1 + offset < j2 else ""
            if i1 + offset < i2:
                differences += _compare_line(first + j1 + offset, line, marked_lines[i1 + offset])
            else:
                differences.append(CardDifference(f"line {first + j1 + offset}", line, ""))
    return differences


RELEASED_AS = re.compile(r"url +=[ ]\{https://huggingface\.co/([^/}]+/[^/}]+)/tree/(v[^}]+)\}")
OVERRIDE_LINE = re.compile(r"^> - (.+)$", re.MULTILINE)
MEASURED = ("papers", "metrics", "intervals", "calibration", "slices")
DEFAULT_TOLERANCE = 5e-4


@dataclass(frozen=True)
class FieldCheck:
    """One number of `eval/metrics.json`, and what scoring again gives; None where it gives none."""

    field: str
    recorded: float
    rescored: float | None
    reproduced: bool


@dataclass(frozen=True)
class VerifyReport:
    """What became of a verification.

    Attributes:
        target: what was verified.
        papers: how many papers were scored again.
        checks: every number of the evaluation.
        passed: how many further checks passed: files, provenance, recorded predictions, engines.
        identity: what is not as the records say, a sentence each.
        card: numbers and lines of the card that are not what the records say.
        not_checked: what could not be checked, or was not, a phrase each.
    """

    target: str
    papers: int
    checks: list[FieldCheck]
    passed: int
    identity: list[str]
    card: list[CardDifference]
    not_checked: list[str] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        """Whether everything that was checked is as released."""
        return not self.identity and not self.card and all(check.reproduced for check in self.checks)

    def summary(self) -> str:
        """For the terminal: the metrics, then everything that does not reproduce, by field."""
        by_field = {check.field: check for check in self.checks}
        shown = [by_field[f"metrics.{name}"] for name in SCALAR_METRICS if f"metrics.{name}" in by_field]
        failed = [check for check in self.checks if not check.reproduced]
        rows = [
            [
                check.field.removeprefix("metrics."),
                f"{check.recorded:.6f}",
                "none" if check.rescored is None else f"{check.rescored:.6f}",
                "reproduces" if check.reproduced else "DIFFERS",
            ]
            for check in [*shown, *(check for check in failed if check not in shown)]
        ]
        good = len(self.checks) - len(failed)
        lines = [
            f"{self.target}: {self.papers:,} papers scored again",
            aligned(rows, ["metric", "recorded", "now", ""]),
            f"{good} of {len(self.checks)} recorded numbers reproduce, intervals and slices among them",
            *(f"differs: {problem}" for problem in self.identity),
            *(f"differs: card, {difference}" for difference in self.card),
        ]
        if not self.card:
            lines.append("every number on the card is the recorded one")
        count = len(self.checks) + self.passed
        verdict = f"REPRODUCED ({count} checks)" if self.reproduced else "NOT REPRODUCED"
        left = "".join(f"\n  - {phrase}" for phrase in self.not_checked)
        lines.append(verdict + (f", NOT CHECKED:{left}" if left else ""))
        return "\n".join(lines)


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _numbers(inner, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def compare_evaluations(
    recorded: Mapping[str, Any], rescored: Mapping[str, Any], tolerance: float
) -> list[FieldCheck]:
    """Every recorded number against the one measured now.

    Args:
        recorded: `eval/metrics.json` of the release.
        rescored: what `evaluation_of` gives now.
        tolerance: largest absolute difference that counts as reproduced.
    """
    return [
        check
        for part in MEASURED
        for check in _compare(recorded.get(part), rescored.get(part), part, tolerance)
    ]


def _compare(recorded: Any, rescored: Any, name: str, tolerance: float) -> list[FieldCheck]:
    now = dict(_numbers(rescored, name))
    return [
        FieldCheck(path, value, now.get(path), path in now and abs(now[path] - value) <= tolerance)
        for path, value in _numbers(recorded, name)
    ]


def _pick(record: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that was measured again."""
    return {
        key: _pick(record[key], value) if isinstance(value, Mapping) else record[key]
        for key, value in like.items()
        if key in record
    }


def check_rules(model: ModelDirectory, split: RescoredSplit, tolerance: float) -> list[FieldCheck]:
    """The prediction sets and the out-of-scope rule stored with a model, applied again.

    Args:
        model: the records.
        split: the model's test split, scored again.
        tolerance: largest absolute difference that counts as reproduced.

    Raises:
        UserError: when the data cannot be read.
    """
    checks = []
    sets, scope = model.optional_json(PREDICTION_SETS), model.optional_json(SCOPE)
    if sets is not None:
        now = remeasure_prediction_sets(sets, split.scored)
        checks += _compare(_pick(sets, now), now, "prediction_sets", tolerance)
    if scope is not None:
        now = remeasure_scope(model.model_dir, split)
        checks += _compare(_pick(scope, now), now, "scope", tolerance)
    return checks


def check_identity(model: ModelDirectory, data: RebuiltData, split: RescoredSplit) -> list[CheckResult]:
    """Files, provenance, recorded predictions and the answers of every engine.

    Args:
        model: the records of the release.
        data: the corpus, rebuilt.
        split: the test split, scored again.
    """
    results = [check(model) for check in (check_checksums, check_weights_evaluated, check_data_evaluated)]
    results += [check_exports(model), check_commit(model), check_recipe(model)]
    corpus = check_corpus(model, data)
    results += [corpus, _check_recorded_predictions(model, split)] if corpus.passed else [corpus]
    for answer in score_with_engines(model, data):
        found = answer.problem or "as recorded"
        passed, name = not answer.problem, f"answers of {answer.engine}"
        results.append(CheckResult(name, passed, found, "the recorded scores", found, checked=answer.checked))
    return results


def _check_recorded_predictions(model: ModelDirectory, split: RescoredSplit) -> CheckResult:
    recorded, scored = read_predictions(model.model_dir / PREDICTIONS), split.scored
    row_of = {name: row for row, name in enumerate(recorded.arxiv_ids)}
    columns = [recorded.label_names.index(label) for label in scored.label_names]
    before = recorded.probabilities[[row_of[name] for name in scored.arxiv_ids]][:, columns]
    difference = float(np.abs(before - scored.probabilities).max())
    passed, wanted = difference <= SCORE_TOLERANCE, f"at most {SCORE_TOLERANCE:g}"
    reason = f"the scores of {PREDICTIONS} are those of the weights"
    if not passed:
        reason = f"the scores of {PREDICTIONS} are not those of the weights"
    return CheckResult("predictions", passed, f"{difference:.2g}", wanted, reason)


def _not_measured(model: ModelDirectory) -> list[str]:
    """What a second scoring of the test split cannot tell."""
    phrases = ["how long the training took, its speed and its memory (run.json)"]
    if (model.model_dir / PREDICTION_SETS).is_file() or (model.model_dir / SCOPE).is_file():
        phrases.append(
            "which thresholds the papers outside the test split gave; they were applied as recorded"
        )
    if (model.model_dir / ONNX_PARITY).is_file():
        phrases.append(f"the agreement of the ONNX files on all the papers that {ONNX_PARITY} names")
    return phrases


def check_card(model: ModelDirectory, repo_id: str | None, version: str | None) -> list[CardDifference]:
    """The card of a directory against its records.

    Args:
        model: the records.
        repo_id: the repository that the card was rendered for; None for the one that it names itself, if any.
        version: its release, likewise.

    Raises:
        UserError: when there is no card, or the records lack what it must show.
    """
    path = model.model_dir / CARD
    if not path.is_file():
        raise UserError(f"{model.model_dir} has no {CARD}", hint="`arxiv-cls card MODEL` writes it")
    text = path.read_text(encoding="utf-8")
    if repo_id is None and (released := RELEASED_AS.search(text)):
        # A local directory that was pushed holds the released card.
        repo_id, version = released[1], released[2]
    examples = (model.optional_json(EXAMPLES) or {}).get("examples", [])
    # Cards of the first layout came without a record of the overrides.
    overrides: Sequence[str] = OVERRIDE_LINE.findall(text)
    if layout_of(text) > 1:
        overrides = recorded_overrides(model) if version else ()
    card = build_model_card(model, examples, repo_id=repo_id, version=version, overrides=overrides)
    return compare_card(text, card)


def verify_release(
    target: str, *, csv: str | Path | None = None, tolerance: float = DEFAULT_TOLERANCE
) -> VerifyReport:
    """Downloads a release, rebuilds its test split from the data version it names, and scores it again.

    Args:
        target: `user/name@v1.2.0`, or a model directory.
        csv: the data file; None for the path that the recipe names.
        tolerance: largest absolute difference that counts as reproduced.

    Raises:
        UserError: when release or data cannot be had, the data is another version, or the release
            could run code.
    """
    repo_id, version = None, None
    if Path(target).is_dir():
        folder = Path(target)
    else:
        repo_id, _, version = target.partition("@")
        check_repo_id(repo_id)
        if not version:
            raise UserError(
                f"{target} names no version",
                hint=f"name one, {repo_id}@v0.1.0; `arxiv-cls releases {repo_id}`",
            )
        parse_version(version)
        folder = download_release(connect(write=False), repo_id, version)
    check_directory(folder)
    model = read_model_directory(folder)
    recorded = model.require_evaluation()
    card = check_card(model, repo_id, version)
    data = rebuild_data(model, csv)
    split = score_test_split(folder, data=data, progress=True)
    rescored = evaluation_of(split.scored, recorded.get("seed", BOOTSTRAP_SEED), recorded["resamples"])
    results = check_identity(model, data, split)
    return VerifyReport(
        target=target,
        papers=len(split.scored),
        checks=compare_evaluations(recorded, rescored, tolerance) + check_rules(model, split, tolerance),
        passed=sum(result.passed and result.checked for result in results),
        identity=[str(result) for result in results if result.checked and not result.passed],
        card=card,
        not_checked=[f"{result.check}: {result.reason}" for result in results if not result.checked]
        + _not_measured(model),
    )
