"""The page itself: three tabs of Gradio components and what happens between them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

# Gradio reads it when it is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from arxiv_cls.errors import UserError
from arxiv_cls.serving.space import wording
from arxiv_cls.serving.space.answers import MAX_CHARACTERS, SpaceModel, as_reply, compose_text
from arxiv_cls.serving.space.arxiv_lookup import fetch_paper
from arxiv_cls.serving.space.batch import MAX_BYTES, MAX_ROWS, PREVIEW_HEADER, score_file
from arxiv_cls.serving.space.examples import EXAMPLES
from arxiv_cls.serving.space.style import HEAD, TITLE, theme
from arxiv_cls.serving.space.word_shades import shades

SHOWN_LABELS = 5
KEEP_FILES_SECONDS, SECONDS_BETWEEN_LOOKS = 3600, 300
QUEUE_SIZE = 64
# Predictions share one worker: the engine already uses every core. Files have a worker of their own, which
# lets the others in between two chunks.
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
FILES = {"concurrency_id": "files", "concurrency_limit": 1}
NOT_IN_THE_API = {"api_visibility": "private"}


def build_page(space: SpaceModel) -> gr.Blocks:
    """The whole page around a model; `launch_options` goes with it."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(SECONDS_BETWEEN_LOOKS, KEEP_FILES_SECONDS)
    ) as page:
        gr.HTML(wording.heading(TITLE, space.facts), elem_id="heading")
        with gr.Tabs():
            with gr.Tab("One paper", id="paper"):
                _paper_tab(space)
            with gr.Tab("Many papers", id="batch"):
                _batch_tab(space)
            with gr.Tab("The model", id="about"):
                about = wording.about(
                    space.facts, space.labels, space.predictor.engine, space.predictor.max_length
                )
                gr.HTML(about, elem_classes="about")
        _add_api(space)
    page.queue(max_size=QUEUE_SIZE)
    return page


def launch_options() -> dict[str, Any]:
    """What `launch` needs to look right and to keep to itself."""
    return {
        "theme": theme(),
        "head": HEAD,
        "footer_links": ["api"],
        "max_file_size": MAX_BYTES,
        "ssr_mode": False,
        "show_error": False,
    }


def _paper_tab(space: SpaceModel) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=280):
            title = gr.Textbox(label="Title", max_lines=3, max_length=MAX_CHARACTERS, elem_id="title")
            abstract = gr.Textbox(
                label="Abstract, or title and abstract in one",
                lines=9,
                max_lines=16,
                max_length=MAX_CHARACTERS,
                elem_id="abstract",
            )
            with gr.Row():
                clear = gr.Button("Clear", variant="secondary", min_width=80, scale=1)
                classify = gr.Button("Classify", variant="primary", min_width=160, scale=3)
            with gr.Accordion("Take a paper from arXiv", open=False), gr.Row(elem_id="lookup"):
                arxiv_id = gr.Textbox(
                    label="arXiv id or address",
                    placeholder="2301.00001",
                    max_length=200,
                    scale=3,
                    min_width=160,
                )
                look_up = gr.Button("Fetch", min_width=80, scale=1)
            examples = gr.Examples(
                [[title_, abstract_] for _, title_, abstract_ in EXAMPLES],
                inputs=[title, abstract],
                example_labels=[name for name, _, _ in EXAMPLES],
                label="Examples, written for this page",
                api_visibility="private",
            )
        with gr.Column(scale=5, min_width=280):
            boxes = gr.HTML(elem_id="verdict")
            label = gr.Label(label="Category", num_top_classes=SHOWN_LABELS, elem_id="label")
            words = gr.HighlightedText(
                label="Words that spoke for it (red), against it (violet)", show_legend=False, elem_id="words"
            )
    said = gr.State()

    def answer(title: str, abstract: str) -> tuple[Any, ...]:
        try:
            text = compose_text(title, abstract)
            prediction = space.predict([text])[0]
        except UserError as error:
            return wording.error_notice(error), None, None, None
        scores = {wording.full_name(code): score for code, score in prediction.scores.items()}
        boxes = wording.verdict(prediction, space.labels, space.predictor.max_length, whole="\n\n" in text)
        return boxes, scores, None, (text, prediction.label)

    def explain(said: tuple[str, str] | None) -> Any:
        try:
            return None if said is None else shades(space.explain(*said))
        except UserError as error:
            # The answer itself is on the page already.
            gr.Warning(f"{error.message} {error.hint or ''}".strip())
            return None

    def fetch(arxiv_id: str) -> tuple[Any, ...]:
        try:
            paper = fetch_paper(arxiv_id)
        except UserError as error:
            return wording.error_notice(error), gr.skip(), gr.skip()
        filed = f" arXiv files it under {wording.full_name(paper.category)}." if paper.category else ""
        return wording.notice("plain", f"{paper.arxiv_id}, from arXiv.{filed}"), paper.title, paper.abstract

    outputs = [boxes, label, words, said]
    answering = {"inputs": [title, abstract], "outputs": outputs, **MODEL, **NOT_IN_THE_API}
    explaining = {"inputs": said, "outputs": words, "show_progress": "minimal", **MODEL, **NOT_IN_THE_API}
    for trigger in (classify.click, title.submit, examples.load_input_event.then):
        trigger(answer, **answering).then(explain, **explaining)
    for trigger in (look_up.click, arxiv_id.submit):
        trigger(fetch, arxiv_id, [boxes, title, abstract], concurrency_limit=1, **NOT_IN_THE_API)
    clear.click(
        lambda: ("", "", "", "", None, None, None),
        outputs=[title, abstract, arxiv_id, *outputs],
        queue=False,
        **NOT_IN_THE_API,
    )


