"""Seed search: the unchanged prompt, drawn with other seeds; the best of n counts.

It is the cheapest attack, and a null of the other attacks with the same number of images. Its own null is the empty
prompt at the same seeds: what n images of this model show when nothing is asked for.
"""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from erase.training.run import Run
from eval.attack.attempt import Attempt, Tries
from eval.suite.rows import Row


WHITE_BOX = False
NULL = "empty_prompt"


@dataclass(frozen=True, kw_only=True)
class Config:
    """There is nothing to set beside the number of tries."""


def search(
    pipe: DiffusionPipeline, row: Row, config: Config, *, states: None, tries: int, batch_size: int, run: Run
) -> Tries:
    """Return the tries without computing anything; the arguments are those of the other attacks."""
    seeds = other_seeds(row, tries, run)
    return Tries(
        [Attempt(row.prompt, seed) for seed in seeds], [Attempt("", seed) for seed in seeds], torch.zeros(tries, 0)
    )


def other_seeds(row: Row, tries: int, run: Run) -> list[int]:
    """Distinct seeds other than the row's own, the same for every attack on the row."""
    generator = run.generator(f"seeds.{row.key}", 0)
    seeds: list[int] = []
    while len(seeds) < tries:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        if seed != row.seed and seed not in seeds:
            seeds.append(seed)
    return seeds
