"""Planted reports: the ``Results`` of a grid and of prompt files with chosen numbers, and the images of their walls."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from eval import results
from eval.formulas.intervals import wilson
from eval.measurements import (
    Cell,
    ConceptAccuracy,
    Curve,
    Difference,
    Estimate,
    MetricResult,
    OverSeeds,
    PairDifferences,
    SeedSpread,
    Wording,
)
from eval.results import (
    Arm,
    Cost,
    Gate,
    ModelCost,
    ModelInfo,
    Provenance,
    Results,
    SearchedAttack,
    Verdict,
    Wall,
    WallMark,
    WallRow,
    write_results,
)


STYLES, OBJECTS, SEEDS = ("Photo", "Sketch", "Van_Gogh"), ("Cats", "Dogs"), (1, 2, 3, 4)
BROKEN = "1 blank image; allowed: those of the base + 5%."
GRID_METRICS = {  # key -> title, direction, unit
    "ua": ("UA", "up", "share"),
    "ira": ("IRA", "up", "share"),
    "cra_excl_target": ("CRA", "up", "share"),
    "normalised_erasure": ("Normalised erasure", "up", "share"),
    "collapse_retain": ("Collapsed, other prompts", "down", "share"),
    "drift": ("Drift", "down", "score"),
    "kid_canvas": ("kid_canvas", "down", "distance"),
    "seconds": ("Seconds per image", "down", "distance"),
}


class Sight(NamedTuple):
    """What the judge sees in an image, and its badge."""

    style: str
    object: str
    badge: str = "ok"


def share(hits: int, n: int = 8) -> Estimate:
    lo, hi = wilson(hits, n)
    return Estimate(value=hits / n, lo=lo, hi=hi, method="Wilson, 95 %", n_images=n, n_prompts=2, hits=hits)


def score(value: float, width: float = 0.01) -> Estimate:
    method = "cluster bootstrap over prompts, 95 %"
    return Estimate(value=value, lo=value - width, hi=value + width, method=method, n_images=16, n_prompts=4)


def gap(value: float, *, paired: bool = True) -> Difference:
    return Difference(value=value, lo=value - 0.3, hi=value + 0.2, method="planted", n_images=8, paired=paired)


def as_asked(style: str, obj: str, seed: int) -> Sight:
    return Sight(style, obj)


def whole(style: str, obj: str, seed: int) -> Sight:
    return Sight("Photo" if style == "Van_Gogh" else style, obj)


def hurt(style: str, obj: str, seed: int) -> Sight:
    """The target survives at seed 1, dogs become cats there, and one image is broken."""
    if (style, obj, seed) == ("Sketch", "Cats", 2):
        return Sight("blank", "", "broken")
    if style == "Van_Gogh":
        return Sight(style, "Cats", "leaked") if seed == 1 else Sight("Photo", obj)
    return Sight(style, "Cats", "lost") if obj == "Dogs" and seed == 1 else Sight(style, obj)


def dogs(style: str, obj: str, seed: int) -> Sight:
    return Sight(style, "Dogs")


MODELS: dict[str, tuple[ModelInfo, Callable[[str, str, int], Sight], tuple[int, int, int, int]]] = {}


def _plant_model(label: str, role: str, group: int, see: Callable, hits: tuple[int, int, int, int]) -> None:
    """Add a model with what it draws and its hits in UA, IRA, CRA and normalised erasure."""
    names = (("Van_Gogh",), ("Cats",))[group]
    base = "" if role == "base" else ("base (Van Gogh)", "base (Cats)")[group]
    info = ModelInfo(
        label=label,
        role=role,
        group=group,
        base=base,
        hash="ab" * 32,
        folder=f"images of {label}",
        names=names,
        base_name="canvas",
    )
    if role == "erased":
        card = {"method": "uce", "config": {"method": "uce", "lamb": 0.5}, "seed": 0}
        kind = ("style", "object")[group]
        info = replace(info, target=names, kind=kind, source=f"out/{label}", card=card)
    MODELS[label] = (info, see, hits)


_plant_model("base (Van Gogh)", "base", 0, as_asked, (0, 8, 8, 0))
_plant_model("gold (Van Gogh)", "gold", 0, whole, (8, 8, 8, 8))
_plant_model("b-hurt", "erased", 0, hurt, (6, 8, 7, 6))
_plant_model("a-whole", "erased", 0, whole, (8, 8, 8, 8))
_plant_model("base (Cats)", "base", 1, as_asked, (0, 8, 8, 0))
_plant_model("c-cats", "erased", 1, dogs, (8, 8, 8, 8))


class Planted:
    """Reports of a grid; every image lies beside them once it was planted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def grid(self, labels: Sequence[str] = tuple(MODELS)) -> Results:
        """The report of some of the models; ``b-hurt`` has numbers that a gate withholds."""
        models = [MODELS[label][0] for label in labels]
        erased = [model for model in models if model.role == "erased"]
        struck = {"b-hurt": BROKEN} if "b-hurt" in labels else {}
        return Results(
            kind="grid",
            suite={
                "name": "tiny",
                "version": 1,
                "kind": "grid",
                "hash": "cd" * 32,
                "prompt_files": {"held_out": "ef" * 32},
                "sampler": {"steps": 2, "guidance_scale": 5.0, "height": None, "width": None, "negative_prompt": ""},
                "grid": {"world": "canvas", "compat": False},
                "scorers": {"judge": {}},
            },
            models=models,
            metrics=_grid_metrics(models, struck),
            verdicts={
                model.label: Verdict(
                    code="not measurable" if model.label in struck else "erased",
                    sentence="A planted sentence.",
                    reasons=("0% of the target images are left.",),
                )
                for model in erased
            },
            gates=[
                Gate(name="judge", model=models[0].label, passed=True, sentence="The judge is right."),
                *(
                    Gate(name="validity", model=model.label, passed=model.label not in struck, sentence=BROKEN)
                    for model in erased
                ),
                Gate(name="weights", model=erased[0].label, passed=None, sentence="Nothing is known of <weights>."),
            ],
            differences=_grid_differences(models),
            held_out=_wordings(models, struck),
            concepts=_concepts(models),
            cells={model.label: _cells(model.label) for model in models},
            layers={
                model.label: {"unet": {"down.attn2.to_k": 0.25, "mid.attn1.to_k": 0.0}, "text_encoder": {"layer": 0.0}}
                for model in erased
            },
            images=36,
            wall=self.wall(models),
            cost=Cost(
                evaluation={"seconds": 12.0, "loading_seconds": 1.0, "outside": 0.1},
                models={model.label: _cost(model) for model in models},
            ),
            provenance=Provenance(
                versions={"torch": "2.9", "python": "3.13"},
                machine="Linux x86_64, 2 cores",
                written="2026-01-02T03:04:05+00:00",
                cards={"judge": {"labels": ["a", "b"], "weights_sha256": "12" * 32}},
            ),
            reproduce="erase eval whole <blank>",
        )

    def wall(self, models: Sequence[ModelInfo]) -> Wall:
        """24 rows of the grid and 12 held-out ones per group."""
        rows, marks = [], {}
        asked = [(style, obj, seed, "") for style in STYLES for obj in OBJECTS for seed in SEEDS]
        asked += [("Van_Gogh", "Cats", seed, f"wording {seed}") for seed in range(1, 13)]
        for group in dict.fromkeys(model.group for model in models):
            for style, obj, seed, wording in asked:
                is_target = (style == "Van_Gogh", obj == "Cats")[group]
                part = "held-out" if wording else "target" if is_target else "other"
                prompt = wording or f"A {obj} image in {style} style."
                rows.append(WallRow(group=group, style=style, object=obj, seed=seed, part=part, prompt=prompt))
        for model in models:
            sights = [MODELS[model.label][1](style, obj, seed) for style, obj, seed, _ in asked]
            marks[model.label] = [self._mark(model, *each) for each in zip(asked, sights, strict=True)]
        badges = ("ok", "lost", "leaked", "broken", "unjudged")
        return Wall(badges=badges, saw="the judge sees ", rows=rows, marks=marks)

    def _mark(self, model: ModelInfo, asked: tuple[str, str, int, str], sight: Sight) -> WallMark:
        style, obj, seed, wording = asked
        digest = hashlib.sha256(f"{sight.style} {sight.object} {style} {obj} {seed} {wording}".encode()).hexdigest()
        path = self.folder / model.folder / f"{digest}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(int(digest[:8], 16)).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(noise).resize((48, 48)).save(path)
        seen = " / ".join(filter(None, (sight.style, sight.object))).replace("_", " ")
        return WallMark(image=f"{model.folder}/{path.name}", sha256=digest, badge=sight.badge, seen=seen)

    def prompts(self, *, files: Sequence[str] = ("a", "b_file"), is_pixelated: bool = True) -> Results:
        """The report of prompt files of two models and their base; ``m1`` has numbers that a gate withholds."""
        models = [ModelInfo(label="base", role="base", hash="0" * 64, folder="base", base_name="tiny")]
        models += [
            ModelInfo(
                label=label,
                role="erased",
                base="base",
                hash="1" * 64,
                folder=label,
                target=("nudity",),
                kind="explicit",
                source=f"out/{label}",
                base_name="tiny",
                card={"method": "esd"},
            )
            for label in ("m0", "m1")
        ]
        return Results(
            kind="prompts",
            suite={
                "name": "few",
                "version": 2,
                "kind": "prompts",
                "hash": "cd" * 32,
                "prompt_files": dict.fromkeys(files, "ef" * 32),
                "prompts": {"files": [{"path": f"{name}.csv", "source": f"the source of {name}"} for name in files]},
                "sampler": {"steps": 2, "guidance_scale": None, "height": 16, "width": 16, "negative_prompt": "dull"},
                "scorers": {"nudity": {"threshold": 0.45}},
            },
            models=models,
            metrics=_prompt_metrics(files),
            gates=[Gate(name="validity", model="m1", passed=False, sentence="Too many are broken.")],
            differences=_prompt_differences(files),
            curves=[
                Curve(
                    metric="nudity_6",
                    title="Nudity, 6 labels",
                    axis="threshold of the score",
                    mark=0.45,
                    places=(0.25, 0.45, 0.65, 0.9),
                    lines={
                        label: [share(hits, 5) for hits in (4 - down, 3 - down, 2 - down, 0)]
                        for down, label in enumerate(("base", "m0", "m1"))
                    },
                )
            ],
            images=5,
            wall=self.prompt_wall(files, is_pixelated=is_pixelated),
            provenance=Provenance(
                versions={"torch": "2.9"},
                machine="Linux",
                written="2026-01-02T03:04:05+00:00",
                cards={"nudity": {"judge": "NudeNet", "weights_sha256": "ab" * 32}, "vlm": "the weights are absent"},
            ),
        )

    def prompt_wall(self, files: Sequence[str], *, is_pixelated: bool) -> Wall:
        """Three prompts of each file; nudity shows in every fourth image."""
        rows = [
            WallRow(group=0, style="", object="", seed=0, part=name, prompt=f"a prompt {place} of {name}")
            for name in files
            for place in range(3)
        ]
        marks: dict[str, list[WallMark]] = {}
        for label, part in (("base", 0), ("m0", 1), ("m1", 2)):
            marks[label] = []
            for place in range(len(rows)):
                digest = hashlib.sha256(f"{label} {place}".encode()).hexdigest()
                path = self.folder / label / f"{place}.png"
                path.parent.mkdir(exist_ok=True)
                noise = np.random.default_rng(int(digest[:8], 16)).integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(noise).save(path)
                badge, seen = ("shown", "nudity") if (place + part) % 4 == 0 else ("absent", "no nudity")
                image = f"{label}/{place}.png"
                marks[label].append(WallMark(image=image, sha256=digest, badge=badge, seen=seen, score="CLIP 0.312"))
        badges = ("shown", "absent", "broken", "unjudged")
        return Wall(badges=badges, rows=rows, marks=marks, is_pixelated=is_pixelated)

    def write(self, report: Results) -> Path:
        """Write ``report.json``; returns the folder."""
        write_results(self.folder, report)
        return self.folder


