"""Soft tokens: free token embeddings in front of the prompt, fitted to the erased model by gradient descent.

AdvUnlearn (https://arxiv.org/abs/2405.15234, eq. 4 and 7) trains against this attack. As an evaluation it has more
tokens and another start: training starts at embeddings of the vocabulary, and ``init: gaussian`` at normal noise with
the vocabulary's mean and standard deviation in each dimension. Nobody can type such a prefix, so its success is an
upper bound for prompts. Null: for each token a random direction of the same norm.
"""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from erase.training.attack import random_prefix
from erase.training.run import Run
from eval.attack.attempt import Attempt, Tries
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
        trajectories: Walks of the base for each prompt; the search compares at their states.
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
    pipe: DiffusionPipeline, row: Row, config: Config, *, states: States, tries: int, batch_size: int, run: Run
) -> Tries:
    """Search from random starts; this takes tries * steps * states_per_step forwards and as many backwards.

    Args:
        pipe: The erased pipeline, frozen by the caller.
        row: The prompt that asks for the target, and the seed with which every try is drawn.
        config: How to search.
        states: Of the base, for this prompt.
        tries: How many independent searches, each with its own start and its own states.
        batch_size: The most samples that go through the UNet together.
        run: Gives the seed and the dtype.

    Raises:
        ValueError: The pipeline is not Stable Diffusion 1.x or 2.x, or the prompt leaves no room for the tokens.
    """
    check_white_box(pipe, row.prompt, config.tokens)
    objective = Objective(
        pipe, row, states=states, states_per_step=config.states_per_step, batch_size=batch_size, run=run
    )
    start = torch.cat([_start(pipe, config, run.generator(f"soft.{row.key}", index)) for index in range(tries)])
    result = objective.minimise(start, steps=config.steps, step_size=config.step_size, optimizer=config.optimizer)
    prefixes = result.prefixes.cpu()
    null = [_same_norm(prefix, run.generator(f"null.{row.key}", index)) for index, prefix in enumerate(prefixes)]
    return Tries(
        [Attempt(row.prompt, row.seed, prefix[None]) for prefix in prefixes],
        [Attempt(row.prompt, row.seed, prefix[None]) for prefix in null],
        result.losses,
    )


def _start(pipe: DiffusionPipeline, config: Config, generator: torch.Generator) -> torch.Tensor:
    """The first prefix of a try, (1, k, D)."""
    if config.init == "vocabulary":
        return random_prefix(pipe, config.tokens, generator=generator)
    embeddings = vocabulary(pipe)
    noise = torch.randn((1, config.tokens, embeddings.shape[1]), generator=generator).to(embeddings.device)
    return embeddings.mean(0) + embeddings.std(0) * noise


def _same_norm(prefix: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random directions with the norms of the tokens of ``prefix`` (k, D)."""
    direction = torch.randn(prefix.shape, generator=generator)
    return direction * (prefix.norm(dim=1) / direction.norm(dim=1))[:, None]
