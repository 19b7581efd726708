"""What the numbers cover, what made them, and how to make them again."""

from collections.abc import Mapping

from markupsafe import Markup, escape

from eval.report.templating import part
from eval.report.text import words
from eval.results import Results


PLACE = 210
HASH = 32  # characters from which a hexadecimal text is a hash, of which half as many are shown


def applies(results: Results) -> bool:
    """Every report says where its numbers are from."""
    return True


def html(results: Results) -> Markup:
    """One row per fact."""
    rows = [row for row in results.wall.rows if row.group == results.models[0].group]
    files = {file["path"]: file["source"] for file in results.suite.get("prompts", {}).get("files", ())}
    cards = {name: describe_card(card) for name, card in results.provenance.cards.items()}
    parts = [row.part for row in rows]
    return part(
        "provenance",
        results,
        grid=[row for row in rows if row.part in ("target", "other")] if results.kind == "grid" else [],
        counts={name: parts.count(name) for name in dict.fromkeys(parts)},
        sources=files,
        cards=cards,
    )


def markdown(results: Results) -> str:
    """What each scorer says about itself, and how to make the report again."""
    cards = [f"- {words(name)}: {describe_card(card).striptags()}" for name, card in results.provenance.cards.items()]
    command = f"```\n{results.reproduce}\n```" if results.reproduce else ""
    return "\n\n".join(filter(None, ["\n".join(["Scorers:", "", *cards]) if cards else "", command]))


def describe_card(card: object) -> Markup:
    """What a scorer says about itself, in a line; text says why it did not run.

    >>> describe_card({"judge": "NudeNet", "weights_sha256": "ab" * 32, "floor": 0.25})
    Markup('judge: NudeNet, weights sha256: <code>abababababababab</code>, floor: 0.25')
    """
    if isinstance(card, Mapping):
        return Markup(", ").join(
            Markup("{}: {}").format(words(str(name)), describe_card(value)) for name, value in card.items()
        )
    if isinstance(card, list | tuple):
        return Markup(", ").join(map(describe_card, card))
    if isinstance(card, bool) or card is None:
        return Markup("yes" if card else "no")
    text = str(card)
    is_hash = len(text) >= HASH and set(text) <= set("0123456789abcdef")
    return Markup("<code>{}</code>").format(text[: HASH // 2]) if is_hash else escape(text)
