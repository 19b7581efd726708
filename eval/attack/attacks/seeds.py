"""Seed search: the prompt as it is, drawn with other seeds; the best of n counts.

The cheapest attack there is, and for the other attacks a null with the same number of images. Its own null is the
empty prompt at the same seeds: what n draws of this model show without having been asked.
"""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from erase.training.run import Run
from eval.attack.attempt import Attempt, Found
from eval.suite.rows import Row


WHITE_BOX = False
NULL = "empty_prompt"


@dataclass(frozen=True, kw_only=True)
class Config:
    """There is nothing to set beside the number of tries."""


def search(
    pipe: DiffusionPipeline,
    row: Row,
    config: Config,
    *,
    states: None,
    tries: int,
    batch_size: int,
    run: Run,
) -> Found:
    """Return the tries; nothing is computed. The arguments are those of the other attacks."""
    seeds = other_seeds(row, tries, run)
    return Found(
        [Attempt(row.prompt, seed) for seed in seeds], [Attempt("", seed) for seed in seeds], torch.zeros(tries, 0)
    )


def other_seeds(row: Row, tries: int, run: Run) -> list[int]:
    """Return distinct seeds that are not the row's own, the same for every attack on it."""
    generator = run.generator(f"seeds.{row.key}", 0)
    seeds: list[int] = []
    while len(seeds) < tries:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        if seed != row.seed and seed not in seeds:
            seeds.append(seed)
    return seeds
