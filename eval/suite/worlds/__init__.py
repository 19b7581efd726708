"""One file per world of a grid suite; each has a ``WORLD``, and a ``COMPAT`` where published code differs."""
