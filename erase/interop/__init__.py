"""Read what other projects publish into our artefact, and write what they read.

The formats are listed in ``erase.interop.layouts`` and ``erase.interop.writing``.
"""

from erase.interop.reading import read as read
from erase.interop.writing import write as write


__all__ = ["read", "write"]