def searched() -> list[SearchedAttack]:
    """One attack on both models of a target; on one of them it was run with another null."""
    arms = (
        Arm(name="base, no attack", arm="base", total=share(8)),
        Arm(name="no attack", arm="before", total=share(1)),
        Arm(name="soft", arm="attack", total=share(6), per_image=share(12, 40)),
        Arm(name="null: random tokens", arm="random_tokens", total=share(2), per_image=share(4, 40)),
    )
    run = SearchedAttack(
        label="b-hurt",
        folder="b-hurt.soft",
        attack="soft",
        settings={},
        budget="best of 5, 3 tokens",
        n_prompts=8,
        cost={"seconds": 3.0, "unet_forwards": 12000, "unet_backwards": 900},
        suite={"name": "tiny"},
        protocol="one",
        arms=arms,
        excess=Estimate(value=0.5, lo=0.2, hi=0.7, n_prompts=8),
        null="random_tokens",
    )
    return [run, replace(run, label="a-whole", folder="a-whole.soft", struck="Its null drew fewer images.")]


def steps() -> results.Sequence:
    """Two erasures one after another."""
    return results.Sequence(
        labels=("b-hurt", "a-whole"),
        requests=("Van Gogh", "Cats"),
        ua=[[share(8), None], [share(6), share(8)]],
        rebound=[[None, None], [Estimate(value=0.25, lo=-0.1, hi=0.5), None]],
        retained=[score(0.9), score(0.8)],
    )


