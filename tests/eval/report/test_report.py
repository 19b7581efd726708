"""The report of planted evaluations: what stands in the page and in the Markdown, and how large the page is."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.evaluate import combine
from eval.measure.compare import Evaluation
from eval.report import charts
from eval.report import page as report
from eval.report.wall import badges, build_wall, thumbnails
from eval.suite.config import SuiteConfig
from eval.suite.grid import Target
from eval.suite.rows import Row


VAN_GOGH = Target("style", ("Van_Gogh",))
VOID = {"meta", "link", "br", "img", "input"}
SHAPES = {"line", "circle", "rect"}


def as_asked(row: Row) -> tuple[str, str, str]:
    return row.style, row.object, ""


def erased(row: Row) -> tuple[str, str, str]:
    return "Photo" if row.style == "Van_Gogh" else row.style, row.object, ""


def blank(row: Row) -> tuple[str, str, str]:
    """Every image of the target is blank, so it is gone, and so is the rest."""
    return ("Photo", "Dogs", "blank") if row.style == "Van_Gogh" else (row.style, row.object, "")


class Page(HTMLParser):
    """Tags, attributes and text of a page; an element that is not closed, or closed twice, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | SHAPES
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def evaluations(planted: Callable, tmp_path: Path) -> list[Evaluation]:
    return [
        planted(tmp_path / "whole", VAN_GOGH, {"erased": erased, "base": as_asked, "gold": erased}, "whole"),
        planted(tmp_path / "blank", VAN_GOGH, {"erased": blank, "base": as_asked}, "blank"),
    ]


@pytest.fixture
def out(evaluations: list[Evaluation], tmp_path: Path) -> Path:
    """The folder of the common report."""
    folders = {each.label: each.folder for each in evaluations}
    return combine(folders, tmp_path / "out", command="erase eval whole <blank>").parent


def data_of(page: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_a_page_of_several_models_stands_alone(out: Path) -> None:
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.found:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not re.search(r"@import|url\(|https?://", text.replace("http://www.w3.org", ""))
    tags = [tag for tag, _ in page.found]
    assert tags.count("script") == 2  # the data and the code
    assert "erase eval whole &lt;blank&gt;" in text
    identities = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_every_model_and_every_metric_is_in_the_table(out: Path) -> None:
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    radios = [attributes for _, attributes in page.found if attributes.get("type") == "radio"]
    assert [radio["aria-label"] for radio in radios if radio["name"] == "a"] == [
        "A: base",
        "A: gold",
        "A: whole",
        "A: blank",
    ]
    content = json.loads((out / "report.json").read_text(encoding="utf-8"))
    sortable = {attributes["data-sort"]: attributes for _, attributes in page.found if "data-sort" in attributes}
    assert list(sortable) == ["label", *content["metrics"]]
    for key, metric in content["metrics"].items():  # a metric that is added to the report is added to the table
        assert metric["definition"] in sortable[key]["data-tip"]


def test_a_withheld_number_is_struck_through_with_its_reason(out: Path) -> None:
    text = (out / "report.html").read_text(encoding="utf-8")
    counted = "8 of 8; 8 images, 2 prompts; interval: wider of Wilson and cluster bootstrap, 95 %"
    assert f'<span class="struck" title="{counted}">100.0 %</span>' in text
    assert re.search(r'class="why">blank: UA, Normalised erasure withheld\. Blank, saturated', text)
    metrics = data_of(text)["metrics"]
    assert metrics["ua"]["struck"] == metrics["normalised_erasure"]["struck"] == ["model1"]
    assert metrics["ira"]["struck"] == []
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert re.search(r"^\| UA \| 0\.0 % \[[^|]*\| 100\.0 % \[[^|]*\| 100\.0 % \[[^|]*\| ~~100\.0 %", markdown, re.M)
    assert re.search(r"^\| blank - whole \| ~~0\.0 \[", markdown, re.M)
    assert re.search(r"^- validity: FAILED", markdown, re.M)
    assert text.count('class="tint1 hollow"') == 5  # the plane; UA and erasure, as they are and as changes
    assert 'class="tint0 hollow"' not in text


def test_held_out_wordings_are_withheld_with_the_rest(out: Path) -> None:
    """A model that draws nothing shows no target for other wordings either."""
    rows = re.findall(
        r"<th scope=\"row\">(?:paraphrase|alias|language)</th>(.*?)</tr>", (out / "report.html").read_text(), re.S
    )
    assert len(rows) == 3
    for row in rows:  # base, gold, whole, blank, images
        cells = re.findall(r"<td(.*?)</td>", row, re.S)
        assert ['class="struck"' in cell for cell in cells] == [False, False, False, True, False]
    lines = (out / "report.md").read_text(encoding="utf-8").splitlines()
    held_out = [line for line in lines if line.startswith("| paraphrase |")]
    assert ["~~0.0 %" in line for line in held_out] == [False, True]
    assert [line.count("~~") for line in held_out] == [0, 2]


def test_one_model_has_the_same_page(evaluations: list[Evaluation]) -> None:
    html = report.render(evaluations[0].folder)
    Page(html.read_text(encoding="utf-8"))
    assert [column["label"] for column in data_of(html.read_text(encoding="utf-8"))["columns"]] == [
        "base",
        "gold",
        "whole",
    ]
    assert (html.parent / "report.md").read_text(encoding="utf-8").startswith("# Van_Gogh: erased")


def test_a_folder_without_an_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"report\.json does not exist; run `erase eval`"):
        report.render(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"report\.json does not exist; run `erase eval`"):
        combine({"a": tmp_path}, tmp_path / "out")


