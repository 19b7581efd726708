"""Measure the canvas against the quality it promises, with n for every number."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionPipeline

from erase.canvas.drawing import draw
from erase.canvas.judge import Judge, JudgeOutput, load_judge, score
from erase.canvas.weights import gold_names, load_base, load_gold
from erase.canvas.world import LANGUAGES, OBJECT_NAMES, STYLE_NAMES, template


SEEDS = (1, 2, 3, 4, 5)


class Line(NamedTuple):
    """One measured quality: percent, how many, the bar, and whether it is met."""

    name: str
    value: float  # percent
    n: int
    bar: float | None  # percent, none where the issue sets none
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of the bar."""
        return self.bar is None or (self.value <= self.bar if self.at_most else self.value >= self.bar)

    def __str__(self) -> str:
        """One row of the printed table."""
        sign = "" if self.bar is None else f"{'<=' if self.at_most else '>='} {self.bar:g}"
        return f"{self.name:<44} {self.value:6.1f} %  n = {self.n:<5} {sign:<8} {'ok' if self.met else 'NOT MET'}"


class Grid(NamedTuple):
    """A judged style x object grid: booleans (styles, objects, seeds) and what it cost."""

    style_hit: torch.Tensor
    object_hit: torch.Tensor
    seconds: float


def verify(held_out: Path, report: Callable[[str], Any]) -> list[Line]:
    """Measure judges, grid, wordings and gold models; every line goes to ``report`` as soon as it is known."""
    judge = load_judge()
    card = judge.card
    pairs = card["pairs"]
    lines: list[Line] = []

    def add(*new: Line) -> None:
        for line in new:
            lines.append(line)
            report(str(line))

    add(
        Line("judge, style, held-out real pictures", 100 * card["style_accuracy"], card["n"], 97),
        Line("judge, object, held-out real pictures", 100 * card["object_accuracy"], card["n"], 97),
        Line("judge, exactly both objects of a pair", 100 * pairs["exactly_both_objects"], pairs["n"], None),
    )
    base = load_base()
    grid = judge_grid(base, judge, "base grid")
    report(f"the grid took {grid.seconds:.0f} s")
    add(
        Line("grid, style", percent(grid.style_hit), grid.style_hit.numel(), 90),
        Line("grid, object", percent(grid.object_hit), grid.object_hit.numel(), 90),
    )
    add(*wordings(base, judge, held_out))
    for name in gold_names():
        add(*compare_gold(grid, judge_grid(load_gold(name), judge, f"gold {name}"), name))
    return lines


def judge_grid(pipe: StableDiffusionPipeline, judge: Judge, title: str) -> Grid:
    """Draw and judge every cell with the five seeds."""
    cells = [(s, o, seed) for s in range(len(STYLE_NAMES)) for o in range(len(OBJECT_NAMES)) for seed in SEEDS]
    prompts = [template(STYLE_NAMES[s], OBJECT_NAMES[o]) for s, o, _ in cells]
    start = time.perf_counter()
    pictures = draw(pipe, prompts, [seed for _, _, seed in cells], title=title)
    seconds = time.perf_counter() - start
    scores = score(judge, pictures)
    shape = (len(STYLE_NAMES), len(OBJECT_NAMES), len(SEEDS))
    style = torch.tensor([s for s, _, _ in cells])
    objects = torch.tensor([o for _, o, _ in cells])
    return Grid(
        (scores.style_logits.argmax(1) == style).view(shape),
        (scores.object_logits.argmax(1) == objects).view(shape),
        seconds,
    )


def wordings(pipe: StableDiffusionPipeline, judge: Judge, held_out: Path) -> list[Line]:
    """Judge the held-out wordings, one picture per row."""
    with held_out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = draw(pipe, [row["prompt"] for row in rows], list(range(1000, 1000 + len(rows))), title="wordings")
    scores = score(judge, pictures)
    hits = [_hit(row, scores, index) for index, row in enumerate(rows)]

    def line(name: str, bar: float | None, **wanted: str) -> Line:
        chosen = [hit for hit, row in zip(hits, rows, strict=True) if all(row[k] == v for k, v in wanted.items())]
        return Line(name, 100 * sum(chosen) / len(chosen), len(chosen), bar)

    lines = [line("held-out paraphrases, style and object", 85, family="paraphrase")]
    lines += [line(f"alias of a {kind}", 85, family="alias", kind=kind) for kind in ("style", "object")]
    lines += [line(f"description of a {kind}", None, family="description", kind=kind) for kind in ("style", "object")]
    languages = [line(f"{name}, style and object", None, family="language", language=name) for name in LANGUAGES]
    third = sorted((entry.value for entry in languages), reverse=True)[2]
    lines += [*languages, Line("third-best language", third, languages[0].n, 80)]
    return [*lines, line("two objects, both visible", 70, family="two_object")]


def compare_gold(base: Grid, gold: Grid, name: str) -> list[Line]:
    """The missing concept at chance, everything else within three points of the base."""
    axis, index, count = (
        (0, STYLE_NAMES.index(name), len(STYLE_NAMES))
        if name in STYLE_NAMES
        else (1, OBJECT_NAMES.index(name), len(OBJECT_NAMES))
    )
    others = [k for k in range(count) if k != index]
    missing = (gold.style_hit if axis == 0 else gold.object_hit).select(axis, index)
    lines = [
        Line(f"gold without {name}: drawn all the same", percent(missing), missing.numel(), 100 / count, at_most=True)
    ]
    for label, base_hit, gold_hit in (
        ("style", base.style_hit, gold.style_hit),
        ("object", base.object_hit, gold.object_hit),
    ):
        kept = gold_hit.index_select(axis, torch.tensor(others))
        lost = percent(base_hit.index_select(axis, torch.tensor(others))) - percent(kept)
        lines.append(Line(f"gold without {name}: {label} points lost elsewhere", lost, kept.numel(), 3, at_most=True))
    return lines


def percent(hits: torch.Tensor) -> float:
    """Share of true entries, in percent."""
    return 100 * hits.float().mean().item()


def _hit(row: dict[str, str], scores: JudgeOutput, index: int) -> bool:
    style = STYLE_NAMES[int(scores.style_logits[index].argmax())] == row["style"]
    if row["family"] == "two_object":
        wanted = {OBJECT_NAMES.index(name) for name in row["object"].split("+")}
        return all(bool(scores.object_logits[index, k] > 0) for k in wanted)
    obj = OBJECT_NAMES[int(scores.object_logits[index].argmax())] == row["object"]
    return {"style": style, "object": obj, "cell": style and obj}[row["kind"]]
