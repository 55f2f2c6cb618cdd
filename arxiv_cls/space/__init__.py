"""The web demo (Gradio): what `arxiv-cls space` opens and what `spaces_app/` shows on the Hub."""
