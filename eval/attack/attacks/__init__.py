"""Attacks, one module each, with ``Config``, ``NULL``, ``WHITE_BOX`` and ``search``; see ``eval.attack.run``."""
