"""Scores a release again and compares its numbers with its records, and its card with them.

The results index of the card is compared number by number; the whole text where this version's template
wrote it, by rendering the card again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard

from arxiv_cls.errors import UserError
from arxiv_cls.record.directory import ModelDirectory, check_directory, read_model_directory
from arxiv_cls.record.manifest import CARD, EXAMPLES, ONNX_PARITY, PREDICTION_SETS, PREDICTIONS, SCOPE, TERMS
from arxiv_cls.release.card import eval_results, leaves, render_model_card, template_digest
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

CITED_AS = re.compile(r"url +=[ ]\{https://huggingface\.co/([^/}]+/[^/}]+)(?:/tree/(v[^}]+))?\}")
MEASURED = ("papers", "metrics", "intervals", "calibration", "slices")
DEFAULT_TOLERANCE = 5e-4
DIFFERENCES_SHOWN = 10
EXCERPT = 60


def compare_index(found: list[EvalResult], expected: list[EvalResult]) -> list[str]:
    """What the results index of a card says otherwise than the records, a sentence each.

    Args:
        found: the entries of the card.
        expected: those that the records give.
    """
    on_card = {str(result.metric_name): vars(result) for result in found}
    recorded = {str(result.metric_name): vars(result) for result in expected}
    differences = []
    if len(found) != len(expected):
        differences.append(f"model-index: the card has {len(found)} entries, the records {len(expected)}")
    for name, entry in recorded.items():
        if name not in on_card:
            differences.append(f"model-index: the card has no {name}, the records {entry['metric_value']!r}")
            continue
        differences += [
            f"model-index, {name}, {key}: the card says {on_card[name][key]!r}, the records {value!r}"
            for key, value in entry.items()
            if on_card[name][key] != value
        ]
    return differences


def compare_cards(card: ModelCard, expected: ModelCard) -> list[str]:
    """The front matter of a card by field, and its text line by line: the first differences, a sentence each.

    Args:
        card: the released one.
        expected: the card rendered again. Its results index is left to `compare_index`.
    """
    found, wanted = (dict(leaves(each.data.to_dict(), "metadata")) for each in (card, expected))
    differences = [
        f"{path}: the card says {found.get(path)!r}, the records {wanted.get(path)!r}"
        for path in wanted | found
        if found.get(path) != wanted.get(path) and not path.startswith("metadata.model-index[0].results")
    ]
    lines, again = card.text.splitlines(), expected.text.splitlines()
    above = card.content.removesuffix(card.text).count("\n")
    matcher = SequenceMatcher(None, lines, again, autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        pairs = [] if kind == "equal" else zip_longest(lines[start:end], again[first:last], fillvalue="")
        for number, (line, other) in enumerate(pairs, above + start + 1):
            # Of a paragraph only the place that differs.
            differing = (i for i, pair in enumerate(zip(line, other, strict=False)) if pair[0] != pair[1])
            begin = max(0, next(differing, min(len(line), len(other))) - EXCERPT // 2)
            line, other = line[begin : begin + EXCERPT], other[begin : begin + EXCERPT]
            differences.append(f"line {number}: the card says {line!r}, the records {other!r}")
    more = len(differences) - DIFFERENCES_SHOWN
    return differences[:DIFFERENCES_SHOWN] + ([f"and {more} more"] if more > 0 else [])


def check_card(
    model: ModelDirectory, repo_id: str | None = None, version: str | None = None
) -> tuple[list[str], list[str]]:
    """Compares the card of a directory with its records.

    Args:
        model: the records.
        repo_id: the repository that the card was rendered for; None for the one that it names itself, if any.
        version: its release, likewise.

    Returns:
        What differs, a sentence each; and what was not checked.

    Raises:
        UserError: when there is no card, or the records lack what it must show.
    """
    path = model.model_dir / CARD
    if not path.is_file():
        raise UserError(f"{model.model_dir} has no {CARD}", hint="`arxiv-cls card MODEL` writes it")
    text = path.read_text(encoding="utf-8")
    expected = eval_results(model)
    try:
        card = ModelCard(text)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        return [f"the front matter cannot be read: {' '.join(str(error).split())[:200]}"], []
    differences = compare_index(card.data.eval_results or [], expected)
    if f"<!-- Written by arxiv_cls (template {template_digest()})" not in card.text:
        left = f"the text of {CARD}: another version's template wrote it; its results index was compared"
        return differences, [left]
    if repo_id is None and (cited := CITED_AS.search(text)):
        # A local directory that was pushed holds the released card.
        repo_id, version = cited[1], cited[2]
    examples = (model.optional_json(EXAMPLES) or {}).get("examples", [])
    overrides = recorded_overrides(model) if version else ()
    again = render_model_card(model, repo_id=repo_id, version=version, overrides=overrides, examples=examples)
    return differences + compare_cards(card, ModelCard(again)), []


@dataclass(frozen=True)
class FieldCheck:
    """One number of the records, and what scoring again gives; None where it gives none."""

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
        checks: every number of the evaluation, the prediction sets and the out-of-scope rule.
        passed: how many further checks passed: files, provenance, recorded predictions, engines.
        identity: what is not as the records say, a sentence each.
        card: what the card says otherwise than the records, a sentence each.
        not_checked: what could not be checked, or was not, a phrase each.
    """

    target: str
    papers: int
    checks: list[FieldCheck]
    passed: int
    identity: list[str]
    card: list[str]
    not_checked: list[str]

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
            lines.append("every number that was checked on the card is the recorded one")
        verdict = f"REPRODUCED ({len(self.checks) + self.passed} checks)"
        left = "".join(f"\n  - {phrase}" for phrase in self.not_checked)
        lines.append((verdict if self.reproduced else "NOT REPRODUCED") + (left and f", NOT CHECKED:{left}"))
        return "\n".join(lines)


