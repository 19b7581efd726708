"""DoCo: make the target's domain indistinguishable from the anchor's with a GAN (https://arxiv.org/abs/2405.15304).

A discriminator D tells predictions of the student under target prompts (fake) from those of the base under anchor
prompts (real), at noised images of the anchor; the student learns to be taken for real. Gradient surgery takes out of
its gradient what would raise the diffusion loss on the retain data. Only the keys and values of the cross-attention are
trained. With ``compat="upstream"`` four things follow the authors' code: ``projection`` is its formula without the norm
(``training.surgery.upstream``), D also receives the generator's gradient, the start token gets none, and the warm-up is
one update longer.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from erase.concept import Concept
from erase.model.delta import Delta, only_trainable
from erase.model.diffusion import (
    backward,
    encode_prompts,
    family,
    latent_shape,
    predict_original,
    select_parameters,
    start_token_detached,
)
from erase.training import checkpoint, surgery
from erase.training.latents import Drawing, Noised, TrainingImages
from erase.training.run import Run


logger = logging.getLogger(__name__)

FAMILIES = ("sd1", "sd2", "sdxl")
PAPER = (
    "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept Preserving Gradient, "
    "arXiv 2405.15304"
)
REAL, FAKE = 0.0, 1.0  # the labels of the authors' code
COMPAT = ("none", "upstream")
_INPUTS = ("original", "noise_pred")
_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The values of the authors' code; lr is its 6e-6 times the batch size.

    Attributes:
        steps: Updates in all; in the first ``warmup_steps`` only the discriminator learns.
        discriminator_input: ``original``, the predicted x_0, as in the authors' current code: there the concept stands
            out at high noise levels, where it is decided; or ``noise_pred``, as in their first release, where most of
            what D sees is the noise that real and fake have in common.
        surgery: ``projection``, ``upstream``, ``sign_mask`` or ``none``, see ``erase.training.surgery``.
        retain_weight: The retain gradient, times this, is added after surgery; with surgery ``none`` and 0 there is
            no retain term at all.
        images: Images of the anchor prompts.
        retain_images: Images of the retain prompts; without any the retain data are the anchor's images and prompts.
        compat: ``none`` or ``upstream``.
    """

    steps: int = 2000
    warmup_steps: int = 1000
    lr: float = 4.8e-5  # of AdamW
    weight_decay: float = 1e-2
    discriminator_lr: float = 1e-4  # of Adam with betas .5 and .999; 5e-4 for styles
    batch_size: int = 8  # B
    discriminator_input: str = "original"
    surgery: str = "projection"
    surgery_strength: float = 1.0  # lambda
    retain_weight: float = 0.0
    images: int = 1000
    retain_images: int = 1000
    guidance_scale: float = 6.0  # of the images
    num_inference_steps: int = 25  # of the images
    compat: str = "none"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, before a model is loaded."""
        for name, choices in {"discriminator_input": _INPUTS, "surgery": surgery.MODES, "compat": COMPAT}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"The {name} {getattr(self, name)!r} is unknown: choose one of {', '.join(choices)}.")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}, but the discriminator needs 2 or more: raise it.")
        if self.warmup_steps < 0 or self.erasing_steps < 1:
            raise ValueError(
                f"steps is {self.steps} and warmup_steps {self.warmup_steps}, so nothing would be erased: raise steps."
            )
        for name in ("lr", "discriminator_lr"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, but a positive number is needed: choose 1e-4.")
        for name in ("weight_decay", "surgery_strength", "retain_weight"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, but 0 or more is needed: choose 0.")
        self.drawing()

    @property
    def erasing_steps(self) -> int:
        """Updates that change the student; the authors' code compares with <= and warms up for one more."""
        return self.steps - self.warmup_steps - (self.compat == "upstream")

    @property
    def has_retain_term(self) -> bool:
        """Whether the retain gradient has any influence."""
        return self.surgery != "none" or self.retain_weight > 0

    @property
    def surgery_mode(self) -> str:
        """The mode of ``erase.training.surgery``."""
        return "upstream" if self.compat == "upstream" and self.surgery == "projection" else self.surgery

    def drawing(self) -> Drawing:
        """Return the part that says how the images are drawn."""
        return Drawing(
            images=self.images,
            retain_images=self.retain_images,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
        )


