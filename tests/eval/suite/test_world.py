"""Worlds: labels, spellings, and what a user may call a target."""

import re

import pytest

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES, template
from eval.suite.grid import Target, find_target
from eval.suite.world import load_world


CANVAS, UNLEARNCANVAS = load_world("canvas"), load_world("unlearncanvas")


def test_the_world_is_the_benchmarks() -> None:
    styles, objects = UNLEARNCANVAS.labels("style"), UNLEARNCANVAS.labels("object")
    assert (len(styles), len(objects)) == (51, 20)
    assert list(styles) == sorted(styles)
    assert list(objects) == sorted(objects)
    assert styles.index("Seed_Images") == 38
    assert UNLEARNCANVAS.prompt("Seed_Images", "Sea") == "A Sea image in Photo style."
    compat = load_world("unlearncanvas", compat=True)
    assert compat.prompt("Seed_Images", "Sea") == "A Sea image in Seed Images style."
    assert compat.prompt("Red_Blue_Ink", "Sea") == UNLEARNCANVAS.prompt("Red_Blue_Ink", "Sea")
    assert find_target(["van gogh", "Photo"], "style", UNLEARNCANVAS).names == ("Van_Gogh", "Seed_Images")
    with pytest.raises(ValueError, match=r"world unlearncanvas has no object 'Unicorns'; it has Architectures, Bears"):
        find_target(["Unicorns"], "object", UNLEARNCANVAS)


def test_the_canvas_world_keeps_its_prompts() -> None:
    assert (CANVAS.labels("style"), CANVAS.labels("object")) == (STYLE_NAMES, OBJECT_NAMES)
    assert all(CANVAS.prompt(style, obj) == template(style, obj) for style in STYLE_NAMES for obj in OBJECT_NAMES)
    with pytest.raises(ValueError, match="no published code"):
        load_world("canvas", compat=True)
    with pytest.raises(ValueError, match="no world 'mars'; there are canvas, unlearncanvas"):
        load_world("mars")


def test_targets_by_any_of_their_names() -> None:
    assert find_target(["cats", "Sea Swimmer"], "object", CANVAS) == Target("object", ("Cats", "Fishes"))
    with pytest.raises(ValueError, match="has no style 'Cubism'; it has Photo, Sketch"):
        find_target(["Cubism"], "style", CANVAS)
    with pytest.raises(ValueError, match="erased concept is a person"):
        find_target(["Cubism"], "person", CANVAS)


@pytest.mark.parametrize(
    "text",
    ["Van Gogh Cats", "cats in VAN GOGH style", "Van_Gogh x Cats", "A Cats image in Van Gogh style.", "van gogh kitty"],
)
def test_a_combination_is_a_text_with_one_style_and_one_object(text: str) -> None:
    assert find_target([text], "combination", CANVAS) == Target("combination", ("Van_Gogh x Cats",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Van Gogh"], "'Van Gogh' has to name one object of the world canvas, but it names none"),
        (["Cats"], "'Cats' has to name one style of the world canvas, but it names none"),
        (["Van Gogh Cats and Dogs"], "has to name one object of the world canvas, but it names Cats, Dogs"),
        (["Van Gogh Cats", "Sketch Dogs"], "evaluate one target at a time"),
    ],
)
def test_other_combinations_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        find_target(words, "combination", CANVAS)
