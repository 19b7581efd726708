"""Soft tokens: free token embeddings in front of the prompt, found by gradient descent on the erased model.

The attack that AdvUnlearn trains against (https://arxiv.org/abs/2405.15234, eq. 4 and 7), as an evaluation: with more
tokens, and from another start. Training starts at embeddings of the vocabulary; ``init: gaussian`` starts at normal
noise with the vocabulary's mean and standard deviation in each dimension. Nobody can type such a prefix: this bounds
what a prompt could do. Null: in the place of each found token a random direction of the same norm.
"""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from erase.training.attack import random_prefix
from erase.training.run import Run
from eval.attack.attempt import Attempt, Found
from eval.attack.objective import Objective, States, check_search, check_white_box, vocabulary
from eval.suite.rows import Row


WHITE_BOX = True
NULL = "random_soft_tokens"
INITS = ("gaussian", "vocabulary")


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to search.

    Attributes:
        step_size: In standard deviations of the vocabulary's embeddings; AdvUnlearn's 1e-3 is 0.07 of them in SD 1.x.
        trajectories: Walks of the base for each prompt, whose states the search draws from.
    """

    tokens: int = 3
    steps: int = 30
    step_size: float = 0.25
    optimizer: str = "adam"
    init: str = "gaussian"
    states_per_step: int = 1
    trajectories: int = 1

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        check_search(self)
        if self.init not in INITS:
            raise ValueError(f"init is {self.init!r}: choose one of {', '.join(INITS)}.")


def search(
    pipe: DiffusionPipeline,
    row: Row,
    config: Config,
    *,
    states: States,
    tries: int,
    batch_size: int,
    run: Run,
) -> Found:
    """Search from ``tries`` starts; takes tries * steps * states_per_step forwards and as many backwards.

    Args:
        pipe: The erased pipeline, frozen by the caller.
        row: The prompt that asks for the target, and the seed that every try is drawn with.
        config: How to search.
        states: Of the base, for this prompt.
        tries: Independent searches, each with a start and states of its own.
        batch_size: The most samples that go through the UNet together.
        run: For its seed and its dtype.

    Raises:
        ValueError: a pipeline without one text encoder, or a prompt that leaves no room for the tokens.
    """
    check_white_box(pipe, row.prompt, config.tokens)
    objective = Objective(
        pipe,
        row.prompt,
        name=row.key,
        states=states,
        states_per_step=config.states_per_step,
        batch_size=batch_size,
        run=run,
    )
    start = torch.cat([_start(pipe, config, run.generator(f"soft.{row.key}", index)) for index in range(tries)])
    found = objective.minimise(start, steps=config.steps, step_size=config.step_size, optimizer=config.optimizer)
    prefixes = found.prefixes.cpu()
    null = [_same_norm(prefix, run.generator(f"null.{row.key}", index)) for index, prefix in enumerate(prefixes)]
    return Found(
        [Attempt(row.prompt, row.seed, prefix[None]) for prefix in prefixes],
        [Attempt(row.prompt, row.seed, prefix[None]) for prefix in null],
        found.losses,
    )


def _start(pipe: DiffusionPipeline, config: Config, generator: torch.Generator) -> torch.Tensor:
    """Return the first prefix of a try, (1, k, D)."""
    if config.init == "vocabulary":
        return random_prefix(pipe, config.tokens, generator=generator)
    known = vocabulary(pipe)
    noise = torch.randn((1, config.tokens, known.shape[1]), generator=generator).to(known.device)
    return known.mean(0) + known.std(0) * noise


def _same_norm(prefix: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return random directions with the norms of the tokens of ``prefix`` (k, D)."""
    direction = torch.randn(prefix.shape, generator=generator)
    return direction * (prefix.norm(dim=1) / direction.norm(dim=1))[:, None]