class Discriminator(nn.Module):
    """A PatchGAN on latents: as many halving convolutions as leave 3 x 3 places, at most the authors' four.

    A 64 x 64 latent gives the authors' network, a 12 x 12 one gets two halvings. BatchNorm always uses the batch's own
    statistics, as the authors' does too because it is never put into ``eval()``; so it needs no running buffers.
    """

    def __init__(self, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        """Initialise as PyTorch does, but from ``generator``."""
        super().__init__()
        channels, side = shape[0], min(shape[1:])
        if side < 4:
            raise ValueError(f"The latents are {shape[1]} x {shape[2]}, but the discriminator needs 4 x 4 or more.")
        depth = max(1, min(len(_WIDTHS), int(math.log2(side / 3))))
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):  # the layers' own initialisation, which is overwritten below
            for i, width in enumerate(_WIDTHS[:depth]):
                layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
                layers += [nn.BatchNorm2d(width, track_running_stats=False)] if i else []
                layers.append(nn.LeakyReLU(0.2))
                channels = width
            layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                bound = layer.weight[0].numel() ** -0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return a logit per place, high for fake."""
        return self.layers(latents)

    def loss(self, latents: torch.Tensor, label: float) -> torch.Tensor:
        """Return how badly ``latents`` pass for ``label``."""
        logits = self(latents)
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let gradients pass through in the block, but leave none behind in D's own weights."""
        self.requires_grad_(False)
        try:
            yield
        finally:
            self.requires_grad_(True)


class _Training(NamedTuple):
    images: TrainingImages
    discriminator: Discriminator
    optimizers: dict[str, torch.optim.Optimizer]
    config: Config


def trains(config: Config) -> str:
    """Return what changes."""
    return "unet"


def erase(pipe: DiffusionPipeline, concept: Concept, retain: list[str], config: Config, run: Run) -> DiffusionPipeline:
    """Erase ``concept`` from the UNet of ``pipe``, in place, and return the same pipeline.

    The base draws images of the ``retain`` prompts as well, and surgery protects them; without any it protects the
    anchor. If anything goes wrong the pipeline keeps its weights.
    """
    plan(pipe, concept, retain, config)
    run.check(pipe)
    pairs = concept.pairs()
    parameters = select_parameters(pipe, "strict")
    discriminator = Discriminator(latent_shape(pipe), run.generator("discriminator", 0)).to(run.device)
    logger.info("DoCo trains %d tensors", len(parameters))
    quirks = start_token_detached(pipe.unet) if config.compat == "upstream" else nullcontext()
    with (
        run.measure(pipe.unet),
        only_trainable(pipe, parameters, gradient_checkpointing=run.gradient_checkpointing),
        quirks,
    ):
        prompts = ["", *(text for pair in pairs for text in pair), *retain]
        conditioning = encode_prompts(pipe, prompts, device=run.device)
        settings = run.settings("doco", pipe, concept, config, conditioning=conditioning) | {"retain": retain}
        with Delta(parameters) as delta:
            images = TrainingImages(
                pipe,
                pairs,
                retain,
                config.drawing(),
                batch_size=config.batch_size,
                conditioning=conditioning,
                delta=delta,
                run=run,
            )
            _train(_Training(images, discriminator, _optimizers(delta, discriminator, config), config), settings)
            delta.commit()
    return pipe


def plan(pipe: DiffusionPipeline | None, concept: Concept, retain: list[str], config: Config) -> dict[str, int]:
    """Return what ``erase`` will compute, in samples, exactly."""
    if pipe is not None and (found := family(pipe)) not in FAMILIES:
        raise ValueError(f"DoCo supports {', '.join(FAMILIES)}, but this model is {found}: choose another method.")
    if retain and not config.has_retain_term:
        raise ValueError(
            f"surgery is 'none' and retain_weight 0, so the {len(retain)} retain prompts would protect nothing: "
            "leave them out, or set one of the two."
        )
    drawing, draws = config.drawing(), config.erasing_steps * config.batch_size
    drawing.check(concept, retain, draws=draws)
    warmup = (config.steps - config.erasing_steps) * config.batch_size
    graphs = 1 + config.has_retain_term
    return {
        "updates": config.steps,
        "unet_forwards": drawing.forwards(retain) + 2 * warmup + (1 + graphs) * draws,
        "unet_backwards": graphs * draws,
        "images": drawing.count(retain),
    }


def _optimizers(delta: Delta, discriminator: Discriminator, config: Config) -> dict[str, torch.optim.Optimizer]:
    student = torch.optim.AdamW(delta.parameters.values(), lr=config.lr, weight_decay=config.weight_decay)
    adam = torch.optim.Adam(discriminator.parameters(), lr=config.discriminator_lr, betas=(0.5, 0.999))
    return {"student": student, "discriminator": adam}


