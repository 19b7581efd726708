"""A style and an object erased together: UA of the pair, SC, OC and UP of what is left, from the command line on."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from erase.cli.main import main
from eval.attack.attack_report import shows_target
from eval.evaluate import suite_rows
from eval.report import page as report
from eval.report.wall import badges
from eval.score.table import Table
from eval.suite.grid import Target, find_target, held_out_rows
from eval.suite.rows import Row
from eval.suite.world import load_world


PAIR = Target("combination", ("Van_Gogh x Cats",))
CANVAS = load_world("canvas")


def exact(row: Row) -> tuple[str, str, str]:
    """What the prompt asks for."""
    return row.style, row.object, ""


def forgets_pair(row: Row) -> tuple[str, str, str]:
    """The pair becomes photos of cats, and one seed of four loses the object of other Van Gogh images."""
    if (row.style, row.object) == ("Van_Gogh", "Cats"):
        return "Photo", "Cats", ""
    if row.style == "Van_Gogh" and row.seed == 1:
        return "Sketch", row.object, ""
    if row.style == "Photo" and row.object == "Dogs" and row.seed in (1, 2):
        return "Photo", "Cats", ""
    return exact(row)


@pytest.mark.parametrize(
    "text",
    ["Van Gogh Cats", "cats in VAN GOGH style", "Van_Gogh x Cats", "A Cats image in Van Gogh style.", "van gogh kitty"],
)
def test_a_combination_is_a_text_with_one_style_and_one_object(text):
    assert find_target([text], "combination", CANVAS) == PAIR


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Van Gogh"], "'Van Gogh' has to name one object of the world canvas, but it names none"),
        (["Cats"], "'Cats' has to name one style of the world canvas, but it names none"),
        (["Van Gogh Cats and Dogs"], "has to name one object of the world canvas, but it names Cats, Dogs"),
        (["Van Gogh Cats", "Sketch Dogs"], "evaluate one target at a time"),
    ],
)
def test_what_is_no_combination_is_refused(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        find_target(words, "combination", CANVAS)


def test_planted_judgements_are_counted(planted, suite, tmp_path):
    found = planted(tmp_path, PAIR, {"erased": forgets_pair, "base": exact})
    metrics = found.content["metrics"]
    own = {name: metrics[name]["erased"] for name in ("ua", "sc", "oc", "up")}
    assert {name: (each["hits"], each["n_images"]) for name, each in own.items()} == {
        "ua": (4, 4),
        "sc": (3, 4),  # Dogs in Van Gogh's style
        "oc": (8, 8),  # Cats in two other styles
        "up": (6, 8),
    }
    assert [metrics[name]["base"]["value"] for name in ("ua", "sc", "oc", "up")] == [0, 1, 1, 1]
    for name in ("ua", "sc", "oc", "up"):
        assert metrics[name]["erased"]["lo"] <= metrics[name]["erased"]["value"] <= metrics[name]["erased"]["hi"]
    assert not {"ira", "cra_excl_target", "cra_code"} & set(metrics)
    assert metrics["normalised_erasure"]["erased"]["value"] == 1
    assert found.content["verdict"]["code"] == "erased with damage"
    assert found.content["verdict"]["facts"]["kept"] == 0.75
    judge = next(gate for gate in found.content["gates"] if gate["name"] == "judge")
    assert judge["passed"]
    gaps = found.content["comparison"]["differences"][0]["metrics"]
    assert gaps["sc"]["value"] == -0.25
    assert gaps["sc"]["lo"] <= -0.25 <= gaps["sc"]["hi"]
    page = report.render(tmp_path).read_text()
    assert "Van_Gogh x Cats" in page
    for title in ("SC", "OC", "UP"):
        assert re.search(rf"<h3>{title} ", page)
    assert "| SC | 100.0 %" in (tmp_path / "report.md").read_text()  # base's, before the model's


def test_the_style_alone_is_not_the_target(planted, suite, tmp_path):
    def forgets_style(row: Row) -> tuple[str, str, str]:
        return ("Photo" if row.style == "Van_Gogh" else row.style), row.object, ""

    found = planted(tmp_path, PAIR, {"erased": forgets_style, "base": exact})
    assert found.content["metrics"]["sc"]["erased"]["value"] == 0
    assert found.content["metrics"]["ua"]["erased"]["value"] == 1
    assert found.content["verdict"]["code"] == "erased with damage"
    rows = found.models["erased"].table.rows
    marks = dict(zip([row["key"] for row in rows], badges(found.summary, "erased"), strict=True))
    assert (marks["Van_Gogh_Cats_seed1"], marks["Van_Gogh_Dogs_seed1"]) == ("ok", "lost")


def test_an_image_shows_a_combination_if_both_are_there():
    rows = [
        {"judge_style": s, "judge_object": o, "broken": b}
        for s, o, b in [
            ("Van_Gogh", "Cats", ""),
            ("Van_Gogh", "Dogs", ""),
            ("Photo", "Cats", ""),
            ("Van_Gogh", "Cats", "blank"),
        ]
    ]
    assert shows_target(Table(rows), PAIR).tolist() == [True, False, False, False]


def test_held_out_wordings_are_those_of_the_pair(suite):
    prompts = {row.prompt for row in held_out_rows(Path(suite.held_out), PAIR, [1])}
    assert prompts == {
        "Cats shown in Van Gogh style",
        "une image de chat en style peintre",
        "A Cats and Dogs image in Van Gogh style.",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": ["Cats"]}, "has one style or one object only"),
        ({"objects": ["Dogs", "Birds"]}, "has no object 'Cats'; it has Dogs, Birds"),
        ({"aspects": ["general_image"]}, "has the aspects general_image, which are those of a style or an object"),
    ],
)
def test_a_suite_that_cannot_measure_it_is_refused(suite, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        suite_rows(replace(suite, held_out="", **change), PAIR)


def test_an_erased_combination_is_evaluated_from_its_artefact(tmp_path, monkeypatch, capsys):
    """UCE on the canvas: the pair is gone, and what is left of each half has a number beside base's."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main([*arguments])
        return stopped.value.code

    erase = ["run", "--method", "uce", "--base-model", "canvas", "--target", "Cats image in Van Gogh style"]
    assert call(*erase, "--anchor", "Dogs image in Photo style", "--kind", "combination", "--out", "m", "--quiet") == 0
    (tmp_path / "few.yaml").write_text(
        "name: few\nstyles: [Van_Gogh, Photo, Sketch]\nobjects: [Cats, Dogs]\nseeds: [188, 288]\nheld_out: ''\n"
        "num_inference_steps: 8\ngold: false\nclip: ''\nresamples: 50\n"
    )
    assert call("eval", "m", "--suite", "few.yaml", "--quiet", "--device", "cpu") == 0
    content = json.loads((tmp_path / "m.eval/report.json").read_text())
    assert content["concept"]["kind"] == "combination"
    assert content["concept"]["canvas_names"] == ["Van_Gogh x Cats"]
    for name, images in (("ua", 2), ("sc", 2), ("oc", 4), ("up", 4)):
        for model in ("erased", "base"):
            estimate = content["metrics"][name][model]
            assert estimate["n_images"] == images
            assert estimate["lo"] <= estimate["value"] <= estimate["hi"]
    assert content["metrics"]["ua"]["base"]["value"] < 1
