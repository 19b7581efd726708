"""Whether an attack stands beside a null attack of equal budget: the same tries without the attack."""

from collections.abc import Mapping


NO_NULL = "An attack is reported beside a null attack of equal budget only"


def explain_missing_null(attack: str, tries: float, nulls: Mapping[str, float], *, unit: str = "images") -> str:
    """Say why the success of an attack may not be read: it has no null attack, or one that drew another number.

    Args:
        attack: Name of the attack.
        tries: How many images it drew.
        nulls: Name of each of its null attacks (may be empty) -> how many images that one drew.
        unit: What ``tries`` counts. Where the null has other prompts than the attack, count images per prompt.

    Returns:
        One sentence; empty if every null drew as many images.

    >>> explain_missing_null("soft", 40, {"random_tokens": 40})
    ''
    >>> explain_missing_null("soft", 40, {"random_tokens": 20}).partition("; ")[2]
    "'soft' has 40 images and its null random tokens has 20."
    >>> explain_missing_null("soft", 40, {}).partition("; ")[2]
    "'soft' has none."
    """
    if not nulls:
        return f"{NO_NULL}; {attack!r} has none."
    for name, count in nulls.items():
        if count != tries:
            null = f"null {name.replace('_', ' ')}".strip()
            return f"{NO_NULL}; {attack!r} has {tries:g} {unit} and its {null} has {count:g}."
    return ""