def _numbers(record: Mapping[str, Any], name: str) -> dict[str, float]:
    return {
        path: float(value)
        for path, value in leaves(record, name)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def compare_numbers(
    recorded: Mapping[str, float], measured: Mapping[str, float], tolerance: float
) -> list[FieldCheck]:
    """Every recorded number and the one measured now; `tolerance` is the largest difference that passes."""
    return [
        FieldCheck(
            path, value, measured.get(path), path in measured and abs(measured[path] - value) <= tolerance
        )
        for path, value in recorded.items()
    ]


def compare_measurements(model: ModelDirectory, split: RescoredSplit, tolerance: float) -> list[FieldCheck]:
    """The evaluation, the prediction sets and the out-of-scope rule, measured again on a scored test split.

    Args:
        model: the records.
        split: the model's test split, scored again.
        tolerance: largest absolute difference that counts as reproduced.

    Raises:
        UserError: when the data cannot be read.
    """
    evaluation = model.require_evaluation()
    again = evaluation_of(split.scored, evaluation.get("seed", BOOTSTRAP_SEED), evaluation["resamples"])
    checks = []
    for part in MEASURED:
        recorded, now = _numbers(evaluation.get(part, {}), part), _numbers(again.get(part, {}), part)
        checks += compare_numbers(recorded, now, tolerance)
    measured: dict[str, float] = {}
    sets, scope = model.optional_json(PREDICTION_SETS) or {}, model.optional_json(SCOPE) or {}
    if sets:
        measured |= _numbers(remeasure_prediction_sets(sets, split.scored), "prediction_sets")
    if scope:
        measured |= _numbers(remeasure_scope(model.model_dir, split), "scope")
    recorded = _numbers(sets, "prediction_sets") | _numbers(scope, "scope")
    # Thresholds come from other papers, and older records lack some figures.
    recorded = {path: value for path, value in recorded.items() if path in measured}
    return checks + compare_numbers(recorded, measured, tolerance)


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
    model.require_evaluation()
    for path in (ONNX_PARITY, PREDICTION_SETS, SCOPE, TERMS):
        # A malformed record is reported before anything is scored.
        model.optional_json(path)
    card, card_not_checked = check_card(model, repo_id, version)
    data = rebuild_data(model, csv)
    split = score_test_split(folder, data=data, progress=True)
    results = check_identity(model, data, split)
    return VerifyReport(
        target=target,
        papers=len(split.scored),
        checks=compare_measurements(model, split, tolerance),
        passed=sum(result.passed and result.checked for result in results),
        identity=[str(result) for result in results if result.checked and not result.passed],
        card=card,
        not_checked=[
            *(f"{result.check}: {result.reason}" for result in results if not result.checked),
            *_not_measured(model),
            *card_not_checked,
        ],
    )
