"""One try of an attack on one prompt, and the result of a search for all tries on it, in memory and on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eval.files import replacing


class Attempt(NamedTuple):
    """What the model under attack is given for one image."""

    prompt: str
    seed: int
    prefix: torch.Tensor | None = None  # (1, k, D), fp32, on the CPU: token embeddings in front of the prompt


class Tries(NamedTuple):
    """The tries of one attack on one prompt; attack and null have equally many, and so draw equally many images."""

    attack: list[Attempt]
    null: list[Attempt]
    losses: torch.Tensor  # (tries, steps), each before its step; empty where nothing is optimised


def save(path: Path, tries: Tries) -> None:
    """Write the result of a search, whole or not at all."""
    arms: dict[str, Sequence[Attempt]] = {"attack": tries.attack, "null": tries.null}
    tensors = {"losses": tries.losses.detach().cpu().contiguous()}
    for arm, attempts in arms.items():
        tensors |= {
            f"{arm}.{index}": attempt.prefix.contiguous()
            for index, attempt in enumerate(attempts)
            if attempt.prefix is not None
        }
    texts = {arm: [[attempt.prompt, attempt.seed] for attempt in attempts] for arm, attempts in arms.items()}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"attempts": json.dumps(texts)})
        partial.chmod(0o644)  # safetensors writes files that only their owner may read


def load(path: Path) -> Tries:
    """Read what ``save`` wrote.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            texts = json.loads(file.metadata()["attempts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to search again.") from error
    attack, null = (
        [Attempt(prompt, seed, tensors.get(f"{arm}.{index}")) for index, (prompt, seed) in enumerate(texts[arm])]
        for arm in ("attack", "null")
    )
    return Tries(attack, null, tensors["losses"])