def _batch_tab(space: SpaceModel) -> None:
    gr.Markdown(
        "A CSV with the columns `title` and `summary` (or `abstract`), or one column `text`; an `id` is "
        f"kept. Up to {MAX_ROWS:,} rows and {MAX_BYTES // 2**20} MB. It comes back with one row per row, in "
        "the same order; files are deleted after an hour."
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            upload = gr.File(label="Your CSV", file_types=[".csv"], height=160, elem_id="upload")
            run = gr.Button("Classify all", variant="primary")
        with gr.Column(scale=1, min_width=280):
            boxes = gr.HTML(wording.notice("plain", "The new file will be here."), elem_id="batch-notice")
            result = gr.File(label="With categories", interactive=False, visible=False, elem_id="result")
    preview = gr.HTML(elem_id="preview", elem_classes="about")

    def score(path: str | None, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        nothing = gr.update(value=None, visible=False), ""
        if path is None:
            return wording.notice("error", "There is no file yet.", "Choose a CSV first."), *nothing
        try:
            with tempfile.TemporaryDirectory(prefix="arxiv_cls-") as folder:
                scored = score_file(
                    space,
                    Path(path),
                    Path(folder),
                    lambda done, rows: progress((done, rows), desc=f"Row {done:,} of {rows:,}"),
                )
                # Gradio deletes what lies in its own cache, and nothing else.
                kept = result.move_resource_to_block_cache(scored.path)
        except UserError as error:
            return wording.error_notice(error), *nothing
        return (
            wording.notice("plain", wording.batch_sentence(scored.scored, scored.failed)),
            gr.update(value=kept, visible=True),
            wording.table(PREVIEW_HEADER, scored.preview),
        )

    run.click(score, upload, [boxes, result, preview], show_progress_on=boxes, **FILES, **NOT_IN_THE_API)


def _add_api(space: SpaceModel) -> None:
    def predict(title: str, abstract: str) -> dict[str, Any]:
        """Names the category of a paper: label, score, all scores, the 90% set, whether it is in scope."""
        try:
            return as_reply(space, space.predict([compose_text(title, abstract)])[0])
        except UserError as error:
            told = f"{error.message} {error.hint or ''}".strip()
            raise gr.Error(told, print_exception=False) from None

    gr.api(predict, api_name="predict", **MODEL)