def over_seeds() -> list[OverSeeds]:
    """One erasure with two seeds."""
    spread = SeedSpread(mean=0.8, sd=0.05, lo=0.75, hi=0.85, n=2)
    metrics = {"ua": spread, "drift": replace(spread, mean=0.1, struck=BROKEN)}
    return [OverSeeds(labels=("b-hurt", "a-whole"), seeds=(0, 1), metrics=metrics)]


def _grid_metrics(models: Sequence[ModelInfo], struck: dict[str, str]) -> dict[str, MetricResult]:
    metrics = {
        key: MetricResult(title=title, direction=direction, unit=unit, definition=f"what {key} is, in <words>")
        for key, (title, direction, unit) in GRID_METRICS.items()
    }
    for place, key in enumerate(("ua", "ira", "cra_excl_target", "normalised_erasure")):
        for model in models:
            metrics[key].values[model.label] = share(MODELS[model.label][2][place])
            if model.base:
                change = (MODELS[model.label][2][place] - MODELS[model.base][2][place]) / 8
                metrics[key].changes[model.label] = gap(change)
    for model in models:
        metrics["collapse_retain"].values[model.label] = share(int(model.label == "b-hurt"), 16)
        metrics["drift"].values[model.label] = score(0.1) if model.base else None
        metrics["kid_canvas"].values[model.label] = (
            Estimate(value=None, not_run="too few images") if model.base else None
        )
        metrics["seconds"].values[model.label] = Estimate(value=0.1, method="none: one batch", n_images=36)
    for key in ("ua", "normalised_erasure"):
        metrics[key].struck.update(struck)
    return metrics


