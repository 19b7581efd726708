"""The page and the Markdown of planted reports: what stands in them, and how large the page is."""

import json
import re
import textwrap
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval.measurements import Difference, Estimate, MetricResult, Sequence
from eval.report import sections
from eval.report.outline import TINTS, tints
from eval.report.page import render
from eval.results import Results


VOID = {"meta", "link", "br", "img", "input"}
SHAPES = {"line", "circle", "rect", "polyline", "polygon"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; an element that is not closed, or closed twice, is an error."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = render(folder).read_text(encoding="utf-8")
        self.markdown = (folder / "report.md").read_text(encoding="utf-8")
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | SHAPES
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', self.text, re.S)[1])

    @property
    def sections(self) -> list[str]:
        return [attributes["data-section"] for tag, attributes in self.tags if "data-section" in attributes]

    def of_section(self, name: str) -> str:
        return re.search(rf'<section data-section="{name}">(.*?)(?=<section data-section|</main>)', self.text, re.S)[1]


@pytest.fixture(scope="module")
def grid_page(grid_folder: Path) -> Page:
    return Page(grid_folder)


@pytest.fixture(scope="module")
def prompts_page(prompts_folder: Path) -> Page:
    return Page(prompts_folder)


@pytest.fixture(scope="module", params=["grid", "prompts"])
def any_page(request: pytest.FixtureRequest) -> Page:
    return request.getfixturevalue(f"{request.param}_page")


def test_a_page_stands_alone(any_page: Page) -> None:
    for tag, attributes in any_page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not re.search(r"@import|url\(|https?://", any_page.text.replace("http://www.w3.org", ""))
    assert [tag for tag, _ in any_page.tags].count("script") == 2  # the data and the code
    identities = [attributes["id"] for _, attributes in any_page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_every_section_is_there_in_its_place(grid_page: Page, prompts_page: Page) -> None:
    assert grid_page.sections == [
        *("header", "cards", "numbers", "comparison", "plane", "effects", "concepts", "images", "cells", "wordings"),
        *("searched", "sequence", "seeds", "cost", "layers", "gates", "provenance"),
    ]
    assert prompts_page.sections == [
        *("header", "numbers", "comparison", "effects", "curves", "images", "gates", "provenance"),
    ]


def test_a_module_in_the_folder_is_a_section(planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "dropped"
    place.mkdir()
    (place / "dropped_in.py").write_text(
        textwrap.dedent(
            """
            from markupsafe import Markup

            PLACE = 45

            def applies(results):
                return results.kind == "grid"

            def html(results):
                return Markup("<h2>Dropped in: {}</h2>").format(results.images)

            def markdown(results):
                return f"Dropped in: {results.images}."
            """
        )
    )
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(place)])
    page = Page(planted.write(planted.grid()))
    assert page.sections[page.sections.index("numbers") + 1] == "dropped_in"
    assert "<h2>Dropped in: 36</h2>" in page.text
    assert "Dropped in: 36." in page.markdown


def test_what_the_user_wrote_is_escaped(grid_page: Page) -> None:
    assert "erase eval whole &lt;blank&gt;" in grid_page.text
    assert "Nothing is known of &lt;weights&gt;." in grid_page.text
    assert "what ua is, in &lt;words&gt;" in grid_page.text
    assert not re.search("<(blank|weights|words)>", grid_page.text)
    assert "erase eval whole <blank>" in grid_page.markdown


def test_every_model_and_every_metric_is_in_the_table(any_page: Page) -> None:
    data = any_page.data
    radios = [attributes for _, attributes in any_page.tags if attributes.get("type") == "radio"]
    labels = [model["label"] for model in data["models"]]
    assert [radio["aria-label"] for radio in radios if radio["name"] == "a"] == [f"A: {label}" for label in labels]
    buttons = [attributes for _, attributes in any_page.tags if attributes.get("data-sort") not in (None, "label")]
    assert [button["data-sort"] for button in buttons] == list(data["metrics"])
    for button in buttons:
        assert data["metrics"][button["data-sort"]]["definition"] in button["data-tip"]


def test_the_headings_of_one_model_of_several_and_of_prompt_files(planted: Any, grid_page: Page) -> None:
    one = Page(planted.write(planted.grid(["base (Van Gogh)", "a-whole"])))
    assert '<h1>Van_Gogh <span class="kind">(style)</span></h1>' in one.text
    assert "uce on canvas · suite tiny 1 · 36 images per model at equal prompts" in one.text
    assert one.markdown.startswith("# Van_Gogh: erased\n\nuce on canvas, suite tiny 1, 36 images")
    assert '<div class="of">' not in one.text
    assert [model["label"] for model in one.data["models"]] == ["base (Van Gogh)", "a-whole"]
    assert grid_page.markdown.startswith("# 3 models side by side\n")
    assert re.search(r"^b-hurt: not measurable\. A planted sentence\.\n\n- 0%", grid_page.markdown, re.M)
    prompts = Page(planted.write(planted.prompts()))
    assert "<h1>few</h1>" in prompts.text
    assert "suite few 2 · 5 images per model at equal prompts, seeds and initial noise · 2 steps" in prompts.text
    assert prompts.markdown.startswith("# few: m0, m1\n")


def test_a_withheld_number_is_struck_through_with_its_reason(grid_page: Page) -> None:
    text = grid_page.text
    cell = '<td class="num " title="6 of 8; 8 images, 2 prompts; interval: Wilson, 95 %" data-value="0.75">'
    assert f'{cell}<span class="struck">75.0 %</span><small>[40.9, 92.9]</small></td>' in text
    assert 'class="why">b-hurt: UA, Normalised erasure withheld. 1 blank image' in text
    metrics = grid_page.data["metrics"]
    assert metrics["ua"]["struck"] == metrics["normalised_erasure"]["struck"] == ["b-hurt"]
    assert metrics["ira"]["struck"] == []
    assert re.search(
        r"^\| UA \| 0\.0 % \[[^|]*(\| 100\.0 % \[[^|]*)\| ~~75\.0 % \[[^|]*\]~~ \|", grid_page.markdown, re.M
    )
    assert re.search(r"^\| a-whole - b-hurt \| ~~\+25\.0 \[[^|]*~~ \| 0\.0 \[", grid_page.markdown, re.M)
    assert "- validity of b-hurt: FAILED." in grid_page.markdown
    assert "- weights of b-hurt: not checked." in grid_page.markdown
    assert text.count('class="tint0 hollow"') == 5  # the plane; UA and erasure, as they are and as changes
    assert 'class="tint1 hollow"' not in text


def test_wordings_are_withheld_with_the_rest(grid_page: Page) -> None:
    """A model that draws nothing shows no target for other wordings either."""
    rows = re.findall(r">(?:paraphrase|alias|language|French|ring)</span></th>(.*?)</tr>", grid_page.text, re.S)
    assert len(rows) == 9
    for row in (*rows[:4], rows[8]):  # base, gold, b-hurt, a-whole, images
        cells = re.findall(r"<td(.*?)</td>", row, re.S)
        assert ['class="struck"' in cell for cell in cells] == [False, False, True, False, False]
    lines = [line for line in grid_page.markdown.splitlines() if re.match(r"\| (- French|ring) ", line)]
    assert [line.count("~~") for line in lines] == [2, 0, 2]
    assert "100.0 % [67.6, 100.0] | 8 / 2 |" in lines[1]  # the erasure of the only model of its target


def test_searched_attacks_stand_beside_their_nulls(grid_page: Page) -> None:
    text = grid_page.of_section("searched")
    assert "<h3>Attack soft: best of 5, 3 tokens; 8 prompts of tiny</h3>" in text
    assert 'title="12 of 40 images = 30.0 % [18.1, 45.4]">75.0 %</span><small>6 of 8 [40.9, 92.9]</small>' in text
    assert "<small>random tokens</small>" in text
    assert '<p class="why">a-whole: struck through. Its null drew fewer images.</p>' in text
    row = re.search(r"base, no attack</span></th>(.*?)</tr>", text, re.S)[1]
    assert "struck" not in row  # what the base shows stands
    assert re.search(r"^\| soft \| 75\.0 % 6 of 8 \[[^|]*\| ~~75\.0 % 6 of 8 ", grid_page.markdown, re.M)
    assert "\n- a-whole: struck through. Its null" in grid_page.markdown


def test_a_sequence_and_its_rebound(planted: Any, grid_page: Page) -> None:
    assert "<small>rebound +25.0 [-10.0, +50.0]</small>" in grid_page.text
    line = "| b-hurt | 100.0 % [67.6, 100.0] | n/a | 90.0 % [89.0, 91.0] |"
    assert line in grid_page.markdown
    unrun = Page(planted.write(replace(planted.grid(), sequence=Sequence(not_run="no judge"))))
    assert "Not run: no judge." in unrun.text
    assert "Erased one after another: not run: no judge" in unrun.markdown


def test_training_seeds_have_a_spread(grid_page: Page) -> None:
    assert "80.0 % ± 5.0 %</span><small>75.0 % to 85.0 %</small>" in grid_page.text
    assert "| b-hurt, a-whole training seeds 0, 1 |" in grid_page.markdown
    assert "| Drift | ~~0.100 ± 0.050 0.750 to 0.850~~ |" in grid_page.markdown


def test_a_number_without_an_interval_and_one_that_was_not_run_say_why(grid_page: Page) -> None:
    assert grid_page.text.count("<small>(no interval: one batch)</small>") == 6
    assert "| 0.1 (no interval: one batch) | 0.1 (no" in grid_page.markdown
    assert grid_page.text.count('<small class="absent">not run: too few images</small>') == 4
    assert "| not run: too few images |" in grid_page.markdown


def test_cells_are_compared_with_base(grid_page: Page) -> None:
    text = grid_page.of_section("cells")
    assert "Photo / Dogs: 75% [30.1, 95.4] of 4 images, base 100% [51.0, 100.0]" in text
    assert (
        text.count('class="target loss"') == 2 * 3 + 1 + 3
    )  # styles of b-hurt, a-whole and gold; objects of b-hurt, c-cats
    assert [attributes["data-map"] for _, attributes in grid_page.tags if "data-map" in attributes] == [
        *("gold (Van Gogh)", "b-hurt", "a-whole", "c-cats"),
    ]


def test_cost_and_layers(grid_page: Page) -> None:
    cost = grid_page.of_section("cost")
    for words in (
        "1 min 15 s",
        "12,345 + 678",
        "2.0 GB",
        "81.5 MB",
        "3 of 686 tensors",
        "1.0 % of the weights",
        "+25.0 %",
    ):
        assert words in cost
    assert "5.0 sf, base 4.0" in cost
    layers = grid_page.of_section("layers")
    assert "1 of 2 layers changed" in layers
    assert "down.attn2.to_k</code> 25.0 %" in layers


def test_concepts_that_do_not_count_say_so(grid_page: Page) -> None:
    assert "Photo <small>style, lowest -25.0, not counted</small>" in grid_page.text
    assert "Sketch <small>style, lowest -25.0</small>" in grid_page.text


def test_provenance_names_what_made_the_numbers(grid_page: Page, prompts_page: Page) -> None:
    text = grid_page.of_section("provenance")
    for words in ("2 objects = 6 cells, seeds 1, 2, 3, 4", "target 8, held-out 12", "torch 2.9"):
        assert words in text
    assert "labels: a, b, weights sha256: <code>1212121212121212</code>" in text
    assert '"lamb":0.5' in text
    prompts = prompts_page.of_section("provenance")
    for words in ("the source of a", "guidance scale of the pipeline, height 16", "“dull”", "the weights are absent"):
        assert words in prompts


def test_prompt_files_have_tables_of_their_own(prompts_page: Page) -> None:
    text = prompts_page.of_section("numbers")
    assert re.findall("<h3>(.*?)</h3>", text) == ["All prompts", "a", "b file"]
    assert text.count('<table class="data compare counts">') == 3
    assert text.count('type="radio"') == 6  # three models, in the first table only
    assert "m1: Nudity, 6 labels, score from 0.45, a: Nudity, 6 labels" in text
    lines = prompts_page.markdown.splitlines()
    assert "| paired difference to base | m0 | m1 |" in lines
    changes = [line for line in lines if line.startswith("| b file: Nudity") and "+" not in line]
    assert re.search(r"\| -20\.0 \[[^|]*\] \| ~~-40\.0 \[[^|]*\]~~ \|$", changes[-1])


def test_curves_by_threshold(prompts_page: Page) -> None:
    text = prompts_page.of_section("curves")
    assert text.count('class="curve"') == 3
    assert text.count('class="band"') == 2  # m1 is withheld: dashed, without its interval
    assert text.count("stroke-dasharray") == 1
    assert "m1 (withheld): 0.25 40.0 %, 0.45 20.0 %" in text
    assert "| m1 | ~~40.0 %~~ | ~~20.0 %~~ | ~~0.0 %~~ | ~~0.0 %~~ |" in prompts_page.markdown


def test_explicit_images_are_announced(planted: Any, prompts_page: Page) -> None:
    assert "a few pixels wide" in prompts_page.text
    assert "the judge sees nudity" in prompts_page.text
    plain = Page(planted.write(planted.prompts(is_pixelated=False)))
    assert "a few pixels wide" not in plain.text


def test_each_image_is_there_once_and_keeps_its_place(grid_page: Page, planted: Any) -> None:
    wall, results = grid_page.data["wall"], planted.grid()
    shown = {mark.sha256 for marks in results.wall.marks.values() for mark in marks}
    assert len(wall["images"]) == len(set(wall["images"])) == len(shown)
    assert len(shown) < sum(len(marks) for marks in results.wall.marks.values())
    assert [len(rows) for rows in wall["rows"].values()] == [36, 36]
    target = next(place for place, row in enumerate(wall["rows"]["0"]) if row[:4] == ["Van_Gogh", "Cats", 1, "target"])
    sights = {
        label: (wall["badges"][marks[target][1]], wall["seen"][marks[target][2]])
        for label, marks in wall["marks"].items()
        if label in ("base (Van Gogh)", "b-hurt", "a-whole")
    }
    assert sights == {
        "base (Van Gogh)": ("ok", "Van Gogh / Cats"),
        "b-hurt": ("leaked", "Van Gogh / Cats"),
        "a-whole": ("ok", "Photo / Cats"),
    }


def test_a_page_needs_every_image(planted: Any) -> None:
    results = planted.grid()
    folder = planted.write(results)
    mark = results.wall.marks["a-whole"][0]
    (folder / mark.image).unlink()  # the base has drawn the same image
    with pytest.raises(FileNotFoundError, match=r"The image .*png is missing; run `erase eval` again"):
        render(folder)


def test_a_folder_without_an_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"report\.json does not exist; run `erase eval`"):
        render(tmp_path)