def _train(training: _Training, settings: dict[str, Any]) -> None:
    """Draw the images, then update; goes on from the run's checkpoint if there is one."""
    images, discriminator, optimizers, config = training
    run, delta = images.run, images.delta

    def save(done: int) -> None:
        tensors = {f"student.{name}": tensor for name, tensor in delta.student().items()}
        tensors |= {f"discriminator.{name}": tensor for name, tensor in discriminator.state_dict().items()}
        tensors |= images.tensors()
        run.save_checkpoint(tensors, optimizer=optimizers, settings=settings, done=done, force=done == config.steps)

    done = 0
    if saved := run.load_checkpoint(optimizer=optimizers, settings=settings):
        done = saved.meta["done"]
        delta.load_student(checkpoint.under("student.", saved.tensors))
        discriminator.load_state_dict(checkpoint.under("discriminator.", saved.tensors))
        images.restore(saved.tensors)
    for _ in images.fill():
        save(done)
    with run.stage("training"), run.progress("DoCo", total=config.steps, initial=done) as bar:
        for update in range(done, config.steps):
            losses = _update(training, update)
            run.record(update + 1, losses, bar)
            save(update + 1)


def _update(training: _Training, update: int) -> dict[str, float]:
    """Update the student, unless this is the warm-up, and then the discriminator, on the same predictions."""
    images, discriminator, optimizers, config = training
    batch, losses = images.forget(update), dict[str, float]()
    if update < config.steps - config.erasing_steps:
        fake, real = _predict_both(images, batch)
    else:
        real = images.predict_anchor(batch)
        fake, losses = _update_student(training, batch, update)
    with torch.enable_grad():  # the caller may be inside no_grad
        fake, real = (_judged(training, batch, noise_pred) for noise_pred in (fake, real))
        loss = discriminator.loss(real, REAL) + discriminator.loss(fake, FAKE)
        if config.compat == "upstream" and losses:
            # the authors never clear what the generator's backward leaves in D, which is the gradient of this term
            loss = loss + discriminator.loss(fake, REAL)
        loss.backward()
    optimizers["discriminator"].step()
    optimizers["discriminator"].zero_grad(set_to_none=True)
    return {**losses, "loss_discriminator": loss.item()}


@torch.no_grad()
def _predict_both(images: TrainingImages, batch: Noised) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the predictions for target and anchor prompts in one call: before training both are the base's."""
    twice = Noised(batch.pairs * 2, *(tensor.repeat(2, *[1] * (tensor.ndim - 1)) for tensor in batch[1:]))
    prompts = [pair.target for pair in batch.pairs] + [pair.anchor for pair in batch.pairs]
    with images.delta.base():
        fake, real = images.predict(twice, prompts).chunk(2)
    return fake, real


def _update_student(training: _Training, batch: Noised, update: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the student's prediction for the target prompts before this update, and the losses."""
    images, discriminator, optimizers, config = training
    with torch.enable_grad(), discriminator.frozen():
        fake = images.predict(batch, [pair.target for pair in batch.pairs])
        loss = discriminator.loss(_judged(training, batch, fake), REAL)
    gradients = _gradients(images, loss)
    losses = {"loss_generator": loss.item()}
    if config.has_retain_term:
        kept = images.retain(update)
        with torch.enable_grad():
            loss = mse_loss(images.predict(kept, [pair.anchor for pair in kept.pairs]), kept.truth)
        retain = _gradients(images, loss)
        losses |= {"loss_retain": loss.item(), "conflict_share": surgery.conflict_share(gradients, retain)}
        gradients = surgery.MODES[config.surgery_mode](gradients, retain, config.surgery_strength)
        gradients = {name: gradient + config.retain_weight * retain[name] for name, gradient in gradients.items()}
    for name, parameter in images.delta.parameters.items():
        parameter.grad = gradients[name]
    optimizers["student"].step()
    optimizers["student"].zero_grad(set_to_none=True)
    return fake.detach(), losses


def _gradients(images: TrainingImages, loss: torch.Tensor) -> surgery.Gradients:
    """Return the gradients of one loss; each has a graph of its own, so that no backward runs through the other's."""
    parameters = images.delta.parameters
    backward(loss, parameters.values(), dtype=images.run.dtype)
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None
    return gradients


def _judged(training: _Training, batch: Noised, noise_pred: torch.Tensor) -> torch.Tensor:
    """Return what D sees of a prediction."""
    if training.config.discriminator_input == "noise_pred":
        return noise_pred
    return predict_original(training.images.sampler, noise_pred, batch.latents, batch.timesteps)
