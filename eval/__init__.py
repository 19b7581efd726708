"""Generate images from a model, score them, and report what is erased, what is hurt and what it cost."""
