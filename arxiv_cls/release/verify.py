"""Scores a release again and compares its numbers with its records, and its card with them.

The results index of the card is compared number by number; the whole text where this version's template
wrote it, by rendering the card again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCard

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import load_scope
from arxiv_cls.record import manifest
from arxiv_cls.record.directory import ModelDirectory, check_directory, read_model_directory
from arxiv_cls.release import gate_checks
from arxiv_cls.release.card import eval_results, leaves, render_model_card, template_digest
from arxiv_cls.release.gate_checks import CheckResult, NumberCheck, compare_numbers, numbers
from arxiv_cls.release.hub import check_repo_id, connect, download_release, parse_version
from arxiv_cls.release.rescoring import (
    check_corpus,
    rebuild_corpus,
    score_difference,
    score_test_split,
    score_with_engines,
)
from arxiv_cls.scoring import multi_label
from arxiv_cls.scoring.evaluation import BOOTSTRAP_SEED, aligned, evaluation_of, measure_prediction_sets
from arxiv_cls.scoring.metrics import METRICS
from arxiv_cls.scoring.out_of_scope import measure_scope, outside_papers
from arxiv_cls.scoring.scored_papers import ScoredPapers, read_predictions

if TYPE_CHECKING:
    from arxiv_cls.corpus import Corpus

CITED_AS = re.compile(r"url +=[ ]\{https://huggingface\.co/([^/}]+/[^/}]+)(?:/tree/(v[^}]+))?\}")
MEASURED = (
    "papers", "metrics", "intervals", "calibration", "slices", "listed", "at_half", "labels_per_paper",
)  # fmt: skip
# A release holds the endpoint's files of its own version.
CHECKS = (
    *(gate_checks.LOCAL_CHECKS[name] for name in ("checksums", "weights", "data", "commit", "recipe")),
    partial(gate_checks.check_onnx, handler=False),
)
DEFAULT_TOLERANCE = 5e-4
DIFFERENCES_SHOWN = 10
EXCERPT = 60


def check_card(
    model: ModelDirectory, repo_id: str | None = None, version: str | None = None
) -> tuple[list[str], list[str]]:
    """What a card says otherwise than the records, a sentence each; and what was not checked.

    Without a `repo_id` the card is taken for one of the repository and version that it names itself, if any.

    Raises:
        UserError: when there is no card, or the records lack what it must show.
    """
    path = model.model_dir / manifest.CARD
    if not path.is_file():
        raise UserError(f"{model.model_dir} has no {manifest.CARD}", hint="`arxiv-cls card MODEL` writes it")
    text = path.read_text(encoding="utf-8")
    try:
        card = ModelCard(text)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        return [f"the front matter cannot be read: {' '.join(str(error).split())[:200]}"], []
    differences = _differences(_index(card.data.eval_results or []), _index(eval_results(model)))
    if f"<!-- Written by arxiv_cls (template {template_digest()})" not in card.text:
        left = "another version's template wrote it; its results index was compared"
        return differences, [f"the text of {manifest.CARD}: {left}"]
    if repo_id is None and (cited := CITED_AS.search(text)):
        # A local directory that was pushed holds the released card.
        repo_id, version = cited[1], cited[2]
    examples = (model.optional_json(manifest.EXAMPLES) or {}).get("examples", [])
    gate = (model.optional_json(manifest.GATE_RECORD) if version else None) or {"overridden": []}
    overrides = [
        str(CheckResult(entry["check"], False, entry["found"], entry["wanted"], entry["reason"]))
        for entry in gate["overridden"]
    ]
    again = render_model_card(model, repo_id=repo_id, version=version, overrides=overrides, examples=examples)
    return differences + _compare_cards(card, ModelCard(again)), []


def _index(results: list[EvalResult]) -> dict[str, Any]:
    """A results index by metric and field, and how many entries it has."""
    by_name = {str(result.metric_name): vars(result) for result in results}
    return dict(leaves({"entries": len(results)} | by_name, "model-index"))


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return [
        f"{path}: the card says {found.get(path)!r}, the records {wanted.get(path)!r}"
        for path in wanted | found
        if found.get(path) != wanted.get(path)
    ]


def _compare_cards(card: ModelCard, expected: ModelCard) -> list[str]:
    """The front matter by field, less its results index, and the text by line: the first differences."""
    metadata = []
    for each in (card, expected):
        fields = leaves(each.data.to_dict(), "metadata")
        metadata.append(
            {p: value for p, value in fields if not p.startswith("metadata.model-index[0].results")}
        )
    differences = _differences(*metadata)
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


@dataclass(frozen=True)
class VerifyReport:
    """What became of a verification.

    Attributes:
        target: what was verified.
        papers: how many were scored again.
        checks: every number of the evaluation, the prediction sets and the out-of-scope rule.
        passed: how many further checks passed: files, provenance, recorded predictions, engines.
        identity: what is not as the records say, a sentence each.
        card: what the card says otherwise than the records, a sentence each.
        not_checked: what could not be checked, or was not, a phrase each.
    """

    target: str
    papers: int
    checks: list[NumberCheck]
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
        metrics = {f"metrics.{name}" for name in (*METRICS, *multi_label.METRICS)}
        failed = [check for check in self.checks if not check.reproduced]
        rows = [
            [
                check.field.removeprefix("metrics."),
                f"{check.recorded:.6f}",
                "none" if check.rescored is None else f"{check.rescored:.6f}",
                "reproduces" if check.reproduced else "DIFFERS",
            ]
            for check in self.checks
            if check.field in metrics or not check.reproduced
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


def _compare_numbers(
    model: ModelDirectory, corpus: Corpus, scored: ScoredPapers, tolerance: float
) -> list[NumberCheck]:
    """The evaluation, the prediction sets and the out-of-scope rule, measured again on the test split."""
    evaluation, rule = model.require_evaluation(), load_scope(model.model_dir)
    again = evaluation_of(scored, evaluation.get("seed", BOOTSTRAP_SEED), evaluation["resamples"])
    recorded, measured = (
        numbers({part: each.get(part, {}) for part in MEASURED}) for each in (evaluation, again)
    )
    sets, scope = (
        model.optional_json(manifest.PREDICTION_SETS) or {"levels": {}},
        model.optional_json(manifest.SCOPE) or {},
    )
    fitted: dict[str, Any] = {
        f"prediction_sets.levels.{level}": measure_prediction_sets(scored, part["threshold"])
        for level, part in sets["levels"].items()
    }
    if rule is not None:
        test = list(corpus.splits["test"]["text"])
        fitted["scope"], _ = measure_scope(rule, test, outside_papers(corpus))
        # How many are scored is no property of the model.
        del fitted["scope"]["in_scope_papers"]
    measured |= (rules := numbers(fitted))
    # Thresholds come from other papers, and older records lack some figures.
    kept = numbers({"prediction_sets": sets, "scope": scope})
    recorded |= {path: value for path, value in kept.items() if path in rules}
    return compare_numbers(recorded, measured, tolerance)


def _check_predictions(model: ModelDirectory, scored: ScoredPapers) -> CheckResult:
    """The recorded scores of the test papers are those of the weights."""
    recorded = read_predictions(model.model_dir / manifest.PREDICTIONS)
    row_of = {name: row for row, name in enumerate(recorded.arxiv_ids)}
    columns = [recorded.label_names.index(label) for label in scored.label_names]
    before = recorded.probabilities[[row_of[name] for name in scored.arxiv_ids]][:, columns]
    found = score_difference(scored.probabilities, before) or "as recorded"
    return CheckResult("predictions", found == "as recorded", found, "the recorded scores", found)


def verify_release(
    target: str, *, csv: str | Path | None = None, tolerance: float = DEFAULT_TOLERANCE
) -> VerifyReport:
    """Downloads a release, rebuilds its test split from the data version it names, and scores it again.

    `target` is `user/name@v1.2.0` or a model directory, `csv` the data file where the recipe names another
    path, `tolerance` the largest absolute difference that counts as reproduced.

    Raises:
        UserError: release or data cannot be had, the data is another version, or the release could run code.
    """
    repo_id, version, folder = None, None, Path(target)
    if not folder.is_dir():
        repo_id, _, version = target.partition("@")
        check_repo_id(repo_id)
        if not version:
            hint = f"name one, {repo_id}@v0.1.0; `arxiv-cls releases {repo_id}`"
            raise UserError(f"{target} names no version", hint)
        parse_version(version)
        folder = download_release(connect(write=False), repo_id, version)
    check_directory(folder)
    model = read_model_directory(folder)
    model.require_evaluation()
    for path in (manifest.ONNX_PARITY, manifest.PREDICTION_SETS, manifest.SCOPE, manifest.TERMS):
        # A malformed record is reported before anything is scored.
        model.optional_json(path)
    card, card_not_checked = check_card(model, repo_id, version)
    corpus = rebuild_corpus(model, csv)
    scored = score_test_split(folder, corpus)
    results = [*(check(model) for check in CHECKS), check_corpus(model, corpus)]
    if results[-1].passed:
        results.append(_check_predictions(model, scored))
    answers = score_with_engines(model, corpus)
    # What a second scoring of the test split cannot tell.
    not_measured = ["how long the training took, its speed and its memory (run.json)"]
    if any((folder / path).is_file() for path in (manifest.PREDICTION_SETS, manifest.SCOPE)):
        left = "which thresholds the papers outside the test split gave; they were applied as recorded"
        not_measured.append(left)
    if model.exports:
        left = f"the agreement of the ONNX files on all the papers that {manifest.ONNX_PARITY} names"
        not_measured.append(left)
    results += [replace(answer, check=f"answers of {answer.check}") for answer in answers]
    return VerifyReport(
        target=target,
        papers=len(scored),
        checks=_compare_numbers(model, corpus, scored, tolerance),
        passed=sum(result.passed and result.checked for result in results),
        identity=[str(result) for result in results if result.checked and not result.passed],
        card=card,
        not_checked=[
            *(f"{result.check}: {result.reason}" for result in results if not result.checked),
            *not_measured,
            *card_not_checked,
        ],
    )
