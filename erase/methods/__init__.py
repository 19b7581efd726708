"""One module per erasing method, found by its file name; each states ``FAMILIES`` and ``PAPER``."""