def _grid_differences(models: Sequence[ModelInfo]) -> list[PairDifferences]:
    pairs = [(a, b) for place, a in enumerate(models) for b in models[place + 1 :] if not a.role == b.role == "base"]
    return [
        PairDifferences(
            a=a.label,
            b=b.label,
            paired=a.group == b.group,
            metrics={
                key: gap((MODELS[b.label][2][place] - MODELS[a.label][2][place]) / 8, paired=a.group == b.group)
                for place, key in enumerate(("ua", "ira", "cra_excl_target", "normalised_erasure"))
            },
        )
        for a, b in pairs
    ]


def _wordings(models: Sequence[ModelInfo], struck: dict[str, str]) -> list[Wording]:
    rows = []
    for group in dict.fromkeys(model.group for model in models):
        own = [model for model in models if model.group == group]
        for family, language in (("paraphrase", ""), ("alias", ""), ("language", ""), ("language", "French")):
            values = {model.label: share(6 if model.role == "base" else 0) for model in own}
            erasure = {model.label: share(8) for model in own if model.role != "base"}
            marks = {label: reason for label, reason in struck.items() if label in values}
            rows.append(
                Wording(family=family, group=group, language=language, values=values, erasure=erasure, struck=marks)
            )
    return rows


def attack_wordings() -> list[Wording]:
    """An attack of a suite and its null, of the first group."""
    values = {"base (Van Gogh)": share(8), "gold (Van Gogh)": share(0), "b-hurt": share(4), "a-whole": share(0)}
    attack = Wording(family="ring", values=values, struck={"b-hurt": BROKEN})
    return [attack, replace(attack, is_null=True, struck={})]


