"""One try of an attack on one prompt, and what a search found for all tries on it, in memory and on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eval.files import replacing


class Attempt(NamedTuple):
    """What the model under attack is given for one image."""

    prompt: str
    seed: int
    prefix: torch.Tensor | None = None  # (1, k, D), fp32, on the CPU: token embeddings in front of the prompt


class Found(NamedTuple):
    """The tries of one attack on one prompt; attack and null have equally many, and so draw equally many images."""

    attack: list[Attempt]
    null: list[Attempt]
    losses: torch.Tensor  # (tries, steps), each before its step; empty where nothing is optimised
    cost: dict[str, Any] = {}  # noqa: RUF012 - never written to; of the search, as ``Run.summary`` gives it


def save(path: Path, found: Found) -> None:
    """Write what a search found, under a temporary name first, so that a kill leaves no half of it."""
    arms: dict[str, Sequence[Attempt]] = {"attack": found.attack, "null": found.null}
    tensors = {"losses": found.losses.detach().cpu().contiguous()}
    for arm, attempts in arms.items():
        tensors |= {
            f"{arm}.{index}": attempt.prefix.contiguous()
            for index, attempt in enumerate(attempts)
            if attempt.prefix is not None
        }
    told = {arm: [[attempt.prompt, attempt.seed] for attempt in attempts] for arm, attempts in arms.items()}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"attempts": json.dumps(told), "cost": json.dumps(found.cost)})


def load(path: Path) -> Found:
    """Read what ``save`` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["attempts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            cost = json.loads(file.metadata()["cost"])
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to search again.") from error
    attack, null = (
        [Attempt(prompt, seed, tensors.get(f"{arm}.{index}")) for index, (prompt, seed) in enumerate(told[arm])]
        for arm in ("attack", "null")
    )
    return Found(attack, null, tensors["losses"], cost)
