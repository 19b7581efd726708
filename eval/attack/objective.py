"""What white-box attacks minimise: how far the erased model is from the base on the base's own way to the target.

The base walks from noise to an image of each prompt, once. At the states x_t of that walk its prediction for the prompt
is what the erased model is to be brought back to: || eps_erased(x_t | prefix + c) - eps_base(x_t | c) ||^2, eq. 4 of
AdvUnlearn (https://arxiv.org/abs/2405.15234) and the objective of P4D (https://arxiv.org/abs/2309.06135).
UnlearnDiffAtk (https://arxiv.org/abs/2310.11868) asks for the noise itself, of which the base's prediction is the
expectation: the same minimum with more variance. Gradients run through the erased model only, and end in the prefix.

An UnGuide pipeline blends base and adapter by a weight that it decides while it draws. The decision has no gradient, so
the attack follows the blend of a sample that was recognised as the target; what it finds is drawn with the guider's own
decision. A prefix that brings the adapter back to the base also makes them disagree less, which is what the guider
looks at.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from erase.concept import PromptPair
from erase.model.delta import Delta
from erase.model.diffusion import check_length, encode_prompts, encode_with_gradient, family, predict_noise
from erase.pipelines.unguide.pipeline import UnGuidePipeline
from erase.training.attack import OPTIMIZERS, attack_prefix
from erase.training.run import Run
from erase.training.trajectories import Sampling, Trajectories
from eval.files import replacing


class States(NamedTuple):
    """States of the base on its way to images of one prompt, and what it predicts there for the prompt."""

    latents: torch.Tensor  # (S, C, h, w), fp32 like the predictions
    timesteps: torch.Tensor  # (S,)
    noise_pred: torch.Tensor  # (S, C, h, w)


def draw_states(
    base: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    trajectories: int,
    num_inference_steps: int,
    guidance_scale: float,
    run: Run,
) -> dict[str, States]:
    """Let the base walk to each distinct prompt ``trajectories`` times and keep every state.

    Takes 2 * prompts * trajectories * num_inference_steps forwards of the UNet, in samples.

    Raises:
        ValueError: a pipeline that is not Stable Diffusion, or a prompt that its encoder would cut.
    """
    family(base)
    distinct = list(dict.fromkeys(prompts))
    count = trajectories * num_inference_steps
    sampling = Sampling(
        policy="frozen",
        updates=len(distinct) * count,
        batch_size=1,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        pool_size=len(distinct) * count,
        refresh=1,
    )
    conditioning = encode_prompts(base, ["", *distinct], device=run.device)
    pairs = [PromptPair(prompt, "") for prompt in distinct]
    walks = Trajectories(base, pairs, sampling, conditioning=conditioning, delta=Delta({}), run=run)
    for _ in walks.fill():
        pass
    tensors = walks.tensors()
    owner = torch.arange(len(distinct) * trajectories).repeat_interleave(num_inference_steps) % len(distinct)
    names = ("latents", "timesteps", "noise_pred_target")
    return {
        prompt: States(*(tensors[name][(owner == place).to(run.device)] for name in names))
        for place, prompt in enumerate(distinct)
    }


def save_states(path: Path, states: dict[str, States]) -> None:
    """Write the states of all prompts, in the order of the prompts."""
    tensors = {
        f"{place}.{name}": tensor.cpu().contiguous()
        for place, each in enumerate(states.values())
        for name, tensor in each._asdict().items()
    }
    with replacing(path) as partial:
        save_file(tensors, partial)


def load_states(path: Path, prompts: Sequence[str], *, device: torch.device) -> dict[str, States]:
    """Read what ``save_states`` wrote for the same prompts."""
    tensors = load_file(path, device=str(device))
    return {
        prompt: States(*(tensors[f"{place}.{name}"] for name in States._fields))
        for place, prompt in enumerate(dict.fromkeys(prompts))
    }


class Search(NamedTuple):
    """What an optimisation ended in."""

    prefixes: torch.Tensor  # (tries, k, D), fp32
    losses: torch.Tensor  # (tries, steps), each before its step


class Objective:
    """The loss of prefixes in front of one prompt; the tries are independent and go through the model together.

    Every try of every step looks at states of its own, drawn from the run's seed, the prompt's name, the try and the
    step, so that neither the batch nor the order of the prompts matters.

    Args:
        pipe: The erased pipeline, frozen.
        prompt: The prompt that asks for the target.
        name: Of the prompt and its seed: what the randomness is derived from.
        states: Of the base, for this prompt.
        states_per_step: How many states each try looks at in a step.
        batch_size: The most samples that go through the UNet together.
        run: For its seed and its dtype.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        prompt: str,
        *,
        name: str,
        states: States,
        states_per_step: int,
        batch_size: int,
        run: Run,
    ) -> None:
        """Keep what the loss needs."""
        self.pipe, self.prompt, self.name, self.states, self.run = pipe, prompt, name, states, run
        self.states_per_step = min(states_per_step, len(states.timesteps))
        self.tries_at_once = max(1, batch_size // self.states_per_step)

    def loss(self, prefixes: torch.Tensor, step: int, *, first: int = 0) -> torch.Tensor:
        """Return the loss (B,) of each prefix (B, k, D); row b is the try ``first`` + b."""
        picked = torch.cat([self._pick(first + row, step) for row in range(len(prefixes))])
        embeds = encode_with_gradient(self.pipe, [self.prompt] * len(prefixes), prefix=prefixes)
        arguments = {"encoder_hidden_states": embeds.repeat_interleave(self.states_per_step, dim=0)}
        with _as_recognised(self.pipe):
            latents, timesteps = self.states.latents[picked], self.states.timesteps[picked]
            noise_pred = predict_noise(self.pipe.unet, latents, timesteps, conditioning=arguments)
        errors = (noise_pred - self.states.noise_pred[picked]).square().flatten(1).mean(1)
        return errors.unflatten(0, (len(prefixes), -1)).mean(1)

    def minimise(
        self,
        start: torch.Tensor,
        *,
        steps: int,
        step_size: float,
        optimizer: str,
        seen_as: Callable[[torch.Tensor], torch.Tensor] = lambda prefix: prefix,
    ) -> Search:
        """Minimise the loss from ``start`` (tries, k, D).

        Args:
            start: The first prefix of each try.
            steps: How many, with ``states_per_step`` forwards and backwards for each try.
            step_size: In standard deviations of the vocabulary's embeddings, so that it means the same for each model.
            optimizer: ``adam`` or ``sign``; see ``erase.training.attack``.
            seen_as: What the model is shown in the place of a prefix, such as its projection.
        """
        lr = step_size * float(vocabulary(self.pipe).std())
        found, losses = [], []
        for first in range(0, len(start), self.tries_at_once):
            part: list[torch.Tensor] = []

            # the gradient of the sum is, for each try, the gradient of its own loss
            def loss(prefixes: torch.Tensor, step: int, first: int = first, part: list = part) -> torch.Tensor:
                values = self.loss(seen_as(prefixes), step, first=first)
                part.append(values.detach())
                return values.sum()

            chunk = start[first : first + self.tries_at_once]
            result = attack_prefix(loss, chunk, steps=steps, lr=lr, optimizer=optimizer, dtype=self.run.dtype)
            found.append(result.prefix)
            losses.append(torch.stack(part, dim=1).float().cpu())
        return Search(torch.cat(found), torch.cat(losses))

    def _pick(self, attempt: int, step: int) -> torch.Tensor:
        generator = self.run.generator(f"states.{self.name}.{attempt}", step)
        picked = torch.randperm(len(self.states.timesteps), generator=generator)[: self.states_per_step]
        return picked.to(self.states.timesteps.device)


def vocabulary(pipe: DiffusionPipeline) -> torch.Tensor:
    """The token embeddings (V, D) of the text encoder in fp32."""
    return pipe.text_encoder.get_input_embeddings().weight.detach().float()


def check_search(config: Any) -> None:  # noqa: ANN401 - the configuration of any attack by gradients
    """Refuse the values of a search that mean nothing: counts below 1, a step that is not positive, an optimizer."""
    for name in ("tokens", "steps", "states_per_step", "trajectories"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, but at least 1 is needed: raise it.")
    if not 0 < config.step_size < float("inf"):
        raise ValueError(f"step_size is {config.step_size}, but a positive number is needed.")
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer is {config.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}.")


def check_white_box(pipe: DiffusionPipeline, prompt: str, tokens: int) -> None:
    """Refuse a pipeline through which no gradient leads to a prefix, or a prompt that leaves no room for it.

    Raises:
        ValueError: as said.
    """
    if not isinstance(pipe, StableDiffusionPipeline):
        raise ValueError(
            f"The pipeline is a {type(pipe).__name__}, but gradients reach a prefix through one text encoder only: "
            "pass a Stable Diffusion 1.x or 2.x model, or use the attack 'seeds'."
        )
    check_length(pipe, prompt, room=tokens)


@contextmanager
def _as_recognised(pipe: DiffusionPipeline) -> Iterator[None]:
    """Let an UnGuide pipeline's UNet predict what a recognised sample follows; others predict what they always do."""
    if not isinstance(pipe, UnGuidePipeline):
        yield
        return
    guider = pipe.guider
    before = guider.statistic, guider.statistics, guider.weight
    try:
        with guider.guide(pipe.unet, is_guided=False, steps=1, weight=guider.config.target_weight):
            yield
    finally:
        guider.statistic, guider.statistics, guider.weight = before
