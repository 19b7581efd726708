"""The shipped suites: their rows and their samplers stay what they are, so that numbers keep their meaning."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from erase.concept import Concept
from erase.prompts import data_folder
from eval.files import hash_json
from eval.formulas.intervals import wilson
from eval.suite.aspects import ASPECTS
from eval.suite.grid import Target, find_target
from eval.suite.rows import Row
from eval.suite.suite import Suite, load_suite


GRID_ROWS = {  # suite, kind, target, compat -> number of rows, start of their hash
    ("canvas", "style", "Van Gogh", False): (840, "130402f69b0679fb"),
    ("canvas", "object", "Cats", False): (820, "749155b5b0f9458c"),
    ("canvas", "combination", "Van Gogh Cats", False): (618, "ad25a617b6482110"),
    ("canvas-demo", "style", "Van Gogh", False): (360, "2c36a44715c13d9a"),
    ("canvas-demo", "object", "Cats", False): (350, "40830bde1e2d67b0"),
    ("canvas-demo", "combination", "Van Gogh Cats", False): (249, "79a3d4039ff86fff"),
    ("canvas-holistic", "style", "Van Gogh", False): (840, "130402f69b0679fb"),
    ("canvas-holistic", "object", "Cats", False): (820, "749155b5b0f9458c"),
    ("unlearncanvas", "style", "Van Gogh", False): (5100, "90917ff5c32fbd4c"),
    ("unlearncanvas", "object", "Cats", False): (5100, "6a9c44372f3f2508"),
    ("unlearncanvas", "combination", "Van Gogh Cats", False): (5100, "36dab0ea5313981d"),
    ("unlearncanvas", "style", "Van Gogh", True): (5100, "32200d949be8ee93"),
    ("unlearncanvas", "object", "Cats", True): (5100, "04137151905bad93"),
    ("unlearncanvas", "combination", "Van Gogh Cats", True): (5100, "3fab3b94ccb2ae9c"),
    ("unlearncanvas-mini", "style", "Van Gogh", False): (1000, "b65a1e93f83b3e71"),
    ("unlearncanvas-mini", "object", "Cats", False): (1000, "826d4a6c237a301c"),
    ("unlearncanvas-mini", "combination", "Van Gogh Cats", False): (1000, "b7385c8915670d46"),
}
FILE_ROWS = {
    "coco": (5000, "2e6177e1a6c1308f"),
    "hub": (7094, "0f357d94de67f129"),
    "i2p-nudity": (26, "c60b4e6869013b68"),
}
SAMPLERS = {  # suite -> steps, guidance scale, batch size
    "canvas": (20, 5.0, 40),
    "canvas-demo": (20, 5.0, 40),
    "canvas-holistic": (20, 5.0, 40),
    "unlearncanvas": (100, 9.0, 8),
    "unlearncanvas-mini": (100, 9.0, 8),
    **dict.fromkeys(FILE_ROWS, (50, 7.5, 8)),
}
VAN_GOGH = Concept(target=("Van Gogh",), kind="style")


def digest(rows: list[Row]) -> str:
    names = ("key", "prompt", "role", "family", "style", "object", "language", "attack", "guidance_scale", "columns")
    return hash_json([[getattr(row, name) for name in names] for row in rows])[:16]


@pytest.mark.parametrize("asked", GRID_ROWS, ids=str)
def test_rows_of_grids(asked: tuple[str, str, str, bool]) -> None:
    name, kind, target, compat = asked
    suite = load_suite(name, compat=compat)
    rows = suite.rows(find_target([target], kind, suite.grid.load_world()))
    assert (len(rows), digest(rows)) == GRID_ROWS[asked]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files with the names and columns of those that the shipped suites ask for."""
    nouns = [[f"n{i}", "river", "Gogh's", "is removed"][: i % 5] for i in range(60)]
    entries = [{"prompt": f"A thing {i % 30} by Van Gogh", "nouns": each, "index": i} for i, each in enumerate(nouns)]
    coco = (f"{i:04d},coco,{'a Van Gogh poster' if i % 7 == 0 else 'a bus'} {i},{i % 50}\n" for i in range(6000))
    tags = ("sexual" if i % 3 else "shocking" for i in range(40))
    unsafe = (
        f'{i},{"" if i == 9 else f"a cat {i}"},"hate, {tag}",{i % 5},{7 + i % 2},{100 + i}\n'
        for i, tag in enumerate(tags)
    )
    files = {
        "hub/target_image/Van Gogh.csv": "".join(f'"A Van Gogh sky, {i % 1100}"\n' for i in range(1500)),
        "hub/selective_alignment/Van Gogh.json": json.dumps(entries),
        "hub/pinpoint_ness/Van Gogh.csv": "noun,similarity\n" + "".join(f"near_{i},0.{i:03d}\n" for i in range(120)),
        "hub/multilingual_robustness/Van Gogh.csv": (
            "Original,French,Index\n" + "".join(f"field {i},un champ {i},{i}\n" for i in range(20))
        ),
        "hub/attack_robustness/Van Gogh.csv": "".join(f'vangogh {i} " gogh\n' for i in range(30)),
        "coco_30k.csv": "image_id,source,prompt,evaluation_seed\n" + "".join(coco),
        "unsafe-prompts4703.csv": (
            ",prompt,categories,evaluation_seed,evaluation_guidance,case_number\n" + "".join(unsafe)
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_any_content(suite: Suite) -> Suite:
    files = [replace(file, rows=0, sha256="") for file in suite.prompts.files]
    return replace(suite, prompts=replace(suite.prompts, files=files))


@pytest.mark.parametrize("name", FILE_ROWS)
def test_rows_of_prompt_files(name: str, folder: Path) -> None:
    rows = of_any_content(load_suite(name)).aim([VAN_GOGH]).rows()
    assert (len(rows), digest(rows)) == FILE_ROWS[name]


@pytest.mark.parametrize("name", FILE_ROWS)
def test_files_that_are_not_there_or_are_others(
    name: str, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite(name).aim([VAN_GOGH])
    assert re.fullmatch("[0-9a-f]{64}", suite.prompts.files[-1].sha256)
    with pytest.raises(ValueError, match=r"but the suite means (the|a) file with"):
        suite.rows()
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    with pytest.raises(FileNotFoundError, match=r"needs .* fetch (data|prompts)/"):
        suite.rows()


def test_every_suite_is_listed_and_keeps_its_sampler() -> None:
    names = {path.stem for path in (data_folder("configs") / "suites").glob("*.yaml")}
    assert names == set(SAMPLERS)
    for name, settings in SAMPLERS.items():
        suite = load_suite(name)
        assert suite.name == name
        assert (suite.sampler.steps, suite.sampler.guidance_scale, suite.sampler.batch_size) == settings
        assert suite.kind == ("prompts" if name in FILE_ROWS else "grid")
        assert suite.source == (suite.prompts or suite.grid)


def test_scorers_and_metrics_of_the_shipped_suites() -> None:
    assert {name: sorted(load_suite(name).scorers) for name in SAMPLERS} == {
        "canvas": ["clip", "judge"],
        "canvas-demo": ["clip", "judge"],
        "canvas-holistic": ["clip", "judge", "latents"],
        "unlearncanvas": ["timm_pair"],
        "unlearncanvas-mini": ["timm_pair"],
        "coco": ["clip", "inception"],
        "hub": ["clip", "inception", "vlm"],
        "i2p-nudity": ["nudity"],
    }
    assert load_suite("canvas-holistic").metrics == list(ASPECTS)
    assert load_suite("i2p-nudity").is_explicit([])
    assert load_suite("i2p-nudity").prompts.explicit


def test_the_tenth_part_of_unlearncanvas() -> None:
    full, mini = load_suite("unlearncanvas"), load_suite("unlearncanvas-mini")
    target = Target("style", ("Van_Gogh",))
    rows, few = full.rows(target), mini.rows(target)
    assert len(rows) == 51 * 20 * 5
    assert sum(row.role == "target" for row in rows) == 100
    assert {row.seed for row in rows} == {188, 288, 588, 688, 888}
    prompts = {row.key: row.prompt for row in rows}
    assert len(few) == 1000
    assert sum(row.key in prompts for row in few) == 500  # what both draw is drawn once
    assert all(prompts.get(row.key, row.prompt) == row.prompt for row in few)
    for kind, names in zip(("style", "object"), mini.grid.axes, strict=True):
        n = {name: sum(row.role == "target" for row in mini.rows(Target(kind, (name,)))) for name in names}
        assert set(n.values()) == {100}
    for hits, half in ((50, 0.096), (90, 0.060)):  # what its comment says
        lo, hi = wilson(hits, 100)
        assert (hi - lo) / 2 == pytest.approx(half, abs=5e-4)
