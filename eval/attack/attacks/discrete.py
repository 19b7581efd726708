"""Discrete tokens: words in front of the prompt, chosen by projected gradient descent; images are drawn from text.

As in P4D (https://arxiv.org/abs/2309.06135): free embeddings are updated with the gradient at the nearest words of the
vocabulary by cosine, and in the end replaced by these words. Only words whose text is tokenised to that one token
count, so that the text means to the model what the search ended in. Null: random words of the same vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline

from erase.training.run import Run
from eval.attack.attempt import Attempt, Tries
from eval.attack.objective import Objective, States, check_search, check_white_box, vocabulary
from eval.suite.rows import Row


WHITE_BOX = True
NULL = "random_words"
_WORD_END = "</w>"


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to search.

    Attributes:
        step_size: In standard deviations of the vocabulary's embeddings; P4D's 0.1 is 7 of them in SD 1.x.
        trajectories: Walks of the base for each prompt; the search compares at their states.
    """

    tokens: int = 3
    steps: int = 30
    step_size: float = 1.0
    optimizer: str = "adam"
    states_per_step: int = 1
    trajectories: int = 1

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        check_search(self)


def search(
    pipe: DiffusionPipeline, row: Row, config: Config, *, states: States, tries: int, batch_size: int, run: Run
) -> Tries:
    """Search from random words; this takes tries * steps * states_per_step forwards and backwards.

    Args:
        pipe: The erased pipeline, frozen by the caller.
        row: The prompt that asks for the target, and the seed with which every try is drawn.
        config: How to search.
        states: Of the base, for this prompt.
        tries: How many independent searches, each with its own start and its own states.
        batch_size: The most samples that go through the UNet together.
        run: Gives the seed and the dtype.

    Raises:
        ValueError: The pipeline is not Stable Diffusion 1.x or 2.x, the prompt leaves no room for the words, or the
            vocabulary has no words.
    """
    check_white_box(pipe, row.prompt, config.tokens)
    words = find_words(pipe)
    embeddings = vocabulary(pipe)[torch.tensor(list(words))]  # (W, D)
    texts = list(words.values())
    objective = Objective(
        pipe, row, states=states, states_per_step=config.states_per_step, batch_size=batch_size, run=run
    )
    start = torch.stack([_draw(len(texts), config.tokens, run, f"discrete.{row.key}", i) for i in range(tries)])
    result = objective.minimise(
        embeddings[start.to(embeddings.device)],
        steps=config.steps,
        step_size=config.step_size,
        optimizer=config.optimizer,
        # the nearest words forwards, the identity backwards
        seen_as=lambda prefixes: embeddings[nearest(prefixes, embeddings)] + (prefixes - prefixes.detach()),
    )
    random = torch.stack([_draw(len(texts), config.tokens, run, f"null.{row.key}", i) for i in range(tries)])
    attack, null = (_attempts(places, texts, row) for places in (nearest(result.prefixes, embeddings), random))
    return Tries(attack, null, result.losses)


def find_words(pipe: DiffusionPipeline) -> dict[int, str]:
    """The whole words of the vocabulary by token id, as far as the text of a word is tokenised to that one token.

    Raises:
        ValueError: There are none.
    """
    tokenizer = pipe.tokenizer
    whole = sorted(number for token, number in tokenizer.get_vocab().items() if token.endswith(_WORD_END))
    texts = [tokenizer.decode([number]).strip() for number in whole]
    again = tokenizer(texts).input_ids if texts else []
    words = {
        number: text for number, text, ids in zip(whole, texts, again, strict=True) if text and ids[1:-1] == [number]
    }
    if not words:
        raise ValueError("The tokenizer's vocabulary holds no whole words, so there is no text to search: use 'soft'.")
    return words


def nearest(prefixes: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """The row of ``embeddings`` (W, D) nearest by cosine to each token of ``prefixes`` (T, k, D); (T, k).

    >>> nearest(torch.tensor([[[3.0, 1.0], [0.0, -1.0]]]), torch.tensor([[1.0, 0.0], [0.0, -2.0]])).tolist()
    [[0, 1]]
    """
    return (F.normalize(prefixes.detach(), dim=-1) @ F.normalize(embeddings, dim=-1).T).argmax(-1)


def _attempts(places: torch.Tensor, texts: Sequence[str], row: Row) -> list[Attempt]:
    """The prompt with words in front of it, (T, k) places in ``texts``."""
    return [Attempt(" ".join([*(texts[place] for place in own), row.prompt]), row.seed) for own in places.tolist()]


def _draw(words: int, tokens: int, run: Run, stage: str, index: int) -> torch.Tensor:
    return torch.randint(words, (tokens,), generator=run.generator(stage, index))
