"""The sections of a report, one module each; a module in this folder is on the page without any other edit."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Protocol, cast

from markupsafe import Markup

from eval.results import Results


class Section(Protocol):
    """What a module of this folder has."""

    __name__: str
    PLACE: int  # on the page, from top to bottom

    def applies(self, results: Results) -> bool:
        """Whether there is something to show."""
        ...

    def html(self, results: Results) -> Markup:
        """The section of the page."""
        ...

    def markdown(self, results: Results) -> str:
        """The same in Markdown; empty for nothing."""
        ...


def find_sections(results: Results) -> Iterator[Section]:
    """The sections that apply, in the order of the page."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    sections = [cast("Section", module) for module in modules]
    return (section for section in sorted(sections, key=lambda each: each.PLACE) if section.applies(results))
