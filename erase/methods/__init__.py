"""One module per erasing method, found by its file name; each states ``TRAINS``, ``FAMILIES`` and ``PAPER``."""
