"""Colours, type and spacing of the page. Fonts are the visitor's own: nothing is fetched from elsewhere."""

from __future__ import annotations

from typing import Any

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
