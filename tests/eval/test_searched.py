"""What ``erase attack`` found stands in the report of the evaluation, with its nulls, and never for other weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval import report
from eval.grid import Target
from eval.rows import Row
from eval.searched import OTHER_WEIGHTS, searched_attacks
from eval.seeds import over_seeds


VAN_GOGH = Target("style", ("Van_Gogh",))


def share(hits: int, n: int = 10) -> dict[str, Any]:
    return {"value": hits / n, "lo": max(0.0, hits / n - 0.2), "hi": min(1.0, hits / n + 0.2), "hits": hits, "n": n}


def attacked(model: str, withheld: str | None = None) -> dict[str, Any]:
    arms = {name: {"asr_total": share(hits)} for name, hits in (("random_soft_tokens", 1), ("seed_search", 2))}
    return {
        "attack": {"attack": "soft", "tries": 5, "params": {"tokens": 3, "steps": 30, "optimizer": "adam"}},
        "models": {"erased": model, "base": "b"},
        "withheld": withheld,
        "results": {
            "base": share(9),
            "pre": share(0),
            "attack": {"asr_total": share(7)},
            "nulls": arms,
            "excess": {"value": 0.5, "lo": 0.1, "hi": 0.8, "null": "seed_search", "n": 10},
        },
        "reproduce": "erase attack vg --attack soft",
    }


def plant(folder: Path, **content: Any) -> None:
    folder.mkdir()
    (folder / "attack.json").write_text(json.dumps(attacked(**content)))


def test_only_results_of_the_same_weights_count(tmp_path: Path) -> None:
    plant(tmp_path / "vg[1].soft", model="mine")
    plant(tmp_path / "vg[1].discrete", model="other")
    plant(tmp_path / "vg[1].seeds", model="mine", withheld="The base shows the target on 1 of 10 prompts.")
    plant(tmp_path / "vg1.soft", model="mine")
    (tmp_path / "vg[1].eval").mkdir()
    found = {each["folder"]: each for each in searched_attacks(tmp_path / "vg[1]", "mine")}
    assert set(found) == {"vg[1].discrete", "vg[1].seeds", "vg[1].soft"}
    soft = found["vg[1].soft"]
    assert soft["struck"] is None
    assert soft["budget"] == "best of 5, 3 tokens, 30 steps"
    assert [each["hits"] for each in soft["arms"].values()] == [0, 7, 1, 2]
    assert found["vg[1].discrete"]["struck"] == OTHER_WEIGHTS
    assert found["vg[1].seeds"]["struck"] == "The base shows the target on 1 of 10 prompts."


@pytest.mark.parametrize("model", ["mine", "other"])
def test_the_page_shows_an_attack_beside_its_nulls(planted: Callable, tmp_path: Path, model: str) -> None:
    plant(tmp_path / "vg.soft", model=model)
    page, markdown = render(planted, tmp_path, searched=searched_attacks(tmp_path / "vg", "mine"))
    for text in (page, markdown):
        assert "soft" in text
        assert "best of 5, 3 tokens, 30 steps" in text
        assert "7/10 = 70.0 % [50.0, 90.0]" in text
        assert "null: random soft tokens" in text
        assert "+50.0 [+10.0, +80.0]" in text
        assert (OTHER_WEIGHTS in text) is (model == "other")
    struck = '<span class="struck">7/10 = 70.0 % [50.0, 90.0]</span>'
    assert (struck in page) is (model == "other")
    assert ("~~7/10 = 70.0 % [50.0, 90.0]~~" in markdown) is (model == "other")


def test_the_page_shows_mean_and_spread_over_training_seeds(planted: Callable, tmp_path: Path) -> None:
    def content(seed: int, value: float) -> dict[str, Any]:
        provenance = {"erasure_config": {"seed": seed}, "erasure_seed": seed, "base": "b"}
        metrics = {"ua": {"erased": {"value": value}, "struck": None}}
        return {"provenance": provenance, "suite": {"hash": "a"}, "schema_version": 2, "metrics": metrics}

    page, markdown = render(planted, tmp_path, over_seeds=over_seeds(content(0, 0.5), [content(1, 0.75)]))
    for text in (page, markdown):
        assert "seeds 0, 1" in text
        assert "62.5 % ± 17.7 %" in text
        assert "50.0 % to 75.0 %" in text


def render(planted: Callable, tmp_path: Path, **content: Any) -> tuple[str, str]:
    def asked(row: Row) -> tuple[str, str, str]:
        return row.style, row.object, ""

    folder = planted(tmp_path / "vg.eval", VAN_GOGH, {"erased": asked, "base": asked}, "vg").folder
    path = folder / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | content))
    page = report.render(folder)
    return page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")
