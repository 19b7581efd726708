"""``python -m erase``, which every process of ``torchrun -m erase`` and ``accelerate launch -m erase`` runs as well.

``python -m`` puts the working folder in front of everything that is installed. A file ``eval.py`` of the user there
would take the place of our package, so that entry is dropped before anything of ours is imported by name.
"""

import os
import sys
from pathlib import Path


def _leave_working_folder() -> None:
    """Drop the entry that ``python -m`` added, unless it is what makes a clone without installation importable."""
    if sys.flags.safe_path or not sys.path or sys.path[0] not in ("", os.getcwd()):
        return  # Python added nothing (-P, PYTHONSAFEPATH), or the first entry is not of its making
    if Path.cwd() != Path(__file__).resolve().parents[1]:
        del sys.path[0]


if __name__ == "__main__":
    _leave_working_folder()
    from erase.cli.main import main

    main()