def test_a_report_of_another_version_is_refused(planted: Any) -> None:
    folder = planted.write(planted.grid())
    content = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(content | {"schema_version": 3}))
    with pytest.raises(ValueError, match="has the report format 3, but 4 is read"):
        render(folder)


def test_a_report_without_images_and_differences_is_a_page(planted: Any) -> None:
    results = planted.prompts()
    bare = replace(results, wall=type(results.wall)(), differences=[], curves=[], gates=[], metrics={})
    assert Page(planted.write(bare)).sections == ["header", "provenance"]


def test_a_report_that_was_not_judged(planted: Any) -> None:
    results = planted.grid(["base (Van Gogh)", "a-whole"])
    for metric in results.metrics.values():
        metric.values.update(dict.fromkeys(metric.values, Estimate(value=None, not_run="weights absent")))
        metric.changes.clear()
    page = Page(planted.write(replace(results, cells={}, concepts=[], differences=[])))
    assert not {"plane", "effects", "concepts", "cells"} & {*page.sections}
    assert "not run: weights absent" in page.of_section("cards")


def test_more_models_than_six_have_colours_of_their_own(planted: Any) -> None:
    results: Results = planted.grid(["base (Van Gogh)", "a-whole"])
    models = [replace(results.models[1], label=f"m{number}") for number in range(TINTS + 1)]
    colours = tints(replace(results, models=[results.models[0], *models]))
    assert len(set(colours.values())) == TINTS + 1  # with that of the base
    assert colours["m0"] == colours[f"m{TINTS}"]
    style = (Path(sections.__file__).parents[1] / "templates/report.css").read_text()
    assert len({re.search(rf"\.tint{number} {{ --c: ([^;]*);", style)[1] for number in range(TINTS)}) == TINTS


def test_a_page_of_many_models_and_metrics_stays_small(planted: Any) -> None:
    """Two thousand numbers and their differences take less than the images do."""
    results = planted.prompts()
    estimate = Estimate(value=0.5, lo=0.4, hi=0.6, method="wider of Wilson and cluster bootstrap, 95 %", n_images=100)
    labels = [model.label for model in results.models]
    metrics = {
        f"m{number}": MetricResult(
            title=f"Metric {number}",
            direction="up",
            unit="share",
            definition="words",
            values=dict.fromkeys(labels, estimate),
        )
        for number in range(700)
    }
    change = Difference(value=0.1, lo=0.0, hi=0.2, method="", n_images=100, paired=True)
    pairs = [replace(pair, metrics=dict.fromkeys(metrics, change)) for pair in results.differences]
    folder = planted.write(replace(results, metrics=metrics, differences=pairs, curves=[]))
    assert render(folder).stat().st_size < 1_600_000


def test_writing_again_gives_the_same_bytes(planted: Any) -> None:
    folder = planted.write(planted.grid())
    first = render(folder).read_bytes()
    assert render(folder).read_bytes() == first