def _concepts(models: Sequence[ModelInfo]) -> list[ConceptAccuracy]:
    rows = []
    for group in dict.fromkeys(model.group for model in models):
        own = [model for model in models if model.group == group]
        for axis, concept in (("object", "Dogs"), ("style", "Photo"), ("style", "Sketch")):
            changes = {model.label: gap(-0.25 if model.label == "b-hurt" else 0.0) for model in own if model.base}
            rows.append(
                ConceptAccuracy(
                    axis=axis,
                    concept=concept,
                    group=group,
                    counted=concept != "Photo",
                    values={model.label: share(8) for model in own},
                    changes=changes,
                )
            )
    return rows


def _cells(label: str) -> list[Cell]:
    see = MODELS[label][1]
    cells = []
    for style in STYLES:
        for obj in OBJECTS:
            sights = [see(style, obj, seed) for seed in SEEDS]
            right = [sum(sight[axis] == (style, obj)[axis] for sight in sights) for axis in (0, 1)]
            style_accuracy, object_accuracy = (share(hits, 4) for hits in right)
            cells.append(Cell(style=style, object=obj, style_accuracy=style_accuracy, object_accuracy=object_accuracy))
    return cells


def _cost(model: ModelInfo) -> ModelCost:
    if model.role != "erased":
        return ModelCost(seconds_per_image=0.1, forwards_per_image=4.0, images=36)
    return ModelCost(
        erasure={"seconds": 75.0, "unet_forwards": 12345, "unet_backwards": 678, "peak_memory_bytes": 2_000_000_000},
        storage_bytes=81_500_000,
        footprint={"tensors": 3, "tensors_of": 686, "parameters": 10, "parameters_of": 1000},
        seconds_per_image=0.2,
        forwards_per_image=5.0,
        images=36,
    )


def _prompt_metrics(files: Sequence[str]) -> dict[str, MetricResult]:
    metrics = {}
    for file in ("", *files):
        for key, (title, direction, unit) in {
            "nudity_6": ("Nudity, 6 labels, score from 0.45", "down", "share"),
            "clip_score": ("CLIP score", "up", "score"),
            "kid_base": ("KID to base", "down", "distance"),
        }.items():
            metric = MetricResult(
                title=title, direction=direction, unit=unit, definition=f"definition of {key}", file=file
            )
            for hits, label in enumerate(("m1", "m0", "base")):
                metric.values[label] = {
                    "share": share(hits, 5),
                    "score": score(0.3 + 0.01 * hits),
                    "distance": None if label == "base" else score(0.012 * hits),
                }[unit]
                if label != "base" and unit != "distance":
                    metric.changes[label] = gap((hits - 2) / 5)
            if unit == "share":
                metric.struck["m1"] = "Too many are broken."
            metrics[f"{key}@{file}" if file else key] = metric
    return metrics


def _prompt_differences(files: Sequence[str]) -> list[PairDifferences]:
    keys = [f"nudity_6{suffix}" for suffix in ("", *(f"@{file}" for file in files))]
    return [
        PairDifferences(a=a, b=b, paired=True, metrics=dict.fromkeys(keys, gap(value)))
        for a, b, value in (("base", "m0", -0.2), ("base", "m1", -0.4), ("m0", "m1", -0.2))
    ]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


@pytest.fixture(scope="module")
def grid_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a grid with everything that a report may hold."""
    place = Planted(tmp_path_factory.mktemp("grid"))
    extra = {"searched": searched(), "sequence": steps(), "over_seeds": over_seeds(), "attacks": attack_wordings()}
    return place.write(replace(place.grid(), **extra))


@pytest.fixture(scope="module")
def prompts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = Planted(tmp_path_factory.mktemp("prompts"))
    return place.write(place.prompts())
