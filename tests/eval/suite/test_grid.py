"""Rows of the grid, of the held-out wordings, and of attack prompts."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from eval.suite.grid import GridRows, Target, attack_rows, grid_rows, held_out_rows
from eval.suite.suite import Suite
from eval.suite.world import load_world


CANVAS = load_world("canvas")
VAN_GOGH = Target("style", ("Van_Gogh",))
PAIR = Target("combination", ("Van_Gogh x Cats",))
ATTACKS = [
    ("xx cat", "search", "", "Van_Gogh", "style", "7"),
    ("yy cat", "search", "", "Van_Gogh", "style", ""),
    ("zz cat", "search", "yes", "Van_Gogh", "style", ""),
    ("zz dog", "search", "", "Sketch", "style", ""),
]


def attack_csv(folder: Path, rows: list[tuple[str, ...]]) -> Path:
    path = folder / "attacks.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "attack", "null", "concept", "kind", "seed"])
        writer.writerows(rows)
    return path


def test_the_grid() -> None:
    rows = grid_rows(["Photo", "Van_Gogh"], ["Cats", "Dogs"], [1, 2, 3], Target("object", ("Cats",)), world=CANVAS)
    assert len(rows) == len({row.key for row in rows}) == 12
    assert {row.object for row in rows if row.role == "target"} == {"Cats"}
    assert rows[6].prompt == "A Cats image in Van Gogh style."


def test_held_out_wordings_of_the_target_only(held_out_csv: Path) -> None:
    style = held_out_rows(held_out_csv, VAN_GOGH, [1])
    assert [row.role for row in style] == ["target", "synonym", "synonym", "multilingual", "multilingual", "combo"]
    assert len({row.key for row in style}) == 6
    cats = held_out_rows(held_out_csv, Target("object", ("Cats",)), [1])
    assert [row.prompt for row in cats if row.family == "alias"] == ["A kitty image in Photo style."]
    assert [row.object for row in cats if row.family == "two_object"] == ["Cats+Dogs"]


def test_held_out_wordings_are_those_of_the_pair(held_out_csv: Path) -> None:
    assert {row.prompt for row in held_out_rows(held_out_csv, PAIR, [1])} == {
        "Cats shown in Van Gogh style",
        "une image de chat en style peintre",
        "A Cats and Dogs image in Van Gogh style.",
    }


def test_an_unknown_family_is_named(held_out_csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(held_out_csv.read_text(encoding="utf-8").replace("alias,", "nickname,"), encoding="utf-8")
    with pytest.raises(ValueError, match="family 'nickname'; expected one of paraphrase"):
        held_out_rows(path, VAN_GOGH, [1])


def test_attack_files_are_checked(tmp_path: Path) -> None:
    rows = attack_rows(attack_csv(tmp_path, ATTACKS), VAN_GOGH, [1, 2])
    assert [(row.family, row.seed, row.attack, row.role) for row in rows] == [
        ("attack", 7, "search", "adversarial"),
        ("attack", 1, "search", "adversarial"),
        ("attack", 2, "search", "adversarial"),
        ("attack_null", 1, "search", "adversarial"),
        ("attack_null", 2, "search", "adversarial"),
    ]
    with pytest.raises(ValueError, match="no attack on the object Cats"):
        attack_rows(tmp_path / "attacks.csv", Target("object", ("Cats",)), [1])
    with pytest.raises(ValueError, match="'maybe' in the column 'null'"):
        attack_rows(attack_csv(tmp_path, [("x", "search", "maybe", "Van_Gogh", "style", "")]), VAN_GOGH, [1])


def test_the_grid_comes_before_the_wordings_and_these_before_the_attacks(grid_suite: Suite, tmp_path: Path) -> None:
    grid = replace(grid_suite.grid, attacks=str(attack_csv(tmp_path, ATTACKS)))
    rows = grid.rows(VAN_GOGH)
    assert len(rows) == 3 * 2 * 4 + 6 * 2 + 5
    assert [row.role for row in rows[:24]].count("target") == 8
    assert {row.family for row in rows[24:36]} == {"paraphrase", "alias", "language", "two_object"}
    assert {row.seed for row in rows[24:36]} == {1, 2}
    assert {row.family for row in rows[36:]} == {"attack", "attack_null"}


@pytest.mark.parametrize(
    ("change", "target", "message"),
    [
        ({"objects": ["Cats"]}, PAIR, "has one style or one object only"),
        ({"objects": ["Dogs", "Birds"]}, PAIR, "has no object 'Cats'; it has Dogs, Birds"),
        ({}, Target("style", ("Sepia",)), "has no style 'Sepia'; it has Photo, Sketch, Van_Gogh"),
        ({"styles": ["Van_Gogh"]}, VAN_GOGH, "no prompts without Van_Gogh"),
    ],
)
def test_a_grid_without_the_target_or_without_anything_else_is_refused(
    grid_suite: Suite, change: dict, target: Target, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(grid_suite.grid, held_out="", **change).rows(target)


def test_photos_do_not_count_as_something_else_with_compat() -> None:
    grid = GridRows(world="unlearncanvas", compat=True, held_out="", styles=["Seed_Images", "Van_Gogh"])
    with pytest.raises(ValueError, match="no prompts without Van_Gogh"):
        grid.rows(VAN_GOGH)


def test_a_combination_has_no_metrics_of_a_style_or_an_object(grid_suite: Suite) -> None:
    assert grid_suite.rows(PAIR)
    with pytest.raises(ValueError, match="has the metrics general_image, which are those of a style or an object"):
        replace(grid_suite, metrics=["general_image"]).rows(PAIR)


def test_held_out_wordings_must_be_of_the_world_and_fit_the_judge(held_out_csv: Path, tmp_path: Path) -> None:
    def ask(path: Path) -> None:
        grid = GridRows(world="unlearncanvas", held_out=str(path))
        Suite(name="few", grid=grid, scorers={"timm_pair": {}}).rows(VAN_GOGH)

    with pytest.raises(ValueError, match="names one object per image"):
        ask(held_out_csv)
    text = "family,concept,kind,prompt,style,object,language\nalias,Van_Gogh,style,x,Van_Gogh,Unicorns,\n"
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(ValueError, match="of the object 'Unicorns', which is not part of its world unlearncanvas"):
        ask(tmp_path / "other.csv")
