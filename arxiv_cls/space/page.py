"""The page: its theme, its three tabs of Gradio components and what happens between them.

Fonts are the visitor's own: nothing is fetched from elsewhere.
"""

from __future__ import annotations

import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from arxiv_cls.errors import UserError
from arxiv_cls.space import content
from arxiv_cls.space.content import EXAMPLES, shades
from arxiv_cls.space.predictions import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_ROWS,
    SpaceModel,
    as_reply,
    compose_text,
    fetch_paper,
    load_space_model,
    score_file,
)

FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
TITLE = "Which arXiv category?"

# In the head of the document and not in `css`: Gradio puts a prefix before the rules of `css`, which then do
# not reach the frame around its components.
HEAD = f"<style>{(files(__package__) / 'page.css').read_text(encoding='utf-8')}</style>"


def theme() -> Any:
    """The theme: neutral greys, one dark red, system fonts."""
    accent = gr.themes.Color(
        c50="#fdf3f3", c100="#fbe5e5", c200="#f7cfcf", c300="#efabab", c400="#e27c7c", c500="#cf4f4f",
        c600="#b53434", c700="#972929", c800="#7d2626", c900="#692525", c950="#390f0f",
    )  # fmt: skip
    return gr.themes.Base(
        primary_hue=accent, neutral_hue="stone", radius_size="md", font=FONT, font_mono=MONO
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        block_title_text_weight="550",
    )


KEEP_FILES_SECONDS, SECONDS_BETWEEN_LOOKS = 3600, 300
# Predictions share one worker: the engine already uses every core. Files have a worker of their own, which
# lets the others in between two chunks.
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
FILES = {"concurrency_id": "files", "concurrency_limit": 1}
# As many as the label set `archive` has.
MOST_BARS = 8
NOT_IN_THE_API = {"api_visibility": "private"}


def build_page(space: SpaceModel) -> gr.Blocks:
    """The whole page around a model."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(SECONDS_BETWEEN_LOOKS, KEEP_FILES_SECONDS)
    ) as page:
        gr.HTML(content.heading(TITLE, space.facts), elem_id="heading")
        with gr.Tab("One paper"):
            _paper_tab(space)
        with gr.Tab("Many papers"):
            _batch_tab(space)
        with gr.Tab("The model"):
            engine, max_length = space.predictor.engine, space.predictor.max_length
            gr.HTML(content.about(space.facts, space.labels, engine, max_length), elem_classes="about")
        _add_api(space)
    page.queue(max_size=64)
    return page


def _paper_tab(space: SpaceModel) -> None:
    several = space.facts.multi_label
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
                **NOT_IN_THE_API,
            )
        with gr.Column(scale=5, min_width=280):
            boxes = gr.HTML(elem_id="verdict")
            label = gr.Label(
                label="Categories, each with the share from which it is named" if several else "Category",
                num_top_classes=MOST_BARS if several else 5,
                show_heading=not several,
                elem_id="label",
            )
            words = gr.HighlightedText(
                label=f"Words that spoke for {'the first' if several else 'it'} (red), against it (violet)",
                show_legend=False,
                elem_id="words",
            )
    said = gr.State()

    def answer(title: str, abstract: str) -> tuple[Any, ...]:
        try:
            text = compose_text(title, abstract)
            prediction = space.predict([text])[0]
        except UserError as error:
            return content.error_notice(error), None, None, None
        boxes = content.verdict(prediction, space.labels, space.predictor.max_length, "\n\n" in text, several)
        if prediction.no_known_words:
            return boxes, None, None, None
        names = {code: content.full_name(code) for code in space.labels}
        if several:
            thresholds = zip(space.labels, space.predictor.thresholds, strict=True)
            names = {code: f"{names[code]}, from {least:.0%}" for code, least in thresholds}
        scores = {names[code]: score for code, score in prediction.scores.items()}
        return boxes, scores, None, (text, prediction.label)

    def explain(said: tuple[str, str] | None) -> Any:
        try:
            return None if said is None else shades(space.explain(*said))
        except UserError as error:
            # The answer itself is on the page already.
            gr.Warning(_in_one_line(error))
            return None

    def fetch(arxiv_id: str) -> tuple[Any, ...]:
        try:
            paper = fetch_paper(arxiv_id)
        except UserError as error:
            return content.error_notice(error), gr.skip(), gr.skip()
        filed = f" arXiv files it under {content.full_name(paper.category)}." if paper.category else ""
        return content.notice("plain", f"{paper.arxiv_id}, from arXiv.{filed}"), paper.title, paper.abstract

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
            boxes = gr.HTML(content.notice("plain", "The new file will be here."), elem_id="batch-notice")
            result = gr.File(label="With categories", interactive=False, visible=False, elem_id="result")
    preview = gr.HTML(elem_id="preview", elem_classes="about")

    def score(path: str | None, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        nothing = gr.update(value=None, visible=False), ""
        if path is None:
            return content.notice("error", "There is no file yet.", "Choose a CSV first."), *nothing
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
            return content.error_notice(error), *nothing
        return (
            content.notice("plain", content.batch_sentence(scored.scored, scored.failed)),
            gr.update(value=kept, visible=True),
            content.table(space.preview_header, scored.preview),
        )

    run.click(score, upload, [boxes, result, preview], show_progress_on=boxes, **FILES, **NOT_IN_THE_API)


def _in_one_line(error: UserError) -> str:
    return f"{error.message} {error.hint or ''}".strip()


def _add_api(space: SpaceModel) -> None:
    def predict(title: str, abstract: str) -> dict[str, Any]:
        """Names the category of a paper: label, score, all scores, prediction set, whether it is in scope."""
        try:
            return as_reply(space, space.predict([compose_text(title, abstract)])[0])
        except UserError as error:
            raise gr.Error(_in_one_line(error), print_exception=False) from None

    gr.api(predict, api_name="predict", **MODEL)


def open_page(
    model: str, *, host: str | None = None, port: int | None = None, engine: str | None = None
) -> None:
    """Loads the model, see `load_space_model`, and serves the page until the process is ended.

    Host and port that are None are what Gradio's variables say, which the Hub sets.

    Raises:
        UserError: no such model, or the port is taken.
    """
    # Nothing of a visitor leaves this process.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = build_page(load_space_model(model, engine=engine))
    try:
        page.launch(
            server_name=host, server_port=port, max_file_size=MAX_BYTES, show_error=False, ssr_mode=False,
            theme=theme(), head=HEAD, footer_links=["api"],
        )  # fmt: skip
    except OSError as error:
        raise UserError(
            f"space: cannot listen on port {port}: {error}", hint="name another with --port"
        ) from None
