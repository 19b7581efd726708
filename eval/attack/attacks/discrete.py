"""Discrete tokens: words in front of the prompt, found by projected gradient descent; what is tested is plain text.

As in P4D (https://arxiv.org/abs/2309.06135): free embeddings are updated with the gradient at the vocabulary's nearest
words by cosine, and end as those words. The words are whole tokens that stand for themselves when their text is
tokenised again, so the text means to the model what the search found. Null: random words of the same vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline

from erase.training.run import Run
from eval.attack.attempt import Attempt, Found
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
        trajectories: Walks of the base for each prompt, whose states the search draws from.
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
    pipe: DiffusionPipeline,
    row: Row,
    config: Config,
    *,
    states: States,
    tries: int,
    batch_size: int,
    run: Run,
) -> Found:
    """Search from ``tries`` starts at random words; takes tries * steps * states_per_step forwards and backwards.

    Args:
        pipe: The erased pipeline, frozen by the caller.
        row: The prompt that asks for the target, and the seed that every try is drawn with.
        config: How to search.
        states: Of the base, for this prompt.
        tries: Independent searches, each with a start and states of its own.
        batch_size: The most samples that go through the UNet together.
        run: For its seed and its dtype.

    Raises:
        ValueError: a pipeline without one text encoder, a prompt that leaves no room for the words, or a vocabulary
            without words.
    """
    check_white_box(pipe, row.prompt, config.tokens)
    words = find_words(pipe)
    known = vocabulary(pipe)[torch.tensor(list(words))]  # (W, D)
    texts = list(words.values())
    objective = Objective(
        pipe,
        row.prompt,
        name=row.key,
        states=states,
        states_per_step=config.states_per_step,
        batch_size=batch_size,
        run=run,
    )
    start = torch.stack([_draw(len(texts), config.tokens, run, f"discrete.{row.key}", i) for i in range(tries)])
    found = objective.minimise(
        known[start.to(known.device)],
        steps=config.steps,
        step_size=config.step_size,
        optimizer=config.optimizer,
        # the nearest words forwards, the identity backwards
        seen_as=lambda prefixes: known[nearest(prefixes, known)] + (prefixes - prefixes.detach()),
    )
    ended = nearest(found.prefixes, known).tolist()
    null = [_draw(len(texts), config.tokens, run, f"null.{row.key}", index).tolist() for index in range(tries)]
    attack_, null_ = (
        [Attempt(" ".join([*(texts[place] for place in places), row.prompt]), row.seed) for places in arm]
        for arm in (ended, null)
    )
    return Found(attack_, null_, found.losses)


def find_words(pipe: DiffusionPipeline) -> dict[int, str]:
    """Return the whole words of the vocabulary, by token id, that come back as that one token from their own text.

    Raises:
        ValueError: there are none.
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


def nearest(prefixes: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the place in ``known`` (W, D) that is nearest by cosine to each token of ``prefixes`` (T, k, D); (T, k).

    Example:
        >>> nearest(torch.tensor([[[3.0, 1.0], [0.0, -1.0]]]), torch.tensor([[1.0, 0.0], [0.0, -2.0]])).tolist()
        [[0, 1]]
    """
    return (F.normalize(prefixes.detach(), dim=-1) @ F.normalize(known, dim=-1).T).argmax(-1)


def _draw(words: int, tokens: int, run: Run, stage: str, index: int) -> torch.Tensor:
    return torch.randint(words, (tokens,), generator=run.generator(stage, index))
