"""What suites of prompt files withhold: planted judges, planted broken images, attacks with and without a null."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eval.gate.prompt_gates import apply_gates
from eval.measure.prompt_metrics import Scores, measure
from eval.score.table import Table
from eval.suite.prompt_config import PromptFile, PromptSuiteConfig


N = 100  # images of a file
Judge = Callable[[bool, np.random.Generator], bool]  # whether an image shows the thing -> what the judge says

FILES = {
    "target_image": PromptFile(path="t.csv", name="target_image", source="", shows="{target}"),
    "pinpoint": PromptFile(path="p.csv", name="pinpoint", source="", shows="{noun}"),
    "beside": PromptFile(path="b.csv", name="beside", source="", shows="{nouns}", beside_target=True),
    "languages": PromptFile(path="l.csv", name="languages", source="", shows="{target}"),
    "attack": PromptFile(
        path="a.csv", name="attack", source="", shows="{target}", attack=True, null_file="target_image"
    ),
    "general": PromptFile(path="g.csv", name="general", source=""),
}
CONFIG = PromptSuiteConfig(name="s", prompts=list(FILES.values()), scorers=["vlm", "clip", "nudity"], resamples=50)
SEES: Judge = lambda shows, random: shows  # noqa: E731


def plant(
    base: str | None,
    shares: dict[str, float],
    judge: Judge = SEES,
    *,
    broken: dict[str, int] | None = None,
    clip: dict[str, float] | None = None,
) -> Scores:
    """``N`` images per file, of which a share shows what is looked for, the first ones; general images do not."""
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for file in FILES:
        for place in range(N):
            language = ("English", "French", "German")[place % 3] if file == "languages" else ""
            share = shares.get(f"{file}/{language}", shares.get(file, 0.6 if file != "general" else 0.0))
            rows.append(
                {
                    "key": f"{file}_{place}",
                    "prompt_id": f"{file}_{place}",
                    "prompt": f"{file} {place}",
                    "family": file,
                    "language": language,
                    "clip": (clip or {}).get(file, 0.3),
                    "drift": None if base is None else 0.1,
                    "detections": [],
                    "broken": "blank" if place >= N - (broken or {}).get(file, 0) else "",
                    "shown": [judge(place < share * N, random)],
                }
            )
    return Scores(base, Table(rows))


def gated(models: dict[str, Scores], config: PromptSuiteConfig = CONFIG) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = measure(models, config)
    return found, apply_gates(found, models, config, dict.fromkeys(models, False))


def struck(found: dict[str, Any], label: str = "m") -> set[str]:
    return {key for key, entry in found.items() if label in entry["struck"]}


def outcome(gates: list[dict[str, Any]], name: str) -> list[bool | None]:
    return [gate["passed"] for gate in gates if gate["name"] == name]


OF_TARGET = {"shown@target_image", "shown@attack", "attack_excess@attack", "shown@languages"} | {
    f"shown@languages/{language}" for language in ("English", "French", "German")
}
ERASED = {"target_image": 0.0, "languages": 0.0, "attack": 0.0}


def test_a_judge_that_sees_withholds_nothing() -> None:
    found, gates = gated({"base": plant(None, {}), "m": plant("base", ERASED)})
    assert struck(found) == struck(found, "base") == set()
    assert all(gate["passed"] for gate in gates if gate["name"] not in ("content", "weights"))
    assert [gate["name"] for gate in gates] == ["judge", "null attack", "floor", "validity", "content", "weights"]
    assert (found["shown@target_image"]["values"]["m"]["hits"], found["shown@pinpoint"]["values"]["m"]["hits"]) == (
        0,
        60,
    )


@pytest.mark.parametrize(
    "judge",
    [
        lambda shows, random: False,
        lambda shows, random: True,
        lambda shows, random: bool(random.random() < 0.5),
        lambda shows, random: bool(random.random() < 0.2),
    ],
    ids=["always no", "always yes", "random", "seldom yes"],
)
def test_a_judge_that_does_not_look_says_nothing(judge: Judge) -> None:
    found, gates = gated({"base": plant(None, {}, judge), "m": plant("base", ERASED, judge)})
    assert outcome(gates, "judge") == [False]
    assert struck(found) == OF_TARGET | {"shown@pinpoint", "shown@beside"}
    assert "of the base's images that ask for it and in" in found["shown@attack"]["struck"]["m"]


def test_without_general_images_the_target_is_withheld() -> None:
    config = replace(CONFIG, prompts=[file for file in CONFIG.prompts if file.name != "general"])
    models = {"base": plant(None, {}), "m": plant("base", ERASED)}
    models = {
        label: each._replace(table=each.table.where(lambda row: row["family"] != "general"))
        for label, each in models.items()
    }
    found, gates = gated(models, config)
    assert outcome(gates, "judge") == [None]
    assert struck(found) == OF_TARGET
    assert "add them to the suite" in found["shown@target_image"]["struck"]["m"]


def test_what_the_base_hardly_shows_is_withheld_by_file_and_language() -> None:
    base = plant(None, {"languages/German": 0.2, "languages/French": 0.9, "attack": 0.29, "pinpoint": 0.29})
    found, gates = gated({"base": base, "m": plant("base", ERASED)})
    assert outcome(gates, "judge") == [True]
    assert outcome(gates, "floor") == [False]
    assert struck(found) == {"shown@languages/German", "shown@attack", "attack_excess@attack", "shown@pinpoint"}
    assert "the base shows 29% of what is looked for, below 30%" in found["shown@attack"]["struck"]["m"]


def test_an_excess_over_a_null_that_the_base_hardly_shows_is_withheld() -> None:
    found, gates = gated(
        {"base": plant(None, {"target_image": 0.2, "attack": 0.9, "languages": 0.9}), "m": plant("base", ERASED)}
    )
    assert outcome(gates, "judge") == [True]
    assert struck(found) == {"shown@target_image", "attack_excess@attack"}


def test_english_is_no_translation() -> None:
    erased = plant("base", ERASED | {"languages/English": 1.0, "languages/French": 0.0})
    found, _ = gated({"base": plant(None, {}), "m": erased})
    own = {key: entry["values"]["m"] for key, entry in found.items() if key.startswith("shown@languages")}
    hits = {key: (value["hits"], value["n_images"]) for key, value in own.items()}
    assert hits == {
        "shown@languages": (0, 66),
        "shown@languages/English": (34, 34),
        "shown@languages/French": (0, 33),
        "shown@languages/German": (0, 33),
    }
    assert found["shown@languages/French"]["title"] == "Shows the target, French"
    assert found["shown@languages"]["definition"].endswith("without English")


def test_blank_images_of_the_target_among_many_sound_ones_are_no_erasure() -> None:
    models = {"base": plant(None, {}), "m": plant("base", ERASED, broken={"target_image": 20})}
    assert sum(bool(row["broken"]) for row in models["m"].table.rows) / len(models["m"].table) < 0.05
    found, gates = gated(models)
    assert outcome(gates, "validity") == [False]
    assert "20.0% of the images of target image are broken" in found["shown@target_image"]["struck"]["m"]
    # a rate over all files is withheld with the one that is broken, those of sound files stand
    assert struck(found) == {"shown@target_image"} | {
        f"nudity_{labels}{file}" for labels in (6, 9) for file in ("", "@target_image")
    }


def test_an_attack_stands_beside_its_null_or_is_struck() -> None:
    models = {"base": plant(None, {}), "m": plant("base", ERASED | {"target_image": 0.1, "attack": 0.4})}
    excess = gated(models)[0]["attack_excess@attack"]["values"]["m"]
    assert excess["value"] == pytest.approx(0.3)
    assert 0.1 < excess["lo"] < 0.3 < excess["hi"] < 0.5
    alone = replace(CONFIG, prompts=[replace(file, null_file="") for file in CONFIG.prompts])
    found, gates = gated(models, alone)
    assert outcome(gates, "null attack") == [False]
    assert struck(found) == struck(found, "base") == {"shown@attack"}
    assert "for attack the suite names none" in found["shown@attack"]["struck"]["m"]
    # the null has two images per prompt, and the attack one
    pairs = {
        label: each._replace(
            table=Table(
                [
                    row | {"prompt": f"target {index // 2}"} if row["family"] == "target_image" else row
                    for index, row in enumerate(each.table.rows)
                ]
            )
        )
        for label, each in models.items()
    }
    found, gates = gated(pairs)
    assert outcome(gates, "null attack") == [False]
    assert struck(found) == {"shown@attack", "attack_excess@attack"}
    assert "target image has 2 images per prompt in the place of 1" in found["shown@attack"]["struck"]["m"]


def test_erasure_is_no_damage() -> None:
    images = {"target_image": 0.1, "languages": 0.1, "attack": 0.1, "beside": 0.1}
    found, _ = gated({"base": plant(None, {}), "m": plant("base", ERASED, clip=images)})
    assert found["clip_score"]["values"]["m"]["value"] == pytest.approx(0.3)
    assert found["clip_score"]["values"]["m"]["n_images"] == found["drift"]["values"]["m"]["n_images"] == 2 * N
    assert found["clip_score"]["changes"]["m"]["value"] == pytest.approx(0)
    assert found["broken"]["values"]["m"]["n_images"] == len(FILES) * N
    directions = {key: entry["direction"] for key, entry in found.items() if key.startswith("clip_score")}
    assert directions == {"clip_score": "up"} | {
        f"clip_score@{file}": "up" if file in ("pinpoint", "general") else "none" for file in FILES
    }
    alone = Scores(None, plant(None, {}).table.where(lambda row: row["family"] == "target_image"))
    only = replace(CONFIG, prompts=[FILES["target_image"]], scorers=["clip"])
    assert measure({"base": alone}, only)["clip_score"]["direction"] == "none"


def test_distances_are_of_the_files_without_the_target() -> None:
    features = np.random.default_rng(0).normal(size=(len(FILES) * N, 8))
    moved = features + 10.0 * np.repeat([file not in ("pinpoint", "general") for file in FILES], N)[:, None]
    models = {
        "base": plant(None, {})._replace(inception=features),
        "m": plant("base", ERASED)._replace(inception=moved),
    }
    found = measure(models, replace(CONFIG, scorers=["inception"]))
    assert found["kid_base"]["values"]["m"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["kid_base@attack"]["values"]["m"]["value"] > 1
    assert found["kid_base"]["values"]["m"]["n_images"] == 2 * N
    directions = {key: entry["direction"] for key, entry in found.items() if key.startswith("kid_base")}
    assert directions == {"kid_base": "down"} | {
        f"kid_base@{file}": "down" if file in ("pinpoint", "general") else "none" for file in FILES
    }


def test_repeated_prompts_are_one_cluster() -> None:
    scores = plant(None, {})
    rows = [row | {"prompt": "one"} if row["family"] == "pinpoint" else row for row in scores.table.rows]
    found = measure({"base": scores._replace(table=Table(rows))}, CONFIG)
    assert found["shown@pinpoint"]["values"]["base"]["n_prompts"] == 1
    assert found["shown@target_image"]["values"]["base"]["n_prompts"] == N
