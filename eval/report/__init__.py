"""Results -> HTML and Markdown."""
