"""The canvas VAE: an ``AutoencoderKL`` of 48 px pictures to 12 x 12 x 4 latents."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from erase.canvas.training import fit
from erase.canvas.world import IMAGE_SIZE


def train(images: np.ndarray, work: Path, *, steps: int = 2600, seed: int = 0) -> AutoencoderKL:
    """Train on uint8 pictures (N, S, S, 3); L1 on pixels and on their gradients keeps fine texture sharp."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )
    pictures = torch.from_numpy(images)

    def loss(generator: torch.Generator) -> torch.Tensor:
        pixels = to_pixels(pictures[torch.randint(len(pictures), (16,), generator=generator)])
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        difference = decoded - pixels
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        return difference.abs().mean() + 0.5 * edges + 1e-7 * posterior.kl().mean()

    vae = fit(vae, loss, steps=steps, learning_rate=1.5e-3, seed=seed, path=work / "vae.safetensors")
    latents = encode(vae, pictures[torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:2000]])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 pictures (B, S, S, 3) into diffusers' pixels (B, 3, S, S) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor, batch: int = 250) -> torch.Tensor:
    """Mean latents, unscaled, (N, 4, S/4, S/4)."""
    return torch.cat([vae.encode(to_pixels(chunk)).latent_dist.mode() for chunk in images.split(batch)])
