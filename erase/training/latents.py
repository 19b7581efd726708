"""Training images: drawn once by the base with classifier-free guidance, and kept as latents.

DoCo (https://arxiv.org/abs/2405.15304) and Concept Ablation (https://arxiv.org/abs/2303.13516) train on pictures that
the base draws from anchor prompts. Their code writes JPEG files and encodes them again in every step; here nothing is
decoded. Its random scaling, cropping and mirroring needs pixels and is left out. The sampler is DDIM; theirs is
DPM-Solver++ with as many steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline

from erase.concept import Concept, PromptPair
from erase.model.delta import Delta
from erase.model.diffusion import Conditioning, add_noise, ddim_sampler, latent_shape, predict_noise, training_target
from erase.training.checkpoint import under
from erase.training.run import Run


IMAGE_BATCH = 16  # images that are drawn together; the UNet sees two samples of each


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the training images are drawn."""

    images: int  # of the anchor prompts
    retain_images: int  # of the retain prompts, where there are any
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""  # what the images of the anchor prompts are guided away from

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        for name in ("images", "retain_images", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but at least 1 is needed: raise it.")

    def count(self, retain: Sequence[str]) -> int:
        """Return how many images are drawn."""
        return self.images + (self.retain_images if retain else 0)

    def forwards(self, retain: Sequence[str]) -> int:
        """Return the UNet forwards, in samples, for all images: two for each step, as guidance needs."""
        return 2 * self.count(retain) * self.num_inference_steps

    def check(self, concept: Concept, retain: Sequence[str], *, draws: int) -> None:
        """Refuse a concept without an anchor, and images or ``draws`` that leave out one of the prompts."""
        if not concept.anchor:
            raise ValueError(
                "The anchor is empty, but this method maps the target to an anchor and trains on its images: "
                "set concept.anchor to what shall appear instead, such as 'Photo' for a style."
            )
        pairs = len(concept.pairs())
        if self.images < pairs:
            raise ValueError(
                f"images is {self.images}, but there are {pairs} anchor prompts, so some forget prompts would not be "
                "erased: raise images, or give fewer targets or templates."
            )
        if retain and self.retain_images < len(retain):
            raise ValueError(
                f"retain_images is {self.retain_images}, but there are {len(retain)} retain prompts, so some would "
                "not be protected: raise it, or give fewer prompts."
            )
        if draws < pairs:
            raise ValueError(
                f"{draws} training samples cannot visit all {pairs} forget prompts, so some would not be erased: "
                "raise steps or batch_size, or give fewer targets or templates."
            )


class Noised(NamedTuple):
    """A batch of noised images."""

    pairs: list[PromptPair]  # each row was drawn with the anchor prompt
    latents: torch.Tensor  # x_t (B, C, h, w), fp32
    timesteps: torch.Tensor  # (B,)
    truth: torch.Tensor  # what the training of the base asks the UNet to predict here: the noise, or the velocity


class TrainingImages:
    """The images of one training: of the anchor prompts, and of the retain prompts if there are any.

    Sample k of a training belongs to prompt k modulo the number of prompts, so that they take turns; the images of a
    prompt are gone through completely, in a new order each time, before one comes back. Order, timesteps and noise are
    fixed by the run's seed and the number of the update.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        pairs: Sequence[PromptPair],
        retain: Sequence[str],
        drawing: Drawing,
        *,
        batch_size: int,
        conditioning: Conditioning,
        delta: Delta,
        run: Run,
    ) -> None:
        """Prepare; nothing is drawn before ``fill``."""
        self.unet, self.latent_shape = pipe.unet, latent_shape(pipe)
        self.drawing, self.batch_size = drawing, batch_size
        self.conditioning, self.delta, self.run = conditioning, delta, run
        self.sampler = ddim_sampler(pipe, drawing.num_inference_steps)
        # a retain prompt is its own anchor
        self._pairs = {"anchor": list(pairs), "retain": [PromptPair(prompt, prompt) for prompt in retain]}
        self._sizes = {"anchor": drawing.images, "retain": drawing.retain_images if retain else 0}
        self._latents = {name: torch.empty(0, *self.latent_shape, device=run.device) for name in self._sizes}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint needs."""
        return {f"images.{name}": latents for name, latents in self._latents.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from what a checkpoint holds."""
        self._latents = {name: latents.to(self.run.device) for name, latents in under("images.", tensors).items()}

    def fill(self) -> Iterator[int]:
        """Draw all images with the base; yields how many there are after each group."""
        total = sum(self._sizes.values())
        done = sum(len(latents) for latents in self._latents.values())
        with self.run.stage("images"), self.run.progress("images", total=total, initial=done) as bar:
            for name, size in self._sizes.items():
                for first in range(len(self._latents[name]), size, IMAGE_BATCH):
                    group = range(first, min(first + IMAGE_BATCH, size))
                    self._latents[name] = torch.cat([self._latents[name], self._draw(name, group)])
                    bar.update(len(group))
                    yield sum(len(latents) for latents in self._latents.values())

    def forget(self, update: int) -> Noised:
        """Return noised anchor images; the student is to see their pairs' target prompts."""
        return self._batch("anchor", "forget", update)

    def retain(self, update: int) -> Noised:
        """Return noised images of retain prompts, or of the anchor prompts where there are none."""
        return self._batch("retain" if self._sizes["retain"] else "anchor", "retain", update)

    def predict(self, batch: Noised, prompts: Sequence[str]) -> torch.Tensor:
        """Return the prediction of whichever role is active for the rows of ``batch``, with these prompts."""
        rows = self.conditioning.rows(prompts)
        return predict_noise(self.unet, batch.latents, batch.timesteps, conditioning=rows)

    @torch.no_grad()
    def predict_anchor(self, batch: Noised) -> torch.Tensor:
        """Return the base's prediction with the anchor prompts."""
        with self.delta.base():
            return self.predict(batch, [pair.anchor for pair in batch.pairs])

    @torch.no_grad()
    def _draw(self, name: str, group: range) -> torch.Tensor:
        """Return the latents of these images, denoised together."""
        prompts = [self._pairs[name][i % len(self._pairs[name])].anchor for i in group]
        negative = self.drawing.negative_prompt if name == "anchor" else ""
        rows = self.conditioning.rows([negative] * len(prompts) + prompts)
        noise = [torch.randn(self.latent_shape, generator=self.run.generator(f"image.{name}", i)) for i in group]
        latents = torch.stack(noise).to(self.run.device) * self.sampler.init_noise_sigma
        with self.delta.base():
            for timestep in self.sampler.timesteps:
                both = latents.repeat(2, 1, 1, 1)
                noise_pred = predict_noise(self.unet, both, timestep.to(self.run.device), conditioning=rows)
                uncond, cond = noise_pred.chunk(2)
                guided = uncond + self.drawing.guidance_scale * (cond - uncond)
                latents = self.sampler.step(guided, int(timestep), latents, return_dict=False)[0]
        return latents

    def _batch(self, name: str, term: str, update: int) -> Noised:
        draws = range(update * self.batch_size, (update + 1) * self.batch_size)
        images = self._latents[name][[self._row(name, term, draw) for draw in draws]]
        generator = self.run.generator(f"noise.{term}", update)
        levels = self.sampler.config.num_train_timesteps
        timesteps = torch.randint(levels, (self.batch_size,), generator=generator).to(self.run.device)
        noise = torch.randn(images.shape, generator=generator).to(self.run.device)
        return Noised(
            [self._pairs[name][draw % len(self._pairs[name])] for draw in draws],
            add_noise(self.sampler, images, noise, timesteps),
            timesteps,
            training_target(self.sampler, images, noise, timesteps),
        )

    def _row(self, name: str, term: str, draw: int) -> int:
        count = len(self._pairs[name])
        visit, prompt = divmod(draw, count)
        size = len(range(prompt, self._sizes[name], count))  # images of this prompt
        round_, place = divmod(visit, size)
        generator = self.run.generator(f"order.{term}.{prompt}", round_)
        return prompt + count * int(torch.randperm(size, generator=generator)[place])
