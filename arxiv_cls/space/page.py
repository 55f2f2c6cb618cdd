"""The page: its theme, its three tabs of Gradio components and what happens between them.

Fonts are the visitor's own: nothing is fetched from elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from arxiv_cls.errors import UserError
from arxiv_cls.space import content
from arxiv_cls.space.arxiv_lookup import fetch_paper
from arxiv_cls.space.content import EXAMPLES, shades
from arxiv_cls.space.predictions import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_ROWS,
    PREVIEW_HEADER,
    SpaceModel,
    as_reply,
    compose_text,
    load_space_model,
    score_file,
)

FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
TITLE = "Which arXiv category?"

# In the head of the document and not in `css`: Gradio puts a prefix before the rules of `css`, which then do
# not reach the frame around its components.
HEAD = """<style>
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#heading h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -0.01em; margin: 0.4rem 0 0.1rem; }
#heading p { color: var(--body-text-color-subdued); margin: 0.1rem 0; }
#heading a { color: var(--link-text-color); text-decoration: underline; }
.notice { border-left: 3px solid var(--color-accent); border-radius: 4px; padding: 0.55rem 0.8rem;
  margin: 0 0 0.4rem; background: var(--background-fill-secondary); color: var(--body-text-color);
  overflow-wrap: anywhere; }
.notice p { margin: 0.1rem 0; font-size: 0.95rem; line-height: 1.45; }
.notice.warning { border-left-color: #d97706; background: color-mix(in srgb, #d97706 12%, transparent); }
.notice.error { border-left-color: #dc2626; background: color-mix(in srgb, #dc2626 12%, transparent); }
#verdict .html-container, #batch-notice .html-container { padding: 0; }
#verdict:not(:has(.notice)) { display: none; }
#label h2 { font-size: 1.35rem; font-weight: 600; line-height: 1.3; padding: 1.6rem 0.2rem 0.6rem; }
#label .label { font-family: var(--font); font-variant-numeric: tabular-nums; }
#words .textfield { display: block; line-height: 1.75; word-break: break-word; }
#words .token-container, #words .token { display: inline; margin: 0; padding: 0; white-space: normal;
  word-spacing: -0.25em; }
#words .text { padding: 0; white-space: pre-wrap; word-spacing: normal; }
#words .token.highlighted { padding: 0.12em 0.05em; border-radius: 3px; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
#batch-notice .pending { visibility: hidden; }
#batch-notice .progress-text { display: none; }
#preview .html-container { padding: 0; }
#preview :is(td:first-child, td:last-child) { overflow-wrap: anywhere; }
.about { overflow-x: auto !important; line-height: 1.5; }
.about h3 { font-size: 1.05rem; font-weight: 600; margin: 1.1rem 0 0.3rem; }
.about .prose ul { padding-left: 1.3rem; margin: 0.2rem 0; }
.about .prose li { list-style: disc; margin: 0.15rem 0; }
.about a { color: var(--link-text-color); text-decoration: underline; }
.about .prose table { border: 0 !important; border-collapse: collapse; margin: 0.4rem 0 0.8rem; }
.about .prose table :is(tr, th, td) { text-align: left; padding: 0.25rem 1.4rem 0.25rem 0;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important;
  font-variant-numeric: tabular-nums; }
.about th { font-weight: 600; color: var(--body-text-color-subdued); }
#lookup { align-items: end; }
footer .divider { display: none; }
@media (max-width: 640px) {
  .gradio-container .main.app { padding: 0.75rem; }
  .gradio-container .tab-container button { padding: 0.5rem 0.7rem; }
}
</style>"""


def theme() -> Any:
    """The theme: neutral greys, one dark red, system fonts."""
    import gradio as gr

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


# Gradio reads it when it is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

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
        gr.HTML(content.heading(TITLE, space.facts), elem_id="heading")
        with gr.Tabs():
            with gr.Tab("One paper", id="paper"):
                _paper_tab(space)
            with gr.Tab("Many papers", id="batch"):
                _batch_tab(space)
            with gr.Tab("The model", id="about"):
                about = content.about(
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
            return content.error_notice(error), None, None, None
        scores = {content.full_name(code): score for code, score in prediction.scores.items()}
        boxes = content.verdict(prediction, space.labels, space.predictor.max_length, whole="\n\n" in text)
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
            content.table(PREVIEW_HEADER, scored.preview),
        )

    run.click(score, upload, [boxes, result, preview], show_progress_on=boxes, **FILES, **NOT_IN_THE_API)


def _add_api(space: SpaceModel) -> None:
    def predict(title: str, abstract: str) -> dict[str, Any]:
        """Names the category of a paper: label, score, all scores, the 90% set, whether it is in scope."""
        try:
            return as_reply(space, space.predict([compose_text(title, abstract)])[0])
        except UserError as error:
            message = f"{error.message} {error.hint or ''}".strip()
            raise gr.Error(message, print_exception=False) from None

    gr.api(predict, api_name="predict", **MODEL)


def open_page(
    model: str, *, host: str | None = None, port: int | None = None, engine: str | None = None
) -> None:
    """Loads the model and serves the page until the process is ended.

    Args:
        model: directory or Hub id, also `user/name@v0.1.0`.
        host: address to listen on; None for what GRADIO_SERVER_NAME says (the Hub sets it).
        port: port to listen on; None for what GRADIO_SERVER_PORT says.
        engine: of a transformer; None for the best that is there.

    Raises:
        UserError: Gradio is not installed, no such model, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the web demo needs Gradio", hint="make setup EXTRAS=space, or pip install gradio")
    if port is not None and not 0 < port <= 65535:
        raise UserError(f"space: --port {port} is not between 1 and 65535")
    # Nothing of a visitor leaves this process; Gradio reads this when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    space = load_space_model(model, engine=engine)

    page = build_page(space)
    try:
        page.launch(server_name=host, server_port=port, **launch_options())
    except OSError as error:
        raise UserError(
            f"space: cannot listen on port {port}: {error}", hint="name another with --port"
        ) from None
