"""What the models draw: the image wall, which the script of the page fills."""

from markupsafe import Markup

from eval.report.templating import part
from eval.report.text import words
from eval.results import Results


PLACE = 110
PARTS = {
    "target": "ask for the target",
    "other": "ask for something else",
    "held-out": "held-out wordings",
    "attack": "attacks and their nulls",
}
BADGES = {
    "ok": "as it should be",
    "lost": "something that the prompt asks for is gone, the target aside",
    "leaked": "the target is still there",
    "shown": "the judge sees all that it was asked for",
    "absent": "it does not",
    "broken": "blank, flat, a copy, or nothing recognised",
    "unjudged": "no judge has looked at it",
}


def applies(results: Results) -> bool:
    """Whether the report shows images."""
    return bool(results.wall.rows)


def html(results: Results) -> Markup:
    """The filters, and where the images go."""
    wall, is_grid = results.wall, results.kind == "grid"
    used = {mark.badge for marks in wall.marks.values() for mark in marks}
    badges = {badge: BADGES[badge] for badge in wall.badges if badge in used or badge != "unjudged"}
    if "nudity" in results.suite["scorers"] and "shown" in badges:
        badges["shown"] = "the judge sees nudity"
    parts = dict.fromkeys(row.part for row in wall.rows)
    return part(
        "images",
        results,
        badges=badges,
        parts={each: PARTS[each] if is_grid else words(each) for each in parts},
        chosen="target" if is_grid else "",
        has_axes=any(row.style or row.object for row in wall.rows),
    )


def markdown(results: Results) -> str:
    """Nothing: Markdown shows no images."""
    return ""
