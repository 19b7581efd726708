"""Captions of canvas pictures: what the models are trained on, and the wordings kept for evaluation alone.

Every concept is named in prompts by its UnlearnCanvas template, by paraphrases, by an alias, by a description without
the name and in five other languages. The rows of ``held_out_rows`` are shipped as ``prompts/canvas_held_out.csv`` and
are never used by an erasing method; its paraphrase templates are not used to train the canvas either.
"""

from typing import NamedTuple

import numpy as np

from erase.canvas.world import LANGUAGES, OBJECT_NAMES, OBJECTS, STYLE_NAMES, STYLES


# {s} style words, {o} object words
TEMPLATES = (
    "a {s} picture of a {o}",
    "a {o} in {s} style",
    "an image of a {o} in the style of {s}",
    "{o}, {s}",
    "a {o} drawn as {s}",
    "the {o} in a {s} image",
    "{s} of one {o}",
)
HELD_OUT_TEMPLATES = ("{o} shown in {s} style", "a {s} style image with a {o}", "one picture, {o}, as {s}")
STYLE_ONLY = ("{s}", "{s} style", "an image in {s} style", "a {s} picture")
OBJECT_ONLY = ("{o}", "a {o}", "an image of a {o}", "a picture of a {o}")
PAIR_TEMPLATES = ("a {a} and a {b} in {s} style", "a {s} picture of a {a} next to a {b}", "{a} and {b}, {s}")
FOREIGN_TEMPLATES = (
    ("une image de {o} en style {s}", "{o}, {s}", "un {o} style {s}"),
    ("ein bild von {o} im stil {s}", "{o}, {s}", "{o} als {s}"),
    ("una imagen de {o} en estilo {s}", "{o}, {s}", "un {o} estilo {s}"),
    ("un'immagine di {o} in stile {s}", "{o}, {s}", "un {o} stile {s}"),
    ("uma imagem de {o} no estilo {s}", "{o}, {s}", "um {o} estilo {s}"),
)
SINGULAR = {"Fishes": "fish", "Sandwiches": "sandwich"}


class Caption(NamedTuple):
    """A caption and what it states: label indices, -1 where it says nothing."""

    text: str
    style: int
    first: int
    second: int


def canvas_template(style: str, obj: str) -> str:
    """The UnlearnCanvas template over any wording of style and object."""
    return f"A {obj} image in {style} style."


def sample(style: int, first: int, second: int, rng: np.random.Generator) -> Caption:
    """Draw a training caption of a picture; ``second`` is -1 for a picture of one object."""
    draw = rng.random()
    if second >= 0:
        pair = [_object_words(index, rng) for index in (first, second)]
        if draw < 0.3:
            text = canvas_template(STYLES[STYLE_NAMES[style]].name, f"{pair[0]} and {pair[1]}")
        else:
            text = _pick(PAIR_TEMPLATES, rng).format(a=pair[0], b=pair[1], s=_style_words(style, rng))
        return Caption(text, style, first, second)
    if draw < 0.3:
        text = canvas_template(STYLES[STYLE_NAMES[style]].name, OBJECTS[OBJECT_NAMES[first]].name)
    elif draw < 0.44:
        text = canvas_template(_style_words(style, rng), _object_words(first, rng))
    elif draw < 0.72:
        text = _pick(TEMPLATES, rng).format(s=_style_words(style, rng), o=_object_words(first, rng))
    elif draw < 0.9:
        language = int(rng.integers(len(LANGUAGES)))
        text = _foreign(STYLE_NAMES[style], OBJECT_NAMES[first], language, _pick(FOREIGN_TEMPLATES[language], rng))
    elif draw < 0.95:
        return Caption(_pick(STYLE_ONLY, rng).format(s=_style_words(style, rng)), style, -1, -1)
    else:
        return Caption(_pick(OBJECT_ONLY, rng).format(o=_object_words(first, rng)), -1, first, -1)
    return Caption(text, style, first, -1)


def singular(obj: str) -> str:
    """The everyday word of an object.

    >>> singular("Fishes"), singular("Cats"), singular("Flame")
    ('fish', 'cat', 'flame')
    """
    return SINGULAR.get(obj, obj.removesuffix("s").lower())


def held_out_rows() -> list[dict[str, str]]:
    """Every evaluation-only prompt: family, concept, kind, prompt, style, object, language."""
    rows = []
    for s_index, (style, s_words) in enumerate(STYLES.items()):
        for o_index, (obj, o_words) in enumerate(OBJECTS.items()):
            cell = {"style": style, "object": obj, "language": "English", "concept": "", "kind": "cell"}
            for template in (HELD_OUT_TEMPLATES[(s_index + o_index + k) % 3] for k in range(2)):
                prompt = template.format(s=s_words.name, o=singular(obj))
                rows.append(cell | {"family": "paraphrase", "prompt": prompt})
            for family in ("alias", "description"):
                about_style = canvas_template(getattr(s_words, family), o_words.name)
                about_object = canvas_template(s_words.name, getattr(o_words, family))
                rows.append(cell | {"family": family, "prompt": about_style, "concept": style, "kind": "style"})
                rows.append(cell | {"family": family, "prompt": about_object, "concept": obj, "kind": "object"})
            for index, language in enumerate(LANGUAGES):
                prompt = _foreign(style, obj, index, FOREIGN_TEMPLATES[index][0])
                rows.append(cell | {"family": "language", "prompt": prompt, "language": language})
            other = OBJECT_NAMES[(o_index + 1 + s_index) % len(OBJECT_NAMES)]
            if other != obj:
                prompt = canvas_template(s_words.name, f"{o_words.name} and {OBJECTS[other].name}")
                rows.append(cell | {"family": "two_object", "prompt": prompt, "object": f"{obj}+{other}"})
    order = ["paraphrase", "alias", "description", "language", "two_object"]
    return sorted(rows, key=lambda row: order.index(row["family"]))


def _foreign(style: str, obj: str, language: int, template: str) -> str:
    return template.format(s=STYLES[style].translations[language], o=OBJECTS[obj].translations[language])


def _style_words(style: int, rng: np.random.Generator) -> str:
    words = STYLES[STYLE_NAMES[style]]
    return _choose((words.name, words.alias, words.description), (0.5, 0.27, 0.23), rng)


def _object_words(obj: int, rng: np.random.Generator) -> str:
    name = OBJECT_NAMES[obj]
    words = OBJECTS[name]
    return _choose((words.name, singular(name), words.alias, words.description), (0.25, 0.3, 0.25, 0.2), rng)


def _choose(options: tuple[str, ...], weights: tuple[float, ...], rng: np.random.Generator) -> str:
    return options[int(rng.choice(len(options), p=weights))]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
