"""ESD, Erased Stable Diffusion: train the UNet to steer away from the target (https://arxiv.org/abs/2303.07345, eq. 7).

The student's prediction for the target prompt c learns eps0(empty) - eta (eps0(c) - eps0(empty)), where eps0 is the
base. With an anchor prompt, eps0(anchor) takes the place of the leading eps0(empty). The target is linear in the
predictions, so it holds for v-prediction as well.

``compat="upstream"`` evaluates student and base at timesteps above that of x_t, as the authors' code of 2023 does.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline

from erase.concept import Concept
from erase.model.delta import Delta, only_trainable
from erase.model.diffusion import VARIANTS, backward, encode_prompts, family, predict_noise, select_parameters
from erase.training import checkpoint
from erase.training.run import Run
from erase.training.trajectories import Sampling, States, Trajectories


logger = logging.getLogger(__name__)

FAMILIES = ("sd1", "sd2", "sdxl")
PAPER = "Erasing Concepts from Diffusion Models, arXiv 2303.07345"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's values, except for ``trajectory``: the paper's own ``fresh`` costs 17 to 37 times as much.

    Attributes:
        variant: ``x`` trains all of the cross-attention (styles, names), ``strict`` its keys and values, ``u`` all
            other layers (nudity, global concepts).
        trajectory: Where x_t comes from: ``frozen``, ``stale`` or ``fresh``, see ``erase.training.trajectories``.
        pool_size: States to cache under ``frozen``; two forwards each, nearly four with ``compat="upstream"``. With an
            anchor a state takes more, so about half as many are cached, and the pool costs the same. Every forget
            prompt takes a walk at least, so the pool outgrows this where the number of prompts, times
            ``num_inference_steps``, exceeds it, or with an anchor three quarters of it.
        refresh: Updates between two walks of the student under ``stale``.
        compat: ``none`` or ``upstream``, see ``erase.training.trajectories``.
    """

    variant: str = "x"
    steps: int = 1000
    lr: float = 1e-5  # alpha, with Adam
    negative_guidance: float = 1.0  # eta
    guidance_scale: float = 3.0  # s of the classifier-free guidance that leads to x_t
    num_inference_steps: int = 50  # of DDIM
    batch_size: int = 1
    trajectory: str = "frozen"
    pool_size: int = 200
    refresh: int = 10  # R
    compat: str = "none"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        if self.variant not in VARIANTS:
            raise ValueError(f"The variant {self.variant!r} is unknown: choose one of {', '.join(VARIANTS)}.")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, but at least 1 update is needed: raise it.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr is {self.lr}, but a positive number is needed: the paper's is 1e-5.")
        if not (self.negative_guidance >= 0 and math.isfinite(self.negative_guidance)):
            raise ValueError(f"negative_guidance is {self.negative_guidance}, but 0 or more is needed: choose 1.")
        self.sampling()

    def sampling(self) -> Sampling:
        """Return the part that says which states are seen."""
        return Sampling(
            policy=self.trajectory,
            updates=self.steps,
            batch_size=self.batch_size,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            pool_size=self.pool_size,
            refresh=self.refresh,
            compat=self.compat,
            anchored=max(1, 2 * self.num_inference_steps // 3),  # three trajectories for the price of four
        )


def trains(config: Config) -> str:
    """Return what changes."""
    return "unet"


def erase(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> DiffusionPipeline:
    """Erase ``concept`` from the UNet of ``pipe``, in place, and return the same pipeline.

    ``retain`` must be empty: ESD has no retain term, so prompts given here would silently protect nothing. If anything
    goes wrong the pipeline keeps its weights.
    """
    plan(pipe, concept, retain, config)
    run.check(pipe)
    pairs = concept.pairs()
    parameters = select_parameters(pipe, config.variant)
    logger.info("ESD-%s trains %d tensors", config.variant, len(parameters))
    with run.measure(pipe.unet), only_trainable(pipe, parameters, gradient_checkpointing=run.gradient_checkpointing):
        conditioning = encode_prompts(pipe, ["", *(text for pair in pairs for text in pair)], device=run.device)
        settings = run.settings("esd", pipe, concept, config, conditioning=conditioning)
        with Delta(parameters) as delta:
            states = Trajectories(pipe, pairs, config.sampling(), conditioning=conditioning, delta=delta, run=run)
            _train(states, config, settings=settings)
            delta.commit()
    return pipe


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute, in samples: exact for ``frozen``, the expectation for the other policies."""
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(f"ESD supports {', '.join(FAMILIES)}, but this model is {found}: choose another method.")
    if retain:
        raise ValueError(f"ESD has no retain term, but {len(retain)} retain prompts were given: leave them out.")
    sampling = config.sampling()
    states = sampling.expected_forwards(len(concept.pairs()), has_anchor=bool(concept.anchor))
    return {
        "updates": config.steps,
        "unet_forwards": states + sampling.draws,
        "unet_backwards": sampling.draws,
        "images": 0,
    }


def target_prediction(states: States, negative_guidance: float) -> torch.Tensor:
    """Return what the student has to predict at each state."""
    direction = states.noise_pred_target - states.noise_pred_uncond
    return states.noise_pred_anchor - negative_guidance * direction


def _train(trajectories: Trajectories, config: Config, *, settings: dict[str, Any]) -> None:
    """Fill the pool, then update; goes on from the run's checkpoint if there is one."""
    run, delta = trajectories.run, trajectories.delta
    optimizer = torch.optim.Adam(delta.parameters.values(), lr=config.lr)

    def save(done: int) -> None:
        tensors = {f"student.{name}": tensor for name, tensor in delta.student().items()}
        tensors |= {f"states.{name}": tensor for name, tensor in trajectories.tensors().items()}
        run.save_checkpoint(tensors, optimizer=optimizer, settings=settings, done=done, force=done == config.steps)

    done = 0
    if saved := run.load_checkpoint(optimizer=optimizer, settings=settings):
        done = saved.meta["done"]
        delta.load_student(checkpoint.under("student.", saved.tensors))
        trajectories.restore(checkpoint.under("states.", saved.tensors))
    for _ in trajectories.fill():
        save(done)
    with run.stage("training"), run.progress("ESD", total=config.steps, initial=done) as bar:
        for update in range(done, config.steps):
            loss = _update(trajectories, update, optimizer, negative_guidance=config.negative_guidance)
            run.record(update + 1, {"loss": loss}, bar)
            save(update + 1)


def _update(
    trajectories: Trajectories, update: int, optimizer: torch.optim.Optimizer, *, negative_guidance: float
) -> float:
    states = trajectories.batch(update)
    target = target_prediction(states, negative_guidance)
    rows = trajectories.conditioning.rows(states.prompts)
    with torch.enable_grad():  # the caller may be inside no_grad
        noise_pred = predict_noise(trajectories.unet, states.latents, states.timesteps, conditioning=rows)
        loss = torch.nn.functional.mse_loss(noise_pred, target)
    backward(loss, trajectories.delta.parameters.values(), dtype=trajectories.run.dtype)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()
