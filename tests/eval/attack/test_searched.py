"""What ``erase attack`` found stands in the report of the evaluation, with its nulls, and never for other weights."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.attack.searched import by_protocol, describe_attack, find_attacks, foreign, read_attack, without_null
from eval.evaluate import combine
from eval.measure.compare import Evaluation
from eval.measure.seeds import over_seeds
from eval.report import page as report
from eval.suite.grid import Target
from eval.suite.rows import Row


VAN_GOGH = Target("style", ("Van_Gogh",))
SUITE = {"compat": False, "judge": "canvas"}  # of an evaluation
MODELS = {"erased": "erased", "base": "base"}  # the fingerprints that planted evaluations have


def share(hits: int, n: int = 10) -> dict[str, Any]:
    return {"value": hits / n, "lo": max(0.0, hits / n - 0.2), "hi": min(1.0, hits / n + 0.2), "hits": hits, "n": n}


def arm(hits: int, tries: int = 5) -> dict[str, Any]:
    return {"asr_total": share(hits), "asr_per_image": share(hits, 10 * tries)}


def attacked(**changes: Any) -> dict[str, Any]:
    """The content of an ``attack.json``."""
    return {
        "schema_version": 1,
        "attack": {"attack": "soft", "tries": 5, "params": {"tokens": 3, "steps": 30, "optimizer": "adam"}},
        "suite": {"name": "tiny", "version": 1, "hash": "s", **SUITE},
        "concept": {"target": ["Van Gogh"], "kind": "style", "canvas_names": ["Van_Gogh"]},
        "models": MODELS,
        "provenance": {"dtype": "float32"},
        "withheld": None,
        "results": {
            "base": share(9),
            "pre": share(0),
            "attack": arm(7),
            "nulls": {"random_soft_tokens": arm(1), "seed_search": arm(2)},
            "excess": {"value": 0.5, "lo": 0.1, "hi": 0.8, "null": "seed_search", "n": 10},
        },
        "prompts": [{"prompt": f"prompt {number}", "seed": 188} for number in range(10)],
        "cost": {"search": {"seconds": 1.0, "unet_forwards": 4000, "unet_backwards": 1500}},
        "reproduce": "erase attack vg --attack soft",
    } | changes


def results(**changes: Any) -> dict[str, Any]:
    return {"results": attacked()["results"] | changes}


def plant_attack(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "attack.json").write_text(json.dumps(attacked(**changes)))
    return folder


def described(folder: str = "vg.soft", failed: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    return describe_attack(Path(folder), attacked(**changes), MODELS, VAN_GOGH, failed, evaluated=SUITE)


def test_attacks_are_found_beside_the_model_that_they_are_named_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vg[1].soft", "vg[1].seeds", "vg1.soft", "vg[1]2.soft"):
        plant_attack(tmp_path / name)
    (tmp_path / "vg[1].eval").mkdir()
    assert [folder.name for folder in find_attacks(tmp_path / "vg[1]")] == ["vg[1].seeds", "vg[1].soft"]
    (tmp_path / "vg[1]" / "unet").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "vg[1]" / "unet")
    assert len(find_attacks(Path(".."))) == 2
    monkeypatch.chdir(tmp_path / "vg[1]")
    assert len(find_attacks(Path())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"schema_version": 9}', "has the format 9, but 1 is read"),
        ("[]", "has the format None, but 1 is read"),
    ],
)
def test_a_damaged_attack_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "attack.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_attack(tmp_path)
    with pytest.raises(FileNotFoundError, match="give the folder that `erase attack` wrote its report into"):
        read_attack(tmp_path / "none")


def test_an_attack_counts_for_its_own_model_base_and_target_only() -> None:
    assert foreign(attacked(), MODELS, VAN_GOGH, SUITE) is None
    for models in ({"erased": "other", "base": "base"}, {"erased": "erased", "base": "other"}):
        assert "other weights (other, float32) than" in (
            foreign(attacked(models=models), MODELS, VAN_GOGH, SUITE) or ""
        )
    cats = {"target": ["Cats"], "kind": "object", "canvas_names": ["Cats"]}
    assert (foreign(attacked(concept=cats), MODELS, VAN_GOGH, SUITE) or "").startswith("It was on the object Cats")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compat": True},
            "It was run without compat and the evaluation with it, which changes prompts and judge: run",
        ),
        ({"judge": "timm_pair"}, "Its images were judged by canvas and those of the evaluation by timm_pair: run"),
    ],
)
def test_an_attack_that_asked_or_judged_otherwise_is_struck_and_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    found = describe_attack(Path("vg.soft"), attacked(), MODELS, VAN_GOGH, (), evaluated=SUITE | changes)
    assert found["is_foreign"]
    assert found["struck"].startswith(message)
    folder = plant_attack(tmp_path / "vg.soft")
    assert read_attack(folder, suite=SUITE) == attacked()
    with pytest.raises(ValueError, match=message):
        read_attack(folder, suite=SUITE | changes)


def test_what_is_kept_of_an_attack() -> None:
    found = described()
    assert (found["budget"], found["n_prompts"], found["struck"]) == ("best of 5, 3 tokens, 30 steps", 10, None)
    assert [(each["name"], each["total"]["hits"]) for each in found["arms"]] == [
        ("base, no attack", 9),
        ("no attack", 0),
        ("soft", 7),
        ("null: random soft tokens", 1),
        ("null: seed search", 2),
    ]
    assert found["arms"][2]["per_image"]["n"] == 50


def test_a_success_without_its_null_is_struck_with_its_reason() -> None:
    none = described(**results(nulls={}, excess=None))
    assert none["struck"] == "An attack is reported beside a null attack of equal budget only; 'soft' has none."
    fewer = attacked(**results(nulls={"seed_search": arm(2, tries=1)}))
    assert without_null(fewer) == (
        "An attack is reported beside a null attack of equal budget only; 'soft' has 50 images and its null seed "
        "search has 10."
    )
    withheld = described(failed=("The judge guesses.",), withheld="The base shows the target on 1 of 10 prompts.")
    assert withheld["struck"] == "The base shows the target on 1 of 10 prompts. The judge guesses."


def test_attacks_of_one_protocol_stand_side_by_side() -> None:
    more = {"attack": attacked()["attack"] | {"tries": 9}}
    runs = {
        "vg": [described(), described("vg.soft2"), described("vg.more", **more)],
        "small": [described("small.soft")],
    }
    one, other = by_protocol(runs)
    assert one["title"] == "soft: best of 5, 3 tokens, 30 steps; 10 prompts of tiny"
    assert [(run["label"], run["note"]) for run in one["runs"]] == [
        ("vg", "vg.soft"),
        ("vg", "vg.soft2"),
        ("small", ""),
    ]
    assert [run["folder"] for run in other["runs"]] == ["vg.more"]
    assert one["rows"] == [each["name"] for each in runs["vg"][0]["arms"]]


def as_asked(row: Row) -> tuple[str, str, str]:
    return row.style, row.object, ""


def erased(row: Row) -> tuple[str, str, str]:
    return "Photo" if row.style == "Van_Gogh" else row.style, row.object, ""


def blank(row: Row) -> tuple[str, str, str]:
    return ("Photo", "Dogs", "blank") if row.style == "Van_Gogh" else (row.style, row.object, "")


def texts(page: Path) -> tuple[str, str]:
    return page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "judge", "reason"),
    [
        ({}, erased, ""),
        ({"models": {"erased": "other", "base": "base"}}, erased, "It was run on a model of other weights"),
        (results(nulls={}, excess=None), erased, "beside a null attack of equal budget only; &#39;soft&#39; has none"),
        ({"withheld": "The base shows the target on 1 of 10 prompts."}, erased, "on 1 of 10 prompts"),
        ({}, blank, "Blank, saturated, flat"),  # the validity gate of the evaluation
    ],
)
def test_the_page_shows_an_attack_beside_its_nulls(
    planted: Callable, tmp_path: Path, changes: dict[str, Any], judge: Callable, reason: str
) -> None:
    folder = plant_attack(tmp_path / "vg.soft", **changes)
    models = {"erased": judge, "base": as_asked}
    evaluation = planted(tmp_path / "vg.eval", VAN_GOGH, models, searched={folder: read_attack(folder)})
    page, markdown = texts(report.render(evaluation.folder))
    for text in (page, markdown):
        assert "soft: best of 5, 3 tokens, 30 steps; 10 prompts of tiny" in text
        assert "base, no attack" in text
    nulls = changes.get("results", attacked()["results"])["nulls"]
    assert ("null: random soft tokens" in page) is ("+50.0</span><small>[+10.0, +80.0]</small>" in page) is bool(nulls)
    struck = "struck" if reason else ""
    assert re.search(rf'<span class="{struck}"[^>]*>70\.0 %</span><small>7 of 10 \[50\.0, 90\.0\]</small>', page)
    told = "~~7/10 = 70.0 % [50.0, 90.0]~~" if reason else "7/10 = 70.0 % [50.0, 90.0]"
    assert f"| soft | {told} |" in markdown
    # what base shows, no gate withholds
    assert re.search(r'<span class="">90\.0 %</span><small>9 of 10', page)
    assert "~~n/a~~" not in markdown
    if reason:
        (told,) = re.findall(r'<p class="why">erased: struck through\. (.*?)</p>', page)
        assert reason in told


def test_the_gate_of_the_null_attack(planted: Callable, tmp_path: Path) -> None:
    def gate(name: str, **changes: Any) -> dict[str, Any] | None:
        folder = plant_attack(tmp_path / f"{name}.soft", **changes)
        models = {"erased": erased, "base": as_asked}
        content = planted(tmp_path / name, VAN_GOGH, models, searched={folder: read_attack(folder)}).content
        return next((each for each in content["gates"] if each["name"] == "null attack"), None)

    assert (gate("sound") or {})["passed"]
    found = gate("none", **results(nulls={}, excess=None)) or {}
    assert (found["passed"], found["sentence"]) == (
        False,
        "An attack is reported beside a null attack of equal budget only; 'soft' has none.",
    )
    without = planted(tmp_path / "without", VAN_GOGH, {"erased": erased, "base": as_asked}).content
    assert "null attack" not in [each["name"] for each in without["gates"]]
    assert without["verdict"]["code"] == "erased"  # no attack was run, and the verdict does not wait for one


def test_several_models_show_their_attacks_in_one_table(planted: Callable, tmp_path: Path) -> None:
    for name, hits in (("vg", 7), ("small", 3), ("none", None)):
        models = {"erased": erased, "base": as_asked}
        runs = {}
        if hits is not None:
            folder = plant_attack(tmp_path / f"{name}.soft", **results(attack=arm(hits)))
            runs = {folder: read_attack(folder)}
        planted(tmp_path / name, VAN_GOGH, models, name, searched=runs)
    page = combine({name: tmp_path / name for name in ("vg", "small", "none")}, tmp_path / "out")
    content = json.loads(page.with_name("report.json").read_text(encoding="utf-8"))
    assert {label: len(runs) for label, runs in content["searched"].items()} == {"vg": 1, "small": 1, "none": 0}
    html, markdown = texts(page)
    (row,) = re.findall(r'<th scope="row">soft</th>(.*?)</tr>', html, re.S)
    assert re.findall(r"(\d) of 10", row) == ["7", "3"]
    assert "| prompts with the target | vg | small |" in markdown
    assert re.search(r"^\| soft \| 7/10 [^|]*\| 3/10 [^|]*\|$", markdown, re.M)


def seeded(evaluation: Evaluation, seed: int, ua: float) -> None:
    """Let a planted evaluation be one of an erasure with this seed and this UA."""
    path = evaluation.folder / "report.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["provenance"] |= {"erasure_config": {"method": "esd", "seed": seed}, "erasure_seed": seed}
    content["metrics"]["ua"]["erased"]["value"] = ua
    path.write_text(json.dumps(content))


def test_the_page_shows_mean_and_spread_over_training_seeds(planted: Callable, tmp_path: Path) -> None:
    found = [planted(tmp_path / f"vg-seed{seed}", VAN_GOGH, {"erased": erased, "base": as_asked}) for seed in (0, 1)]
    for seed, evaluation in enumerate(found):
        seeded(evaluation, seed, 0.5 + 0.25 * seed)
    one, other = (json.loads((each.folder / "report.json").read_text(encoding="utf-8")) for each in found)
    path = found[0].folder / "report.json"
    path.write_text(json.dumps(one | {"over_seeds": over_seeds(one, [other])}))
    page, markdown = texts(report.render(found[0].folder))
    for text in (page, markdown):
        assert "seeds 0, 1" in text
        assert "62.5 % ± 17.7 %" in text
        assert "50.0 % to 75.0 %" in text
    page, markdown = texts(report.render(found[1].folder))  # nobody told it of the other
    assert "Over training seeds" not in page
    assert "±" not in markdown


def test_several_seeds_side_by_side_are_one_erasure(planted: Callable, tmp_path: Path) -> None:
    """Each was evaluated before the ones after it, so that the common report has to count for itself."""
    names = ["vg-seed0", "other", "vg-seed1", "vg-seed2"]
    for name in names:
        evaluation = planted(tmp_path / name, VAN_GOGH, {"erased": erased, "base": as_asked}, name)
        if name != "other":
            seeded(evaluation, int(name[-1]), 0.5 + 0.25 * int(name[-1]))
    page = combine({name: tmp_path / name for name in names}, tmp_path / "out")
    content = json.loads(page.with_name("report.json").read_text(encoding="utf-8"))
    (erasure,) = content["over_seeds"]
    assert (erasure["labels"], erasure["seeds"]) == (["vg-seed0", "vg-seed1", "vg-seed2"], [0, 1, 2])
    assert erasure["metrics"]["ua"]["mean"] == 0.75
    html, markdown = texts(page)
    assert "<small>training seeds 0, 1, 2</small>" in html
    assert "| vg-seed0, vg-seed1, vg-seed2, training seeds 0, 1, 2 |" in markdown
    for text in (html, markdown):
        assert "75.0 % ± 25.0 %" in text
