"""Nouns in prompt files: which of them an image is to show, and whether a text names the target."""

import re
import unicodedata
from collections.abc import Sequence


# HUB's lists were written by a language model: beside nouns they hold its remarks ("is removed and", "stove -> kept"),
# and lists that repeat themselves 2,000 times
MOST_NOUNS = 10  # of a prompt; 6 of HUB's 33,000 name more
MOST_WORDS = 5  # of a noun
NOUN = re.compile(r"(?=.*[^\W\d_])[^\W_][\w'\u2019&,. -]*(?<!\.)")
REMARKS = {"is", "are", "was", "were", "has", "have", "been", "not", "removed", "excluded", "kept"}


def read_nouns(entries: Sequence[object], target: str) -> list[str]:
    """The noun phrases of a list, each once and without the target, at most ``MOST_NOUNS``.

    >>> read_nouns(["Cat", "cat", "stove -> kept", "Picasso"], "Picasso")
    ['Cat']
    """
    nouns: dict[str, str] = {}
    for entry in entries:
        words = str(entry).split()
        noun = " ".join(words)
        is_remark = len(words) > MOST_WORDS or REMARKS.intersection(noun.lower().split())
        if NOUN.fullmatch(noun) and not is_remark and not names_target(noun, target) and not is_target(noun, target):
            nouns.setdefault(noun.casefold(), noun)
    return list(nouns.values())[:MOST_NOUNS]


def is_target(thing: str, target: str) -> bool:
    """Whether a thing is the target's name or a part of it, such as "Warhol's" of Andy Warhol, or nothing at all.

    >>> is_target("Warhol's", "Andy Warhol"), is_target("a can", "Andy Warhol")
    (True, False)
    """
    return set(_words(thing)) <= set(_words(target))


def names_target(text: str, target: str) -> bool:
    """Whether a text holds the name of the target, in any case and with or without accents.

    >>> names_target("Paul Cezanne's apples", "Paul Cézanne"), names_target("a stitched doll", "Stitch")
    (True, False)
    """
    return f" {' '.join(_words(target))} " in f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    letters = [letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)]
    return [word for word in re.findall(r"[^\W_]+", "".join(letters).casefold()) if word != "s"]
