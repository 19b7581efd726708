import pytest

from erase.concept import Concept


def test_plain_strings_and_lists_become_tuples_without_spaces() -> None:
    concept = Concept(target=" Van Gogh ", synonyms=["Vincent"], templates="{}", anchor=" a painting ")
    assert (concept.target, concept.synonyms, concept.templates) == (("Van Gogh",), ("Vincent",), ("{}",))
    assert concept.anchor == "a painting"
    assert concept == Concept(target=("Van Gogh",), synonyms=("Vincent",), anchor="a painting")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": ""}, "every target needs a name"),
        ({"target": ()}, "every target needs a name"),
        ({"target": ("Cats", " ")}, "every target needs a name"),
        ({"target": ("Cats", "cats")}, "name one thing twice"),
        ({"target": "Cats", "anchor": "cats "}, "itself a target"),
        ({"target": ("Cats", "Dogs"), "anchor": "Dogs"}, "itself a target"),
        ({"target": "Cats", "kind": "animal"}, "'animal' is unknown: choose one of style, object"),
        ({"target": "Cats", "templates": ("a photo",)}, "in the place of the target"),
        ({"target": "Cats", "templates": ()}, "in the place of the target"),
    ],
)
def test_what_cannot_be_erased_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Concept(**given)


def test_targets_and_templates_take_turns_and_the_anchor_stands_in_the_same_template() -> None:
    concept = Concept(target=("Cats", "Dogs"), anchor="Birds", templates=("{}", "A {} image"))
    assert concept.pairs() == [
        ("Cats", "Birds"),
        ("Dogs", "Birds"),
        ("A Cats image", "A Birds image"),
        ("A Dogs image", "A Birds image"),
    ]
    assert concept.prompts("Dogs") == ["Dogs", "A Dogs image"]
    with pytest.raises(ValueError, match="'Birds' is not a target"):
        concept.prompts("Birds")


def test_the_empty_anchor_stays_the_unconditional_prompt() -> None:
    pairs = Concept(target="Cats", templates=("{}", "a photo of {}"), synonyms=("kitty",)).pairs()
    assert [pair.anchor for pair in pairs] == ["", ""]
    assert not any("kitty" in pair.target for pair in pairs)
