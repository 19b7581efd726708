"""The loss of white-box attacks: how far the erased model is from the base at states of the base's walk to the target.

The base denoises each prompt from noise once and keeps every state x_t. The attack looks for a prefix with which the
erased model predicts at x_t what the base predicts there: || eps_erased(x_t | prefix + c) - eps_base(x_t | c) ||^2.
This is eq. 4 of AdvUnlearn (https://arxiv.org/abs/2405.15234) and the objective of P4D
(https://arxiv.org/abs/2309.06135). UnlearnDiffAtk (https://arxiv.org/abs/2310.11868) compares with the noise itself.
The base's prediction is the expectation of that noise, so both losses have one minimum, and ours has less variance.
Gradients run through the erased model only, and end in the prefix.

An UnGuide pipeline blends base and adapter with a weight that it chooses while it draws. The choice has no gradient, so
the attack minimises the loss of the blend that a sample gets once it is recognised as the target. The images are drawn
with the guider's own choice. A prefix that brings the adapter back to the base also makes the two disagree less, and
their disagreement is what the guider measures.
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
from eval.suite.rows import Row


class States(NamedTuple):
    """States of the base's walks to images of one prompt, and its predictions there for the prompt."""

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
    """Let the base denoise each distinct prompt ``trajectories`` times and keep every state.

    It takes 2 * prompts * trajectories * num_inference_steps forwards of the UNet, in samples. The walks have the
    model's own size and no negative prompt.

    Raises:
        ValueError: The pipeline is not Stable Diffusion, or its encoder would cut a prompt.
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
        partial.chmod(0o644)  # safetensors writes files that only their owner may read


def load_states(path: Path, prompts: Sequence[str], *, device: torch.device) -> dict[str, States]:
    """Read what ``save_states`` wrote for the same prompts."""
    tensors = load_file(path, device=str(device))
    return {
        prompt: States(*(tensors[f"{place}.{name}"] for name in States._fields))
        for place, prompt in enumerate(dict.fromkeys(prompts))
    }


class Search(NamedTuple):
    """The result of an optimisation."""

    prefixes: torch.Tensor  # (tries, k, D), fp32
    losses: torch.Tensor  # (tries, steps), each before its step


class Objective:
    """The loss of prefixes in front of one prompt; the tries are independent and go through the model together.

    In each step every try compares at its own random states. They follow from the seed of the run, the key of the
    row, the try and the step, so that neither the batch size nor the order of the prompts matters.

    Args:
        pipe: The erased pipeline, frozen.
        row: The prompt that asks for the target; random numbers are derived from its key.
        states: Of the base, for this prompt.
        states_per_step: How many states each try compares at in a step.
        batch_size: The most samples that go through the UNet together.
        run: Gives the seed and the dtype.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        row: Row,
        *,
        states: States,
        states_per_step: int,
        batch_size: int,
        run: Run,
    ) -> None:
        """Keep the arguments; nothing is computed yet."""
        self.pipe, self.row, self.states, self.run = pipe, row, states, run
        self.states_per_step = min(states_per_step, len(states.timesteps))
        self.tries_at_once = max(1, batch_size // self.states_per_step)

    def loss(self, prefixes: torch.Tensor, step: int, *, first: int = 0) -> torch.Tensor:
        """Return the loss (B,) of each prefix (B, k, D); row b is the try ``first`` + b."""
        picked = torch.cat([self._pick(first + row, step) for row in range(len(prefixes))])
        embeds = encode_with_gradient(self.pipe, [self.row.prompt] * len(prefixes), prefix=prefixes)
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
            steps: How many; each takes ``states_per_step`` forwards and backwards per try.
            step_size: In standard deviations of the vocabulary's embeddings, so that it means the same for each model.
            optimizer: ``adam`` or ``sign``; see ``erase.training.attack``.
            seen_as: The prefix as the model sees it, e.g. snapped to the nearest words.
        """
        lr = step_size * float(vocabulary(self.pipe).std())
        prefixes, losses = [], []
        for first in range(0, len(start), self.tries_at_once):
            by_step: list[torch.Tensor] = []

            # no loss depends on the prefix of another try, so the sum has the gradient of each loss for its own prefix
            def loss(chunk: torch.Tensor, step: int, first: int = first, by_step: list = by_step) -> torch.Tensor:
                values = self.loss(seen_as(chunk), step, first=first)
                by_step.append(values.detach())
                return values.sum()

            chunk = start[first : first + self.tries_at_once]
            result = attack_prefix(loss, chunk, steps=steps, lr=lr, optimizer=optimizer, dtype=self.run.dtype)
            prefixes.append(result.prefix)
            losses.append(torch.stack(by_step, dim=1).float().cpu())
        return Search(torch.cat(prefixes), torch.cat(losses))

    def _pick(self, attempt: int, step: int) -> torch.Tensor:
        generator = self.run.generator(f"states.{self.row.key}.{attempt}", step)
        picked = torch.randperm(len(self.states.timesteps), generator=generator)[: self.states_per_step]
        return picked.to(self.states.timesteps.device)


def vocabulary(pipe: DiffusionPipeline) -> torch.Tensor:
    """The token embeddings (V, D) of the text encoder in fp32."""
    return pipe.text_encoder.get_input_embeddings().weight.detach().float()


def check_search(config: Any) -> None:  # noqa: ANN401 - the configuration of any attack by gradients
    """Refuse settings of a search that mean nothing.

    Raises:
        ValueError: A count is below 1, the step size is not positive, or the optimizer is unknown.
    """
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
        ValueError: It is such a pipeline, or the prompt is too long.
    """
    if not isinstance(pipe, StableDiffusionPipeline):
        raise ValueError(
            f"The pipeline is a {type(pipe).__name__}, but gradients reach a prefix through one text encoder only: "
            "pass a Stable Diffusion 1.x or 2.x model, or use the attack 'seeds'."
        )
    check_length(pipe, prompt, room=tokens)


@contextmanager
def _as_recognised(pipe: DiffusionPipeline) -> Iterator[None]:
    """Let the UNet of an UnGuide pipeline predict as for a recognised sample; other pipelines stay as they are."""
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