def test_a_report_of_another_version_is_refused(evaluations: list[Evaluation]) -> None:
    path = evaluations[0].folder / "report.json"
    path.write_text(json.dumps(evaluations[0].content | {"schema_version": 2}))
    with pytest.raises(ValueError, match=r"has the report format 2, but 3 is read; run `erase eval`"):
        report.render(evaluations[0].folder)


def test_each_image_is_there_once_and_keeps_its_place(evaluations: list[Evaluation], out: Path) -> None:
    wall = data_of((out / "report.html").read_text(encoding="utf-8"))["wall"]
    shown = {row["image_sha256"] for each in evaluations for model in each.models.values() for row in model.table.rows}
    assert len(wall["images"]) == len(set(wall["images"])) == len(shown)
    assert len(shown) < sum(len(model.table) for each in evaluations for model in each.models.values())
    place = {wall["rows"][0].index(row): row for row in wall["rows"][0]}
    target = next(index for index, row in place.items() if row[:4] == ["Van_Gogh", "Cats", 1, "target"])
    told = {
        column: (wall["badges"][badge], wall["seen"][seen])
        for column, (_, badge, seen) in ((column, marks[target]) for column, marks in wall["marks"].items())
    }
    assert told == {
        "base": ("ok", "Van Gogh / Cats"),
        "gold": ("ok", "Photo / Cats"),
        "model0": ("ok", "Photo / Cats"),
        "model1": ("broken", "blank"),
    }


def test_badges(planted: Callable, tmp_path: Path) -> None:
    def hurt(row: Row) -> tuple[str, str, str]:
        if row.style == "Van_Gogh":
            seen = {1: ("Van_Gogh", "Cats"), 2: ("Photo", row.object), 3: ("Photo", "Birds"), 4: ("Photo", row.object)}
            return *seen[row.seed], "flat" if row.seed == 4 else ""
        return ("Sketch" if row.seed == 1 else row.style), row.object, ""

    def forgetful(row: Row) -> tuple[str, str, str]:
        return ("Sketch" if row.seed == 1 else row.style), row.object, ""

    found = planted(tmp_path, VAN_GOGH, {"erased": hurt, "base": forgetful})
    told = {
        role: {
            row["key"]: badge
            for row, badge in zip(found.models[role].table.rows, badges(found.summary, role), strict=True)
        }
        for role in ("erased", "base")
    }
    ours, base = told["erased"], told["base"]
    assert [ours[f"Van_Gogh_Cats_seed{seed}"] for seed in (1, 2, 3, 4)] == ["leaked", "ok", "lost", "broken"]
    assert [ours[f"Photo_Cats_seed{seed}"] for seed in (1, 2)] == ["lost", "ok"]
    assert ours["Sketch_Cats_seed1"] == "ok"
    assert [base[f"Van_Gogh_Dogs_seed{seed}"] for seed in (1, 2)] == ["lost", "ok"]  # it should show its own target
    pairs = [(key, badge) for key, badge in ours.items() if key.startswith("two_object")]
    assert pairs == [(pairs[0][0], "leaked"), (pairs[1][0], "ok")]  # seed 2 shows both objects


def test_many_large_images_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thumbnails get smaller where they would not fit; noise is the worst that can be asked of a codec."""
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)).save(path)
    monkeypatch.setattr("eval.report.wall.BUDGET", 100_000)
    few, many = thumbnails([path]), thumbnails([path] * 20)
    assert len(many) == 20
    assert sum(map(len, many)) <= 100_000 < 20 * len(few[0])


def test_the_axis_of_the_plane_holds_every_interval() -> None:
    def point(name: str, kept: float) -> charts.Point:
        erasure = charts.Mark(name, "tint0", 0.9, 0.8, 1.0, "90.0 %")
        return charts.Point(erasure, charts.Mark(name, "tint0", kept, kept - 0.05, kept + 0.02, "kept"))

    high, low = charts.plane([point("a", 0.9)]), charts.plane([point("a", 0.9), point("<b>", 0.1)])
    assert ">75</text>" in high
    assert ">0</text>" in low
    assert ">80</text>" in high
    assert "&lt;b&gt;" in low
    assert "<b>" not in low


def test_wall_needs_every_image(evaluations: list[Evaluation]) -> None:
    from eval.measure.compare import find_columns

    next((evaluations[0].folder / "images").iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match="png"):
        build_wall(evaluations, find_columns(evaluations))


def test_a_number_without_an_interval_says_why(planted: Callable, suite: SuiteConfig, tmp_path: Path) -> None:
    timed = type(planted)(replace(suite, aspects=["efficiency"]))
    timed(tmp_path, VAN_GOGH, {"erased": erased, "base": as_asked})  # all images of a model took as long
    page = report.render(tmp_path).read_text(encoding="utf-8")
    (row,) = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| Seconds per")]
    assert row.count("| 0.1 (no interval: one batch) ") == 2
    assert page.count("<small>(no interval: one batch)</small>") == 2
    assert re.search(r"Photo / Cats: 100% \[51\.0, 100\.0\] of 4 images, base 100% \[51\.0, 100\.0\]", page)
