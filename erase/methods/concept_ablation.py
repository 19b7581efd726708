"""Concept Ablation: the target's prediction learns to be the anchor's (https://arxiv.org/abs/2303.13516, eq. 5).

At noised images of the anchor the student's prediction for the target prompt learns the base's for the anchor prompt,
by the mean squared error. Trained are the keys and values of the cross-attention, or for explicit content all of the
attention. Same data as DoCo without its discriminator, whose honest baseline this is. With ``compat="upstream"`` two
things follow the authors' code: the anchor's prediction comes from the student of the moment instead of the base, and
the start token gets no gradient.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch.nn.functional import mse_loss

from erase.concept import Concept
from erase.model.delta import Delta, only_trainable
from erase.model.diffusion import backward, encode_prompts, family, select_parameters, start_token_detached
from erase.training import checkpoint
from erase.training.latents import Drawing, TrainingImages
from erase.training.run import Run


logger = logging.getLogger(__name__)

FAMILIES = ("sd1", "sd2", "sdxl")
PAPER = "Ablating Concepts in Text-to-Image Diffusion Models, arXiv 2303.13516"
COMPAT = ("none", "upstream")
VARIANTS = ("strict", "attention")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The values of the paper's model-based variant for styles and objects; lr is 2e-6 times the batch size.

    Attributes:
        variant: ``strict`` trains keys and values of the cross-attention, ``attention`` all of both attentions, as the
            authors do for nudity.
        avoid_target: Draw the anchor's images with the targets as negative prompt, as the authors do for nudity.
        retain_weight: Weight of the diffusion loss on the retain data; 0 is no retain term.
        images: Images of the anchor prompts.
        retain_images: Images of the retain prompts; without any the retain data are the anchor's images and prompts.
        compat: ``none`` or ``upstream``.
    """

    variant: str = "strict"
    avoid_target: bool = False
    steps: int = 100
    lr: float = 1.6e-5  # of AdamW
    weight_decay: float = 1e-2
    batch_size: int = 8  # 4 on each of 2 GPUs
    retain_weight: float = 0.0
    images: int = 1000
    retain_images: int = 1000
    guidance_scale: float = 6.0  # of the images
    num_inference_steps: int = 25  # of the images
    compat: str = "none"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        for name, choices in {"variant": VARIANTS, "compat": COMPAT}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"The {name} {getattr(self, name)!r} is unknown: choose one of {', '.join(choices)}.")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but at least 1 is needed: raise it.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr is {self.lr}, but a positive number is needed: the paper's is 1.6e-5.")
        for name in ("weight_decay", "retain_weight"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, but 0 or more is needed: choose 0.")
        self.drawing()

    def drawing(self, targets: Sequence[str] = ()) -> Drawing:
        """Return the part that says how the images are drawn."""
        return Drawing(
            images=self.images,
            retain_images=self.retain_images,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            negative_prompt=", ".join(targets) if self.avoid_target else "",
        )


def trains(config: Config) -> str:
    """Return what changes."""
    return "unet"


def erase(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> DiffusionPipeline:
    """Erase ``concept`` from the UNet of ``pipe``, in place, and return the same pipeline.

    The base draws images of the ``retain`` prompts as well, for the retain term. If anything goes wrong the pipeline
    keeps its weights.
    """
    plan(pipe, concept, retain, config)
    run.check(pipe)
    pairs = concept.pairs()
    parameters, drawing = select_parameters(pipe, config.variant), config.drawing(concept.target)
    logger.info("Concept Ablation trains %d tensors", len(parameters))
    quirks = start_token_detached(pipe.unet) if config.compat == "upstream" else nullcontext()
    with (
        run.measure(pipe.unet),
        only_trainable(pipe, parameters, gradient_checkpointing=run.gradient_checkpointing),
        quirks,
    ):
        prompts = ["", drawing.negative_prompt, *(text for pair in pairs for text in pair), *retain]
        conditioning = encode_prompts(pipe, prompts, device=run.device)
        settings = run.settings("concept_ablation", pipe, concept, config, conditioning=conditioning)
        with Delta(parameters) as delta:
            images = TrainingImages(
                pipe,
                pairs,
                retain,
                drawing,
                batch_size=config.batch_size,
                conditioning=conditioning,
                delta=delta,
                run=run,
            )
            _train(images, config, settings=settings | {"retain": retain})
            delta.commit()
    return pipe


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute, in samples, exactly."""
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(
            f"Concept Ablation supports {', '.join(FAMILIES)}, but this model is {found}: choose another method."
        )
    if retain and config.retain_weight == 0:
        raise ValueError(
            f"retain_weight is 0, so the {len(retain)} retain prompts would protect nothing: raise it, or leave them "
            "out."
        )
    drawing, draws = config.drawing(), config.steps * config.batch_size
    drawing.check(concept, retain, draws=draws)
    graphs = 1 + (config.retain_weight > 0)
    return {
        "updates": config.steps,
        "unet_forwards": drawing.forwards(retain) + (1 + graphs) * draws,
        "unet_backwards": graphs * draws,
        "images": drawing.count(retain),
    }


def _train(images: TrainingImages, config: Config, *, settings: dict[str, Any]) -> None:
    """Draw the images, then update; goes on from the run's checkpoint if there is one."""
    run, delta = images.run, images.delta
    optimizer = torch.optim.AdamW(delta.parameters.values(), lr=config.lr, weight_decay=config.weight_decay)

    def save(done: int) -> None:
        tensors = {f"student.{name}": tensor for name, tensor in delta.student().items()} | images.tensors()
        run.save_checkpoint(tensors, optimizer=optimizer, settings=settings, done=done, force=done == config.steps)

    done = 0
    if saved := run.load_checkpoint(optimizer=optimizer, settings=settings):
        done = saved.meta["done"]
        delta.load_student(checkpoint.under("student.", saved.tensors))
        images.restore(saved.tensors)
    for _ in images.fill():
        save(done)
    with run.stage("training"), run.progress("Concept Ablation", total=config.steps, initial=done) as bar:
        for update in range(done, config.steps):
            loss = _update(images, update, optimizer, config)
            run.record(update + 1, {"loss": loss}, bar)
            save(update + 1)


def _update(images: TrainingImages, update: int, optimizer: torch.optim.Optimizer, config: Config) -> float:
    batch = images.forget(update)
    if config.compat == "upstream":
        with torch.no_grad():
            target = images.predict(batch, [pair.anchor for pair in batch.pairs])
    else:
        target = images.predict_anchor(batch)
    with torch.enable_grad():  # the caller may be inside no_grad
        loss = mse_loss(images.predict(batch, [pair.target for pair in batch.pairs]), target)
        if config.retain_weight > 0:
            kept = images.retain(update)
            retain_loss = mse_loss(images.predict(kept, [pair.anchor for pair in kept.pairs]), kept.truth)
            loss = loss + config.retain_weight * retain_loss
    backward(loss, images.delta.parameters.values(), dtype=images.run.dtype)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()
