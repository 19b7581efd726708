"""How a section becomes HTML: its template, numbers as people read them, and each model in its colour."""

from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from eval.report import text
from eval.report.outline import ARROWS, tints
from eval.results import Results


TEMPLATES = Path(__file__).parent / "templates"
FILTERS = ("number", "interval", "basis", "change", "signed", "words", "count", "size", "duration")


@cache
def template_environment() -> jinja2.Environment:
    """The templates of reports, with the numbers as people read them for filters; a missing name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False, "separators": (",", ":")}
    environment.filters |= {name: getattr(text, name) for name in FILTERS} | {"arrow": ARROWS.__getitem__}
    return environment


def part(template: str, results: Results, **values: object) -> Markup:
    """Render ``templates/parts/<template>.html.j2`` with ``results``, ``dot`` and ``values``.

    ``dot`` gives the name of a model behind a dot in its colour.
    """
    colours = tints(results)

    def dot(label: str) -> Markup:
        return Markup('<span class="dot {}"></span>{}').format(colours[label], label)

    page = template_environment().get_template(f"parts/{template}.html.j2")
    return Markup(page.render(results=results, dot=dot, **values))
