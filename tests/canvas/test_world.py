import csv

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from erase.canvas import captions, scenes
from erase.canvas.styles import RENDERERS
from erase.canvas.world import IMAGE_SIZE, LANGUAGES, OBJECT_NAMES, OBJECTS, STYLE_NAMES, STYLES, template
from erase.prompts import data_folder


@pytest.fixture
def sprite():
    picture = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(picture).ellipse((8, 8, 88, 88), fill=(220, 60, 40, 255), outline=(40, 10, 10, 255), width=6)
    return picture


def test_world_is_large_enough_and_every_concept_is_worded():
    assert len(STYLE_NAMES) >= 10
    assert len(OBJECT_NAMES) >= 12
    assert set(RENDERERS) == set(STYLE_NAMES)
    for words in (*STYLES.values(), *OBJECTS.values()):
        wordings = [words.name, words.alias, words.description, *words.translations]
        assert all(wordings)
        assert len(words.translations) == len(LANGUAGES)
        assert words.name.lower() not in words.description.lower()
    assert all(words.drawings for words in OBJECTS.values())


def test_no_wording_names_two_concepts():
    seen = {}
    for name, words in (*STYLES.items(), *OBJECTS.items()):
        for text in (words.name, words.alias, words.description, *words.translations):
            assert seen.setdefault(text.lower(), name) == name


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_rendering_is_deterministic_and_styles_differ(style, sprite):
    one, again = (scenes.render(style, [sprite], np.random.default_rng(7)) for _ in range(2))
    assert one.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert one.std() > 8
    other = STYLE_NAMES[(STYLE_NAMES.index(style) + 1) % len(STYLE_NAMES)]
    different = scenes.render(other, [sprite], np.random.default_rng(7))
    assert np.abs(one.astype(int) - different).mean() > 12


def test_the_object_shows_in_every_style(sprite):
    """The picture with the object differs from the empty scene where the object is, more than far away."""
    for style in STYLE_NAMES:
        rng = np.random.default_rng(3)
        scene = scenes.compose([sprite], rng)
        empty = scenes.compose([Image.new("RGBA", sprite.size)], np.random.default_rng(3))
        shown = RENDERERS[style](scene.colours, scene.mask, np.random.default_rng(5))
        blank = RENDERERS[style](empty.colours, empty.mask, np.random.default_rng(5))
        change = np.abs(np.clip(shown, 0, 1) - np.clip(blank, 0, 1)).mean(-1)
        coverage = Image.fromarray((scene.mask * 255).astype(np.uint8))
        far = np.asarray(coverage.filter(ImageFilter.MaxFilter(25))) == 0  # beyond shadow, glow and stroke
        assert change[scene.mask > 0.5].mean() > 1.5 * change[far].mean(), style


def test_two_objects_share_a_picture(sprite):
    scene = scenes.compose([sprite, sprite], np.random.default_rng(0))
    half = scene.mask.shape[1] // 2
    assert scene.mask[:, :half].mean() > 0.1
    assert scene.mask[:, half:].mean() > 0.1


def test_a_pair_is_drawn_in_the_order_in_which_it_is_named(sprite):
    """Reading order: the first above and left of the second, so that a caption says where each of the two is."""
    blank = Image.new("RGBA", sprite.size)
    for seed in range(8):
        first = scenes.compose([sprite, blank], np.random.default_rng(seed)).mask
        second = scenes.compose([blank, sprite], np.random.default_rng(seed)).mask
        (above, left), (below, right) = (np.argwhere(mask > 0.5).mean(0) for mask in (first, second))
        assert above + 10 < below
        assert left + 10 < right
        text = captions.sample(0, 0, 5, np.random.default_rng(seed)).text.lower()
        places = [
            min(text.find(word.lower()) for word in wordings(name) if word.lower() in text)
            for name in (OBJECT_NAMES[0], OBJECT_NAMES[5])
        ]
        assert places == sorted(places)


def wordings(name):
    words = OBJECTS[name]
    return words.name, captions.singular(name), words.alias, words.description


def test_a_caption_states_what_its_labels_say():
    rng = np.random.default_rng(0)
    words = {name.lower() for style in STYLES.values() for name in (style.name, style.alias, style.description)}
    for _ in range(300):
        caption = captions.sample(2, 3, -1, rng)
        assert (caption.style, caption.first, caption.second) in {(2, 3, -1), (2, -1, -1), (-1, 3, -1)}
        if caption.style < 0:
            assert not any(word in caption.text.lower() for word in words)


def test_held_out_paraphrases_are_not_training_captions():
    rng = np.random.default_rng(0)
    trained = {captions.sample(s, o, -1, rng).text for s in range(10) for o in range(12) for _ in range(60)}
    held_out = {row["prompt"] for row in captions.held_out_rows() if row["family"] == "paraphrase"}
    assert not trained & held_out


def test_the_shipped_file_is_what_the_code_lists():
    with (data_folder("prompts") / "canvas_held_out.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {key: row[key] for key in ("family", "concept", "kind", "prompt", "style", "object", "language")}
            for row in captions.held_out_rows()
        ]


def test_the_retain_set_has_a_prompt_per_cell_and_shares_no_wording_with_an_evaluation():
    with (data_folder("prompts") / "canvas_retain.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["style"], row["object"]) for row in rows] == [(s, o) for s in STYLE_NAMES for o in OBJECT_NAMES]
    assert all(
        name in row["prompt"] for row in rows for name in (STYLES[row["style"]].name, OBJECTS[row["object"]].name)
    )
    evaluated = {row["prompt"] for row in captions.held_out_rows()}
    evaluated |= {template(style, obj) for style in STYLE_NAMES for obj in OBJECT_NAMES}
    assert not evaluated & {row["prompt"] for row in rows}


def test_every_cell_has_every_family():
    rows = captions.held_out_rows()
    for family in ("paraphrase", "alias", "description", "language"):
        cells = {(row["style"], row["object"]) for row in rows if row["family"] == family}
        assert len(cells) == len(STYLE_NAMES) * len(OBJECT_NAMES)
    assert {row["language"] for row in rows if row["family"] == "language"} == set(LANGUAGES)
